//! Spare buffers of each thread, so that a connection holds a buffer only while it has data.
use std::cell::RefCell;

/// The capacity of a buffer, in bytes, and so the maximum of one read. More saves system calls for
/// clients that send much at once; the spare buffers of a thread grow with it.
pub(crate) const SIZE: usize = 16 << 10;

/// How many buffers a thread keeps. A connection needs two at most while it is served.
const KEPT: usize = 32;

thread_local!(static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) });

/// Returns an empty buffer with a capacity of at least [`SIZE`].
pub(crate) fn take() -> Vec<u8> {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(SIZE))
}

/// Keeps a buffer for the next [`take`], or frees it if it is too small, too large or one too many.
pub(crate) fn give(mut buffer: Vec<u8>) {
    if !(SIZE..=4 * SIZE).contains(&buffer.capacity()) {
        return;
    }
    buffer.clear();
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < KEPT {
            spare.push(buffer);
        }
    });
}

/// Moves the content of a spare buffer that is mostly empty to one of its own size: it may have to
/// wait there for long.
pub(crate) fn shrink(buffer: &mut Vec<u8>) {
    if buffer.capacity() >= SIZE && buffer.len() <= SIZE / 2 {
        let small = buffer.as_slice().to_vec();
        give(std::mem::replace(buffer, small));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again() {
        let mut buffer = take();
        buffer.extend_from_slice(b"x");
        let place = buffer.as_ptr();
        give(buffer);
        let buffer = take();
        assert_eq!((buffer.as_ptr(), buffer.len()), (place, 0));
    }

    #[test]
    fn a_thread_keeps_few_buffers_and_none_that_is_large_or_small() {
        give(Vec::with_capacity(SIZE - 1));
        give(Vec::with_capacity(4 * SIZE + 1));
        assert!(SPARE.with_borrow(Vec::is_empty));
        for _ in 0..2 * KEPT {
            give(Vec::with_capacity(SIZE));
        }
        assert_eq!(SPARE.with_borrow(Vec::len), KEPT);
    }

    #[test]
    fn a_mostly_empty_buffer_shrinks_to_its_content() {
        let mut buffer = take();
        buffer.extend_from_slice(b"abc");
        shrink(&mut buffer);
        assert_eq!((buffer.as_slice(), buffer.capacity()), (&b"abc"[..], 3));
        assert_eq!(SPARE.with_borrow(Vec::len), 1);
    }
}
