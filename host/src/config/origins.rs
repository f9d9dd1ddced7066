//! Origins whose pages may connect, as an operator writes them: only values that a browser can
//! send, or patterns of such values.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Deserializer, de};

use super::listen::is_host_name;

/// An allowed origin: `https://app.example.com`, or `https://*.example.com` for every name below
/// `example.com`, or `null`. Browsers send `null` for pages without an origin of their own, such as
/// files and sandboxed frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedOrigin {
    /// The origin in lower case, as browsers send it, without the wildcard label.
    text: String,
    /// The offset in `text` behind `://`, where the wildcard label was removed; `None` without a
    /// wildcard.
    wildcard_at: Option<usize>,
}

impl AllowedOrigin {
    /// Parses an origin or a pattern.
    ///
    /// # Errors
    /// No browser sends such an origin. The error says why, and what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.to_ascii_lowercase();
        if text == "null" {
            return Ok(Self { text, wildcard_at: None });
        }
        if text == "*" {
            return Err("names no origin; list each one, such as \"https://app.example.com\" or \
                        \"https://*.example.com\""
                .to_owned());
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err("has no scheme; write it as \"https://app.example.com\"".to_owned());
        };
        let is_scheme = scheme.starts_with(|first: char| first.is_ascii_lowercase())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        if !is_scheme {
            return Err("has no scheme that a browser knows, such as \"https\"".to_owned());
        }
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        match scheme {
            "ws" | "wss" => {
                return Err(format!(
                    "has the scheme of a WebSocket, and browsers send that of the page; write \
                     \"{}://{authority}\"",
                    scheme.replacen("ws", "http", 1)
                ));
            }
            "ftp" => {
                return Err(format!(
                    "has a scheme whose pages browsers do not open; write \"https://{authority}\""
                ));
            }
            "file" => {
                return Err(
                    "is a file, for which browsers send no origin; write \"null\"".to_owned()
                );
            }
            // Also those of apps, such as `capacitor`.
            _ => {}
        }
        if authority.len() < rest.len() {
            return Err(format!(
                "has a path, which no origin has; write \"{scheme}://{authority}\""
            ));
        }
        if !rest.is_ascii() {
            return Err("is not ASCII; browsers send such a name in its form \"xn--…\"".to_owned());
        }
        let (host, port) = split_port(rest)?;
        if let Some(port) = port
            && [("http", 80), ("https", 443)].contains(&(scheme, port))
        {
            return Err(format!(
                "has the port that \"{scheme}\" means anyway, which browsers leave out; write \
                 \"{scheme}://{host}\""
            ));
        }
        let base = host.strip_prefix("*.");
        let bare = base.unwrap_or(host);
        if bare.contains('*') {
            return Err("has a wildcard; it may only be the whole first label, as in \
                        \"https://*.example.com\""
                .to_owned());
        }
        let in_brackets = bare.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let v6 = in_brackets.and_then(|ip| ip.parse().ok()).map(as_browsers_write);
        if let Some(written) = v6.as_deref().filter(|written| *written != bare && base.is_none()) {
            return Err(format!(
                "has an address in a form that browsers do not send; write \"{}\"",
                text.replacen(bare, written, 1)
            ));
        }
        let is_address = bare.parse::<Ipv4Addr>().is_ok() || v6.is_some();
        let is_host = is_host_name(bare) && !is_hex_number(bare);
        if !(is_host || (is_address && base.is_none())) {
            return Err("has no host name that a browser could send; write it as \
                        \"https://app.example.com\""
                .to_owned());
        }
        let after_scheme = scheme.len() + "://".len();
        match base {
            None => Ok(Self { text, wildcard_at: None }),
            Some(_) => {
                Ok(Self { text: text.replacen("*.", "", 1), wildcard_at: Some(after_scheme) })
            }
        }
    }

    /// Whether a page of `origin` may connect. A wildcard matches one label or more, never zero.
    pub fn allows(&self, origin: &str) -> bool {
        let Some(at) = self.wildcard_at else { return self.text.eq_ignore_ascii_case(origin) };
        let (scheme, base) = self.text.split_at(at);
        let same = |a: Option<&str>, b: &str| a.is_some_and(|a| a.eq_ignore_ascii_case(b));
        let Some(base_at) = origin.len().checked_sub(base.len()) else { return false };
        let below = origin.get(scheme.len()..base_at).and_then(|below| below.strip_suffix('.'));
        same(origin.get(..scheme.len()), scheme)
            && same(origin.get(base_at..), base)
            && below.is_some_and(is_below)
    }
}

/// Whether a text consists of labels that can precede `.example.com`. This excludes `user@`, ports
/// and paths.
fn is_below(labels: &str) -> bool {
    !labels.is_empty()
        && labels.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        })
}

