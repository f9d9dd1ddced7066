//! The HTTP requests of plugins to other services: where each plugin may send them, the addresses
//! that are allowed, the signatures of deliveries, and the client. It knows no events and no
//! handlers, and does not know when a delivery is sent.
//!
//! A request goes to an address that was checked, and to no other: the host resolves a name itself,
//! checks each of its addresses, and connects to one of them. It follows no redirect, reads no
//! proxy variable, and keeps no connection for another request.

mod address;
mod body;
mod client;
pub(crate) mod fuzzing;
mod memory;
mod origin;
mod resolve;
mod retry_after;
mod secrets;
mod signature;
mod stand_in;
mod trust;

use std::error::Error;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::ClientConfig;
use sockhop_core::delivery::Delivery;
use sockhop_core::outbound::Request;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinError;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::config::{Config, ListedOrigin, OutboundConfig, PluginSettings};
use crate::error_chain::ErrorChain;
use crate::rejection::Refusal;

use client::ReadBody;
use memory::ResponseMemory;
use origin::Target;
use resolve::{MAX_LOOKUPS, Purpose, Resolver};
use secrets::Secrets;

pub(crate) use memory::KeptResponse;
pub use secrets::SecretsError;
pub(crate) use stand_in::StandIn;
pub use trust::TrustError;

/// Bytes of the body of a response to a delivery that are read, and dropped. A receiver that sends
/// more is not asked for the rest.
const DROPPED_BYTES: usize = 64 << 10;

/// Why the requests of plugins can't be sent as the configuration says.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// The authorities can't be used.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The secrets of an origin can't be used.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
}

/// Checks that the authorities that a configuration trusts, and the secrets that it names, can be
/// used. Blocks.
///
/// # Errors
/// They can't be used.
pub fn check(config: &Config) -> Result<(), OutboundError> {
    Outbound::prepare(config).map(drop)
}

/// Sends the requests of all plugins.
#[derive(Debug)]
pub(crate) struct Outbound {
    /// Trusts the configured authorities. `None` as long as no plugin may send to an origin with
    /// TLS.
    tls: ArcSwapOption<ClientConfig>,
    /// They sign deliveries.
    secrets: ArcSwap<Secrets>,
    resolver: Arc<Resolver>,
    /// One permit for each exchange that runs at once.
    exchanges: Arc<Semaphore>,
    /// One permit for each delivery that is sent at once.
    deliveries: Arc<Semaphore>,
    at_once: usize,
    deliveries_at_once: usize,
    memory: ResponseMemory,
    tasks: TaskTracker,
    /// Answers all requests in place of the network, in a host that tests plugins.
    stand_in: Option<Arc<dyn StandIn>>,
}

/// The requests of all plugins that are in use, and their limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OutboundUsage {
    /// Exchanges that run.
    pub(crate) open: usize,
    /// The most of them.
    pub(crate) open_limit: usize,
    /// Deliveries that are being sent.
    pub(crate) deliveries: usize,
    /// The most of them.
    pub(crate) deliveries_limit: usize,
    /// Bytes of responses that are read or kept.
    pub(crate) memory: usize,
    /// The most of these bytes.
    pub(crate) memory_limit: usize,
}

/// File descriptors that requests need at most: one for each connection, and for each lookup.
pub(crate) fn max_descriptors(config: &OutboundConfig) -> u64 {
    let connections = config.at_once.get().saturating_add(deliveries_at_once(config));
    u64::try_from(connections.saturating_add(MAX_LOOKUPS)).unwrap_or(u64::MAX)
}

/// How many deliveries of all plugins are sent at once, beside the requests of handlers: half as
/// many. A delivery to a receiver that hangs takes longer than any request of a handler.
fn deliveries_at_once(config: &OutboundConfig) -> usize {
    (config.at_once.get() / 2).max(1)
}

/// A place among the deliveries of all plugins that are sent at once.
pub(crate) struct DeliverySlot(OwnedSemaphorePermit);

