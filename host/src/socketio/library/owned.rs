//! The attachments of clients, which the host keeps for a while.

use bytes::Bytes;

/// Returns an attachment that keeps no more memory than is counted for it. A small attachment would
/// keep the far larger buffer into which its transport read it.
pub(super) fn own(attachment: Bytes) -> Bytes {
    if attachment.len() < READ_BUFFER_BYTES {
        Bytes::copy_from_slice(&attachment)
    } else {
        attachment
    }
}

/// An attachment of at least this many bytes is about as large as the buffer into which it was
/// read.
const READ_BUFFER_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_attachment_does_not_keep_the_buffer_in_which_it_was_read() {
        for (length, is_copied) in
            [(1, true), (READ_BUFFER_BYTES - 1, true), (READ_BUFFER_BYTES, false)]
        {
            let buffer = Bytes::from(vec![7; 2 * READ_BUFFER_BYTES]);
            let owned = own(buffer.slice(..length));
            assert_eq!(owned, buffer.slice(..length));
            assert_eq!(owned.as_ptr() != buffer.as_ptr(), is_copied, "{length}");
        }
    }
}
