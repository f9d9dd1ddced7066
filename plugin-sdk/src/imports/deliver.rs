//! The interface `deliver`. Its function is called directly; see `host.rs`.

use sockhop_core::delivery::Delivery;

use crate::host::DeliverCalls;
use crate::refusal::Result;

use super::Component;
use super::generated::sockhop::plugin::{deliver, http};

impl DeliverCalls for Component {}

/// Calls the import `deliver.send`.
pub(crate) fn send(delivery: Delivery) -> Result<String> {
    let Delivery { key, request, result } = delivery;
    let headers = request.headers.into_iter();
    let headers = headers.map(|(name, value)| http::Header { name, value }).collect();
    let (method, url, body) = (request.method, request.url, request.body);
    Ok(deliver::send(&deliver::Delivery { key, method, url, headers, body, result })?)
}