/// Writes an IPv6 address as <https://url.spec.whatwg.org/#concept-ipv6-serializer>. Where
/// Rust writes `::ffff:127.0.0.1`, browsers write `::ffff:7f00:1`.
fn as_browsers_write(ip: Ipv6Addr) -> String {
    match (ip.to_ipv4_mapped(), ip.segments()) {
        (Some(_), [.., high, low]) => format!("[::ffff:{high:x}:{low:x}]"),
        (None, _) => format!("[{ip}]"),
    }
}

/// Whether browsers take a host name for an IPv4 address because it ends in a hexadecimal number,
/// and send it as four numbers: `0x7f.1`. One that ends in a decimal number is no host name.
fn is_hex_number(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or_default();
    last.strip_prefix("0x").is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Splits an origin without its scheme into the host and the port, if it has one.
fn split_port(rest: &str) -> Result<(&str, Option<u16>), String> {
    // The colons of an IPv6 address are inside brackets.
    let Some((host, port)) =
        rest.rsplit_once(':').filter(|(host, _)| !host.starts_with('[') || host.ends_with(']'))
    else {
        return Ok((rest, None));
    };
    match port.parse::<u16>() {
        Ok(number) if number > 0 && number.to_string() == port => Ok((host, Some(number))),
        _ => Err("has a port that is no number from 1 to 65535; each port is an origin of its own"
            .to_owned()),
    }
}

impl<'de> Deserialize<'de> for AllowedOrigin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(|problem| de::Error::custom(format!("\"{text}\" {problem}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_allows_itself_and_a_wildcard_every_name_below() {
        let plain = AllowedOrigin::parse("https://App.example.com:8443").unwrap();
        assert!(plain.allows("https://app.example.com:8443"));
        for other in [
            "https://app.example.com",
            "http://app.example.com:8443",
            "https://x.app.example.com:8443",
        ] {
            assert!(!plain.allows(other), "{other}");
        }
        let wildcard = AllowedOrigin::parse("https://*.example.com").unwrap();
        assert!(
            wildcard.allows("https://app.example.com")
                && wildcard.allows("https://a.b.EXAMPLE.com")
        );
        for other in [
            "https://example.com",
            "https://.example.com",
            "http://app.example.com",
            "https://app.example.com:8443",
            "https://appexample.com",
            "https://evil.com/.example.com",
            "https://evil.com#.example.com",
            "https://evil.com:1.example.com",
            "https://user@app.example.com",
            "https://é.example.com",
            "https:/",
            "",
        ] {
            assert!(!wildcard.allows(other), "{other}");
        }
        let with_port = AllowedOrigin::parse("http://*.localhost:3000").unwrap();
        assert!(
            with_port.allows("http://app.localhost:3000")
                && !with_port.allows("http://app.localhost")
        );
        for good in [
            "http://localhost:3000",
            "http://127.0.0.1",
            "http://[::1]:3000",
            "http://[::ffff:7f00:1]",
            "http://[2001:db8::1]",
            "https://x.0xy",
            "capacitor://localhost",
            "https://a_b.example.com",
            "null",
        ] {
            assert!(AllowedOrigin::parse(good).unwrap().allows(good), "{good}");
        }
    }

    #[test]
    fn an_origin_that_no_browser_sends_is_refused_with_what_to_write() {
        let cases = [
            ("app.example.com", "no scheme"),
            ("*", "list each"),
            ("https://app.example.com/", "write \"https://app.example.com\""),
            ("https://app.example.com/path", "path"),
            ("https://app.example.com:443", "write \"https://app.example.com\""),
            ("http://localhost:80", "leave out"),
            ("http://localhost:*", "port"),
            ("http://localhost:0", "port"),
            ("http://localhost:03000", "port"),
            ("https://*", "first label"),
            ("*://example.com", "scheme"),
            ("https://app.*.com", "first label"),
            ("https://a*.example.com", "first label"),
            ("https://*.*.example.com", "first label"),
            ("https://bücher.example", "xn--"),
            ("https://user@example.com", "host name"),
            ("https://", "host name"),
            ("https://*.127.0.0.1", "host name"),
            ("https://*.", "host name"),
            ("https://exa mple.com", "host name"),
            ("wss://app.example.com", "write \"https://app.example.com\""),
            ("ws://localhost:3000", "write \"http://localhost:3000\""),
            ("ftp://x.example", "write \"https://x.example\""),
            ("file:///home/page.html", "write \"null\""),
            ("http://[0:0:0:0:0:0:0:1]:3000", "write \"http://[::1]:3000\""),
            ("http://[::ffff:127.0.0.1]", "write \"http://[::ffff:7f00:1]\""),
            ("http://127.1", "host name"),
            ("http://0x7f.0x1", "host name"),
        ];
        for (text, said) in cases {
            let problem = AllowedOrigin::parse(text).expect_err(text);
            assert!(problem.contains(said), "{text}: {problem}");
        }
    }
}
