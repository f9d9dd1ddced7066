//! The HTTP requests of plugins to other services: where each plugin may send them, the addresses
//! that are allowed, the signatures of deliveries, and the client. It knows no events and no
//! handlers, and does not know when a delivery is sent.
//!
//! A request goes to an address that was checked, and to no other: the host resolves a name itself,
//! checks each of its addresses, and connects to one of them. It follows no redirect, reads no
//! proxy variable, and keeps no connection for another request.

mod address;
mod client;
pub(crate) mod fuzzing;
mod origin;
mod resolve;
mod retry_after;
mod secrets;
mod signature;
mod trust;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::ClientConfig;
use sockhop_core::delivery::Delivery;
use sockhop_core::outbound::{Request, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::config::{Config, ListedOrigin, PluginSettings};
use crate::rejection::Refusal;

use client::ReadBody;
use origin::Target;
use resolve::Resolver;
use secrets::Secrets;

pub use secrets::SecretsError;
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
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    /// Trusts the configured authorities. `None` as long as no plugin may send to an origin with
    /// TLS.
    tls: ArcSwapOption<ClientConfig>,
    /// They sign deliveries.
    secrets: ArcSwap<Secrets>,
    resolver: Arc<Resolver>,
    tasks: TaskTracker,
}

/// What is used from now on: the authorities that are trusted, and the secrets of deliveries.
pub(crate) struct ReadyOutbound {
    tls: Option<Arc<ClientConfig>>,
    secrets: Arc<Secrets>,
}

impl Outbound {
    /// Creates the client. Its tasks belong to `tasks`. Blocks: it reads the trusted authorities
    /// and the secrets.
    ///
    /// # Errors
    /// The configured authorities or secrets can't be used.
    pub(crate) fn load(config: &Config, tasks: TaskTracker) -> Result<Self, OutboundError> {
        let outbound = Self { tasks, ..Self::default() };
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
    ) -> Result<Response, SendError> {
        let target = Target::find(&request.url, &allowance.origins)?;
        self.exchange(target, request, ReadBody::Whole(allowance.response_bytes), deadline).await
    }

    /// Makes one attempt to send a delivery of `plugin`, at `now` in milliseconds since 1970. The
    /// body of the response is dropped.
    ///
    /// # Errors
    /// Returns why there is no response. `NotAllowed`: the operator does not list the origin any
    /// more, or has removed its secrets.
    pub(crate) async fn deliver(
        &self,
        plugin: &str,
        grant: &DeliveryGrant,
        id: &str,
        mut request: Request,
        now: u64,
    ) -> Result<Receipt, SendError> {
        let deadline = Instant::now() + grant.time;
        let target = Target::find(&request.url, &grant.origins)?;
        let secrets = self.secrets.load().of(plugin, &target.origin);
        let secrets = secrets.ok_or_else(|| unsigned(&target.origin))?;
        let signed = signature::headers(&secrets, id, now / 1_000, &request.body);
        request.headers.extend(signed);
        let body = ReadBody::Dropped(DROPPED_BYTES);
        let response = self.exchange(target, request, body, deadline).await?;
        let retry_after = response.headers.iter().find(|(name, _)| name == "retry-after");
        let retry_after = retry_after.and_then(|(_, value)| retry_after::parse(value, now));
        Ok(Receipt { status: response.status, retry_after })
    }

    async fn exchange(
        &self,
        target: Target,
        request: Request,
        body: ReadBody,
        deadline: Instant,
    ) -> Result<Response, SendError> {
        let (tls, resolver) = (self.tls.load_full(), Arc::clone(&self.resolver));
        let sent = async move {
            let exchange = client::exchange(&resolver, tls, target, request, body, deadline);
            let ended = tokio::time::timeout_at(deadline.into(), exchange).await;
            ended.unwrap_or(Err(SendError::Timeout))
        };
        let task = AbortOnDropHandle::new(self.tasks.spawn(sent));
        task.await.unwrap_or_else(|_| Err(SendError::Unreachable("the host stops".to_owned())))
    }
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
    /// The allowance of a plugin that has so many instances.
    pub(crate) fn new(settings: &PluginSettings, instances: usize) -> Self {
        let limits = &settings.limits;
        // One instance at least is for events that send no request.
        let most = instances.saturating_sub(1).max(1);
        let at_once = limits.outbound_at_once.map_or(most, NonZeroUsize::get).min(most);
        let origins: Arc<[ListedOrigin]> = settings.outbound.clone().into();
        Self {
            deliveries: DeliveryGrant {
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
    /// `misuse`, `not_allowed`.
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
    /// `misuse`, `limit`, `not_allowed`.
    pub(crate) fn check_delivery(
        &self,
        delivery: &Delivery,
        max_key: usize,
    ) -> Result<String, Refusal> {
        delivery.check(max_key, self.request_bytes)?;
        let Target { origin, .. } = Target::find(&delivery.request.url, &self.origins)?;
        let mut listed = self.origins.iter();
        let is_signed = listed
            .find(|listed| listed.text() == origin)
            .is_some_and(ListedOrigin::takes_deliveries);
        if is_signed { Ok(origin) } else { Err(unsigned(&origin).into()) }
    }

    /// Takes the permit of one event, if one is free and nobody waits for it.
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

/// Why there is no response to a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SendError {
    /// The operator does not allow the origin, or the address.
    #[error("{0}")]
    NotAllowed(String),
    /// The request is invalid.
    #[error("{0}")]
    Misuse(String),
    /// The response did not come in time.
    #[error("there was no whole response in time")]
    Timeout,
    /// The name was not resolved, or the connection, TLS or the protocol failed.
    #[error("{0}")]
    Unreachable(String),
    /// The response has more bytes than are allowed.
    #[error("the response is too large: {0}")]
    TooLarge(String),
}

impl SendError {
    /// The code for the handler and for the metrics.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::NotAllowed(_) => "not_allowed",
            Self::Misuse(_) => "misuse",
            Self::Timeout => "timeout",
            Self::Unreachable(_) => "unreachable",
            Self::TooLarge(_) => "response_too_large",
        }
    }
}

impl From<SendError> for Refusal {
    fn from(error: SendError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}
