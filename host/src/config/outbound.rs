//! Where plugins may send HTTP requests: `[plugins.NAME] outbound` and `[outbound]`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, de};
use url::{Host, Url};

use super::limits::nonzero;
use super::webhook::WebhookSecret;

/// `[outbound]`: the HTTP requests of all plugins.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OutboundConfig {
    /// A file with the certificates of the trusted authorities, as PEM. `None`: the host trusts the
    /// authorities of the machine.
    pub ca_file: Option<PathBuf>,
    /// Requests of handlers of all plugins at once, each with a connection of its own. Deliveries
    /// have half as many places.
    pub at_once: NonZeroUsize,
    /// Memory of all responses that are read, or that are kept until their event ends.
    pub memory_bytes: NonZeroUsize,
}

/// Requests at once: more than the instances of some ten plugins on a usual machine, and few
/// against the file descriptors of a process. Each also takes up to 64 KiB for its head.
const AT_ONCE: NonZeroUsize = nonzero!(NonZeroUsize, 128);

/// Bytes of responses: 64 of the largest default size.
const MEMORY_BYTES: NonZeroUsize = nonzero!(NonZeroUsize, 64 << 20);

impl Default for OutboundConfig {
    fn default() -> Self {
        Self { ca_file: None, at_once: AT_ONCE, memory_bytes: MEMORY_BYTES }
    }
}

impl OutboundConfig {
    /// Checks that the memory has room for a response of `largest` bytes, which `table` allows.
    pub(super) fn check(&self, table: &str, largest: NonZeroUsize) -> Result<(), String> {
        if largest <= self.memory_bytes {
            return Ok(());
        }
        Err(format!(
            "outbound.memory_bytes: {} bytes have no room for a response of {largest} bytes, \
             which {table}.outbound_response_bytes allows; raise the former or lower the latter",
            self.memory_bytes
        ))
    }
}

/// Checks that a plugin lists each origin once. Otherwise the second `private` would be ignored.
pub(super) fn check_list(table: &str, listed: &[ListedOrigin]) -> Result<(), String> {
    for (index, origin) in listed.iter().enumerate() {
        if listed.iter().take(index).any(|other| other.url == origin.url) {
            return Err(format!(
                "{table}.outbound: \"{}\" is listed twice; remove one",
                origin.text()
            ));
        }
    }
    Ok(())
}

/// An origin to which a plugin may send requests, as an operator lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedOrigin {
    url: Url,
    /// Whether the name may resolve to an address in a private network.
    is_private: bool,
    /// The secrets that sign deliveries, if they are in the configuration itself.
    webhook_secrets: Vec<WebhookSecret>,
    /// A file with the secrets that sign deliveries, one in each line.
    webhook_secrets_file: Option<PathBuf>,
}

