//! Panics in the task of a session: they are caught, so that the session ends like any other.
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::Poll;

use tracing::error;

use super::end::End;
use super::session::Session;

/// Runs a future to its end, and calls `pending` each time it waits. Returns `None` if it panicked.
///
/// Changes of a future that panicked may be incomplete: the caller must only end the session.
pub(crate) async fn catch<T>(
    mut future: Pin<&mut impl Future<Output = T>>,
    pending: impl Fn(),
) -> Option<T> {
    poll_fn(|cx| {
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(Poll::Ready(done)) => Poll::Ready(Some(done)),
            Ok(Poll::Pending) => {
                pending();
                Poll::Pending
            }
            // The panic hook has written the message.
            Err(_) => Poll::Ready(None),
        }
    })
    .await
}

/// Logs a panic that the protocol has not caught itself. Returns the reason for the session's end.
pub(crate) fn panicked(session: &Session) -> End {
    error!(session = ?session.sid(), "session task panicked, session ends");
    End::Aborted
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::pin::pin;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_caught_before_and_after_a_future_waits() {
        let waited = Cell::new(0);
        let run = async |panics_at: u32| {
            let steps = async {
                for step in 0..3 {
                    assert_ne!(step, panics_at, "as the test wants");
                    tokio::task::yield_now().await;
                }
            };
            let done = catch(pin!(steps), || waited.set(waited.get() + 1)).await;
            (done, waited.replace(0))
        };
        assert_eq!(run(9).await, (Some(()), 3));
        assert_eq!(run(0).await, (None, 0));
        assert_eq!(run(2).await, (None, 2));
    }
}
