//! The body of a response, in one buffer of bounded size.

use std::error::Error;
use std::pin::pin;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body;

use super::SendError;
use super::memory::Reserved;

/// Reads a body of at most `max` bytes, whose memory is added to `reserved`. Trailers are dropped.
///
/// A frame keeps the whole read buffer of its connection, so each one is dropped before the next
/// is read. Otherwise a body in single bytes would hold some thousand times its size.
///
/// # Errors
/// `TooLarge`, `Interrupted`.
pub(super) async fn read<B>(
    body: B,
    max: usize,
    reserved: &mut Reserved,
) -> Result<Vec<u8>, SendError>
where
    B: Body<Data = Bytes, Error: Error + 'static>,
{
    // A known length is checked before anything is read.
    if body.size_hint().lower() > max as u64 {
        return Err(too_large(max));
    }
    // A buffer does not grow beyond a length that is known.
    let exact = body.size_hint().exact().and_then(|exact| usize::try_from(exact).ok());
    let (mut body, mut whole, most) = (pin!(body), Vec::new(), exact.unwrap_or(max));
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| SendError::interrupted("the response is incomplete", &error))?;
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > max - whole.len() {
            return Err(too_large(max));
        }
        reserved.append(&mut whole, &data, most)?;
    }
    reserved.shrink(&mut whole);
    Ok(whole)
}

/// Reads a body and drops it, to see whether the response is complete. After `max` bytes, the rest
/// is not read.
///
/// # Errors
/// `Interrupted`.
pub(super) async fn skip<B>(body: B, max: usize) -> Result<(), SendError>
where
    B: Body<Data = Bytes, Error: Error + 'static>,
{
    let (mut body, mut read) = (pin!(body), 0_usize);
    while read <= max
        && let Some(frame) = body.frame().await
    {
        let frame =
            frame.map_err(|error| SendError::interrupted("the response is incomplete", &error))?;
        read = read.saturating_add(frame.data_ref().map_or(0, Bytes::len));
    }
    Ok(())
}

fn too_large(max: usize) -> SendError {
    SendError::TooLarge(format!("its body has more than {max} bytes"))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Poll};

    use http::HeaderMap;
    use hyper::body::Frame;

    use crate::outbound::memory::ResponseMemory;

    use super::*;

    /// A body in single bytes, each in a buffer of its own, and with trailers. It checks that no
    /// buffer lives when the next one is read.
    struct SingleBytes {
        left: usize,
        /// One more reference for each buffer that lives.
        buffers: Arc<()>,
    }

    struct Buffer([u8; 1], #[expect(dead_code, reason = "counts this buffer")] Arc<()>);

    impl AsRef<[u8]> for Buffer {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl Body for SingleBytes {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            assert_eq!(Arc::strong_count(&self.buffers), 1, "no buffer of an earlier frame lives");
            let Some(left) = self.left.checked_sub(1) else { return Poll::Ready(None) };
            self.left = left;
            if left == 0 {
                return Poll::Ready(Some(Ok(Frame::trailers(HeaderMap::new()))));
            }
            let buffer = Buffer(*b"x", Arc::clone(&self.buffers));
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(buffer)))))
        }
    }

    fn body(bytes: usize) -> SingleBytes {
        SingleBytes { left: bytes + 1, buffers: Arc::new(()) }
    }

    async fn read(body: SingleBytes, max: usize) -> Result<Vec<u8>, SendError> {
        super::read(body, max, &mut ResponseMemory::new(1 << 20).reserve()).await
    }

    #[tokio::test]
    async fn a_body_in_single_bytes_keeps_no_buffer_of_a_connection() {
        let whole = read(body(50_000), 50_000).await.unwrap();
        assert_eq!((whole.len(), whole.iter().all(|byte| *byte == b'x')), (50_000, true));
    }

    #[tokio::test]
    async fn a_body_has_at_most_as_many_bytes_as_are_allowed() {
        assert_eq!(read(body(10), 10).await.unwrap(), b"xxxxxxxxxx");
        assert_eq!(read(body(11), 10).await.unwrap_err(), too_large(10));
        assert_eq!(read(body(0), 0).await.unwrap(), b"");
    }
}