/// A client without TLS, with the default limits.
impl Default for Outbound {
    fn default() -> Self {
        Self::new(&OutboundConfig::default(), TaskTracker::default())
    }
}

/// What is used from now on: the authorities that are trusted, and the secrets of deliveries.
pub(crate) struct ReadyOutbound {
    tls: Option<Arc<ClientConfig>>,
    secrets: Arc<Secrets>,
}

impl Outbound {
    fn new(config: &OutboundConfig, tasks: TaskTracker) -> Self {
        let at_once = config.at_once.get().min(Semaphore::MAX_PERMITS);
        let deliveries_at_once = deliveries_at_once(config).min(at_once);
        Self {
            tls: ArcSwapOption::empty(),
            secrets: ArcSwap::default(),
            resolver: Arc::default(),
            exchanges: Arc::new(Semaphore::new(at_once)),
            deliveries: Arc::new(Semaphore::new(deliveries_at_once)),
            at_once,
            deliveries_at_once,
            memory: ResponseMemory::new(config.memory_bytes.get()),
            tasks,
            stand_in: None,
        }
    }

    /// Creates the client. Its tasks belong to `tasks`. Blocks: it reads the trusted authorities
    /// and the secrets.
    ///
    /// # Errors
    /// The configured authorities or secrets can't be used.
    pub(crate) fn load(config: &Config, tasks: TaskTracker) -> Result<Self, OutboundError> {
        let outbound = Self::new(&config.outbound, tasks);
        outbound.take(Self::prepare(config)?);
        Ok(outbound)
    }

    /// Reads the authorities that a configuration trusts, and the secrets, for [`Outbound::take`].
    /// Blocks.
    ///
    /// # Errors
    /// They can't be used.
    pub(crate) fn prepare(config: &Config) -> Result<ReadyOutbound, OutboundError> {
        let file = config.outbound.ca_file.as_deref();
        let mut listed = config.plugins.by_name.values().flat_map(|plugin| &plugin.outbound);
        let is_needed = file.is_some() || listed.any(ListedOrigin::needs_tls);
        let tls = is_needed.then(|| trust::client_config(file)).transpose()?;
        Ok(ReadyOutbound { tls: tls.map(Arc::new), secrets: Arc::new(Secrets::read(config)?) })
    }

    /// Trusts these authorities, and signs by these secrets, from now on.
    pub(crate) fn take(&self, ReadyOutbound { tls, secrets }: ReadyOutbound) {
        self.tls.store(tls);
        self.secrets.store(secrets);
    }

    /// How much is in use now.
    pub(crate) fn usage(&self) -> OutboundUsage {
        let used =
            |all: usize, permits: &Semaphore| all.saturating_sub(permits.available_permits());
        let (open_limit, deliveries_limit) = (self.at_once, self.deliveries_at_once);
        let open = used(open_limit, &self.exchanges);
        let deliveries = used(deliveries_limit, &self.deliveries);
        let (memory, memory_limit) = self.memory.usage();
        OutboundUsage { open, open_limit, deliveries, deliveries_limit, memory, memory_limit }
    }

    /// Sends a request to an origin that `allowance` lists, and waits for the whole response until
    /// `deadline`. If the future is dropped, the request ends.
    ///
    /// The request runs in a task of its own: the work for it is not that of the guest, whose CPU
    /// time is limited. Otherwise a server that sends a response in single bytes could use it up.
    ///
    /// # Errors
    /// Returns why there is no response.
    pub(crate) async fn send(
        &self,
        allowance: &Allowance,
        request: Request,
        deadline: Instant,
    ) -> Result<KeptResponse, SendError> {
        let target = Target::find(&request.url, &allowance.origins)?;
        let body = ReadBody::Whole(allowance.response_bytes);
        let sending = (target, request, body);
        self.exchange(&allowance.deliveries.plugin, sending, deadline, None).await
    }

