//! The memory of responses: one bound for what all plugins read, and for what is kept of it.

use std::sync::Arc;

use sockhop_core::outbound::Response;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::SendError;

/// Bytes that a header takes beside its name and its value.
const HEADER_BYTES: usize = 64;

/// The most by which a buffer grows at once, so that a large one does not double.
const MAX_STEP: usize = 4 << 20;

/// The memory of all responses. There is one permit for each byte.
#[derive(Debug)]
pub(super) struct ResponseMemory {
    free: Arc<Semaphore>,
    limit: usize,
}

impl ResponseMemory {
    /// A bound of so many bytes.
    pub(super) fn new(limit: usize) -> Self {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(limit)), limit }
    }

    /// A response that has no bytes yet.
    pub(super) fn reserve(&self) -> Reserved {
        Reserved { free: Arc::clone(&self.free), permit: None }
    }

    /// Bytes in use, and their limit.
    pub(super) fn usage(&self) -> (usize, usize) {
        (self.limit - self.free.available_permits().min(self.limit), self.limit)
    }
}

/// The bytes of one response, which are free again when this is dropped.
#[derive(Debug)]
pub(super) struct Reserved {
    free: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Reserved {
    /// Reserves more bytes. It does not wait: responses that wait for each other would all stop.
    ///
    /// # Errors
    /// `Interrupted`: too few are free.
    pub(super) fn add(&mut self, bytes: usize) -> Result<(), SendError> {
        let taken = u32::try_from(bytes).ok();
        let taken = taken.and_then(|n| Arc::clone(&self.free).try_acquire_many_owned(n).ok());
        let Some(taken) = taken else { return Err(full()) };
        match &mut self.permit {
            Some(permit) => permit.merge(taken),
            None => self.permit = Some(taken),
        }
        Ok(())
    }

    /// Reserves the bytes of headers.
    ///
    /// # Errors
    /// `Interrupted`: too few are free.
    pub(super) fn add_headers(&mut self, headers: &http::HeaderMap) -> Result<(), SendError> {
        let sizes = headers.iter().map(|(name, value)| name.as_str().len() + value.len());
        self.add(sizes.map(|size| size + HEADER_BYTES).sum())
    }

    /// Appends to a buffer of at most `max` bytes, which `data` does not exceed. The memory for it
    /// is reserved before it is allocated.
    ///
    /// # Errors
    /// `Interrupted`: too few bytes are free.
    pub(super) fn append(
        &mut self,
        buffer: &mut Vec<u8>,
        data: &[u8],
        max: usize,
    ) -> Result<(), SendError> {
        let (length, capacity) = (buffer.len() + data.len(), buffer.capacity());
        if length > capacity {
            let doubled = capacity.saturating_add(capacity.min(MAX_STEP)).min(max);
            let wanted = length.max(doubled);
            self.add(wanted - capacity)?;
            buffer.reserve_exact(wanted - buffer.len());
        }
        buffer.extend_from_slice(data);
        Ok(())
    }

    /// Gives back what a buffer does not use at its end.
    pub(super) fn shrink(&mut self, buffer: &mut Vec<u8>) {
        let before = buffer.capacity();
        buffer.shrink_to_fit();
        if let Some(permit) = &mut self.permit {
            drop(permit.split(before - buffer.capacity().min(before)));
        }
    }
}

/// The request was sent, and its response has no room.
fn full() -> SendError {
    SendError::Interrupted(
        "the host has no room for the response now: the limit of memory for responses is reached"
            .to_owned(),
    )
}

/// A response, and its share of the memory for responses until the last copy is dropped.
#[derive(Debug, Clone)]
pub(crate) struct KeptResponse(Arc<(Response, Option<Reserved>)>);

impl KeptResponse {
    pub(super) fn new(response: Response, reserved: Reserved) -> Self {
        Self(Arc::new((response, Some(reserved))))
    }

    /// A copy for the guest, which has memory of its own.
    pub(crate) fn response(&self) -> Response {
        self.0.0.clone()
    }

    /// The status.
    pub(crate) fn status(&self) -> u16 {
        self.0.0.status
    }
}

impl PartialEq for KeptResponse {
    fn eq(&self, other: &Self) -> bool {
        self.0.0 == other.0.0
    }
}

/// A response that no service has sent. It takes no share.
impl From<Response> for KeptResponse {
    fn from(response: Response) -> Self {
        Self(Arc::new((response, None)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_responses_together_have_at_most_as_many_bytes_as_are_allowed() {
        let memory = ResponseMemory::new(1_000);
        let (mut first, mut second) = (memory.reserve(), memory.reserve());
        let mut buffer = Vec::new();
        first.append(&mut buffer, &[1; 600], 2_000).unwrap();
        assert_eq!(memory.usage(), (600, 1_000));
        assert_eq!(second.add(401).unwrap_err().code(), "interrupted");
        second.add(400).unwrap();
        assert_eq!(first.append(&mut buffer, &[1; 600], 2_000).unwrap_err().code(), "interrupted");
        assert_eq!((memory.usage().0, buffer.len()), (1_000, 600));
        drop(second);
        first.append(&mut buffer, &[1; 1], 2_000).unwrap_err();
        drop(first);
        assert_eq!(memory.usage().0, 0);
    }

    #[test]
    fn a_buffer_never_has_more_bytes_than_it_has_reserved_and_keeps_no_more_than_it_needs() {
        let memory = ResponseMemory::new(1 << 20);
        let (mut reserved, mut buffer) = (memory.reserve(), Vec::new());
        for _ in 0..1_000 {
            reserved.append(&mut buffer, b"abc", 3_000).unwrap();
            assert!(buffer.capacity() <= memory.usage().0, "{buffer:?} {memory:?}");
            assert!(memory.usage().0 <= 3_000);
        }
        reserved.append(&mut Vec::new(), b"x", 3_000).unwrap();
        let (mut reserved, mut buffer) = (memory.reserve(), Vec::new());
        let before = memory.usage().0;
        for _ in 0..5 {
            reserved.append(&mut buffer, b"abc", 3_000).unwrap();
        }
        reserved.shrink(&mut buffer);
        assert_eq!((memory.usage().0 - before, buffer.capacity()), (15, 15));
    }

    #[test]
    fn the_bytes_of_a_response_are_in_use_until_its_last_copy_is_dropped() {
        let memory = ResponseMemory::new(1_000);
        let mut reserved = memory.reserve();
        reserved.add(10).unwrap();
        let response = Response { status: 200, headers: Vec::new(), body: vec![0; 10] };
        let kept = KeptResponse::new(response, reserved);
        let recorded = kept.clone();
        drop((kept.response(), kept));
        assert_eq!(memory.usage().0, 10);
        drop(recorded);
        assert_eq!(memory.usage().0, 0);
    }
}
