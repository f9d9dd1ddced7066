//! Panics of the host: each becomes one record, whether it is caught or not. The standard hook
//! would write to standard error on the panicking thread, and would block if it is not read.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::pin::Pin;
use std::task::Poll;

/// The message and the place of a panic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Panic {
    /// The message.
    pub(crate) message: String,
    /// `file:line:column` in the host's source; empty if no hook is installed.
    pub(crate) location: String,
}

thread_local! {
    /// Whether [`catch`] catches a panic on this thread; its caller reports the panic.
    static IS_CAUGHT: Cell<bool> = const { Cell::new(false) };
    /// The panic that [`catch`] will catch next.
    static LAST: RefCell<Option<Panic>> = const { RefCell::new(None) };
}

/// Installs the hook that logs panics, except those that [`catch`] catches.
pub(super) fn install() {
    std::panic::set_hook(Box::new(|info| {
        let panic = Panic::of(info);
        if IS_CAUGHT.get() {
            LAST.with(|last| last.replace(Some(panic)));
            return;
        }
        let thread = std::thread::current();
        tracing::error!(
            error = panic.message,
            location = panic.location,
            thread = thread.name(),
            "the host panicked"
        );
    }));
}

impl Panic {
    fn of(info: &PanicHookInfo<'_>) -> Self {
        let location = info.location().map(ToString::to_string).unwrap_or_default();
        Self { message: message(info.payload()), location }
    }
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_owned()
}

/// Awaits `future`.
///
/// # Errors
/// The panic, if `future` panics. The caller logs it with what it knows of the cause.
pub(crate) async fn catch<F: Future>(mut future: Pin<&mut F>) -> Result<F::Output, Panic> {
    // Unwind safe: a panic ends the future, and none of its own data is used after that. What the
    // future has borrowed is for the caller to judge.
    poll_fn(|context| {
        let before = IS_CAUGHT.replace(true);
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)));
        IS_CAUGHT.set(before);
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Err(payload) => {
                let known = LAST.with(RefCell::take);
                Poll::Ready(Err(known.unwrap_or_else(|| Panic {
                    message: message(payload.as_ref()),
                    location: String::new(),
                })))
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_caught_with_its_message() {
        let broken = pin!(async {
            tokio::task::yield_now().await;
            let number = std::hint::black_box(7);
            panic!("number {number}")
        });
        let caught: Result<(), _> = catch(broken).await;
        assert_eq!(caught.unwrap_err().message, "number 7");
        assert_eq!(catch(pin!(async { 1 })).await, Ok(1));
    }
}
