//! The interface `http`. Its function is called directly; see `host.rs`.

use sockhop_core::outbound::{Request, Response};

use crate::host::HttpCalls;
use crate::refusal::Result;

use super::Component;
use super::generated::sockhop::plugin::http;

impl HttpCalls for Component {}

/// Calls the import `http.send`.
pub(crate) fn send(request: Request) -> Result<Response> {
    let Request { method, url, headers, body, timeout } = request;
    let headers = headers.into_iter().map(|(name, value)| http::Header { name, value }).collect();
    let timeout_ms = timeout
        .map(|timeout| u32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX));
    let http::Response { status, headers, body } =
        http::send(&http::Request { method, url, headers, body, timeout_ms })?;
    let headers = headers.into_iter().map(|http::Header { name, value }| (name, value)).collect();
    Ok(Response { status, headers, body })
}
