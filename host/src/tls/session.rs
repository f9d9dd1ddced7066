//! A TLS connection whose TCP connection is another owner's: reads and writes that never wait.

use std::fmt;
use std::io::{self, BufRead, IoSlice, Read, Write};

use rustls::ServerConnection;
use tokio::net::TcpStream;

/// The most bytes of a client that are encrypted at once: one record of TLS. A client that does not
/// read makes the host hold so many in addition to what is queued for it.
pub(super) const BUFFER_BYTES: usize = 16 << 10;

/// The state of a TLS connection after its handshake.
pub(crate) struct TlsSession(ServerConnection);

/// A TCP connection as rustls uses it.
struct Raw<'tcp>(&'tcp TcpStream);

impl Read for Raw<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buf)
    }
}

impl Write for Raw<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TlsSession {
    pub(super) fn new(connection: ServerConnection) -> Self {
        Self(connection)
    }

    /// Appends the next bytes of the client to `buf`, at most as many as have space. Returns how
    /// many; 0 after the client's `close_notify`.
    ///
    /// # Errors
    /// `WouldBlock` if nothing has arrived. `UnexpectedEof` if the TCP connection has ended without
    /// `close_notify`.
    pub(crate) fn read(&mut self, tcp: &TcpStream, buf: &mut Vec<u8>) -> io::Result<usize> {
        loop {
            let mut reader = self.0.reader();
            match reader.fill_buf() {
                Ok(bytes) => {
                    let taken = bytes.len().min(buf.capacity() - buf.len());
                    buf.extend(bytes.iter().take(taken));
                    reader.consume(taken);
                    return Ok(taken);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            // 0 at the end of the TCP connection, which the next call of `fill_buf` returns.
            self.0.read_tls(&mut Raw(tcp))?;
            let processed = self.0.process_new_packets();
            // An alert, or the answer to a new key of the client. If it has to wait, it is written
            // with the next bytes.
            if self.0.wants_write() {
                let _ = self.flush(tcp);
            }
            processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
    }

    /// Encrypts bytes and writes them, if nothing waits. Returns how many were encrypted. A part of
    /// them may still wait for the kernel.
    ///
    /// # Errors
    /// `WouldBlock` if something waits.
    pub(crate) fn write(&mut self, tcp: &TcpStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.flush(tcp)?;
        let taken = self.0.writer().write_vectored(slices)?;
        match self.flush(tcp) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    /// Writes what waits.
    ///
    /// # Errors
    /// `WouldBlock` if the kernel does not take all of it.
    pub(crate) fn flush(&mut self, tcp: &TcpStream) -> io::Result<()> {
        while self.0.wants_write() {
            match self.0.write_tls(&mut Raw(tcp)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether nothing waits for the kernel.
    pub(crate) fn is_flushed(&self) -> bool {
        !self.0.wants_write()
    }

    /// Sends `close_notify`, if the kernel takes it at once.
    pub(crate) fn close(&mut self, tcp: &TcpStream) {
        self.0.send_close_notify();
        let _ = self.flush(tcp);
    }
}

impl fmt::Debug for TlsSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsSession")
    }
}
