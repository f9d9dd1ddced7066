//! The URL of a request, and whether the operator lists its origin. No I/O.

use http::Uri;
use sockhop_core::outbound::shown;
use sockhop_core::outbound::url::parse;
use url::Host;

use crate::config::ListedOrigin;

use super::SendError;

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// The origin, as it is listed.
    pub(super) origin: String,
    /// Whether TLS is used.
    pub(super) has_tls: bool,
    /// The host to connect to.
    pub(super) host: Host<String>,
    /// The port to connect to.
    pub(super) port: u16,
    /// The value of the header `host`.
    pub(super) authority: String,
    /// The path and the query.
    pub(super) uri: Uri,
    /// Whether the operator allows the name to have an address in a private network.
    pub(super) is_private: bool,
}

impl Target {
    /// Parses the URL of a request, and finds its origin among those that are listed.
    ///
    /// # Errors
    /// `InvalidUrl`: it is no URL that a request can have. `NotAllowed`: the origin is not listed.
    pub(super) fn find(text: &str, listed: &[ListedOrigin]) -> Result<Self, SendError> {
        let url = parse(text).map_err(SendError::InvalidUrl)?;
        let origin = url.origin();
        let Some(entry) = listed.iter().find(|listed| listed.url().origin() == origin) else {
            return Err(SendError::NotAllowed(format!(
                "the operator does not list the origin {} for this plugin (`outbound`)",
                shown(&origin.ascii_serialization())
            )));
        };
        let no_host = || SendError::InvalidUrl("has no host");
        let host = url.host().ok_or_else(no_host)?.to_owned();
        let port = url.port_or_known_default().ok_or_else(no_host)?;
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_string(),
        };
        let path = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let uri = path
            .parse()
            .map_err(|_| SendError::InvalidUrl("has a sign that must be percent-encoded"))?;
        let is_private = entry.is_private();
        let (origin, has_tls) = (entry.text(), entry.needs_tls());
        Ok(Self { origin, has_tls, host, port, authority, uri, is_private })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(origins: &[&str]) -> Vec<ListedOrigin> {
        origins.iter().map(|origin| ListedOrigin::parse(origin, false).unwrap()).collect()
    }

    #[test]
    fn only_listed_origins_are_found_in_whatever_form_a_url_is_written() {
        let listed = listed(&["https://api.example.com", "http://127.0.0.1:8080", "http://[::1]"]);
        for (url, expected) in [
            ("https://api.example.com", "ok"),
            ("https://api.example.com/v1?x=1#y", "ok"),
            ("HTTPS://API.EXAMPLE.COM/", "ok"),
            ("https://api.example.com:443/", "ok"),
            ("https://api.example.com:0443/", "ok"),
            ("https://api.example.com:/", "ok"),
            ("https://ａｐｉ.example.com/", "ok"),
            ("https://%61pi.example.com/", "ok"),
            ("http://127.0.0.1:8080/", "ok"),
            ("http://127.1:8080/", "ok"),
            ("http://2130706433:8080/", "ok"),
            ("http://0x7f000001:8080/", "ok"),
            ("http://0177.0.0.1:8080/", "ok"),
            ("http://127。0。0。1:8080/", "ok"),
            ("http://①②⑦.⓪.⓪.①:8080/", "ok"),
            ("http://[0:0::1]/", "ok"),
            ("http://api.example.com/", "not_allowed"),
            ("https://api.example.com:8443/", "not_allowed"),
            ("https://api.example.com./", "not_allowed"),
            ("https://x.api.example.com/", "not_allowed"),
            ("https://api.example.com.evil.test/", "not_allowed"),
            ("https://evil.test/?https://api.example.com", "not_allowed"),
            ("https://evil.test#@api.example.com", "not_allowed"),
            ("http://127.0.0.1/", "not_allowed"),
            ("http://127.1/", "not_allowed"),
            ("http://0:8080/", "not_allowed"),
            ("http://[::ffff:7f00:1]:8080/", "not_allowed"),
            ("http://[::127.0.0.1]:8080/", "not_allowed"),
            ("http://[64:ff9b::7f00:1]:8080/", "not_allowed"),
            ("https://аррӏе.com/", "not_allowed"),
            ("https://api.example.com@evil.test/", "invalid_url"),
            ("https://evil.test@api.example.com/", "invalid_url"),
            ("https://user:pw@api.example.com/", "invalid_url"),
            ("https://api.example.com\\@evil.test/", "invalid_url"),
            ("https:\\\\api.example.com/", "invalid_url"),
            ("https:api.example.com/", "invalid_url"),
            ("https:///api.example.com/", "invalid_url"),
            ("//api.example.com/", "invalid_url"),
            ("api.example.com", "invalid_url"),
            ("/v1", "invalid_url"),
            ("", "invalid_url"),
            ("file:///etc/passwd", "invalid_url"),
            ("ftp://api.example.com/", "invalid_url"),
            ("https://api.example.com/a b", "invalid_url"),
            ("https://api.exa\tmple.com/", "invalid_url"),
            ("https://api.example.com/\r\nx: y", "invalid_url"),
            ("\u{1}https://api.example.com/", "invalid_url"),
            ("https://api.example.com:0/", "invalid_url"),
            ("https://api.example.com/v1/../admin", "invalid_url"),
            ("https://api.example.com:99999/", "invalid_url"),
            ("https://api.example.com:8o/", "invalid_url"),
            ("http://256.1.1.1/", "invalid_url"),
            ("http://1.2.3.09/", "invalid_url"),
            ("http://foo.123/", "invalid_url"),
            ("http://[fe80::1%eth0]/", "invalid_url"),
        ] {
            let found = Target::find(url, &listed);
            let found = found.map_or_else(|error| error.code(), |_| "ok");
            assert_eq!(found, expected, "{url}");
        }
    }

    #[test]
    fn a_target_has_what_the_request_says_to_the_server() {
        let listed = listed(&["https://api.example.com", "http://[::1]:8080"]);
        let found = Target::find(
            "https://api.example.com/a%20b/ü?q=1 2".replace(' ', "+").as_str(),
            &listed,
        )
        .unwrap();
        assert_eq!(found.uri.to_string(), "/a%20b/%C3%BC?q=1+2");
        assert_eq!(
            (found.authority.as_str(), found.port, found.has_tls),
            ("api.example.com", 443, true)
        );
        let found = Target::find("http://[::1]:8080", &listed).unwrap();
        assert_eq!(
            (found.authority.as_str(), found.port, found.has_tls),
            ("[::1]:8080", 8080, false)
        );
        assert_eq!(found.uri.to_string(), "/");
    }
}
