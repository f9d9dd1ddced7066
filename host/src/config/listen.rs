//! The address to listen on, as an operator writes it: `127.0.0.1:4000`, `[::1]:4000`,
//! `localhost:4000`, or `:4000` for all addresses.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

/// The address on which the host listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    host: ListenHost,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum ListenHost {
    /// All addresses of this machine.
    All,
    Address(IpAddr),
    /// Looked up when the host starts.
    Name(String),
}

/// The allowed values, for error messages.
pub(super) const EXPECTED: &str = "an address with a port: \"127.0.0.1:4000\", \"[::1]:4000\", \
                                   \"localhost:4000\" (a name), or \":4000\" (all addresses)";

/// The text is not an address with a port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {EXPECTED}")]
pub struct InvalidListen;

impl Listen {
    /// The addresses to try, in this order. The next one is for a machine that does not support the
    /// one before; if a port is in use, the next one must not be tried.
    ///
    /// "All addresses" is one socket for IPv6 and IPv4, or IPv4 alone on a machine without IPv6. A
    /// name stands for one address: its first IPv4 address, else its first IPv6 address. For
    /// `localhost` this is enough: a browser on this machine tries this address too.
    ///
    /// # Errors
    /// The name can't be resolved.
    pub fn candidates(&self) -> io::Result<Vec<SocketAddr>> {
        let at = |ip: IpAddr| SocketAddr::new(ip, self.port);
        match &self.host {
            ListenHost::All => {
                Ok(vec![at(Ipv6Addr::UNSPECIFIED.into()), at(Ipv4Addr::UNSPECIFIED.into())])
            }
            ListenHost::Address(ip) => Ok(vec![at(*ip)]),
            ListenHost::Name(name) => {
                let found: Vec<_> = (name.as_str(), self.port).to_socket_addrs()?.collect();
                let first =
                    found.iter().find(|address| address.is_ipv4()).or_else(|| found.first());
                first.map(|first| vec![*first]).ok_or_else(|| {
                    io::Error::new(io::ErrorKind::NotFound, "the name has no address")
                })
            }
        }
    }

    /// Whether the host listens on all addresses. Its IPv6 socket must then accept IPv4 as well.
    pub fn is_all(&self) -> bool {
        self.host == ListenHost::All
    }

    /// The URL, with this scheme, at which a program on this machine reaches the host.
    pub fn local_url(&self, scheme: &str) -> String {
        match &self.host {
            ListenHost::All => format!("{scheme}://127.0.0.1:{}", self.port),
            ListenHost::Address(IpAddr::V4(ip)) if ip.is_unspecified() => {
                format!("{scheme}://127.0.0.1:{}", self.port)
            }
            ListenHost::Address(IpAddr::V6(ip)) if ip.is_unspecified() => {
                format!("{scheme}://[::1]:{}", self.port)
            }
            _ => format!("{scheme}://{self}"),
        }
    }
}

impl FromStr for Listen {
    type Err = InvalidListen;

    fn from_str(text: &str) -> Result<Self, InvalidListen> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            // A link-local address of one network interface: the interface would be lost.
            let has_interface = matches!(address, SocketAddr::V6(v6) if v6.scope_id() != 0);
            return if has_interface { Err(InvalidListen) } else { Ok(address.into()) };
        }
        let (host, port) = text.rsplit_once(':').ok_or(InvalidListen)?;
        // Checked here, because `u16::from_str` also accepts "+4000".
        let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|_| is_number).ok_or(InvalidListen)?;
        match host {
            "" => Ok(Self { host: ListenHost::All, port }),
            name if is_host_name(name) => {
                Ok(Self { host: ListenHost::Name(name.to_owned()), port })
            }
            _ => Err(InvalidListen),
        }
    }
}

/// Whether a text is a host name: labels of letters, digits, `-` and `_`, with dots between them.
/// If the last label has only digits, the text is refused: it is probably a mistyped IPv4 address.
pub(super) fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= 253
        && text.split('.').all(is_label)
        && !last.bytes().all(|byte| byte.is_ascii_digit())
}

impl From<SocketAddr> for Listen {
    fn from(address: SocketAddr) -> Self {
        Self { host: ListenHost::Address(address.ip()), port: address.port() }
    }
}

impl From<([u8; 4], u16)> for Listen {
    fn from(address: ([u8; 4], u16)) -> Self {
        SocketAddr::from(address).into()
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            ListenHost::All => write!(f, ":{}", self.port),
            ListenHost::Address(ip) => SocketAddr::new(*ip, self.port).fmt(f),
            ListenHost::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|InvalidListen| {
            de::Error::invalid_value(de::Unexpected::Str(&text), &EXPECTED)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_a_name_or_only_a_port_says_where_to_listen() {
        for text in [
            "127.0.0.1:4000",
            "[::1]:4000",
            "localhost:4000",
            ":4000",
            "0.0.0.0:0",
            "my-host.example.com:80",
        ] {
            assert_eq!(
                text.parse::<Listen>().map(|listen| listen.to_string()),
                Ok(text.to_owned())
            );
        }
        for text in [
            "",
            "4000",
            "localhost",
            "localhost:",
            "localhost:x",
            "localhost:+1",
            "localhost:65536",
            "127.0.0:1",
            "[fe80::1%4]:4000",
            "::1:4000",
        ] {
            assert_eq!(text.parse::<Listen>(), Err(InvalidListen), "{text}");
        }
        for text in ["http://x:1", "-x:1", "a..b:1", "a b:1", "[::1:4000", "*:4000"] {
            assert_eq!(text.parse::<Listen>(), Err(InvalidListen), "{text}");
        }
    }

    #[test]
    fn all_addresses_are_both_families_and_a_name_is_one_address() {
        let of = |text: &str| {
            text.parse::<Listen>()
                .unwrap()
                .candidates()
                .unwrap()
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(of(":4000"), ["[::]:4000", "0.0.0.0:4000"]);
        assert_eq!(of("127.0.0.1:4000"), ["127.0.0.1:4000"]);
        assert_eq!(of("localhost:4000").len(), 1);
    }

    #[test]
    fn a_program_beside_the_host_finds_it() {
        let of = |text: &str| text.parse::<Listen>().unwrap().local_url("http");
        assert_eq!(of(":4000"), "http://127.0.0.1:4000");
        assert_eq!(of("0.0.0.0:4000"), "http://127.0.0.1:4000");
        assert_eq!(of("[::]:4000"), "http://[::1]:4000");
        assert_eq!(of("localhost:4000"), "http://localhost:4000");
        assert_eq!(of("10.0.0.1:4000"), "http://10.0.0.1:4000");
    }
}
