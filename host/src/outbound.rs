//! The HTTP requests of plugins to other services: where each plugin may send them, the addresses
//! that are allowed, and the client. It knows no events and no handlers.
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
mod trust;

use std::error::Error;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use rustls::ClientConfig;
use sockhop_core::outbound::Request;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinError;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::config::{Config, ListedOrigin, OutboundConfig, PluginSettings};
use crate::error_chain::ErrorChain;
use crate::rejection::Refusal;

use memory::ResponseMemory;
use origin::Target;
use resolve::{MAX_LOOKUPS, Resolver};

pub(crate) use memory::KeptResponse;
pub use trust::TrustError;

/// Checks that the authorities that a configuration trusts can be used. Blocks.
///
/// # Errors
/// They can't be used.
pub fn check(config: &Config) -> Result<(), TrustError> {
    Outbound::prepare(config).map(drop)
}

/// Sends the requests of all plugins.
#[derive(Debug)]
pub(crate) struct Outbound {
    /// Trusts the configured authorities. `None` as long as no plugin may send to an origin with
    /// TLS.
    tls: ArcSwapOption<ClientConfig>,
    resolver: Arc<Resolver>,
    /// One permit for each exchange that runs at once.
    exchanges: Arc<Semaphore>,
    at_once: usize,
    memory: ResponseMemory,
    tasks: TaskTracker,
}

/// The requests of all plugins that are in use, and their limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OutboundUsage {
    /// Exchanges that run.
    pub(crate) open: usize,
    /// The most of them.
    pub(crate) open_limit: usize,
    /// Bytes of responses that are read or kept.
    pub(crate) memory: usize,
    /// The most of these bytes.
    pub(crate) memory_limit: usize,
}

/// File descriptors that requests need at most: one for each connection, and for each lookup.
pub(crate) fn max_descriptors(config: &OutboundConfig) -> u64 {
    u64::try_from(config.at_once.get().saturating_add(MAX_LOOKUPS)).unwrap_or(u64::MAX)
}

/// A client without TLS, with the default limits.
impl Default for Outbound {
    fn default() -> Self {
        Self::new(&OutboundConfig::default(), TaskTracker::default())
    }
}

/// The authorities that are trusted from now on.
pub(crate) struct ReadyTrust(Option<Arc<ClientConfig>>);

impl Outbound {
    fn new(config: &OutboundConfig, tasks: TaskTracker) -> Self {
        let at_once = config.at_once.get().min(Semaphore::MAX_PERMITS);
        Self {
            tls: ArcSwapOption::empty(),
            resolver: Arc::default(),
            exchanges: Arc::new(Semaphore::new(at_once)),
            at_once,
            memory: ResponseMemory::new(config.memory_bytes.get()),
            tasks,
        }
    }

    /// Creates the client. Its tasks belong to `tasks`. Blocks: it reads the trusted authorities.
    ///
    /// # Errors
    /// The configured authorities can't be used.
    pub(crate) fn load(config: &Config, tasks: TaskTracker) -> Result<Self, TrustError> {
        let outbound = Self::new(&config.outbound, tasks);
        outbound.take(Self::prepare(config)?);
        Ok(outbound)
    }

    /// Reads the authorities that a configuration trusts, for [`Outbound::take`]. Blocks.
    ///
    /// # Errors
    /// They can't be used.
    pub(crate) fn prepare(config: &Config) -> Result<ReadyTrust, TrustError> {
        let file = config.outbound.ca_file.as_deref();
        let mut listed = config.plugins.by_name.values().flat_map(|plugin| &plugin.outbound);
        let is_needed = file.is_some() || listed.any(ListedOrigin::needs_tls);
        let tls = is_needed.then(|| trust::client_config(file)).transpose()?;
        Ok(ReadyTrust(tls.map(Arc::new)))
    }

    /// Trusts these authorities from now on.
    pub(crate) fn take(&self, ReadyTrust(tls): ReadyTrust) {
        self.tls.store(tls);
    }

