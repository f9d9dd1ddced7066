//! HTTP requests that a handler sends, their responses, and which requests are valid. Where a
//! request may go is decided by the host.

#[cfg(feature = "schema")]
pub mod url;

use std::time::Duration;

use crate::rejection::{Refusal, truncate};

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The method, such as `GET`.
    pub method: String,
    /// The absolute URL.
    pub url: String,
    /// The headers, in their order.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body; empty if there is none.
    pub body: Vec<u8>,
    /// Time for the request; `None` for the host's limit.
    pub timeout: Option<Duration>,
}

/// The response to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status, such as 200.
    pub status: u16,
    /// The headers, in their order, with names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body, as it was sent: the host decodes no compression.
    pub body: Vec<u8>,
}

/// Maximum number of headers of a request, and of a response.
pub const MAX_HEADERS: usize = 100;

/// Maximum bytes of a method's name. The longest registered one has 17.
const MAX_METHOD: usize = 32;

/// The headers that the host sets itself, because they decide where a message ends or who gets it.
const OF_HOST: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// Methods that are not for resources: a tunnel, and the echo of a request with its headers.
const NO_METHODS: [&str; 3] = ["CONNECT", "TRACE", "TRACK"];

impl Request {
    /// Bytes that the request counts: its URL, headers and body.
    pub fn size(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| name.len() + value.len() + 4);
        self.method.len() + self.url.len() + headers.sum::<usize>() + self.body.len()
    }

    /// Checks the method, the headers and the size.
    ///
    /// # Errors
    /// `misuse`: the method or a header is invalid, or belongs to the host. `limit`: the request
    /// has more than `max_bytes`, or too many headers.
    pub fn check(&self, max_bytes: usize) -> Result<(), Refusal> {
        let (method, bytes) = (&self.method, self.size());
        if bytes > max_bytes {
            return Err(Refusal::limit(format!(
                "the request has {bytes} bytes; at most {max_bytes} are allowed"
            )));
        }
        if self.headers.len() > MAX_HEADERS {
            return Err(Refusal::limit(format!(
                "the request has {} headers; at most {MAX_HEADERS} are allowed",
                self.headers.len()
            )));
        }
        if !is_token(method) || method.len() > MAX_METHOD {
            return Err(Refusal::misuse("the method is no name of a method, such as `GET`"));
        }
        if NO_METHODS.iter().any(|other| method.eq_ignore_ascii_case(other)) {
            return Err(Refusal::misuse(format!("the method {method} is not allowed")));
        }
        self.headers.iter().try_for_each(|(name, value)| check_header(name, value))
    }
}

fn check_header(name: &str, value: &[u8]) -> Result<(), Refusal> {
    if !is_token(name) {
        return Err(misuse_of(name, "is no name of a header"));
    }
    let lower = name.to_ascii_lowercase();
    if OF_HOST.contains(&lower.as_str()) || lower.starts_with("proxy-") {
        return Err(misuse_of(&lower, "is a header that the host sets"));
    }
    let is_text = |byte: &u8| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f);
    if !value.iter().all(is_text) {
        return Err(misuse_of(&lower, "is a header whose value has a control character"));
    }
    Ok(())
}

/// Maximum bytes that a message shows of a name or a URL that a plugin has given.
const MAX_SHOWN: usize = 512;

/// The part of a plugin's text that a message shows.
pub fn shown(text: &str) -> String {
    // A sign has several bytes when it is escaped, so the text is cut before it and after it.
    let start = text.get(..text.floor_char_boundary(MAX_SHOWN)).unwrap_or_default();
    let mut shown = start.escape_debug().to_string();
    let is_whole = start.len() == text.len() && shown.len() <= MAX_SHOWN;
    truncate(&mut shown, MAX_SHOWN);
    if !is_whole {
        shown.push('…');
    }
    shown
}

fn misuse_of(name: &str, problem: &str) -> Refusal {
    Refusal::misuse(format!("`{}` {problem}", shown(name)))
}

/// Whether a text is a `token` of RFC 9110.
fn is_token(text: &str) -> bool {
    let is_sign = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_sign)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, headers: &[(&str, &str)]) -> Request {
        let headers = headers.iter();
        Request {
            method: method.to_owned(),
            url: "https://api.example.com/".to_owned(),
            headers: headers
                .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
                .collect(),
            body: Vec::new(),
            timeout: None,
        }
    }

    fn code(request: &Request) -> String {
        request.check(1_000).map_or_else(|refusal| refusal.code, |()| "ok".to_owned())
    }

    #[test]
    fn a_request_sets_no_header_that_is_the_hosts_and_breaks_no_line() {
        for (name, value, expected) in [
            ("accept", "text/plain", "ok"),
            ("Authorization", "Bearer é", "ok"),
            ("x", "a\tb", "ok"),
            ("x", "", "ok"),
            ("Host", "evil.test", "misuse"),
            ("CONNECTION", "close", "misuse"),
            ("Transfer-Encoding", "chunked", "misuse"),
            ("content-length", "5", "misuse"),
            ("Upgrade", "websocket", "misuse"),
            ("Proxy-Authorization", "x", "misuse"),
            ("proxy-anything", "x", "misuse"),
            ("Expect", "100-continue", "misuse"),
            ("TE", "trailers", "misuse"),
            ("Trailer", "x", "misuse"),
            ("Keep-Alive", "timeout=5", "misuse"),
            ("x", "a\r\nHost: evil.test", "misuse"),
            ("x", "a\0", "misuse"),
            ("x y", "a", "misuse"),
            ("x:", "a", "misuse"),
            ("", "a", "misuse"),
            ("é", "a", "misuse"),
        ] {
            assert_eq!(code(&request("GET", &[(name, value)])), expected, "{name}: {value:?}");
        }
    }

    #[test]
    fn a_method_is_a_token_and_opens_no_tunnel() {
        for (method, expected) in [
            ("GET", "ok"),
            ("PATCH", "ok"),
            ("PROPFIND", "ok"),
            ("CONNECT", "misuse"),
            ("connect", "misuse"),
            ("TRACE", "misuse"),
            ("", "misuse"),
            ("GET /", "misuse"),
            ("GET\r\n", "misuse"),
        ] {
            assert_eq!(code(&request(method, &[])), expected, "{method:?}");
        }
    }

    #[test]
    fn a_message_shows_at_most_one_kib_of_what_a_plugin_has_given() {
        for name in ["x y".repeat(50_000), "\u{10ffff}".repeat(50_000), "é".repeat(50_000)] {
            let mut request = request("GET", &[(&name, "")]);
            let refusal = request.check(1 << 20).unwrap_err();
            assert_eq!(refusal.code, "misuse");
            assert!(refusal.message.len() <= 1_024, "{}", refusal.message.len());
            request.headers = vec![(format!("proxy-{}", "x".repeat(50_000)), Vec::new())];
            let refusal = request.check(1 << 20).unwrap_err();
            assert!(refusal.message.len() <= 1_024 && refusal.message.contains("host sets"));
        }
        assert_eq!(shown("x y"), "x y");
    }

    #[test]
    fn a_request_has_a_bound_in_bytes_and_in_headers() {
        let mut large = request("POST", &[]);
        large.body = vec![0; 1_000];
        assert_eq!(code(&large), "limit");
        assert_eq!(code(&request("GET", &[("a", "b"); MAX_HEADERS + 1])), "limit");
        assert_eq!(code(&request("GET", &[("a", "b"); MAX_HEADERS])), "ok");
    }
}
