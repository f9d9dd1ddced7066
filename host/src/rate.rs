//! How many events a connection, and a user, may send: each has a token bucket. Only this module
//! knows governor.

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use governor::clock::Clock;
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
type Limiter = RateLimiter<NotKeyed, InMemoryState, EventClock, NoOpMiddleware<Instant>>;

thread_local! {
    /// The time for which this thread takes tokens.
    static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The clock of all buckets. While tokens are taken for one event, it shows the time of the event,
/// because a read of the clock for each bucket is a part of an event's cost that can be measured.
#[derive(Debug, Clone, Copy)]
struct EventClock;

impl Clock for EventClock {
    type Instant = Instant;

    fn now(&self) -> Instant {
        NOW.get().unwrap_or_else(Instant::now)
    }
}

/// The token buckets of one host.
#[derive(Debug, Clone)]
pub(crate) struct RateLimits(Arc<SharedBuckets>);

#[derive(Debug)]
struct SharedBuckets {
    /// Counts the changes of the configuration.
    changes: AtomicU64,
    users: Mutex<Users>,
}

/// The buckets of users, by name, and the configuration of all buckets.
#[derive(Debug)]
struct Users {
    config: RateConfig,
    by_name: HashMap<String, Arc<Bucket>>,
    /// The number of buckets at which those that are full again are dropped.
    drop_at: usize,
    /// When that was last done.
    dropped_at: Instant,
    /// For users beyond the maximum.
    shared: Option<Arc<Bucket>>,
}

/// The buckets from which the events of one client take tokens. They are new after a change of the
/// configuration.
#[derive(Debug, Default)]
pub(crate) struct ClientRate {
    /// `None` for a client without limits.
    limits: Option<RateLimits>,
    has_connection: bool,
    /// The name of the bucket that it shares.
    user: Option<Box<str>>,
    /// The number of changes of the configuration when `buckets` were taken.
    taken_at: AtomicU64,
    /// `None` if the configuration has no limits.
    buckets: ArcSwapOption<ClientBuckets>,
}

#[derive(Debug)]
struct ClientBuckets {
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
        let limiter = RateLimiter::direct_with_clock(quota, EventClock);
        Self { limiter, burst, observe }
    }

    /// Whether the bucket can be dropped: nobody has it, and it is full. Empties a full bucket.
    fn is_over(bucket: &Arc<Self>) -> bool {
        let is_full = || matches!(bucket.limiter.check_n(bucket.burst), Ok(Ok(())));
        Arc::strong_count(bucket) == 1 && is_full()
    }

    /// Takes a token. Returns how long it takes until there is one, if there is none.
    fn take(&self) -> Result<(), Duration> {
        self.limiter.check().map_err(|not| not.wait_time_from(EventClock.now()))
    }
}

impl Users {
    fn new(config: RateConfig) -> Self {
        let shared = config.user.map(|bucket| Arc::new(Bucket::new(bucket)));
        let (by_name, dropped_at) = (HashMap::new(), Instant::now());
        Self { config, by_name, drop_at: FEW_USERS, dropped_at, shared }
    }

    /// The bucket of a user. It is kept until it is full again, so that a client gets no new one
    /// when it returns.
    fn bucket(&mut self, user: &str) -> Option<Arc<Bucket>> {
        let config = self.config.user?;
        if let Some(bucket) = self.by_name.get(user) {
            return Some(Arc::clone(bucket));
        }
        let is_due = self.by_name.len() < MAX_USERS || self.dropped_at.elapsed() >= DROP_AGAIN;
        if self.by_name.len() >= self.drop_at && is_due {
            self.by_name.retain(|_, bucket| !Bucket::is_over(bucket));
            self.drop_at = (2 * self.by_name.len()).clamp(FEW_USERS, MAX_USERS);
            self.dropped_at = Instant::now();
        }
        if self.by_name.len() >= MAX_USERS {
            return self.shared.clone();
        }
        let bucket = Arc::new(Bucket::new(config));
        self.by_name.insert(user.to_owned(), Arc::clone(&bucket));
        Some(bucket)
    }
}