    /// How much is in use now.
    pub(crate) fn usage(&self) -> OutboundUsage {
        let open = self.at_once.saturating_sub(self.exchanges.available_permits());
        let (memory, memory_limit) = self.memory.usage();
        OutboundUsage { open, open_limit: self.at_once, memory, memory_limit }
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
        let (tls, resolver) = (self.tls.load_full(), Arc::clone(&self.resolver));
        let plugin = Arc::clone(&allowance.plugin);
        let (exchanges, body) = (Arc::clone(&self.exchanges), allowance.response_bytes);
        let body = (body, self.memory.reserve());
        let sent = async move {
            // Given in the order of the calls, and held until the connection is closed.
            let permit = tokio::time::timeout_at(deadline.into(), exchanges.acquire_owned()).await;
            let Ok(Ok(_permit)) = permit else {
                return Err(SendError::Busy("requests at once"));
            };
            let resolver = (&resolver, &plugin);
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
    SendError::Unreachable(format!("the task of the request {what}"))
}

/// What one version of a plugin may send.
#[derive(Debug)]
pub(crate) struct Allowance {
    /// The name of the plugin, whose versions share the right to look names up.
    plugin: Arc<str>,
    origins: Vec<ListedOrigin>,
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
}

impl Allowance {
    /// The allowance of `plugin`, which has so many instances.
    pub(crate) fn new(plugin: &str, settings: &PluginSettings, instances: usize) -> Self {
        let limits = &settings.limits;
        // One instance at least is for events that send no request.
        let most = instances.saturating_sub(1).max(1);
        let at_once = limits.outbound_at_once.map_or(most, NonZeroUsize::get).min(most);
        Self {
            plugin: Arc::from(plugin),
            origins: settings.outbound.clone(),
            requests: usize::try_from(limits.outbound_requests.get()).unwrap_or(usize::MAX),
            time: limits.outbound_ms,
            request_bytes: limits.outbound_request_bytes.get(),
            response_bytes: limits.outbound_response_bytes.get(),
            at_once: Arc::new(Semaphore::new(at_once.min(Semaphore::MAX_PERMITS))),
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
        let target = Target::find(url, &self.origins).ok()?;
        Some(format!("{}://{}", if target.has_tls { "https" } else { "http" }, target.authority))
    }

    /// Checks that the URL of a request is valid, and that its origin is listed.
    ///
    /// # Errors
    /// `invalid_url`, `not_allowed`.
    pub(crate) fn check_url(&self, url: &str) -> Result<(), SendError> {
        Target::find(url, &self.origins).map(drop)
    }

    /// Takes the permit of one event, if one is free and nobody waits for it.
    pub(crate) fn try_permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.at_once).try_acquire_owned().ok()
    }

    /// Waits for the permit of one event, until `deadline`. Permits are given in the order of the
    /// calls.
    pub(crate) async fn permit(&self, deadline: Instant) -> Option<OwnedSemaphorePermit> {
        let permit = Arc::clone(&self.at_once).acquire_owned();
        tokio::time::timeout_at(deadline.into(), permit).await.ok()?.ok()
    }
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
    /// The name was not resolved, or the connection, TLS or the protocol failed.
    #[error("{0}")]
    Unreachable(String),
    /// The host has no room for the request, or for its response: the limit that is reached.
    #[error("the host has no room for it now: the limit of {0} is reached")]
    Busy(&'static str),
    /// The response has more bytes than are allowed.
    #[error("the response is too large: {0}")]
    TooLarge(String),
}

impl SendError {
    /// The connection, TLS or the protocol has failed.
    fn unreachable(what: &str, error: &(dyn Error + 'static)) -> Self {
        Self::Unreachable(format!("{what}: {}", ErrorChain(error)))
    }

    /// What the handler is told. A handler may pass it on to a client, so it has no advice for the
    /// operator and no details of the service.
    fn message(&self) -> String {
        match self {
            Self::NotAllowed(_) => "the service may not be called",
            // The plugin or its client has given what these name.
            Self::InvalidUrl(_) | Self::Misuse(_) => return self.to_string(),
            Self::Timeout => "the service has not answered in time",
            Self::Unreachable(_) => "the service can't be reached",
            Self::Busy(_) => "the host has no room for the request now",
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
            Self::Busy(_) => "busy",
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
            SendError::Busy(detail),
            SendError::Timeout,
        ] {
            let (code, shown) = (error.code(), error.to_string());
            assert!(shown.contains(detail) || error == SendError::Timeout, "{shown}");
            let refusal = Refusal::from(error);
            assert_eq!(refusal.code, code);
            assert!(!refusal.message.contains("10.0.0.7"), "{}", refusal.message);
            assert!((10..60).contains(&refusal.message.len()), "{}", refusal.message);
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