    /// Waits for a place to send a delivery. Places are given in the order of the calls. Returns
    /// `None` if there are none any more, which does not happen.
    pub(crate) async fn delivery_slot(&self) -> Option<DeliverySlot> {
        Arc::clone(&self.deliveries).acquire_owned().await.ok().map(DeliverySlot)
    }

    /// Makes one attempt to send a delivery, at `now` in milliseconds since 1970. The body of the
    /// response is dropped.
    ///
    /// # Errors
    /// Returns why there is no response. `NotAllowed`: the operator does not list the origin any
    /// more, or has removed its secrets.
    pub(crate) async fn deliver(
        &self,
        DeliverySlot(permit): DeliverySlot,
        grant: &DeliveryGrant,
        id: &str,
        mut request: Request,
        now: u64,
    ) -> Result<Receipt, SendError> {
        let deadline = Instant::now() + grant.time;
        let target = Target::find(&request.url, &grant.origins)?;
        let secrets = self.secrets.load().of(&grant.plugin, &target.origin);
        let secrets = secrets.ok_or_else(|| unsigned(&target.origin))?;
        let signed = signature::headers(&secrets, id, now / 1_000, &request.body);
        request.headers.extend(signed);
        let sending = (target, request, ReadBody::Dropped(DROPPED_BYTES));
        let answered = self.exchange(&grant.plugin, sending, deadline, Some(permit)).await?;
        let response = answered.response();
        let retry_after = response.headers.iter().find(|(name, _)| name == "retry-after");
        let retry_after = retry_after.and_then(|(_, value)| retry_after::parse(value, now));
        Ok(Receipt { status: response.status, retry_after })
    }

    async fn exchange(
        &self,
        plugin: &Arc<str>,
        (target, request, body): (Target, Request, ReadBody),
        deadline: Instant,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<KeptResponse, SendError> {
        if let Some(stand_in) = &self.stand_in {
            return self.stand_in_for(stand_in.as_ref(), plugin, &request, body);
        }
        let (tls, resolver) = (self.tls.load_full(), Arc::clone(&self.resolver));
        let purpose = if permit.is_some() { Purpose::Delivery } else { Purpose::Event };
        let (asker, exchanges) = ((Arc::clone(plugin), purpose), Arc::clone(&self.exchanges));
        let memory = self.memory.reserve();
        let sent = async move {
            // Given in the order of the calls, and held until the connection is closed.
            let free = tokio::time::timeout_at(deadline.into(), exchanges.acquire_owned());
            let _permit = match permit {
                Some(permit) => permit,
                None => free.await.ok().and_then(Result::ok).ok_or(SendError::Busy)?,
            };
            let (resolver, body) = ((&resolver, &asker), (body, memory));
            let exchange = client::exchange(resolver, tls, target, request, body, deadline);
            let ended = tokio::time::timeout_at(deadline.into(), exchange).await;
            ended.unwrap_or(Err(SendError::Timeout))
        };
        let task = AbortOnDropHandle::new(self.tasks.spawn(sent));
        task.await.unwrap_or_else(|error| Err(ended(&error)))
    }
}

/// Why the task of a request gave no result. It is cancelled only with the runtime.
fn ended(error: &JoinError) -> SendError {
    let what = if error.is_panic() { "has panicked" } else { "has stopped with the host" };
    // It may have sent the request.
    SendError::Interrupted(format!("the task of the request {what}"))
}

/// What a receiver has answered to a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Receipt {
    pub(crate) status: u16,
    /// The time in milliseconds for which it asks before the next attempt.
    pub(crate) retry_after: Option<u64>,
}

/// Where, and within which time, deliveries of a plugin are sent.
#[derive(Debug, Clone)]
pub(crate) struct DeliveryGrant {
    /// The name of the plugin, whose versions share the right to look names up.
    plugin: Arc<str>,
    origins: Arc<[ListedOrigin]>,
    /// Time of one attempt.
    time: Duration,
    /// Deliveries that are sent at once.
    pub(crate) at_once: usize,
}

