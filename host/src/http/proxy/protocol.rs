//! The header of the PROXY protocol, version 2, with which a proxy tells the address of its client
//! before the client's first byte.

use std::io;
use std::net::IpAddr;

use ppp::v2::{Addresses, Command, Header, PROTOCOL_PREFIX, ParseError, Protocol};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The first bytes of a header, which contain its length.
const FIXED_BYTES: usize = 16;

/// The longest header: what fits into the smallest segment of TCP, as the protocol recommends to
/// senders. The addresses need at most 232 bytes.
const MAX_BYTES: usize = 536;

/// Why a header is refused.
#[derive(Debug, thiserror::Error)]
pub(in crate::http) enum HeaderError {
    /// The connection ended or failed.
    #[error("the connection ended before the end of the PROXY header")]
    Io(#[from] io::Error),
    /// The connection begins with something else.
    #[error("the connection does not begin with a header of the PROXY protocol, version 2")]
    NoHeader,
    /// The header is longer than any that is expected.
    #[error("the PROXY header has {0} bytes; at most {MAX_BYTES} are read")]
    TooLong(usize),
    /// The header contradicts itself.
    #[error("the PROXY header is not valid: {0}")]
    Invalid(ParseError),
    /// The header is for a client that did not use TCP.
    #[error("the PROXY header is that of a datagram")]
    Datagram,
}

/// Reads a header, and no byte after it. Returns the address of the client; `None` if the header
/// has none: the proxy itself has connected, or its client has no IP address.
///
/// # Errors
/// The connection does not begin with a valid header.
pub(in crate::http) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<IpAddr>, HeaderError> {
    let mut header = [0; MAX_BYTES];
    // Anything else is refused with its first byte that differs, and not at the deadline.
    let mut read = 0;
    while read < FIXED_BYTES {
        let rest = header.get_mut(read..FIXED_BYTES).unwrap_or_default();
        let got = stream.read(rest).await?;
        if got == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        read += got;
        if header.iter().take(read).zip(PROTOCOL_PREFIX).any(|(byte, expected)| byte != expected) {
            return Err(HeaderError::NoHeader);
        }
    }
    let [.., high, low] = header.first_chunk::<FIXED_BYTES>().copied().unwrap_or_default();
    let length = FIXED_BYTES + usize::from(u16::from_be_bytes([high, low]));
    let Some(rest) = header.get_mut(FIXED_BYTES..length) else {
        return Err(HeaderError::TooLong(length));
    };
    stream.read_exact(rest).await?;
    let header = Header::try_from(header.get(..length).unwrap_or_default());
    client(&header.map_err(HeaderError::Invalid)?)
}

/// Returns the address of the client, if the header has one.
fn client(header: &Header<'_>) -> Result<Option<IpAddr>, HeaderError> {
    let address: IpAddr = match (header.command, header.addresses) {
        (Command::Local, _) | (_, Addresses::Unspecified | Addresses::Unix(_)) => return Ok(None),
        (Command::Proxy, Addresses::IPv4(addresses)) => addresses.source_address.into(),
        (Command::Proxy, Addresses::IPv6(addresses)) => addresses.source_address.into(),
    };
    match header.protocol {
        Protocol::Stream => Ok(Some(address.to_canonical())),
        Protocol::Unspecified => Ok(None),
        Protocol::Datagram => Err(HeaderError::Datagram),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    const V4: [u8; 12] = [198, 51, 100, 7, 10, 0, 0, 1, 0, 80, 1, 187];

    /// A header with this version and command, this family and protocol, and this content.
    fn header(command: u8, family: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [PROTOCOL_PREFIX, &[command, family], &length, content].concat()
    }

    fn v6(source: &str) -> Vec<u8> {
        let source: std::net::Ipv6Addr = source.parse().unwrap();
        [&source.octets()[..], &[1; 16], &[0, 80, 1, 187]].concat()
    }

    /// The result for these bytes, and the bytes that are left.
    async fn result(bytes: &[u8]) -> (Result<Option<String>, String>, String) {
        let mut left = bytes;
        let client = read(&mut left).await;
        let client = client.map(|client| client.map(|client| client.to_string()));
        (client.map_err(|error| error.to_string()), String::from_utf8_lossy(left).into_owned())
    }

    #[tokio::test]
    async fn a_header_tells_the_client_and_nothing_after_it_is_read() {
        let with_tlv = [&V4[..], &[4, 0, 2, 1, 2]].concat();
        let longest = [&V4[..], &[4, 1, 249], &[0; 505]].concat();
        for (header, expected) in [
            (header(0x21, 0x11, &V4), Some("198.51.100.7")),
            (header(0x21, 0x11, &with_tlv), Some("198.51.100.7")),
            (header(0x21, 0x11, &longest), Some("198.51.100.7")),
            (header(0x21, 0x21, &v6("2001:db8::7")), Some("2001:db8::7")),
            (header(0x21, 0x21, &v6("::ffff:198.51.100.7")), Some("198.51.100.7")),
            // The proxy itself, such as its health check.
            (header(0x20, 0x00, &[]), None),
            (header(0x20, 0x11, &V4), None),
            (header(0x21, 0x00, &[]), None),
            (header(0x21, 0x00, &[4, 0, 1, 9]), None),
            (header(0x21, 0x10, &V4), None),
            (header(0x21, 0x31, &[7; 216]), None),
        ] {
            let bytes = [&header[..], b"GET /"].concat();
            let expected = expected.map(str::to_owned);
            assert_eq!(result(&bytes).await, (Ok(expected), "GET /".to_owned()), "{header:?}");
        }
    }

    #[tokio::test]
    async fn a_forged_header_is_refused() {
        let good = header(0x21, 0x11, &V4);
        let mut lies = good.clone();
        lies[15] = 11;
        let (none, ended) = ("does not begin with", "ended before the end");
        for (bytes, problem) in [
            (b"PROXY TCP4 198.51.100.7 10.0.0.1 80 443\r\n".to_vec(), none),
            (b"GET / HTTP/1.1\r\n\r\n".to_vec(), none),
            (b"\r\n\r\nGET / HTTP/1.1\r\n\r\n".to_vec(), none),
            (vec![22, 3, 1], none),
            (Vec::new(), ended),
            (good[..15].to_vec(), ended),
            (good[..20].to_vec(), ended),
            (header(0x11, 0x11, &V4), "not valid"),
            (header(0x22, 0x11, &V4), "not valid"),
            (header(0x21, 0x41, &V4), "not valid"),
            (header(0x21, 0x13, &V4), "not valid"),
            (header(0x21, 0x21, &V4), "not valid"),
            (header(0x21, 0x31, &[7; 215]), "not valid"),
            (lies, "not valid"),
            (header(0x21, 0x12, &V4), "datagram"),
            (header(0x21, 0x11, &[0; 521]), "has 537 bytes; at most 536 are read"),
            (header(0x21, 0x11, &[0; 65_535]), "has 65551 bytes"),
        ] {
            let (client, _) = result(&bytes).await;
            let error = client.expect_err("a header that is refused");
            assert!(error.contains(problem), "{bytes:?}: {error}");
        }
    }

    #[tokio::test]
    async fn a_header_may_come_in_single_bytes_and_something_else_is_refused_at_once() {
        let (mut proxy, mut host) = tokio::io::duplex(1);
        let header = header(0x21, 0x11, &V4);
        let (client, ()) = tokio::join!(read(&mut host), async {
            for byte in header {
                proxy.write_all(&[byte]).await.unwrap();
            }
        });
        assert_eq!(client.unwrap().unwrap().to_string(), "198.51.100.7");
        let (client, _) = tokio::join!(read(&mut host), proxy.write_all(b"\rX"));
        assert!(matches!(client, Err(HeaderError::NoHeader)));
    }
}
