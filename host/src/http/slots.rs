//! The slots of connections: how many the host has, and which of them are reserved for operators.
//!
//! A client's TCP connection takes one slot, and its Engine.IO session takes another, from pools of
//! the same size. A session keeps its slot until its last event is handled and `$disconnect` is
//! dispatched. Connections that are closing therefore count against the limit.
//!
//! Beyond the limit there are a few reserved slots. The host reads one request on such a
//! connection, and answers it only if it is an operator's request.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::metrics::Metrics;
use crate::rejection::Rejection;
use crate::transport::{AbortHandle, SessionSlot, Stage};

use super::problem::Problem;

/// All slots of one host.
pub(crate) struct Slots {
    /// TCP connections of clients.
    connections: Arc<Pool>,
    /// Engine.IO sessions, including closing sessions.
    sessions: Arc<Pool>,
    reserve: Mutex<Reserve>,
    next_id: AtomicU64,
    metrics: Arc<Metrics>,
}

impl Slots {
    /// Creates `limit` slots for client connections, as many for their sessions, and `reserved`
    /// slots for operators.
    pub(crate) fn new(limit: usize, reserved: usize, metrics: Arc<Metrics>) -> Arc<Self> {
        let reserve = Mutex::new(Reserve { held: Vec::new(), most: reserved });
        let (connections, sessions) =
            (Pool::new("TCP connections", limit), Pool::new("sessions", limit));
        Arc::new(Self { connections, sessions, reserve, next_id: AtomicU64::new(0), metrics })
    }

    /// Returns a slot for a new connection from `address`, which `cut` ends. Returns `None` if no
    /// reserved slot is free either.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr, cut: &AbortHandle) -> Option<Arc<Slot>> {
        let kind = match self.connections.take() {
            Some(taken) => Kind::Client { _taken: taken },
            None => {
                let id = self.next_id.fetch_add(1, Ordering::Relaxed);
                let held = Held { id, network: network(address), cut: cut.clone() };
                if !self.reserve().admit(held) {
                    self.metrics.connection_refused();
                    return None;
                }
                Kind::Reserved(id)
            }
        };
        Some(Arc::new(Slot { slots: Arc::clone(self), kind: Mutex::new(kind) }))
    }

    /// Returns the client connections in use, the sessions in use, and the limit of each.
    pub(super) fn used(&self) -> (usize, usize, usize) {
        (self.connections.used(), self.sessions.used(), self.connections.limit())
    }

    /// Sets the limit for client connections and for sessions. Connections and sessions beyond the
    /// new limit continue.
    pub(crate) fn set_limit(&self, limit: usize) {
        for pool in [&self.connections, &self.sessions] {
            pool.limit.store(limit, Ordering::Relaxed);
        }
    }

    /// The lock is held for a search in a list of [`Reserve::most`] entries, and only while the
    /// host is at its limit.
    fn reserve(&self) -> MutexGuard<'_, Reserve> {
        self.reserve.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The slot of one TCP connection. It is free when the connection is closed.
pub(super) struct Slot {
    slots: Arc<Slots>,
    kind: Mutex<Kind>,
}

enum Kind {
    /// A slot for clients.
    Client { _taken: Taken },
    /// A reserved slot, with its id.
    Reserved(u64),
}

impl Slot {
    /// Whether client requests are served on this connection. A reserved slot becomes a client slot
    /// if the pool has a free one by now.
    fn serves_clients(&self) -> bool {
        let mut kind = self.kind();
        let Kind::Reserved(id) = *kind else { return true };
        let Some(taken) = self.slots.connections.take() else { return false };
        *kind = Kind::Client { _taken: taken };
        self.slots.reserve().forget(id);
        true
    }

    /// Whether the slot is reserved for operators.
    pub(super) fn is_reserved(&self) -> bool {
        matches!(*self.kind(), Kind::Reserved(_))
    }

    fn kind(&self) -> MutexGuard<'_, Kind> {
        self.kind.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let reserved = match *self.kind() {
            Kind::Client { .. } => None,
            Kind::Reserved(id) => Some(id),
        };
        if let Some(id) = reserved {
            self.slots.reserve().forget(id);
        }
    }
}

/// A counted pool of slots of one kind. The log has one line when all slots are taken, and one when
/// some are free again.
struct Pool {
    of: &'static str,
    used: AtomicUsize,
    limit: AtomicUsize,
    is_full: AtomicBool,
}

