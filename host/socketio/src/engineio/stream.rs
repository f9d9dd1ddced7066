//! The TCP stream under a WebSocket, and what may stand between them, such as TLS: the only file
//! that knows them.
use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

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
    fn into_parts(self) -> (Socket, Self::Guard);
}

impl Stream for TcpStream {
    type Guard = ();

    fn into_parts(self) -> (Socket, ()) {
        (Socket::Tcp(self), ())
    }
}

/// A TCP connection, with the layer on it, if it has one.
#[derive(Debug)]
pub enum Socket {
    /// A TCP connection whose bytes are those of HTTP.
    Tcp(TcpStream),
    /// A TCP connection with a layer.
    Layered(TcpStream, Box<dyn Layer>),
}

/// What stands between a WebSocket and its TCP connection, such as TLS. No method waits: if the TCP
/// connection is not ready, a method returns `WouldBlock`, and is called again when it is. All
/// reads and writes of `tcp` are those that do not wait, such as [`TcpStream::try_read`].
pub trait Layer: fmt::Debug + Send + 'static {
    /// Appends the next bytes of the client to `buf`, at most as many as have space without a new
    /// allocation. Returns how many; 0 at the end. `buf` has space for at least one byte.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if nothing has arrived; others if the connection is broken.
    fn read(&mut self, tcp: &TcpStream, buf: &mut Vec<u8>) -> io::Result<usize>;

    /// Takes bytes for the client, and writes as much as the kernel takes at once. Takes nothing
    /// while bytes of an earlier call wait for the kernel, so a slow client can't make the layer
    /// hold more than those of one call. Returns how many bytes it has taken.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if it takes nothing; others if the connection is broken.
    fn write(&mut self, tcp: &TcpStream, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Writes the bytes that wait for the kernel.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if some still wait; others if the connection is broken.
    fn flush(&mut self, tcp: &TcpStream) -> io::Result<()>;

    /// Whether no bytes wait for the kernel.
    fn is_flushed(&self) -> bool;

    /// Tells the client that no more bytes follow, if the kernel takes that at once.
    fn close(&mut self, tcp: &TcpStream);
}

/// The layer of a connection, for both halves. It is locked for one call.
type SharedLayer = Arc<Mutex<Box<dyn Layer>>>;

fn locked(layer: &SharedLayer) -> MutexGuard<'_, Box<dyn Layer>> {
    layer.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn into_parts(self) -> (Socket, Self::Guard);
}

impl<S: Stream> Io for TokioIo<S> {
    type Guard = S::Guard;

    fn into_parts(self) -> (Socket, S::Guard) {
        self.into_inner().into_parts()
    }
}

/// Returns the two halves of a connection.
pub(crate) fn split(socket: Socket) -> (Reader, Writer) {
    match socket {
        Socket::Tcp(stream) => {
            let (reader, writer) = stream.into_split();
            (Reader::Tcp(reader), Writer::Tcp(writer))
        }
        Socket::Layered(stream, layer) => {
            let (reader, tcp) = stream.into_split();
            let layer = Arc::new(Mutex::new(layer));
            let writer = LayeredWriter { layer: Arc::clone(&layer), tcp };
            (Reader::Layered(reader, layer), Writer::Layered(writer))
        }
    }
}

/// The receiving half of a connection.
#[derive(Debug)]
pub(crate) enum Reader {
    Tcp(OwnedReadHalf),
    Layered(OwnedReadHalf, SharedLayer),
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
                Reader::Layered(reader, layer) => {
                    let tcp: &TcpStream = (*reader).as_ref();
                    return poll_layer(tcp, layer, cx, buf);
                }
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
                // Nobody reads what they contain.
                Reader::Tcp(reader) | Reader::Layered(reader, _) => {
                    Pin::new(reader).poll_read(cx, &mut buf)
                }
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

fn poll_layer(
    tcp: &TcpStream,
    layer: &SharedLayer,
    cx: &mut Context<'_>,
    buf: &mut Vec<u8>,
) -> Poll<io::Result<usize>> {
    if buf.len() == buf.capacity() {
        buf.reserve(LEAST_SPACE);
    }
    loop {
        let read = locked(layer).read(tcp, buf);
        match read {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready!(tcp.poll_read_ready(cx))?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            read => return Poll::Ready(read),
        }
    }
}

/// Space, in bytes, that a full buffer gets before a layer writes to it.
const LEAST_SPACE: usize = 64;

/// The sending half of a connection with a layer.
#[derive(Debug)]
pub(crate) struct LayeredWriter {
    layer: SharedLayer,
    tcp: OwnedWriteHalf,
}

impl Drop for LayeredWriter {
    fn drop(&mut self) {
        // Before `tcp` is dropped, which closes this half.
        locked(&self.layer).close(self.tcp.as_ref());
    }
}

/// The sending half of a connection. Any task may write; one task waits until the kernel takes
/// more. Dropping it closes this half of the connection.
#[derive(Debug)]
pub(crate) enum Writer {
    Tcp(OwnedWriteHalf),
    Layered(LayeredWriter),
    #[cfg(test)]
    Pipe(tokio::io::WriteHalf<tokio::io::SimplexStream>),
}

impl Writer {
    /// Writes as many bytes as the kernel takes at once. A layer may take more than the kernel:
    /// see [`is_flushed`](Self::is_flushed).
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
            Writer::Layered(writer) => locked(&writer.layer).write(writer.tcp.as_ref(), slices),
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