/// What one version of a plugin may send.
#[derive(Debug)]
pub(crate) struct Allowance {
    origins: Arc<[ListedOrigin]>,
    /// What its deliveries may do.
    pub(crate) deliveries: DeliveryGrant,
    /// Requests of one event.
    pub(crate) requests: usize,
    /// Time of one request.
    pub(crate) time: Duration,
    /// Bytes of one request.
    pub(crate) request_bytes: usize,
    /// Bytes of the body of one response.
    response_bytes: usize,
    /// One permit for each event that sends requests at once. An event sends one after the other.
    at_once: Arc<Semaphore>,
    /// Number of events that wait for a permit.
    waiting: AtomicUsize,
}

impl Allowance {
    /// The allowance of `plugin`, which has so many instances.
    pub(crate) fn new(plugin: &str, settings: &PluginSettings, instances: usize) -> Self {
        let limits = &settings.limits;
        // One instance at least is for events that send no request.
        let most = instances.saturating_sub(1).max(1);
        let at_once = limits.outbound_at_once.map_or(most, NonZeroUsize::get).min(most);
        let origins: Arc<[ListedOrigin]> = settings.outbound.clone().into();
        Self {
            deliveries: DeliveryGrant {
                plugin: Arc::from(plugin),
                origins: Arc::clone(&origins),
                time: limits.delivery_ms,
                at_once: limits.deliveries_at_once.get(),
            },
            origins,
            requests: usize::try_from(limits.outbound_requests.get()).unwrap_or(usize::MAX),
            time: limits.outbound_ms,
            request_bytes: limits.outbound_request_bytes.get(),
            response_bytes: limits.outbound_response_bytes.get(),
            at_once: Arc::new(Semaphore::new(at_once.min(Semaphore::MAX_PERMITS))),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Whether the plugin may send any request.
    pub(crate) fn allows_any(&self) -> bool {
        !self.origins.is_empty()
    }

    /// The origins as text.
    pub(crate) fn origins(&self) -> Vec<String> {
        self.origins.iter().map(ListedOrigin::text).collect()
    }

    /// The origin of a URL if it is listed, for the log.
    pub(crate) fn origin_of(&self, url: &str) -> Option<String> {
        Some(Target::find(url, &self.origins).ok()?.origin)
    }

    /// Checks that the URL of a request is valid, and that its origin is listed.
    ///
    /// # Errors
    /// `invalid_url`, `not_allowed`.
    pub(crate) fn check_url(&self, url: &str) -> Result<(), SendError> {
        Target::find(url, &self.origins).map(drop)
    }

    /// Number of events that wait for a permit.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Checks that a delivery is valid, that its origin is listed, and that there are secrets to
    /// sign it. Its key has at most `max_key` bytes. Returns the origin.
    ///
    /// # Errors
    /// `invalid_url`, `misuse`, `limit`, `not_allowed`; and what operators are told, if it is more.
    pub(crate) fn check_delivery(
        &self,
        delivery: &Delivery,
        max_key: usize,
    ) -> Result<String, (Refusal, Option<String>)> {
        let with_error = |error: SendError| {
            let shown = error.to_string();
            (Refusal::from(error), Some(shown))
        };
        delivery.check(max_key, self.request_bytes).map_err(|refusal| (refusal, None))?;
        let target = Target::find(&delivery.request.url, &self.origins).map_err(with_error)?;
        let Target { origin, .. } = target;
        let mut listed = self.origins.iter();
        let is_signed = listed
            .find(|listed| listed.text() == origin)
            .is_some_and(ListedOrigin::takes_deliveries);
        if is_signed { Ok(origin) } else { Err(with_error(unsigned(&origin))) }
    }

    /// Takes the permit of one event, if one is free and no other event waits for it.
    pub(crate) fn try_permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.at_once).try_acquire_owned().ok()
    }

