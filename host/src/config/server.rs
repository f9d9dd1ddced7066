//! `[server]`: the address to listen on, the allowed origins, and the settings of Socket.IO.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de};

use super::limits::nonzero;
use super::{AllowedOrigin, Listen, TlsConfig};

/// `[server]`: the address, the origins and the Socket.IO settings.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// The address for clients and `/api`. Port 0 selects a free port.
    pub listen: Listen,
    /// The Socket.IO namespaces.
    #[serde(deserialize_with = "namespaces")]
    pub namespaces: Vec<String>,
    /// Origins whose pages may connect. If the host listens on a loopback address, pages of this
    /// machine may connect as well.
    pub allowed_origins: Vec<AllowedOrigin>,
    /// The request headers that pages may send. `None` allows every header that a page asks for.
    #[serde(deserialize_with = "headers")]
    pub allowed_headers: Option<Vec<HeaderName>>,
    /// The networks of proxies whose header tells the address of a client.
    #[serde(deserialize_with = "networks")]
    pub trusted_proxies: Vec<IpNet>,
    /// The header that these proxies write.
    pub proxy_header: ProxyHeader,
    /// The implementation of Socket.IO.
    pub socketio: SocketIo,
    /// How long after a pong the next ping is sent.
    #[serde(deserialize_with = "super::limits::milliseconds")]
    pub ping_interval_ms: Duration,
    /// How long a pong may take before the connection is closed.
    #[serde(deserialize_with = "super::limits::milliseconds")]
    pub ping_timeout_ms: Duration,
    /// The transports that clients may use.
    pub transports: Vec<Transport>,
    /// Whether a client may upgrade from polling to WebSocket.
    pub upgrade: bool,
    /// TLS on the address of clients. `None`, without the table, serves plain HTTP.
    pub tls: Option<TlsConfig>,
    /// Connection state recovery. `None`, without the table, turns it off.
    pub recovery: Option<Recovery>,
}

/// `[server.recovery]`: connection state recovery for clients whose transport was lost.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recovery {
    /// How long a connection is kept after the loss of its transport.
    #[serde(deserialize_with = "super::limits::seconds")]
    pub seconds: Duration,
    /// Memory, in bytes, of the events that are kept for all clients together.
    pub bytes: NonZeroUsize,
}

impl Default for Recovery {
    fn default() -> Self {
        Self { seconds: Duration::from_secs(120), bytes: nonzero!(NonZeroUsize, 64 << 20) }
    }
}

/// `socketio`: the implementation of Socket.IO.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SocketIo {
    /// Sockhop's own.
    Builtin,
    /// The library socketioxide.
    Socketioxide,
}

impl SocketIo {
    /// The name of the implementation in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Builtin => "builtin",
            Self::Socketioxide => "socketioxide",
        }
    }
}

/// `proxy_header`: the header in which a proxy tells the address of its client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyHeader {
    /// `X-Forwarded-For`.
    #[default]
    XForwardedFor,
    /// `Forwarded`, of RFC 7239.
    Forwarded,
    /// None of HTTP, but the header of the PROXY protocol, version 2, with which each connection of
    /// a proxy begins.
    ProxyProtocol,
}

impl ProxyHeader {
    /// The name of the header of HTTP, in lower case; `None` with the PROXY protocol.
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::XForwardedFor => Some("x-forwarded-for"),
            Self::Forwarded => Some("forwarded"),
            Self::ProxyProtocol => None,
        }
    }
}

/// Reads networks, such as `10.0.0.0/8`, and single addresses.
fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let network = |text: String| {
        let address = || text.parse::<IpAddr>().map(IpNet::from);
        text.parse::<IpNet>().or_else(|_| address()).map_err(|_| {
            de::Error::custom(format!("`{text}` is no network such as 10.0.0.0/8, and no address"))
        })
    };
    texts.into_iter().map(network).collect()
}

/// A transport of Engine.IO.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// HTTP long polling.
    Polling,
    /// WebSocket.
    Websocket,
}

impl ServerConfig {
    /// Checks the settings that depend on each other.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.transports.is_empty() {
            return Err(
                "server.transports: found none, expected \"polling\", \"websocket\" or both"
                    .to_owned(),
            );
        }
        if self.proxy_header == ProxyHeader::ProxyProtocol && self.trusted_proxies.is_empty() {
            return Err("server.proxy_header: \"proxy-protocol\" needs the proxies that send it; \
                        name them in `trusted_proxies`"
                .to_owned());
        }
        let can_upgrade = [Transport::Polling, Transport::Websocket]
            .iter()
            .all(|transport| self.transports.contains(transport));
        if self.socketio == SocketIo::Socketioxide && can_upgrade && !self.upgrade {
            return Err("server.upgrade: the library can't refuse an upgrade; set `socketio = \
                        \"builtin\"`, or leave one transport in \
                        `transports`"
                .to_owned());
        }
        if self.socketio == SocketIo::Socketioxide && self.recovery.is_some() {
            return Err("server.recovery: the library has no connection state recovery; set \
                        `socketio = \"builtin\"`"
                .to_owned());
        }
        Ok(())
    }
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: ([127, 0, 0, 1], 4000).into(),
            namespaces: vec!["/".to_owned()],
            allowed_origins: Vec::new(),
            allowed_headers: None,
            trusted_proxies: Vec::new(),
            proxy_header: ProxyHeader::default(),
            socketio: SocketIo::Builtin,
            // The defaults of the reference server.
            ping_interval_ms: Duration::from_secs(25),
            ping_timeout_ms: Duration::from_secs(20),
            transports: vec![Transport::Polling, Transport::Websocket],
            upgrade: true,
            tls: None,
            recovery: None,
        }
    }
}

fn headers<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<HeaderName>>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    let parsed = names.iter().map(|name| {
        let expected = "the name of a request header, such as \"x-request-id\"; leave the key out \
                        to allow all";
        name.parse().map_err(|_| de::Error::invalid_value(de::Unexpected::Str(name), &expected))
    });
    parsed.collect::<Result<_, _>>().map(Some)
}

fn namespaces<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    match names.iter().find(|name| {
        !name.starts_with('/')
            || name.contains([',', '{', '}', '?'])
            || name.contains(char::is_control)
    }) {
        Some(name) => Err(de::Error::invalid_value(
            de::Unexpected::Str(name),
            &"a namespace such as \"/\" or \"/chat\"",
        )),
        None if names
            .iter()
            .enumerate()
            .any(|(at, name)| names.iter().take(at).any(|other| other == name)) =>
        {
            Err(de::Error::custom("the same namespace twice; each may be there once"))
        }
        None if names.is_empty() => {
            Err(de::Error::invalid_length(0, &"at least one namespace, such as \"/\""))
        }
        None => Ok(names),
    }
}