    /// Writes the bytes that a layer has taken and the kernel has not. Returns whether none is
    /// left.
    ///
    /// # Errors
    ///
    /// If the connection is broken.
    pub(crate) fn try_flush(&mut self) -> io::Result<bool> {
        let Writer::Layered(writer) = self else { return Ok(true) };
        match locked(&writer.layer).flush(writer.tcp.as_ref()) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Whether the kernel has all bytes that were written. Without a layer, it always has.
    pub(crate) fn is_flushed(&self) -> bool {
        match self {
            Writer::Layered(writer) => locked(&writer.layer).is_flushed(),
            _ => true,
        }
    }

    /// Waits until the kernel takes something.
    pub(crate) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Writer::Tcp(tcp) | Writer::Layered(LayeredWriter { tcp, .. }) => {
                tcp.as_ref().poll_write_ready(cx)
            }
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
            Writer::Tcp(tcp) | Writer::Layered(LayeredWriter { tcp, .. }) => {
                let _ = tcp.as_ref().set_zero_linger();
            }
            #[cfg(test)]
            Writer::Pipe(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Waker;

    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::engineio::End;
    use crate::engineio::testing;

    /// A layer that changes nothing, but takes bytes before the kernel does. It says goodbye.
    #[derive(Debug, Default)]
    struct Buffering(Vec<u8>);

    impl Layer for Buffering {
        fn read(&mut self, tcp: &TcpStream, buf: &mut Vec<u8>) -> io::Result<usize> {
            tcp.try_read_buf(buf)
        }

        fn write(&mut self, tcp: &TcpStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            self.flush(tcp)?;
            slices.iter().for_each(|slice| self.0.extend_from_slice(slice));
            let taken = self.0.len();
            match self.flush(tcp) {
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => Err(e),
                _ => Ok(taken),
            }
        }

        fn flush(&mut self, tcp: &TcpStream) -> io::Result<()> {
            while !self.0.is_empty() {
                let written = tcp.try_write(&self.0)?;
                self.0.drain(..written);
            }
            Ok(())
        }

        fn is_flushed(&self) -> bool {
            self.0.is_empty()
        }

        fn close(&mut self, tcp: &TcpStream) {
            self.0.extend_from_slice(b"goodbye");
            let _ = self.flush(tcp);
        }
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    /// Writes until the kernel takes no more. Returns how many bytes it has.
    async fn fill(server: &TcpStream) -> usize {
        server.writable().await.unwrap();
        let mut filled = 0;
        while let Ok(written) = server.try_write(&[b'x'; 64 << 10]) {
            filled += written;
        }
        filled
    }

    #[tokio::test]
    async fn a_session_sends_again_after_a_read_has_flushed_what_its_layer_held() {
        let (mut client, server) = pair().await;
        let mut received = vec![0; fill(&server).await];
        let (reader, writer) = split(Socket::Layered(server, Box::<Buffering>::default()));
        let session = testing::session_of(crate::engineio::Transport::WebSocket);
        assert!(session.opened(writer));
        assert!(session.text(&[b"first"], &[]));
        session.flush();
        let (mut registered, cx) = (None, &mut Context::from_waker(Waker::noop()));
        assert!(session.poll_sender(&mut registered, cx).is_pending(), "the layer has the bytes");
        client.read_exact(&mut received).await.unwrap();
        let Reader::Layered(half, layer) = reader else { panic!("a layer") };
        let tcp: &TcpStream = half.as_ref();
        tcp.writable().await.unwrap();
        locked(&layer).flush(tcp).unwrap();
        assert!(session.poll_sender(&mut registered, cx).is_pending());
        assert!(session.text(&[b"second"], &[]));
        session.flush();
        assert_eq!(session.queued_bytes(), 0);
        let mut received = [0; 17];
        client.read_exact(&mut received).await.unwrap();
        assert_eq!(&received, b"\x81\x064first\x81\x074second");
    }

    #[tokio::test]
    async fn what_a_layer_has_taken_reaches_the_client_before_its_session_is_drained() {
        let (mut client, server) = pair().await;
        let filled = fill(&server).await;
        let (_reader, writer) = split(Socket::Layered(server, Box::<Buffering>::default()));
        let session = testing::session_of(crate::engineio::Transport::WebSocket);
        assert!(session.opened(writer));
        assert!(session.text(&[b"hello"], &[]));
        session.flush();
        assert_eq!(session.queued_bytes(), 0, "the layer has it");
        session.end(End::Server);
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(session.poll_drained(cx).is_pending());
        let mut received = Vec::new();
        let drained = async {
            poll_fn(|cx| session.poll_drained(cx)).await;
            drop(session.finish());
        };
        let (_, read) = tokio::join!(drained, client.read_to_end(&mut received));
        read.unwrap();
        let frame = b"\x81\x064hello";
        assert_eq!(received.len(), filled + frame.len() + b"goodbye".len());
        assert!(received.ends_with(b"\x81\x064hellogoodbye"), "before the end of the connection");
    }

    #[tokio::test]
    async fn a_layer_is_read_when_bytes_arrive() {
        let (client, server) = pair().await;
        let (mut reader, _writer) = split(Socket::Layered(server, Box::<Buffering>::default()));
        let mut buf = Vec::new();
        let read = poll_fn(|cx| reader.poll_read(cx, &mut buf));
        let (read, _) = tokio::join!(read, async { client.try_write(b"hello").unwrap() });
        assert_eq!((read.unwrap(), &*buf), (5, &b"hello"[..]));
        drop(client);
        buf.shrink_to_fit();
        let read = poll_fn(|cx| reader.poll_read(cx, &mut buf)).await;
        assert_eq!(read.unwrap(), 0, "the end");
    }
}