impl Pool {
    fn new(of: &'static str, limit: usize) -> Arc<Self> {
        Arc::new(Self {
            of,
            used: AtomicUsize::new(0),
            limit: AtomicUsize::new(limit),
            is_full: AtomicBool::new(false),
        })
    }

    fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn take(self: &Arc<Self>) -> Option<Taken> {
        let limit = self.limit();
        let one_more = |used: usize| (used < limit).then_some(used + 1);
        if self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok() {
            return Some(Taken(Arc::clone(self)));
        }
        if !self.is_full.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                of = self.of,
                limit,
                "connection limit reached: new clients are answered 503 until others leave; the limit is `connections` in `[limits]`"
            );
        }
        None
    }

    /// Used slots at which a full pool counts as relieved: a twentieth below the limit. Otherwise a
    /// pool near its limit would be logged again and again.
    fn relieved_at(&self) -> usize {
        let limit = self.limit();
        limit - (limit / 20).max(1).min(limit)
    }
}

/// One slot of a [`Pool`]. Dropping it frees the slot.
struct Taken(Arc<Pool>);

impl fmt::Debug for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a slot of {}", self.0.of)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let pool = &self.0;
        let used = pool.used.fetch_sub(1, Ordering::Relaxed) - 1;
        if pool.is_full.load(Ordering::Relaxed)
            && used <= pool.relieved_at()
            && pool.is_full.swap(false, Ordering::Relaxed)
        {
            tracing::info!(
                of = pool.of,
                used,
                limit = pool.limit(),
                "below the connection limit again"
            );
        }
    }
}

/// The connections in reserved slots, oldest first.
struct Reserve {
    held: Vec<Held>,
    most: usize,
}

struct Held {
    id: u64,
    network: IpAddr,
    cut: AbortHandle,
}

impl Reserve {
    /// Takes a slot. If none is free, cuts the oldest connection that waits for its client. A
    /// client that sends no request, or does not read its answer, therefore can't keep an operator
    /// out. An operator's request comes within milliseconds. One network has at most half of the
    /// slots.
    fn admit(&mut self, held: Held) -> bool {
        let of_network = self.held.iter().filter(|other| other.network == held.network).count();
        let at_most = self.most.div_ceil(2);
        if self.held.len() >= self.most || of_network >= at_most {
            let may_go = |other: &Held| {
                other.cut.stage().0 != Stage::Request
                    && (of_network < at_most || other.network == held.network)
            };
            let Some(at) = self.held.iter().position(may_go) else { return false };
            self.held.remove(at).cut.now();
        }
        self.held.push(held);
        true
    }

    fn forget(&mut self, id: u64) {
        self.held.retain(|held| held.id != id);
    }
}

/// Returns the network from which one user can choose addresses: an IPv6 host has a whole /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
    }
}

/// Marks a request that came in a reserved slot.
#[derive(Clone, Copy)]
struct IsReserved;

/// Closes a connection in a reserved slot after its answer, whichever layer answers, and marks its
/// requests for [`admit`].
pub(crate) async fn close_reserved(mut request: Request, next: Next) -> Response {
    // The slot is removed: socketioxide keeps a handshake's extensions as long as its session, and
    // the session may move to another connection.
    let slot = request.extensions_mut().remove::<Arc<Slot>>();
    if slot.is_none_or(|slot| slot.serves_clients()) {
        return next.run(request).await;
    }
    request.extensions_mut().insert(IsReserved);
    let mut response = next.run(request).await;
    close(&mut response);
    response
}

/// Answers 503 to a client's request in a reserved slot, and to a handshake if no session slot is
/// free.
pub(crate) async fn admit(
    State(slots): State<Arc<Slots>>,
    mut request: Request,
    next: Next,
) -> Response {
    let is_reserved = request.extensions_mut().remove::<IsReserved>().is_some();
    let is_refused = match request.uri().path() {
        path if is_handshake(path, request.uri().query()) => {
            match (is_reserved, slots.sessions.take()) {
                (false, Some(taken)) => {
                    request.extensions_mut().insert(SessionSlot::new(taken));
                    false
                }
                _ => true,
            }
        }
        path => is_reserved && !is_operators(path),
    };
    if !is_refused {
        return next.run(request).await;
    }
    slots.metrics.connection_refused();
    let mut response = full().into_response();
    close(&mut response);
    response
}

