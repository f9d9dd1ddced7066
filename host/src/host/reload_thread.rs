//! The thread that follows the plugin directory.

use std::io;
use std::thread;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::reload::{Reloader, ScanError};

/// Starts a thread that follows the plugin directory until `stop`: reading, hashing, linking and
/// writing there delay no event. The receiver gets the result of the first scan. The thread then
/// waits for the sender before it continues.
#[allow(clippy::type_complexity, reason = "the two ends of one conversation, used once")]
pub(super) fn follow(
    mut reloader: Reloader,
    stop: CancellationToken,
    tasks: &TaskTracker,
) -> io::Result<(oneshot::Receiver<Result<(), ScanError>>, oneshot::Sender<()>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (begun, has_begun) = oneshot::channel();
    let (go_on, may_go_on) = oneshot::channel();
    let (ended, has_ended) = oneshot::channel::<()>();
    let work = async move {
        let result = reloader.begin().await;
        let is_good = result.is_ok();
        if begun.send(result).is_ok() && is_good && may_go_on.await.is_ok() {
            reloader.run(stop).await;
        }
    };
    thread::Builder::new().name("sockhop-reload".to_owned()).spawn(move || {
        runtime.block_on(work);
        drop(ended);
    })?;
    // Makes the host's stop wait for the end of the thread.
    tasks.spawn(async { has_ended.await.unwrap_or_default() });
    Ok((has_begun, go_on))
}