    /// Waits for the permit of one event, until `deadline`. Permits are given in the order of the
    /// calls.
    pub(crate) async fn permit(&self, deadline: Instant) -> Option<OwnedSemaphorePermit> {
        let _waiting = WaitingGuard::new(&self.waiting);
        let permit = Arc::clone(&self.at_once).acquire_owned();
        tokio::time::timeout_at(deadline.into(), permit).await.ok()?.ok()
    }
}

/// Counts an event as waiting while it exists.
struct WaitingGuard<'a>(&'a AtomicUsize);

impl<'a> WaitingGuard<'a> {
    fn new(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for WaitingGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Deliveries to an origin without secrets are refused.
fn unsigned(origin: &str) -> SendError {
    SendError::NotAllowed(format!(
        "the operator has set no secret to sign deliveries to {origin} (`webhook_secrets` in the \
         plugin's `outbound`)"
    ))
}

/// Why there is no response to a request. The text is for operators: it may name addresses, and
/// settings to change. A handler gets [`SendError::message`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SendError {
    /// The operator does not allow the origin, or the address.
    #[error("{0}")]
    NotAllowed(String),
    /// The URL is none that a request can have. It may be made of what a client has sent.
    #[error("the URL {0}")]
    InvalidUrl(&'static str),
    /// The request is invalid otherwise.
    #[error("{0}")]
    Misuse(String),
    /// The response did not come in time.
    #[error("there was no whole response in time")]
    Timeout,
    /// The name was not resolved, or the connection or TLS failed. Nothing was sent.
    #[error("{0}")]
    Unreachable(String),
    /// There is no whole response to a request that was sent, or a part of it.
    #[error("{0}")]
    Interrupted(String),
    /// The host has no room for the request. Nothing was sent.
    #[error("the host has no room for it now: the limit of requests at once is reached")]
    Busy,
    /// The response has more bytes than are allowed.
    #[error("the response is too large: {0}")]
    TooLarge(String),
}

impl SendError {
    /// The connection or TLS has failed.
    fn unreachable(what: &str, error: &(dyn Error + 'static)) -> Self {
        Self::Unreachable(format!("{what}: {}", ErrorChain(error)))
    }

    /// The exchange has failed after the connection was made.
    fn interrupted(what: &str, error: &(dyn Error + 'static)) -> Self {
        Self::Interrupted(format!("{what}: {}", ErrorChain(error)))
    }

    /// What the handler is told. A handler may pass it on to a client, so it has no advice for the
    /// operator and no details of the service.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::NotAllowed(_) => "the service may not be called",
            // The plugin or its client has given what these name.
            Self::InvalidUrl(_) | Self::Misuse(_) => return self.to_string(),
            Self::Timeout => "the service has not answered in time",
            Self::Unreachable(_) => "the service can't be reached",
            Self::Interrupted(_) => "the service has got the request, and not answered it wholly",
            Self::Busy => "the host has no room for the request now",
            Self::TooLarge(_) => "the response of the service is too large",
        }
        .to_owned()
    }

    /// The code for the handler and for the metrics.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::NotAllowed(_) => "not_allowed",
            Self::InvalidUrl(_) => "invalid_url",
            Self::Misuse(_) => "misuse",
            Self::Timeout => "timeout",
            Self::Unreachable(_) => "unreachable",
            Self::Interrupted(_) => "interrupted",
            Self::Busy => "busy",
            Self::TooLarge(_) => "response_too_large",
        }
    }
}

