//! One exchange over HTTP/1.1: resolves the host, checks its addresses, connects to one of them,
//! sends the request, and reads the response. Each exchange has a connection of its own.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST};
use http::{HeaderName, HeaderValue, Method};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use sockhop_core::outbound::{MAX_HEADERS, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::Host;

use super::SendError;
use super::address::Place;
use super::body;
use super::memory::{KeptResponse, Reserved};
use super::origin::Target;
use super::resolve::{Asker, MAX_ADDRESSES, Resolver};

/// Bytes of the head of a response, and of the buffer of a connection.
const MAX_HEAD: usize = 64 << 10;

/// The least time for a connection to one of several addresses, before the next is tried.
const MIN_CONNECT: Duration = Duration::from_millis(250);

/// What is read of the body of a response.
#[derive(Debug, Clone, Copy)]
pub(super) enum ReadBody {
    /// All of it. A body with more bytes is an error.
    Whole(usize),
    /// All of it, to see whether the response is complete, but not more than these bytes. It is
    /// dropped.
    Dropped(usize),
}

/// Sends `request` to `target`. The caller limits the time by `deadline`, which is shared by all
/// steps. `memory` counts what is read. If the future is dropped, the connection is closed.
pub(super) async fn exchange(
    (resolver, asker): (&Arc<Resolver>, &Asker),
    tls: Option<Arc<ClientConfig>>,
    target: Target,
    request: Request,
    (body, memory): (ReadBody, Reserved),
    deadline: Instant,
) -> Result<KeptResponse, SendError> {
    let request = prepare(&target, request)?;
    let addresses = addresses(resolver, asker, &target).await?;
    let stream = connect(&addresses, target.port, deadline).await?;
    if !target.has_tls {
        return talk(stream, request, body, memory).await;
    }
    let Some(tls) = tls else {
        return Err(SendError::Unreachable("TLS is not configured".to_owned()));
    };
    let name = match &target.host {
        Host::Domain(name) => ServerName::try_from(name.clone()).map_err(|_| {
            SendError::Unreachable(format!("{name} is no name that a certificate can have"))
        })?,
        Host::Ipv4(v4) => ServerName::from(IpAddr::V4(*v4)),
        Host::Ipv6(v6) => ServerName::from(IpAddr::V6(*v6)),
    };
    let stream = TlsConnector::from(tls).connect(name, stream).await;
    let stream = stream.map_err(|error| SendError::unreachable("TLS has failed", &error))?;
    talk(stream, request, body, memory).await
}

/// Returns the addresses of a target, all of which are allowed.
///
/// # Errors
/// `NotAllowed`: one of them is not. Then none is used: which one a client takes is chance.
async fn addresses(
    resolver: &Arc<Resolver>,
    asker: &Asker,
    target: &Target,
) -> Result<Vec<IpAddr>, SendError> {
    let name = match &target.host {
        // The operator has listed this address itself.
        Host::Ipv4(v4) => return Ok(vec![(*v4).into()]),
        Host::Ipv6(v6) => return Ok(vec![(*v6).into()]),
        Host::Domain(name) => name,
    };
    let found = resolver.resolve(asker, name).await?;
    check(name, &found, target.is_private)?;
    Ok(found.iter().copied().take(MAX_ADDRESSES).collect())
}

fn check(name: &str, addresses: &[IpAddr], is_private: bool) -> Result<(), SendError> {
    for address in addresses {
        match Place::of(*address) {
            Place::Public => {}
            Place::Private if is_private => {}
            Place::Private => {
                return Err(SendError::NotAllowed(format!(
                    "{name} has an address in a private network; the operator can allow it with \
                     `private = true`"
                )));
            }
            Place::Other => {
                return Err(SendError::NotAllowed(format!(
                    "{name} has an address that is reserved"
                )));
            }
        }
    }
    Ok(())
}

/// Connects to the first address that accepts. Each but the last gets its share of the time.
async fn connect(
    addresses: &[IpAddr],
    port: u16,
    deadline: Instant,
) -> Result<TcpStream, SendError> {
    let mut error = SendError::Unreachable("there is no address".to_owned());
    for (index, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let others = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        let share = (left / others).max(MIN_CONNECT);
        let stream = TcpStream::connect(SocketAddr::new(*address, port));
        match tokio::time::timeout(share, stream).await {
            Ok(Ok(stream)) => {
                // The request is one write, or few.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(refused)) => error = SendError::unreachable("can't connect", &refused),
            Err(_) => error = SendError::Timeout,
        }
    }
    Err(error)
}

/// Converts the request, which was checked, and adds the headers of the host.
fn prepare(target: &Target, request: Request) -> Result<http::Request<Full<Bytes>>, SendError> {
    let misuse = |what: &str| SendError::Misuse(format!("the {what} is invalid"));
    let method = Method::from_bytes(request.method.as_bytes()).map_err(|_| misuse("method"))?;
    // Servers refuse these methods without a length. The others mean no body if there is none.
    let needs_length = [Method::POST, Method::PUT, Method::PATCH].contains(&method);
    let is_empty = request.body.is_empty();
    let mut prepared = http::Request::new(Full::new(Bytes::from(request.body)));
    *prepared.method_mut() = method;
    *prepared.uri_mut() = target.uri.clone();
    let headers = prepared.headers_mut();
    let host = HeaderValue::from_str(&target.authority).map_err(|_| misuse("host"))?;
    headers.insert(HOST, host);
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    if is_empty && needs_length {
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    for (name, value) in request.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| misuse("header"))?;
        let value = HeaderValue::from_bytes(&value).map_err(|_| misuse("header"))?;
        headers.append(name, value);
    }
    Ok(prepared)
}

/// Sends a request over a connection, and reads the response.
async fn talk(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: http::Request<Full<Bytes>>,
    body: ReadBody,
    mut memory: Reserved,
) -> Result<KeptResponse, SendError> {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MAX_HEAD).max_headers(MAX_HEADERS);
    let (mut sender, connection) =
        builder.handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    let response = async {
        let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
        let (head, incoming) = response.into_parts();
        let body = match body {
            ReadBody::Whole(max) => {
                memory.add_headers(&head.headers)?;
                body::read(incoming, max, &mut memory).await?
            }
            // Nothing of it is kept, so it needs no room.
            ReadBody::Dropped(max) => body::skip(incoming, max).await.map(|()| Vec::new())?,
        };
        let headers = head.headers.iter();
        let response = Response {
            status: head.status.as_u16(),
            headers: headers
                .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
                .collect(),
            body,
        };
        Ok(KeptResponse::new(response, memory))
    };
    let (mut response, mut connection) = (std::pin::pin!(response), std::pin::pin!(connection));
    tokio::select! {
        biased;
        response = &mut response => response,
        // It gives the rest of the response to `response`, or the reason why there is none.
        _ = &mut connection => response.await,
    }
}

fn failed(error: &hyper::Error) -> SendError {
    if error.is_parse_too_large() {
        return SendError::TooLarge(format!(
            "its head has more than {MAX_HEAD} bytes or {MAX_HEADERS} headers"
        ));
    }
    SendError::interrupted("the server does not answer as a server of HTTP/1.1", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_one_address_that_is_not_allowed_is_refused_whatever_the_others_are() {
        let [public, private, link_local]: [IpAddr; 3] =
            ["1.1.1.1", "10.0.0.7", "169.254.169.254"].map(|address| address.parse().unwrap());
        for (addresses, is_private, is_allowed) in [
            (vec![public], false, true),
            (vec![public, private], false, false),
            (vec![private, public], false, false),
            (vec![public, private], true, true),
            (vec![private, link_local], true, false),
            (vec![link_local], false, false),
        ] {
            let checked = check("api.example.com", &addresses, is_private);
            assert_eq!(checked.is_ok(), is_allowed, "{addresses:?} {is_private}");
        }
    }
}
