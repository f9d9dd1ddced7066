//! The address of a client behind trusted proxies, from the header that they write: one of HTTP, or
//! that of the PROXY protocol.
//!
//! A header of anybody else is ignored. The addresses in the header are read from the right, where
//! the nearest proxy has written; the first one that is no trusted proxy is the client.

pub(super) mod protocol;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use ipnet::IpNet;

use crate::config::{Config, ProxyHeader};
use crate::transport::Peer;

/// Maximum number of addresses that are read: more proxies than any client passes.
const MAX_HOPS: usize = 32;

/// The proxies that a host trusts.
#[derive(Debug)]
pub(crate) struct TrustedProxies {
    networks: Vec<IpNet>,
    header: ProxyHeader,
}

impl TrustedProxies {
    pub(crate) fn new(config: &Config) -> Arc<Self> {
        let (networks, header) =
            (config.server.trusted_proxies.clone(), config.server.proxy_header);
        Arc::new(Self { networks, header })
    }

    /// Whether this is the address of a trusted proxy.
    pub(crate) fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// The address of the client of a request that came from `peer`.
    fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        // With the PROXY protocol, the peer is the client already.
        let Some(name) = self.header.name().filter(|_| self.trusts(peer)) else { return peer };
        let values: Vec<_> = headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .collect();
        let text = values.join(",");
        let mut client = peer;
        for hop in self.elements(&text).take(MAX_HOPS) {
            if !self.trusts(client) {
                break;
            }
            let hop = match self.header {
                ProxyHeader::XForwardedFor => address(hop.trim()),
                ProxyHeader::Forwarded => forwarded_for(hop),
                ProxyHeader::ProxyProtocol => None,
            };
            match hop {
                Some(hop) => client = hop.to_canonical(),
                // Unknown, or not readable: nobody further left can be trusted.
                None => break,
            }
        }
        client
    }

    /// The elements of the header from right to left. It is read from the right, so that whatever a
    /// client has written on the left can't change what its proxy has written. Only `Forwarded` has
    /// quotes, within which a comma separates nothing.
    fn elements<'text>(&self, text: &'text str) -> impl Iterator<Item = &'text str> {
        let (has_quotes, mut is_quoted) = (self.header == ProxyHeader::Forwarded, false);
        text.rsplit(move |character| {
            is_quoted ^= has_quotes && character == '"';
            character == ',' && !is_quoted
        })
    }
}

/// Replaces the peer of a request by its client, if the peer is a trusted proxy.
pub(crate) async fn resolve(
    State(proxies): State<Arc<TrustedProxies>>,
    mut request: Request,
    next: Next,
) -> Response {
    if !proxies.networks.is_empty()
        && let Some(Peer(peer)) = request.extensions().get::<Peer>().copied()
    {
        let client = proxies.client(peer, request.headers());
        request.extensions_mut().insert(Peer(client));
    }
    next.run(request).await
}

/// Reads the `for` parameter of an element of `Forwarded` (RFC 7239).
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let mut pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    address(value.trim().trim_matches('"'))
}

/// Reads an address, with or without a port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`,
/// `[2001:db8::1]`, `[2001:db8::1]:80`.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    bare.parse().ok().or_else(with_port)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn client<V: AsRef<[u8]>>(header: ProxyHeader, peer: &str, values: &[V]) -> String {
        let networks = ["10.0.0.0/8", "192.168.1.1/32", "fd00::/8"];
        let networks = networks.iter().map(|network| network.parse().unwrap()).collect();
        let proxies = TrustedProxies { networks, header };
        let mut headers = HeaderMap::new();
        for value in values {
            let value = HeaderValue::from_bytes(value.as_ref()).unwrap();
            headers.append(header.name().unwrap(), value);
        }
        proxies.client(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn the_first_address_from_the_right_that_is_no_trusted_proxy_is_the_client() {
        use ProxyHeader::XForwardedFor as Header;
        for (peer, values, expected) in [
            // A stranger's header is ignored.
            ("203.0.113.9", &["198.51.100.1"][..], "203.0.113.9"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            // The client has invented the left part.
            ("10.0.0.1", &["1.2.3.4, 198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["1.2.3.4", "198.51.100.1, 10.0.0.2"], "198.51.100.1"),
            ("10.0.0.1", &["198.51.100.1, 192.168.1.1,10.9.9.9"], "198.51.100.1"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &["198.51.100.1:8080"], "198.51.100.1"),
            ("10.0.0.1", &["[2001:db8::1]:443"], "2001:db8::1"),
            ("10.0.0.1", &["2001:db8::1"], "2001:db8::1"),
            ("::ffff:10.0.0.1", &["::ffff:198.51.100.1"], "198.51.100.1"),
            ("fd00::1", &["198.51.100.1"], "198.51.100.1"),
            // What can't be read stops the walk.
            ("10.0.0.1", &["198.51.100.1, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1, , 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["198.51.100.1, x"], "10.0.0.1"),
            // What a client has written can't hide what its proxy has written.
            ("10.0.0.1", &["\"1.2.3.4, 198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["\"", "198.51.100.1"], "198.51.100.1"),
        ] {
            assert_eq!(client(Header, peer, values), expected, "{peer} {values:?}");
        }
        let long = format!("198.51.100.1{}", ",10.0.0.2".repeat(100));
        assert_eq!(client(Header, "10.0.0.1", &[long]), "10.0.0.2");
        assert_eq!(client(Header, "10.0.0.1", &[b"\xff, 198.51.100.1"]), "198.51.100.1");
        assert_eq!(client(Header, "10.0.0.1", &[&b"\xff"[..], b"198.51.100.1"]), "198.51.100.1");
    }

    #[test]
    fn the_header_of_rfc_7239_is_read_with_its_quotes_ports_and_names() {
        use ProxyHeader::Forwarded as Header;
        for (values, expected) in [
            (&["for=198.51.100.1"][..], "198.51.100.1"),
            (&["For=\"[2001:db8::1]:4711\";proto=https;by=10.0.0.1"], "2001:db8::1"),
            (&["for=1.2.3.4, for=198.51.100.1;host=\"a,b\""], "198.51.100.1"),
            (&["for=1.2.3.4", "for=198.51.100.1, for=10.0.0.2"], "198.51.100.1"),
            (&["for=198.51.100.1, for=unknown"], "10.0.0.1"),
            (&["for=198.51.100.1, for=_hidden"], "10.0.0.1"),
            (&["proto=https"], "10.0.0.1"),
            (&["for=\"1.2.3.4, for=198.51.100.1"], "198.51.100.1"),
        ] {
            assert_eq!(client(Header, "10.0.0.1", values), expected, "{values:?}");
        }
    }
}
