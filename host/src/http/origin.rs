//! The check of the `Origin` header, which limits the web pages that may connect. CORS alone does
//! not keep a page from opening a WebSocket.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use crate::config::LiveConfig;

use super::problem::Problem;

/// The origins whose pages may connect.
pub(crate) struct Origins {
    config: Arc<LiveConfig>,
    /// Whether pages of this machine may connect: the host listens on loopback only.
    local: bool,
    /// Whether these pages may also be those of HTTPS servers: the host itself serves HTTPS, and
    /// its own pages have that scheme.
    is_tls: bool,
    /// Refused origins that were logged.
    logged: Mutex<HashSet<String>>,
}

/// Refused origins that are remembered, so that each is logged once. Further origins are not
/// logged: a client can invent them, and they would take memory.
const MAX_LOGGED: usize = 256;

impl Origins {
    /// Allows the configured origins and, if `listen` is a loopback address, pages of this machine.
    pub(crate) fn new(config: &Arc<LiveConfig>, listen: SocketAddr, is_tls: bool) -> Self {
        Self {
            config: Arc::clone(config),
            local: listen.ip().is_loopback(),
            is_tls,
            logged: Mutex::default(),
        }
    }

    fn allow(&self, origin: &str) -> bool {
        let config = self.config.get();
        config.server.allowed_origins.iter().any(|allowed| allowed.allows(origin))
            || (self.local && self.is_local(origin))
    }

    /// Whether the origin is `http://localhost` or `http://127.0.0.1`, with any port; with TLS also
    /// these with `https`.
    fn is_local(&self, origin: &str) -> bool {
        let plain = origin.strip_prefix("http://").map(|host| (host, "80"));
        let tls = || origin.strip_prefix("https://").filter(|_| self.is_tls);
        let Some((host, port)) = plain.or_else(|| Some((tls()?, "443"))) else { return false };
        let (name, port) = host.split_once(':').unwrap_or((host, port));
        matches!(name, "localhost" | "127.0.0.1") && port.parse::<u16>().is_ok()
    }

    fn log(&self, origin: &str) {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.len() < MAX_LOGGED && logged.insert(origin.to_owned()) {
            tracing::warn!(
                origin,
                "refused a page of this origin; to let it connect, add it to `allowed_origins` in \
                 `[server]`"
            );
        }
    }
}

/// Answers 403 to requests from pages that may not connect. A request without `Origin` does not
/// come from a page.
pub(crate) async fn check(
    State(origins): State<Arc<Origins>>,
    request: Request,
    next: Next,
) -> Response {
    let origin = request
        .headers()
        .get(header::ORIGIN)
        .map(|origin| origin.to_str().unwrap_or_default().to_owned());
    match origin {
        Some(origin) if !origins.allow(&origin) => {
            origins.log(&origin);
            Problem::new(StatusCode::FORBIDDEN, "forbidden", "pages of this origin may not connect")
                .into_response()
        }
        _ => next.run(request).await,
    }
}

/// The methods of Socket.IO's long-polling and of the routes of plugins.
const METHODS: [Method; 6] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

/// Gives browsers the same rule as CORS headers, for long-polling and routes. Pages may send
/// `headers`; if `headers` is `None`, they may send any header.
pub(crate) fn cors(origins: &Arc<Origins>, headers: Option<&[HeaderName]>) -> CorsLayer {
    let origins = Arc::clone(origins);
    // Every page that uses `/api` needs these two headers.
    let always = [header::CONTENT_TYPE, header::AUTHORIZATION];
    let headers = headers.map_or_else(AllowHeaders::mirror_request, |named| {
        AllowHeaders::list(named.iter().cloned().chain(always))
    });
    let allowed = move |origin: &HeaderValue, _: &Parts| {
        origin.to_str().is_ok_and(|origin| origins.allow(origin))
    };
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(allowed))
        .allow_methods(METHODS)
        .expose_headers([header::LOCATION])
        .allow_headers(headers)
        .allow_credentials(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AllowedOrigin, Config};

    #[test]
    fn pages_of_this_machine_may_connect_while_only_it_can() {
        let loopback =
            Origins::new(&Arc::default(), SocketAddr::from(([127, 0, 0, 1], 4000)), false);
        assert!(loopback.allow("http://localhost:3000") && loopback.allow("http://127.0.0.1:1"));
        for other in [
            "https://localhost:3000",
            "http://localhost.evil.example",
            "http://localhost:evil",
            "http://evil.example",
            "null",
        ] {
            assert!(!loopback.allow(other), "{other}");
        }
        let mut config = Config::default();
        config.server.allowed_origins =
            vec![AllowedOrigin::parse("https://app.example.com").unwrap()];
        let open = Origins::new(
            &LiveConfig::new(Arc::new(config)),
            SocketAddr::from(([0, 0, 0, 0], 4000)),
            false,
        );
        assert!(open.allow("https://app.example.com") && !open.allow("http://localhost:3000"));
        let tls = Origins::new(&Arc::default(), SocketAddr::from(([127, 0, 0, 1], 4000)), true);
        for origin in [
            "https://localhost:4000",
            "https://127.0.0.1",
            "https://localhost",
            "http://localhost:3000",
        ] {
            assert!(tls.allow(origin), "{origin}");
        }
        for other in ["https://localhost.evil.example", "https://localhost:evil", "ftp://localhost"]
        {
            assert!(!tls.allow(other), "{other}");
        }
    }
}