impl From<SendError> for Refusal {
    fn from(error: SendError) -> Self {
        Self::new(error.code(), error.message())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers every request with 204. Returns its address, and the number of connections so far.
    async fn service() -> (SocketAddr, Arc<AtomicUsize>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (address, connections) =
            (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default());
        let counted = Arc::clone(&connections);
        drop(TaskTracker::new().spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
            }
        }));
        (address, connections)
    }

    /// A client whose resolver gives the next of these answers to each lookup.
    fn resolving(mut answers: Vec<Vec<IpAddr>>) -> (Outbound, Arc<Mutex<Vec<Vec<IpAddr>>>>) {
        answers.reverse();
        let answers = Arc::new(Mutex::new(answers));
        let left = Arc::clone(&answers);
        let look_up =
            move |_: &str| left.lock().unwrap().pop().ok_or_else(|| "one lookup more".to_owned());
        let resolver = Arc::new(Resolver::new(Arc::new(look_up)));
        (Outbound { resolver, ..Outbound::default() }, answers)
    }

    async fn code(outbound: &Outbound, port: u16, is_private: bool) -> &'static str {
        let origin = format!("http://api.test:{port}");
        let listed = ListedOrigin::parse(&origin, is_private).unwrap();
        let settings = PluginSettings { outbound: vec![listed], ..PluginSettings::default() };
        let allowance = Allowance::new("a", &settings, 2);
        let request = Request {
            method: "GET".to_owned(),
            url: origin,
            headers: Vec::new(),
            body: Vec::new(),
            timeout: None,
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        let sent = outbound.send(&allowance, request, deadline).await;
        sent.map_or_else(
            |error| error.code(),
            |response| {
                assert_eq!(response.status(), 204);
                "ok"
            },
        )
    }

    #[test]
    fn a_refusal_tells_a_client_no_advice_for_operators_and_no_details_of_a_service() {
        let detail = "10.0.0.7: set `private = true`, or else the certificate is invalid";
        for error in [
            SendError::NotAllowed(detail.to_owned()),
            SendError::Unreachable(detail.to_owned()),
            SendError::TooLarge(detail.to_owned()),
            SendError::Interrupted(detail.to_owned()),
            SendError::Busy,
            SendError::Timeout,
        ] {
            let code = error.code();
            let refusal = Refusal::from(error);
            assert_eq!(refusal.code, code);
            assert!(!refusal.message.contains("10.0.0.7"), "{}", refusal.message);
            assert!((10..80).contains(&refusal.message.len()), "{}", refusal.message);
        }
        let refusal = Refusal::from(SendError::InvalidUrl("has no host"));
        assert_eq!(refusal.message, "the URL has no host");
    }

    #[tokio::test]
    async fn a_panic_is_not_told_as_a_stop_of_the_host() {
        let tasks = TaskTracker::new();
        let panicked = tasks.spawn(async { panic!("as asked") }).await.unwrap_err();
        assert!(ended(&panicked).to_string().contains("panicked"));
        let stopped = tasks.spawn(std::future::pending::<()>());
        stopped.abort();
        assert!(ended(&stopped.await.unwrap_err()).to_string().contains("stopped"));
    }

    #[tokio::test]
    async fn a_changed_answer_for_a_name_is_checked_again_and_nothing_else_is_connected_to() {
        let (address, connections) = service().await;
        let (own, port) = (address.ip(), address.port());
        let [public, metadata]: [IpAddr; 2] =
            ["192.88.98.1", "169.254.169.254"].map(|address| address.parse().unwrap());
        let answers = [
            // Each line is the only lookup of one request.
            (vec![own], true, "ok"),
            (vec![own], false, "not_allowed"),
            (vec![metadata], true, "not_allowed"),
            (vec![own, metadata], true, "not_allowed"),
            (vec![public, own], false, "not_allowed"),
            (vec![own, own], true, "ok"),
            (vec![], true, "unreachable"),
        ];
        let (outbound, left) =
            resolving(answers.iter().map(|(answer, ..)| answer.clone()).collect());
        for (index, (answer, is_private, expected)) in answers.iter().enumerate() {
            assert_eq!(code(&outbound, port, *is_private).await, *expected, "{index}: {answer:?}");
            // If a request looked the name up twice, the second answer would be missing later.
            assert_eq!(left.lock().unwrap().len(), answers.len() - index - 1, "{index}");
        }
        assert_eq!(connections.load(Ordering::SeqCst), 2);
    }
}
