//! How many events a connection, and a user, may send: each has a token bucket. Only this module
//! knows governor.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use governor::clock::{Clock, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use crate::config::{BucketConfig, RateConfig};

/// Maximum number of users whose buckets are kept. Further users share one bucket.
const MAX_USERS: usize = 100_000;

/// Number of buckets below which none is dropped.
const FEW_USERS: usize = 1_024;

/// If there are as many buckets as possible, how often the host looks for those that are full.
const DROP_AGAIN: Duration = Duration::from_secs(1);

/// The limiter of one bucket.
type Limiter = RateLimiter<NotKeyed, InMemoryState, MonotonicClock, NoOpMiddleware<Instant>>;

/// The token buckets of one host.
#[derive(Debug)]
pub(crate) struct RateLimits {
    config: RateConfig,
    users: Mutex<Users>,
}

/// The buckets of users, by name.
#[derive(Debug)]
struct Users {
    by_name: HashMap<String, Arc<Bucket>>,
    /// The number of buckets at which those that are full again are dropped.
    drop_at: usize,
    /// When that was last done.
    dropped_at: Instant,
    /// For users beyond the maximum.
    shared: Option<Arc<Bucket>>,
}

/// The buckets from which the events of one client take tokens.
#[derive(Debug, Default)]
pub(crate) struct ClientRate {
    connection: Option<Bucket>,
    user: Option<Arc<Bucket>>,
}

/// What happens to an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Allowed,
    /// A bucket that is only tried has no token. It is the bucket of this kind.
    Observed(&'static str),
    /// The bucket of this kind has no token for so long.
    Limited(&'static str, Duration),
}

struct Bucket {
    limiter: Limiter,
    /// How many tokens it has at most.
    burst: NonZeroU32,
    observe: bool,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket").field("burst", &self.burst).finish_non_exhaustive()
    }
}

impl Bucket {
    fn new(BucketConfig { per_second, burst, observe }: BucketConfig) -> Self {
        let burst = burst.unwrap_or(per_second);
        let quota = Quota::per_second(per_second).allow_burst(burst);
        let limiter = RateLimiter::direct_with_clock(quota, MonotonicClock);
        Self { limiter, burst, observe }
    }

    /// Whether the bucket can be dropped: nobody has it, and it is full. Empties a full bucket.
    fn is_over(bucket: &Arc<Self>) -> bool {
        let is_full = || matches!(bucket.limiter.check_n(bucket.burst), Ok(Ok(())));
        Arc::strong_count(bucket) == 1 && is_full()
    }

    /// Takes a token. Returns how long it takes until there is one, if there is none.
    fn take(&self) -> Result<(), Duration> {
        self.limiter.check().map_err(|not| not.wait_time_from(MonotonicClock.now()))
    }
}

impl RateLimits {
    pub(crate) fn new(config: RateConfig) -> Self {
        let shared = config.user.map(|bucket| Arc::new(Bucket::new(bucket)));
        let (by_name, dropped_at) = (HashMap::new(), Instant::now());
        let users = Users { by_name, drop_at: FEW_USERS, dropped_at, shared };
        Self { config, users: Mutex::new(users) }
    }

    /// The buckets of a new connection.
    pub(crate) fn of_connection(&self, user: Option<&str>) -> ClientRate {
        ClientRate {
            connection: self.config.connection.map(Bucket::new),
            user: user.and_then(|user| self.of_user(user)),
        }
    }

    /// The buckets of a request over HTTP.
    pub(crate) fn of_request(&self, user: Option<&str>, network: Option<IpAddr>) -> ClientRate {
        // No user has a name with a line break.
        let of_network = || network.map(|network| format!("\n{network}"));
        let name = user.map(str::to_owned).or_else(of_network);
        ClientRate { connection: None, user: name.and_then(|name| self.of_user(&name)) }
    }

    /// The bucket of a user. It is kept until it is full again, so that a client gets no new one
    /// when it returns.
    fn of_user(&self, user: &str) -> Option<Arc<Bucket>> {
        let config = self.config.user?;
        let mut users = self.users();
        if let Some(bucket) = users.by_name.get(user) {
            return Some(Arc::clone(bucket));
        }
        let is_due = users.by_name.len() < MAX_USERS || users.dropped_at.elapsed() >= DROP_AGAIN;
        if users.by_name.len() >= users.drop_at && is_due {
            users.by_name.retain(|_, bucket| !Bucket::is_over(bucket));
            users.drop_at = (2 * users.by_name.len()).clamp(FEW_USERS, MAX_USERS);
            users.dropped_at = Instant::now();
        }
        if users.by_name.len() >= MAX_USERS {
            return users.shared.clone();
        }
        let bucket = Arc::new(Bucket::new(config));
        users.by_name.insert(user.to_owned(), Arc::clone(&bucket));
        Some(bucket)
    }

