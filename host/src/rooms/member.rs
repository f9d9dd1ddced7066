//! A connection that can be reached, and the lists of such connections.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use foldhash::fast::RandomState;
use indexmap::IndexMap;

use crate::event::Connection;
use crate::socketio::Link;

/// A connection that can be reached.
pub(super) struct Member {
    pub(super) connection: Arc<Connection>,
    pub(super) link: Link,
    /// Identifies it in each [`MemberList`].
    pub(super) number: u64,
    /// Set under the lock when it is removed.
    pub(super) has_left: AtomicBool,
}

/// Members by number, contiguous in memory. Uses a fast hash: the numbers come from the host.
pub(super) type MemberList = IndexMap<u64, Arc<Member>, RandomState>;
