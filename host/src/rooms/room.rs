//! One room: its connections in a contiguous list, which emits read. Once a handler has read who is
//! in a large room, the room also keeps an index, so that a page or a count needs no look at all
//! connections.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::sync::{Arc, OnceLock};

use crate::effect::MemberTotals;
use crate::event::Connection;

use super::member::{Member, MemberList};

/// Rooms with fewer connections have no index: to sort them costs a few microseconds. Most rooms
/// are small, such as those of users, and an index would double their memory.
const INDEXED: usize = 256;

/// The connections of one room.
#[derive(Default)]
pub(super) struct Room {
    members: MemberList,
    /// Created under the lock for reading, by the first call that needs it. It stays until the room
    /// is empty: it costs a join or leave a few lookups.
    index: OnceLock<Box<Index>>,
}

/// The connections of a room in the order of their public ids, and its users.
#[derive(Default)]
struct Index {
    by_id: BTreeSet<ById>,
    /// Number of connections of each user.
    users: HashMap<String, usize>,
}

struct ById(Arc<Member>);

impl ById {
    fn id(&self) -> &str {
        &self.0.connection.public_id
    }
}

impl Borrow<str> for ById {
    fn borrow(&self) -> &str {
        self.id()
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for ById {}

impl PartialOrd for ById {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ById {
    fn cmp(&self, other: &Self) -> Ordering {
        self.id().cmp(other.id())
    }
}

impl Index {
    fn of(members: &MemberList) -> Self {
        let mut index = Self::default();
        members.values().for_each(|member| index.add(member));
        index
    }

    fn add(&mut self, member: &Arc<Member>) {
        self.by_id.insert(ById(Arc::clone(member)));
        if let Some(user) = &member.connection.identity().user {
            *self.users.entry(user.clone()).or_default() += 1;
        }
    }

    fn remove(&mut self, member: &Member) {
        self.by_id.remove(member.connection.public_id.as_str());
        // A new token never changes the user of a connection, so this is the user of `add`.
        let identity = member.connection.identity();
        let Some(user) = &identity.user else { return };
        if let Some(connections) = self.users.get_mut(user) {
            *connections -= 1;
            if *connections == 0 {
                self.users.remove(user);
            }
        }
    }
}

impl Room {
    /// Adds a connection.
    pub(super) fn add(&mut self, member: &Arc<Member>) {
        self.members.insert(member.number, Arc::clone(member));
        if let Some(index) = self.index.get_mut() {
            index.add(member);
        }
    }

    /// Removes a connection. Returns whether the room is empty now.
    pub(super) fn remove(&mut self, member: &Member) -> bool {
        let removed = self.members.swap_remove(&member.number);
        if let (Some(index), Some(member)) = (self.index.get_mut(), removed) {
            index.remove(&member);
        }
        self.members.is_empty()
    }

    /// The connections, in no order.
    pub(super) fn members(&self) -> &MemberList {
        &self.members
    }

    /// Returns the first `limit` connections whose public id is greater than `after`, in the order
    /// of their ids.
    pub(super) fn page(&self, after: Option<&str>, limit: usize) -> Vec<Arc<Connection>> {
        if let Some(index) = self.index() {
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let members = index.by_id.range::<str, _>((from, Bound::Unbounded));
            return members
                .take(limit)
                .map(|ById(member)| Arc::clone(&member.connection))
                .collect();
        }
        let connections = self.members.values().map(|member| &member.connection);
        let mut page: Vec<_> = connections
            .filter(|connection| after.is_none_or(|after| connection.public_id.as_str() > after))
            .collect();
        page.sort_unstable_by(|a, b| a.public_id.cmp(&b.public_id));
        page.into_iter().take(limit).cloned().collect()
    }

    /// Number of connections and users.
    pub(super) fn totals(&self) -> MemberTotals {
        let users = match self.index() {
            Some(index) => index.users.len(),
            None => self.users().len(),
        };
        MemberTotals { connections: self.members.len(), users }
    }

    /// The users, each once.
    pub(super) fn users(&self) -> HashSet<String> {
        let users = |member: &Arc<Member>| member.connection.identity().user.clone();
        self.members.values().filter_map(users).collect()
    }

    /// Returns the index, which is created if this room is large. `None` if the room is small.
    fn index(&self) -> Option<&Index> {
        let is_large = self.members.len() >= INDEXED;
        let index = is_large.then(|| self.index.get_or_init(|| Box::new(Index::of(&self.members))));
        index.or_else(|| self.index.get()).map(|index| &**index)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::{Duration, Instant};

    use super::super::membership::Membership;
    use super::*;
    use crate::event::Identity;
    use crate::socketio::Link;

    fn connection(id: usize, user: Option<usize>) -> Arc<Connection> {
        let identity =
            Identity { user: user.map(|user| format!("u{user}")), ..Identity::default() };
        let (id, identity) = (format!("{id:06}"), Arc::new(identity));
        Arc::new(Connection::new(String::new(), id, "/".into(), identity, None))
    }

    /// Reads all pages.
    fn ids(members: &Membership, limit: usize) -> Vec<String> {
        let mut ids: Vec<String> = Vec::new();
        loop {
            let page = members.page(None, "room", ids.last().map(String::as_str), limit);
            if page.is_empty() {
                return ids;
            }
            assert!(page.len() <= limit);
            ids.extend(page.iter().map(|connection| connection.public_id.clone()));
        }
    }

    #[test]
    fn pages_and_counts_are_exact_while_a_room_grows_and_shrinks() {
        let members = Membership::default();
        let mut inside = BTreeMap::new();
        let mut random = 7_usize;
        let mut random = |below: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % below
        };
        // The room has an index from the first large page on, and keeps it when it is small again.
        for (step, joins) in [(0, 9), (1, 9), (2, 1), (3, 9), (4, 0)] {
            for _ in 0..600 {
                let id = random(2_000);
                let is_joining = random(10) < joins;
                let old: Option<Arc<Connection>> = inside.remove(&id);
                old.iter().for_each(|old| members.remove(old));
                if is_joining {
                    let new = connection(id, (id % 3 > 0).then_some(id % 500));
                    members.add(&new, Link::of_nobody());
                    members.join(&new, "room");
                    inside.insert(id, new);
                }
            }
            let expected: Vec<_> =
                inside.values().map(|connection| connection.public_id.clone()).collect();
            let users = inside.values().filter_map(|connection| connection.identity().user.clone());
            let users = users.collect::<HashSet<_>>().len();
            assert_eq!(ids(&members, 100), expected, "step {step}");
            let totals = MemberTotals { connections: inside.len(), users };
            assert_eq!(members.totals(None, "room"), totals, "step {step}");
        }
    }

    #[test]
    fn a_user_in_two_namespaces_counts_once_and_pages_are_in_the_order_of_ids() {
        let members = Membership::default();
        for (id, namespace) in [(1, "/"), (2, "/other"), (3, "/")] {
            let identity = Identity { user: Some("7".to_owned()), ..Identity::default() };
            let identity = Arc::new(identity);
            let (id, namespace) = (format!("{id:06}"), namespace.into());
            let connection = Connection::new(String::new(), id, namespace, identity, None);
            let connection = Arc::new(connection);
            members.add(&connection, Link::of_nobody());
            members.join(&connection, "room");
        }
        let of = |namespace| {
            let MemberTotals { connections, users } = members.totals(namespace, "room");
            (connections, users)
        };
        assert_eq!([of(None), of(Some("/")), of(Some("/none"))], [(3, 1), (2, 1), (0, 0)]);
        assert_eq!(ids(&members, 2), ["000001", "000002", "000003"]);
    }

    #[test]
    fn ten_thousand_members_are_paged_in_bounded_time() {
        let members = Membership::default();
        for id in 0..10_000 {
            let connection = connection(id, Some(id / 2));
            members.add(&connection, Link::of_nobody());
            members.join(&connection, "room");
        }
        // The first round creates the index. The fastest one shows the cost: other tests run too.
        let rounds = (0..20).map(|_| {
            let began = Instant::now();
            assert_eq!(ids(&members, 1_000).len(), 10_000);
            assert_eq!(members.totals(None, "room").users, 5_000);
            began.elapsed()
        });
        let fastest = rounds.min();
        // Measured without optimization: 5 ms, and 1 s if each page sorts all members.
        assert!(fastest < Some(Duration::from_millis(100)), "{fastest:?}");
    }
}