    /// The lock is held for a look-up, when a connection begins. A panic leaves the map consistent.
    fn users(&self) -> MutexGuard<'_, Users> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientRate {
    /// Takes a token for one event from each bucket.
    pub(crate) fn take(&self) -> Verdict {
        let buckets = [("connection", self.connection.as_ref()), ("user", self.user.as_deref())];
        let mut verdict = Verdict::Allowed;
        for (kind, bucket) in buckets {
            let Some(bucket) = bucket else { continue };
            match bucket.take() {
                Ok(()) => {}
                Err(_) if bucket.observe => verdict = Verdict::Observed(kind),
                Err(wait) => return Verdict::Limited(kind, wait.max(Duration::from_millis(1))),
            }
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(per_second: u32, burst: u32, observe: bool) -> BucketConfig {
        let number = |number| NonZeroU32::new(number).unwrap();
        BucketConfig { per_second: number(per_second), burst: Some(number(burst)), observe }
    }

    /// How many of ten events are allowed, and the verdict about the last one.
    fn ten(rate: &ClientRate) -> (usize, Verdict) {
        let verdicts: Vec<_> = (0..10).map(|_| rate.take()).collect();
        let allowed = verdicts.iter().filter(|verdict| **verdict == Verdict::Allowed).count();
        (allowed, *verdicts.last().unwrap())
    }

    #[test]
    fn each_connection_has_a_bucket_and_all_of_a_user_share_one() {
        let connection = Some(bucket(1, 6, false));
        let limits = RateLimits::new(RateConfig { connection, user: Some(bucket(1, 8, false)) });
        let (one, two) = (limits.of_connection(Some("7")), limits.of_connection(Some("7")));
        let (allowed, last) = ten(&one);
        assert_eq!(allowed, 6);
        assert!(matches!(last, Verdict::Limited("connection", wait) if wait.as_secs() < 2));
        assert_eq!(
            [two.take(), two.take()],
            [Verdict::Allowed; 2],
            "the rest of the user's tokens"
        );
        assert!(matches!(two.take(), Verdict::Limited("user", _)));
        assert_eq!(ten(&limits.of_connection(None)).0, 6);
        assert_eq!(ten(&limits.of_connection(Some("8"))).0, 6);
    }

    #[test]
    fn a_client_that_returns_gets_no_new_bucket_of_its_user() {
        let user = Some(bucket(1, 5, false));
        let limits = RateLimits::new(RateConfig { connection: None, user });
        assert_eq!(ten(&limits.of_connection(Some("7"))).0, 5);
        assert_eq!(ten(&limits.of_connection(Some("7"))).0, 0);
        assert_eq!(ten(&limits.of_request(Some("7"), None)).0, 0);
        let network = "10.0.0.1".parse().ok();
        assert_eq!(ten(&limits.of_request(None, network)).0, 5);
        assert_eq!(ten(&limits.of_request(None, network)).0, 0);
    }

    #[test]
    fn a_bucket_that_is_only_tried_refuses_nothing() {
        let limits =
            RateLimits::new(RateConfig { connection: Some(bucket(1, 5, true)), user: None });
        assert_eq!(ten(&limits.of_connection(None)).1, Verdict::Observed("connection"));
        assert_eq!(ten(&RateLimits::new(RateConfig::default()).of_connection(None)).0, 10);
    }

    #[test]
    fn buckets_that_are_full_again_are_dropped_and_their_number_is_bounded() {
        let user = Some(bucket(1_000_000, 1, false));
        let limits = RateLimits::new(RateConfig { connection: None, user });
        for number in 0..5_000 {
            drop(limits.of_connection(Some(&number.to_string())));
            if number % 1_000 == 999 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        assert!(limits.users().by_name.len() < 3_000, "{}", limits.users().by_name.len());
        // Buckets of connected users stay.
        let held: Vec<_> =
            (0..3_000).map(|number| limits.of_connection(Some(&number.to_string()))).collect();
        assert!(limits.users().by_name.len() >= held.len());
    }
}