impl RateLimits {
    pub(crate) fn new(config: RateConfig) -> Self {
        let (changes, users) = (AtomicU64::new(0), Mutex::new(Users::new(config)));
        Self(Arc::new(SharedBuckets { changes, users }))
    }

    /// Replaces the configuration. If it differs, every client has new buckets, which are full.
    pub(crate) fn replace(&self, config: RateConfig) {
        let mut users = self.users();
        if users.config != config {
            *users = Users::new(config);
            drop(users);
            self.0.changes.fetch_add(1, Ordering::Release);
        }
    }

    /// The buckets of a new connection.
    pub(crate) fn of_connection(&self, user: Option<&str>) -> ClientRate {
        ClientRate::new(self, true, user.map(Into::into))
    }

    /// The buckets of a request over HTTP.
    pub(crate) fn of_request(&self, user: Option<&str>, network: Option<IpAddr>) -> ClientRate {
        // No user has a name with a line break.
        let of_network = || network.map(|network| format!("\n{network}").into());
        ClientRate::new(self, false, user.map(Into::into).or_else(of_network))
    }

    /// The lock is held for a look-up, when a connection begins. A panic leaves the map consistent.
    fn users(&self) -> MutexGuard<'_, Users> {
        self.0.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientRate {
    fn new(limits: &RateLimits, has_connection: bool, user: Option<Box<str>>) -> Self {
        let (limits, taken_at) = (Some(limits.clone()), AtomicU64::new(0));
        let rate =
            Self { limits, has_connection, user, taken_at, buckets: ArcSwapOption::default() };
        rate.update();
        rate
    }

    /// Takes the buckets of the configuration in force.
    fn update(&self) {
        let Some(limits) = &self.limits else { return };
        // Before the buckets: a change meanwhile leads to another update.
        self.taken_at.store(limits.0.changes.load(Ordering::Acquire), Ordering::Relaxed);
        let mut users = limits.users();
        let connection = users.config.connection.filter(|_| self.has_connection).map(Bucket::new);
        let user = self.user.as_ref().and_then(|user| users.bucket(user));
        let has_any = connection.is_some() || user.is_some();
        self.buckets.store(has_any.then(|| Arc::new(ClientBuckets { connection, user })));
    }

    /// Takes a token for one event from each bucket.
    pub(crate) fn take(&self, now: Instant) -> Verdict {
        let changes = |limits: &RateLimits| limits.0.changes.load(Ordering::Acquire);
        if self
            .limits
            .as_ref()
            .is_some_and(|limits| changes(limits) != self.taken_at.load(Ordering::Relaxed))
        {
            self.update();
        }
        let buckets = self.buckets.load();
        let Some(buckets) = buckets.as_ref() else { return Verdict::Allowed };
        let buckets =
            [("connection", buckets.connection.as_ref()), ("user", buckets.user.as_deref())];
        NOW.set(Some(now));
        let mut verdict = Verdict::Allowed;
        for (kind, bucket) in buckets {
            let Some(bucket) = bucket else { continue };
            match bucket.take() {
                Ok(()) => {}
                Err(_) if bucket.observe => verdict = Verdict::Observed(kind),
                Err(wait) => {
                    verdict = Verdict::Limited(kind, wait.max(Duration::from_millis(1)));
                    break;
                }
            }
        }
        NOW.set(None);
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
        let verdicts: Vec<_> = (0..10).map(|_| rate.take(Instant::now())).collect();
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
            [two.take(Instant::now()), two.take(Instant::now())],
            [Verdict::Allowed; 2],
            "the rest of the user's tokens"
        );
        assert!(matches!(two.take(Instant::now()), Verdict::Limited("user", _)));
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