/// Makes the connection close after `response`.
fn close(response: &mut Response) {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
}

fn full() -> Problem {
    Problem::rejection(&Rejection::Busy(
        "the host has reached its limit of connections; try again later".to_owned(),
    ))
}

/// Whether a request begins an Engine.IO session: every other request names its session.
fn is_handshake(path: &str, query: Option<&str>) -> bool {
    let rest = path.strip_prefix("/socket.io");
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        && !query.unwrap_or_default().split('&').any(|pair| pair.starts_with("sid="))
}

/// Whether a path is for monitoring or operating the host.
fn is_operators(path: &str) -> bool {
    ["/healthz", "/readyz", "/metrics"].contains(&path) || path.starts_with("/api/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(id: u64, network: u8) -> Held {
        Held { id, network: IpAddr::from([10, 0, 0, network]), cut: AbortHandle::default() }
    }

    fn ids(reserve: &Reserve) -> Vec<u64> {
        reserve.held.iter().map(|held| held.id).collect()
    }

    #[test]
    fn a_reserved_slot_goes_from_the_oldest_that_only_waits_to_the_newest() {
        let mut reserve = Reserve { held: Vec::new(), most: 4 };
        assert!(
            reserve.admit(held(1, 1))
                && reserve.admit(held(2, 1))
                && reserve.admit(held(3, 2))
                && reserve.admit(held(4, 3))
        );
        assert!(reserve.admit(held(5, 4)), "any that waits");
        assert_eq!(ids(&reserve), [2, 3, 4, 5]);
        reserve.held.iter().for_each(|held| held.cut.enter(Stage::Request));
        assert!(!reserve.admit(held(6, 5)), "a request that is being answered is not cut");
        reserve.forget(4);
        assert!(reserve.admit(held(6, 5)));
        assert_eq!(ids(&reserve), [2, 3, 5, 6]);
        reserve.held.iter().for_each(|held| held.cut.enter(Stage::Request));
        reserve.held[1].cut.enter(Stage::Idle);
        assert!(reserve.admit(held(7, 6)), "in the place of one that does not read its answer");
        assert_eq!(ids(&reserve), [2, 5, 6, 7]);
    }

    #[test]
    fn one_network_has_at_most_half_of_the_reserve() {
        let mut reserve = Reserve { held: Vec::new(), most: 4 };
        assert!(reserve.admit(held(1, 1)) && reserve.admit(held(2, 1)));
        assert!(reserve.admit(held(3, 1)), "in the place of its own network's oldest");
        assert_eq!(ids(&reserve), [2, 3]);
        reserve.held.iter().for_each(|held| held.cut.enter(Stage::Request));
        assert!(!reserve.admit(held(4, 1)));
        assert!(reserve.admit(held(5, 2)));
    }

    #[test]
    fn an_ipv6_network_is_its_first_half_and_an_embedded_ipv4_address_itself() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2::1"));
        assert_ne!(of("2001:db8:1:3::1"), of("2001:db8:1:2::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }

    #[test]
    fn a_pool_that_was_full_is_relieved_a_twentieth_below_its_limit() {
        let relieved_at = |limit: usize| Pool::new("", limit).relieved_at();
        assert_eq!([1, 2, 20, 100, 50_000].map(relieved_at), [0, 1, 19, 95, 47_500]);
        let pool = Pool::new("", 2);
        let (first, second) = (pool.take(), pool.take());
        assert!(first.is_some() && second.is_some() && pool.take().is_none());
        assert!(pool.is_full.load(Ordering::Relaxed));
        drop(first);
        assert!(!pool.is_full.load(Ordering::Relaxed) && pool.used() == 1 && pool.take().is_some());
    }

    #[test]
    fn only_a_request_without_a_session_begins_one() {
        let handshake = |uri: &str| {
            let uri: http::Uri = uri.parse().unwrap();
            is_handshake(uri.path(), uri.query())
        };
        assert!(
            handshake("/socket.io/?EIO=4&transport=polling")
                && handshake("/socket.io")
                && handshake("/socket.io/x?asid=1")
        );
        assert!(
            !handshake("/socket.io/?EIO=4&transport=polling&sid=abc")
                && !handshake("/socket.iox/")
                && !handshake("/api/emit")
        );
    }
}
