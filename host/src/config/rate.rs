//! `[rate]`: how many events a connection and a user may send.

use std::num::NonZeroU32;

use serde::Deserialize;

/// `[rate]`: the token buckets. Without one, there is no such limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateConfig {
    /// The bucket of each connection.
    pub connection: Option<BucketConfig>,
    /// The bucket of each user, for all connections and requests of the user together. Requests
    /// over HTTP without a user share the bucket of their network.
    pub user: Option<BucketConfig>,
}

/// `[rate.connection]`, `[rate.user]`: one kind of token bucket. Each event takes a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BucketConfig {
    /// How many tokens come back in a second.
    pub per_second: NonZeroU32,
    /// How many tokens the bucket has at most; `per_second` if it is not set.
    pub burst: Option<NonZeroU32>,
    /// Whether the limit is only tried: the host counts what it would refuse.
    #[serde(default)]
    pub observe: bool,
}