impl ListedOrigin {
    /// Parses an origin, such as `https://api.example.com`. `is_private` allows addresses in
    /// private networks to a name.
    ///
    /// # Errors
    /// It is no origin. The error says why, and what to write instead.
    pub fn parse(text: &str, is_private: bool) -> Result<Self, String> {
        let Some((scheme, authority)) = text.split_once("://") else {
            return Err("has no scheme; write it as \"https://api.example.com\"".to_owned());
        };
        if !["http", "https"].contains(&scheme.to_ascii_lowercase().as_str()) {
            return Err("has another scheme than \"https\" and \"http\"".to_owned());
        }
        if authority.contains('@') {
            return Err("has a user, which no origin has".to_owned());
        }
        if authority.contains('*') {
            return Err("has a wildcard; list each origin".to_owned());
        }
        if let Some(end) = authority.find(['/', '\\', '?', '#']) {
            let authority = authority.get(..end).unwrap_or_default();
            return Err(format!(
                "has a path or a query, which no origin has; write \"{scheme}://{authority}\""
            ));
        }
        if authority.contains(|sign: char| sign <= ' ' || sign == '\u{7f}') {
            return Err("has a space or a control character; remove it".to_owned());
        }
        if authority.is_empty() {
            return Err("has no host; write it as \"https://api.example.com\"".to_owned());
        }
        let url = Url::parse(text).map_err(|error| format!("is no URL: {error}"))?;
        let (Some(host), written) = (url.host(), url.origin().ascii_serialization()) else {
            return Err("has no host; write it as \"https://api.example.com\"".to_owned());
        };
        if let Host::Domain(name) = host
            && (name.ends_with('.') || name.is_empty())
        {
            return Err("has a name that ends with a dot; write it without".to_owned());
        }
        let host = host.to_owned();
        if let Host::Ipv6(v6) = host
            && let Some(v4) = v6.to_ipv4_mapped()
        {
            return Err(format!("has an IPv4 address in the form of IPv6; write {v4}"));
        }
        if written != text.to_ascii_lowercase() {
            return Err(format!("stands for another form of the origin; write \"{written}\""));
        }
        if address(&host).is_some_and(is_for_nobody) {
            return Err("has an address to which nobody can connect".to_owned());
        }
        if url.port() == Some(0) {
            return Err("has the port 0, to which nobody can connect".to_owned());
        }
        if is_private && address(&host).is_some() {
            return Err("is an address, which is allowed as it is; leave out `private`".to_owned());
        }
        let (webhook_secrets, webhook_secrets_file) = (Vec::new(), None);
        Ok(Self { url, is_private, webhook_secrets, webhook_secrets_file })
    }

    /// Lets deliveries to this origin be signed by these secrets.
    #[must_use]
    pub fn with_webhook_secrets(mut self, secrets: Vec<WebhookSecret>) -> Self {
        self.webhook_secrets = secrets;
        self
    }

    /// The secrets that are in the configuration itself.
    pub(crate) fn webhook_secrets(&self) -> &[WebhookSecret] {
        &self.webhook_secrets
    }

    /// The file with the secrets, if they are in one.
    pub(crate) fn webhook_secrets_file(&self) -> Option<&Path> {
        self.webhook_secrets_file.as_deref()
    }

    /// Whether the plugin may send deliveries to this origin: there are secrets to sign them.
    pub(crate) fn takes_deliveries(&self) -> bool {
        !self.webhook_secrets.is_empty() || self.webhook_secrets_file.is_some()
    }

    /// The scheme, the host and the port.
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// Whether the name may resolve to an address in a private network.
    pub(crate) fn is_private(&self) -> bool {
        self.is_private
    }

