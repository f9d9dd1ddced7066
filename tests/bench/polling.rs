//! A blocking Engine.IO client over HTTP long-polling, on one TCP connection that can come from any
//! loopback address.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

use crate::visitor;

/// A session over polling.
pub(crate) struct Polling {
    stream: TcpStream,
    pub(crate) sid: String,
}

impl Polling {
    /// Opens a session.
    ///
    /// # Errors
    /// The host refuses it.
    pub(crate) fn open(host: SocketAddr, from: IpAddr) -> io::Result<Self> {
        let (status, session) = Self::ask(host, from)?;
        if status == 200 { Ok(session) } else { Err(io::Error::other(format!("status {status}"))) }
    }

    /// Asks for a session. Returns the status of the answer as well; unless it is 200, the session
    /// has no id.
    ///
    /// # Errors
    /// The host closes the connection without an answer.
    pub(crate) fn ask(host: SocketAddr, from: IpAddr) -> io::Result<(u16, Self)> {
        let mut session = Self { stream: visitor::tcp(host, from)?, sid: String::new() };
        session
            .stream
            .write_all(b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: x\r\n\r\n")?;
        let (status, body) = session.answer()?;
        if status == 200 {
            session.sid = body.split('"').nth(3).ok_or(ErrorKind::InvalidData)?.to_owned();
        }
        Ok((status, session))
    }

    /// Sends a body and returns the status of the answer.
    ///
    /// # Errors
    /// The connection is closed, or the answer does not come.
    pub(crate) fn post(&mut self, body: &[u8]) -> io::Result<u16> {
        self.begin_post(body.len(), body)?;
        Ok(self.answer()?.0)
    }

    /// Announces a body of `length` bytes, and sends its beginning.
    ///
    /// # Errors
    /// The connection is closed.
    pub(crate) fn begin_post(&mut self, length: usize, beginning: &[u8]) -> io::Result<()> {
        let head = format!(
            "POST /socket.io/?EIO=4&transport=polling&sid={} HTTP/1.1\r\nHost: \
             x\r\nContent-Length: {length}\r\n\r\n",
            self.sid
        );
        self.stream.write_all(&[head.as_bytes(), beginning].concat())
    }

    /// Returns the underlying TCP connection.
    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// Returns the status and the body of one answer.
    fn answer(&mut self) -> io::Result<(u16, String)> {
        let mut inbox = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&inbox);
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| {
                    line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok()
                });
                if body.len() >= length.unwrap_or(0) {
                    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
                    return Ok((status.ok_or(ErrorKind::InvalidData)?, body.to_owned()));
                }
            }
            let mut some = [0; 4096];
            match self.stream.read(&mut some)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                read => inbox.extend_from_slice(&some[..read]),
            }
        }
    }
}
