//! What a fuzzer calls for the URLs of requests: see the crate's `fuzzing`.

use http::HeaderValue;
use http::uri::Authority;
use url::{Host, Url};

use crate::config::ListedOrigin;

use super::origin::Target;

/// A listed origin in the first line, and the URL of a request.
pub fn url(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Some((listed, url)) = text.split_once('\n') else { return };
    let Ok(listed) = ListedOrigin::parse(listed, false) else { return };
    let Ok(target) = Target::find(url, std::slice::from_ref(&listed)) else { return };
    let port = listed.url().port_or_known_default();
    assert_eq!(Some(target.port), port, "the port is that of the listed origin");
    let host = listed.url().host().map(|host| host.to_owned());
    assert_eq!(Some(&target.host), host.as_ref(), "so is the host");
    assert_eq!(target.has_tls, listed.needs_tls(), "and the scheme");
    // What the server reads names the same host, and nothing else.
    assert!(HeaderValue::from_str(&target.authority).is_ok(), "a header");
    let authority: Option<Authority> = target.authority.parse().ok();
    let authority = authority.map(|authority| authority.host().to_owned());
    assert_eq!(authority, host.as_ref().map(Host::to_string), "the same host for each parser");
    let path = target.uri.to_string();
    assert!(path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic()), "a path");
    let sent = Url::parse(&format!("{}{path}", listed.url().origin().ascii_serialization()));
    let origin = sent.map(|sent| sent.origin());
    assert_eq!(origin.ok(), Some(listed.url().origin()), "the path changes no origin");
}