    /// Whether the origin needs TLS.
    pub(crate) fn needs_tls(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// The origin as text.
    pub fn text(&self) -> String {
        self.url.origin().ascii_serialization()
    }
}

fn address(host: &Host<String>) -> Option<IpAddr> {
    match host {
        Host::Domain(_) => None,
        Host::Ipv4(v4) => Some((*v4).into()),
        Host::Ipv6(v6) => Some((*v6).into()),
    }
}

/// Whether an address is that of no single host.
fn is_for_nobody(address: IpAddr) -> bool {
    let is_reserved = |v4: Ipv4Addr| v4.octets().first().is_some_and(|first| *first >= 240);
    match address {
        IpAddr::V4(v4) => v4.is_unspecified() || v4.is_multicast() || is_reserved(v4),
        IpAddr::V6(v6) => v6 == Ipv6Addr::UNSPECIFIED || v6.is_multicast(),
    }
}

impl<'de> Deserialize<'de> for ListedOrigin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            origin: String,
            #[serde(default)]
            private: bool,
            webhook_secrets: Option<Vec<String>>,
            webhook_secrets_file: Option<PathBuf>,
        }
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "expected an origin such as \"https://api.example.com\", or a table \
                         { origin = \"…\", private = true, webhook_secrets = [\"whsec_…\"] }"
        )]
        enum Written {
            Text(String),
            Table(Table),
        }
        let table = match Written::deserialize(deserializer)? {
            Written::Text(origin) => Table { origin, ..Table::default() },
            Written::Table(table) => table,
        };
        let text = table.origin;
        let problem = |problem: String| de::Error::custom(format!("\"{text}\" {problem}"));
        let mut parsed = Self::parse(&text, table.private).map_err(problem)?;
        if table.webhook_secrets.is_some() && table.webhook_secrets_file.is_some() {
            let both = "has `webhook_secrets` and `webhook_secrets_file`, expected one of the two";
            return Err(problem(both.to_owned()));
        }
        if let Some(secrets) = &table.webhook_secrets {
            let secrets = secrets.iter().map(String::as_str);
            let secrets = WebhookSecret::parse_all(secrets);
            let named =
                |wrong: String| problem(format!("is listed with `webhook_secrets`: {wrong}"));
            parsed.webhook_secrets = secrets.map_err(named)?;
        }
        parsed.webhook_secrets_file = table.webhook_secrets_file;
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_written_in_its_only_form() {
        for text in [
            "https://api.example.com",
            "HTTPS://API.example.com",
            "http://api.example.com:8080",
            "http://127.0.0.1:8080",
            "http://10.0.0.7",
            "http://[::1]:3000",
            "https://xn--80ak6aa92e.com",
        ] {
            let listed = ListedOrigin::parse(text, false).expect(text);
            assert_eq!(listed.text(), text.to_ascii_lowercase());
        }
        assert!(ListedOrigin::parse("http://backend.internal:8000", true).is_ok());
    }

    #[test]
    fn a_plugin_lists_origins_as_texts_and_as_tables() {
        let parse = |origins: &str| {
            let text = format!("[plugins.a]\noutbound = [{origins}]");
            super::super::Config::parse(None, &text)
        };
        let both = r#""https://a.test", { origin = "http://b.internal:8000", private = true }"#;
        let settings = parse(both).unwrap().0.of_plugin("a");
        let listed = settings.outbound.iter().map(|listed| (listed.text(), listed.is_private()));
        let expected = [("https://a.test", false), ("http://b.internal:8000", true)];
        assert!(listed.eq(expected.map(|(text, is_private)| (text.to_owned(), is_private))));
        for (wrong, said) in [
            (r#""https://a.test/x""#, "write \"https://a.test\""),
            (r#"{ origin = "https://*.test" }"#, "wildcard"),
            (r#"{ private = true }"#, "expected an origin"),
            ("7", "expected an origin"),
            (r#""https://a.test", { origin = "HTTPS://A.test", private = true }"#, "listed twice"),
        ] {
            let error = parse(wrong).unwrap_err().to_string();
            assert!(error.contains("plugins.a.outbound") && error.contains(said), "{error}");
        }
        // Other plugins may send nothing.
        assert!(parse(both).unwrap().0.of_plugin("b").outbound.is_empty());
    }

    #[test]
    fn an_origin_with_secrets_takes_deliveries_and_no_error_shows_a_secret() {
        const SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZmdoaWprbG1u";
        let parse = |rest: &str| {
            let text =
                format!("[plugins.a]\noutbound = [{{ origin = \"https://a.test\", {rest} }}]");
            super::super::Config::parse(None, &text).map_err(|error| error.to_string())
        };
        let listed = |rest: &str| parse(rest).unwrap().0.of_plugin("a").outbound.remove(0);
        let plain = listed("private = true");
        assert!(!plain.takes_deliveries());
        let signed = listed(&format!("webhook_secrets = [\"{SECRET}\"]"));
        assert_eq!(signed.webhook_secrets()[0].bytes(), b"0123456789abcdefghijklmn");
        assert!(signed.takes_deliveries() && !format!("{signed:?}").contains("MDEy"));
        let of_file = listed("webhook_secrets_file = \"/run/secrets/a\"");
        assert!(of_file.takes_deliveries() && of_file.webhook_secrets().is_empty());
        for (wrong, said) in [
            ("webhook_secrets = []", "found 0 secrets"),
            ("webhook_secrets = [\"whsec_MDEy\"]", "number 1 is no secret"),
            ("webhook_secrets = \"whsec_MDEy\"", "expected an origin"),
            ("webhook_secrets = [\"whsec_MDEy\"], webhook_secrets_file = \"x\"", "one of the two"),
        ] {
            let error = parse(wrong).unwrap_err();
            assert!(error.contains("plugins.a.outbound") && error.contains(said), "{error}");
            assert!(!error.contains("MDEy"), "{error}");
        }
        // As from the environment, if the list is no TOML.
        let text = "[plugins.a]\noutbound = \"[{ webhook_secrets = whsec_MDEy\"";
        let error = super::super::Config::parse(None, text).unwrap_err().to_string();
        assert!(error.contains("the value is secret") && !error.contains("MDEy"), "{error}");
    }

    #[test]
    fn the_memory_for_responses_has_room_for_the_largest_one() {
        let parse = |text: &str| super::super::Config::parse(None, text).map(drop);
        let own = "[plugins.a]\noutbound_response_bytes = 2_000_000\n";
        for (memory, own, said) in [
            (1 << 20, "", None),
            ((1 << 20) - 1, "", Some("limits.outbound_response_bytes")),
            (2_000_000, own, None),
            (1 << 20, own, Some("plugins.a.outbound_response_bytes")),
        ] {
            let parsed = parse(&format!("{own}[outbound]\nmemory_bytes = {memory}\n"));
            let error = parsed.err().map(|error| error.to_string());
            let is_as_expected = match (&error, said) {
                (Some(error), Some(said)) => {
                    error.contains("outbound.memory_bytes") && error.contains(said)
                }
                (error, said) => error.is_none() && said.is_none(),
            };
            assert!(is_as_expected, "{memory} {own}: {error:?}");
        }
    }

    #[test]
    fn what_is_no_origin_is_refused_with_what_to_write() {
        for (text, said) in [
            ("api.example.com", "no scheme"),
            ("http:evil.test", "no scheme"),
            ("ftp://api.example.com", "scheme"),
            ("https://", "no host"),
            ("https:///api.example.com", "path"),
            ("https://api.example.com/", "write \"https://api.example.com\""),
            ("https://api.example.com/v1", "write \"https://api.example.com\""),
            ("https://api.example.com?x", "write \"https://api.example.com\""),
            ("https://api.example.com#x", "write \"https://api.example.com\""),
            ("https://api.example.com\\@evil.test", "user"),
            ("https://user:pw@api.example.com", "user"),
            ("https://*.example.com", "wildcard"),
            ("https://api.example.com:443", "write \"https://api.example.com\""),
            ("https://api.example.com:0443", "write \"https://api.example.com\""),
            ("https://api.example.com:", "write \"https://api.example.com\""),
            ("https://api.example.com:99999", "no URL"),
            ("https://api.example.com.", "dot"),
            ("http://127.1", "write \"http://127.0.0.1\""),
            ("http://2130706433", "write \"http://127.0.0.1\""),
            ("http://0x7f000001", "write \"http://127.0.0.1\""),
            ("http://0177.0.0.1", "write \"http://127.0.0.1\""),
            ("http://127。0。0。1", "write \"http://127.0.0.1\""),
            ("http://[::ffff:7f00:1]", "write 127.0.0.1"),
            ("http://[::ffff:127.0.0.1]", "write 127.0.0.1"),
            ("http://0.0.0.0", "nobody"),
            ("http://224.0.0.1", "nobody"),
            ("http://255.255.255.255", "nobody"),
            ("http://[::]", "nobody"),
            ("http://[ff02::1]", "nobody"),
            ("http://256.1.1.1", "no URL"),
            ("http://[fe80::1%eth0]", "no URL"),
            ("https://exa mple.com", "space"),
            ("https://api.example.com:0", "port 0"),
            ("https://аррӏе.com", "write \"https://xn--80ak6aa92e.com\""),
        ] {
            let problem = ListedOrigin::parse(text, false).expect_err(text);
            assert!(problem.contains(said), "{text}: {problem}");
        }
        let problem = ListedOrigin::parse("http://10.0.0.7", true).expect_err("an address");
        assert!(problem.contains("leave out"), "{problem}");
    }
}
