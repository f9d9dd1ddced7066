//! HTTP requests that a handler sends, and their responses.

use std::fmt;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sockhop_core::outbound;

use crate::refusal::{Refusal, Result};

/// What is encoded in a segment of a path, and in a name or a value of a query: all but the
/// unreserved signs of RFC 3986.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// An HTTP request, for [`Context::send`](crate::Context::send).
///
/// ```
/// # use sockhop_sdk::http::Request;
/// # fn build() -> sockhop_sdk::Result<Request> {
/// # struct Order { id: &'static str }
/// # let order = Order { id: "01JD" };
/// let request = Request::post("https://api.example.com/orders")
///     // The client has made the id, and sends the same one again if it repeats the event.
///     .header("idempotency-key", order.id)
///     .json(&serde_json::json!({"item": 7}))?;
/// # Ok(request)
/// # }
/// # assert_eq!(build().unwrap().body(), br#"{"item":7}"#);
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Request(pub(crate) outbound::Request);

impl Request {
    /// A request with this method and absolute URL.
    #[must_use]
    pub fn new(method: &str, url: impl Into<String>) -> Self {
        Self(outbound::Request {
            method: method.to_owned(),
            url: url.into(),
            headers: Vec::new(),
            body: Vec::new(),
            timeout: None,
        })
    }

    /// A request with the method `GET`.
    #[must_use]
    pub fn get(url: impl Into<String>) -> Self {
        Self::new("GET", url)
    }

    /// A request with the method `POST`.
    #[must_use]
    pub fn post(url: impl Into<String>) -> Self {
        Self::new("POST", url)
    }

    /// A request with the method `PUT`.
    #[must_use]
    pub fn put(url: impl Into<String>) -> Self {
        Self::new("PUT", url)
    }

    /// A request with the method `DELETE`.
    #[must_use]
    pub fn delete(url: impl Into<String>) -> Self {
        Self::new("DELETE", url)
    }

    /// Adds a segment to the path, percent-encoded, so that it stays one segment whatever a client
    /// has sent. A segment `.` or `..` can't be encoded: the request is then refused as
    /// `invalid_url`.
    ///
    /// ```
    /// # use sockhop_sdk::http::Request;
    /// let request = Request::get("https://api.example.com/cities").segment("a/b?").segment(7);
    /// assert_eq!(request.url(), "https://api.example.com/cities/a%2Fb%3F/7");
    /// ```
    #[must_use]
    pub fn segment(mut self, segment: impl fmt::Display) -> Self {
        let url = &mut self.0.url;
        let at = url.find(['?', '#']).unwrap_or(url.len());
        let segment = segment.to_string();
        let encoded = utf8_percent_encode(&segment, ENCODED);
        let has_slash = url.get(..at).is_some_and(|path| path.ends_with('/'));
        url.insert_str(at, &format!("{}{encoded}", if has_slash { "" } else { "/" }));
        self
    }

    /// Adds a name and a value to the query, both percent-encoded.
    ///
    /// ```
    /// # use sockhop_sdk::http::Request;
    /// let request = Request::get("https://api.example.com/find").query("q", "a&b=c");
    /// assert_eq!(request.query("n", 7).url(), "https://api.example.com/find?q=a%26b%3Dc&n=7");
    /// ```
    #[must_use]
    pub fn query(mut self, name: &str, value: impl fmt::Display) -> Self {
        let url = &mut self.0.url;
        let at = url.find('#').unwrap_or(url.len());
        let sign = if url.get(..at).is_some_and(|before| before.contains('?')) { '&' } else { '?' };
        let value = value.to_string();
        let (name, value) =
            (utf8_percent_encode(name, ENCODED), utf8_percent_encode(&value, ENCODED));
        url.insert_str(at, &format!("{sign}{name}={value}"));
        self
    }

    /// Adds a header; a request has at most 100. The host sets `host`, `connection`,
    /// `content-length` and others that concern the connection itself, and refuses them here.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.0.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.0.body = body.into();
        self
    }

    /// Sets the body to a JSON document, with the header `content-type`.
    ///
    /// # Errors
    /// `internal`: the value can't be written as JSON.
    pub fn json(self, value: &impl Serialize) -> Result<Self> {
        let body = serde_json::to_vec(value).map_err(Refusal::internal)?;
        Ok(self.header("content-type", "application/json").with_body(body))
    }

    /// Sets a time for the request that is shorter than the host's limit (3 s by default). It is
    /// rounded up to milliseconds.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.0.timeout = Some(timeout);
        self
    }

    /// Returns the method.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.0.method
    }

    /// Returns the URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.0.url
    }

    /// Returns the first header with this name as text.
    #[must_use]
    pub fn header_value(&self, name: &str) -> Option<&str> {
        find(&self.0.headers, name)
    }

    /// Returns the body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.0.body
    }
}

/// A response to a [`Request`], with any status.
#[derive(Clone, PartialEq, Eq)]
pub struct Response(pub(crate) outbound::Response);

impl Response {
    /// A response, for [`TestHost::stub`](crate::testing::TestHost::stub).
    #[must_use]
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self(outbound::Response { status, headers: Vec::new(), body: body.into() })
    }

    /// Adds a header, for [`TestHost::stub`](crate::testing::TestHost::stub).
    #[must_use]
    pub fn with_header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.0.headers.push((name.to_ascii_lowercase(), value.as_ref().to_vec()));
        self
    }

    /// Returns the status, such as 200.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.0.status
    }

    /// Returns whether the status is 200 to 299.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.0.status)
    }

    /// Returns the first header with this name as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.0.headers, name)
    }

    /// Returns all headers, with names in lower case.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()))
    }

    /// Returns the body, as it was sent: no compression is decoded.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.0.body
    }

    /// Reads the body as JSON.
    ///
    /// # Errors
    /// `bad_response`: it is no JSON, or does not have the type. The message does not contain it.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.0.body)
            .map_err(|error| Refusal::new("bad_response", error.to_string()))
    }
}

/// The body and the headers may hold secrets.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.0.method)
            .field("url", &self.0.url)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response").field("status", &self.0.status).finish_non_exhaustive()
    }
}

fn find<'headers>(headers: &'headers [(String, Vec<u8>)], name: &str) -> Option<&'headers str> {
    let (_, value) = headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(value).ok()
}

#[cfg(test)]
mod tests {
    use sockhop_core::outbound::url::parse;

    use super::*;

    #[test]
    fn whatever_a_client_sends_stays_one_segment_or_one_value() {
        for text in ["ulm", "a/b", "../x", "?x#y", "a b", "ü", "%2e%2e/", "\\", "@evil.test", "&=+"]
        {
            let base = "https://api.example.com/v1/?k=1#f";
            let request = Request::get(base).segment(text).query(text, text);
            let url = parse(request.url()).expect(text);
            assert_eq!(url.origin().ascii_serialization(), "https://api.example.com");
            let encoded = utf8_percent_encode(text, ENCODED).to_string();
            assert_eq!(url.path(), format!("/v1/{encoded}"));
            let pairs: Vec<_> = url.query_pairs().collect();
            let [(_, first), (name, value)] = pairs.as_slice() else { panic!("{pairs:?}") };
            assert_eq!((&**first, &**name, &**value), ("1", text, text));
        }
        for dots in [".", ".."] {
            assert!(parse(Request::get("https://a.test/v1").segment(dots).url()).is_err());
        }
    }
}
