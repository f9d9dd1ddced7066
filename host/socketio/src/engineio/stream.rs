//! The TCP stream under a WebSocket: the only file that knows it.
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// A TCP connection, or an application's wrapper around one, for example to count connections or to
/// enforce deadlines.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// A value that must live as long as the connection, such as its permit. It is dropped when a
    /// WebSocket's connection has ended.
    type Guard: Send + 'static;

    /// Takes the wrapper apart.
    fn into_parts(self) -> (TcpStream, Self::Guard);
}

impl Stream for TcpStream {
    type Guard = ();

    fn into_parts(self) -> (TcpStream, ()) {
        (self, ())
    }
}

/// The type with which the application's HTTP server serves its connections.
///
/// It is implemented for `TokioIo<TcpStream>`, and for `TokioIo<S>` with any [`Stream`] of the
/// application. An application that does not use `TokioIo` implements it for its own type.
pub trait Io: Read + Write + Unpin + Send + 'static {
    /// A value that must live as long as the connection, such as its permit. It is dropped when a
    /// WebSocket's connection has ended.
    type Guard: Send + 'static;

    /// Takes the wrapper apart.
    fn into_parts(self) -> (TcpStream, Self::Guard);
}

impl<S: Stream> Io for TokioIo<S> {
    type Guard = S::Guard;

    fn into_parts(self) -> (TcpStream, S::Guard) {
        self.into_inner().into_parts()
    }
}

/// Returns the two halves of a stream.
pub(crate) fn split(stream: TcpStream) -> (Reader, Writer) {
    let (reader, writer) = stream.into_split();
    (Reader::Tcp(reader), Writer::Tcp(writer))
}

/// The receiving half of a connection.
#[derive(Debug)]
pub(crate) enum Reader {
    Tcp(OwnedReadHalf),
    /// Without a network, so that a test decides when something arrives.
    #[cfg(test)]
    Pipe(tokio::io::ReadHalf<tokio::io::SimplexStream>),
}

impl Reader {
    /// Reads the available bytes into the spare capacity of `buf`. Returns how many; 0 at the end.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut Vec<u8>,
    ) -> Poll<io::Result<usize>> {
        // `read_buf` is the way to read into spare capacity without `unsafe`. It keeps no state
        // between polls: dropping a pending one loses nothing.
        let before = buf.len();
        let polled = {
            use tokio::io::AsyncReadExt;
            match self {
                Reader::Tcp(reader) => std::pin::pin!(reader.read_buf(buf)).poll(cx),
                #[cfg(test)]
                Reader::Pipe(reader) => std::pin::pin!(reader.read_buf(buf)).poll(cx),
            }
        };
        polled.map_ok(|_| buf.len() - before)
    }

    /// Reads and discards bytes of the client. Returns when it has closed its half, or when
    /// `max` bytes have come.
    pub(crate) fn poll_discard(&mut self, cx: &mut Context<'_>, max: &mut usize) -> Poll<()> {
        let mut scratch = [0; 4096];
        while *max > 0 {
            let mut buf = ReadBuf::new(&mut scratch);
            let polled = match self {
                Reader::Tcp(reader) => Pin::new(reader).poll_read(cx, &mut buf),
                #[cfg(test)]
                Reader::Pipe(reader) => Pin::new(reader).poll_read(cx, &mut buf),
            };
            match polled {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                    *max = max.saturating_sub(buf.filled().len());
                }
                Poll::Ready(_) => break,
            }
        }
        Poll::Ready(())
    }
}

/// The sending half of a connection. Any task may write; one task waits until the kernel takes
/// more. Dropping it closes this half of the connection.
#[derive(Debug)]
pub(crate) enum Writer {
    Tcp(OwnedWriteHalf),
    #[cfg(test)]
    Pipe(tokio::io::WriteHalf<tokio::io::SimplexStream>),
}

impl Writer {
    /// Writes as many bytes as the kernel takes at once.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if it takes nothing; others if the connection is broken.
    pub(crate) fn try_write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Writer::Tcp(writer) => match slices {
                [one] => writer.try_write(one),
                many => writer.try_write_vectored(many),
            },
            #[cfg(test)]
            Writer::Pipe(writer) => {
                let cx = &mut Context::from_waker(std::task::Waker::noop());
                match Pin::new(writer).poll_write_vectored(cx, slices) {
                    Poll::Ready(result) => result,
                    Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
                }
            }
        }
    }

    /// Waits until the kernel takes something.
    pub(crate) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Writer::Tcp(writer) => writer.as_ref().poll_write_ready(cx),
            #[cfg(test)]
            Writer::Pipe(_) => {
                let _ = cx;
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Makes the end of the connection discard the bytes that the kernel still holds for the
    /// client.
    pub(crate) fn discard_on_close(&self) {
        match self {
            Writer::Tcp(writer) => {
                let _ = writer.as_ref().set_zero_linger();
            }
            #[cfg(test)]
            Writer::Pipe(_) => {}
        }
    }
}
