//! What precedes HTTP on a TCP connection: the header of a proxy, and the TLS handshake. Both are
//! done within the deadlines of the first byte and of the head of a request, in the slot of the
//! connection.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::config::LiveConfig;
use crate::metrics::Metrics;
use crate::tls::{ClientStream, Tls};
use crate::transport::{AbortHandle, Peer, Stage};

use super::deadline::deadline;
use super::proxy::{TrustedProxies, protocol};
use super::slots::ConnectionSlot;

/// What precedes HTTP on the connections of one listener.
pub(crate) struct Opening {
    /// The proxies that send a header of the PROXY protocol. `None`: no proxy does.
    proxies: Option<Arc<TrustedProxies>>,
    /// `None`: the listener serves plain HTTP.
    tls: Option<Arc<Tls>>,
    metrics: Arc<Metrics>,
    /// The proxies whose wrong headers were logged.
    logged: Mutex<HashSet<IpAddr>>,
}

/// How many proxies with wrong headers are logged, each once. Clients can't add to them.
const MAX_LOGGED: usize = 64;

/// A connection that is opened, and what may end it.
pub(super) struct Opened<'connection> {
    pub(super) slot: &'connection ConnectionSlot,
    pub(super) abort_handle: &'connection AbortHandle,
    pub(super) config: &'connection LiveConfig,
    pub(super) stop: &'connection CancellationToken,
}

impl Opened<'_> {
    /// How long the connection may stay in a stage.
    fn limit(&self, stage: Stage) -> std::time::Duration {
        deadline(&self.config.get().limits, stage, self.slot.is_reserved()).unwrap_or_default()
    }
}

/// Why HTTP does not begin.
enum Failure {
    /// The header of a proxy is missing or wrong.
    ProxyHeader(String),
    /// No slot is left for the client of the proxy.
    NoSlot,
    /// The handshake has failed, with this result for the metrics.
    Tls(&'static str, String),
}

/// The reason if a deadline has passed.
const TOO_LATE: &str = "it took too long";

impl Opening {
    pub(crate) fn new(
        proxies: Option<Arc<TrustedProxies>>,
        tls: Option<Arc<Tls>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { proxies, tls, metrics, logged: Mutex::default() }
    }

    /// Whether HTTP begins with the first byte of a connection from this address.
    pub(super) fn is_plain(&self, peer: Peer) -> bool {
        self.tls.is_none() && !self.has_proxy_header(peer)
    }

    /// Whether a connection from this address must begin with a header of the PROXY protocol.
    fn has_proxy_header(&self, Peer(address): Peer) -> bool {
        self.proxies.as_ref().is_some_and(|proxies| proxies.trusts(address))
    }

    /// Returns the stream of a connection after everything that precedes HTTP, and its client.
    /// Returns `None` if the connection must be closed.
    pub(super) async fn open(
        &self,
        stream: TcpStream,
        peer: Peer,
        opened: Opened<'_>,
    ) -> Option<(ClientStream, Peer)> {
        let steps = opened.abort_handle.unless_aborted(self.steps(stream, peer, &opened));
        let result = tokio::select! {
            result = steps => result?,
            // A client that has not sent a request does not wait for an answer.
            () = opened.stop.cancelled() => return None,
        };
        let Peer(address) = peer;
        match &result {
            Ok((ClientStream::Plain(_), _)) | Err(Failure::NoSlot) => {}
            Ok((ClientStream::Tls(_), _)) => self.metrics.tls_handshake("ok"),
            Err(Failure::Tls(result, error)) => {
                self.metrics.tls_handshake(result);
                tracing::debug!(%address, error, "TLS handshake failed");
            }
            Err(Failure::ProxyHeader(error)) => {
                self.metrics.proxy_header_refused();
                self.log_wrong_header(address, error);
            }
        }
        result.ok()
    }

    /// Warns of the first wrong header of a proxy: with a wrong setting, all are wrong, and clients
    /// get no answer.
    fn log_wrong_header(&self, proxy: IpAddr, error: &str) {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.len() < MAX_LOGGED && logged.insert(proxy) {
            tracing::warn!(
                %proxy,
                error,
                "a trusted proxy sent no valid header of the PROXY protocol, version 2; turn it on \
                 there (`send-proxy-v2` in HAProxy), or change `server.proxy_header`"
            );
        } else {
            tracing::debug!(%proxy, error, "header of a trusted proxy refused");
        }
    }

    async fn steps(
        &self,
        mut stream: TcpStream,
        mut peer: Peer,
        opened: &Opened<'_>,
    ) -> Result<(ClientStream, Peer), Failure> {
        let has_header = self.has_proxy_header(peer);
        let failed = |result, error: String| {
            if has_header { Failure::ProxyHeader(error) } else { Failure::Tls(result, error) }
        };
        // Unlike `readable`, `peek` never returns without a byte.
        timeout(opened.limit(Stage::Opened), stream.peek(&mut [0]))
            .await
            .map_err(|_| failed("timed_out", TOO_LATE.to_owned()))?
            .map_err(|error| failed("failed", error.to_string()))?;
        let mut deadline = Instant::now() + opened.limit(Stage::Head);
        if has_header {
            let client = timeout_at(deadline, protocol::read(&mut stream))
                .await
                .map_err(|_| Failure::ProxyHeader(TOO_LATE.to_owned()))?
                .map_err(|error| Failure::ProxyHeader(error.to_string()))?;
            if let Some(client) = client {
                peer = Peer(client);
                if !opened.slot.give_to(client, opened.abort_handle) {
                    return Err(Failure::NoSlot);
                }
                // The slot may be a reserved one now.
                deadline = deadline.min(Instant::now() + opened.limit(Stage::Head));
            }
        }
        let Some(tls) = &self.tls else { return Ok((ClientStream::Plain(stream), peer)) };
        let stream = timeout_at(deadline, tls.accept(stream))
            .await
            .map_err(|_| Failure::Tls("timed_out", TOO_LATE.to_owned()))?
            .map_err(|error| Failure::Tls("failed", error.to_string()))?;
        Ok((stream, peer))
    }
}
