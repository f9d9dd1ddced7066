//! One task for each plugin that serves: it begins when the plugin does, and ends when the plugin
//! is gone. A task that panics begins again. This module does not know what the tasks do.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::log;
use crate::registry::Registry;

/// The time between a panic of a task and its next begin. A task that panics at once uses little
/// of a processor with it, and writes few log lines.
const PAUSE: Duration = Duration::from_secs(1);

/// What the tasks do.
pub(crate) trait PluginWork: Send + Sync + 'static {
    /// What the log calls it.
    const NAME: &'static str;

    /// What the task of one plugin knows.
    type Task: Send;

    /// Returns what the task of this plugin knows when it begins.
    fn begin(plugin: String) -> Self::Task;

    /// Works for one plugin. Returns after the plugin is gone, or the host stops.
    fn serve(self: &Arc<Self>, task: &mut Self::Task) -> impl Future<Output = ()> + Send;

    /// Waits for all that [`PluginWork::serve`] has begun. Called after it, so that the next task
    /// of the plugin does nothing twice. After a panic, `task` is as the panic has left it.
    fn finish(&self, task: &mut Self::Task) -> impl Future<Output = ()> + Send;
}

/// Runs one task for each plugin that serves.
pub(crate) struct PluginTasks {
    registry: Arc<Registry>,
    /// The plugins with a task.
    served: Mutex<HashSet<String>>,
    stopped: CancellationToken,
    tasks: TaskTracker,
}

impl PluginTasks {
    /// No task begins after `stopped` is cancelled.
    pub(crate) fn new(registry: Arc<Registry>, stopped: CancellationToken) -> Arc<Self> {
        Arc::new(Self { registry, served: Mutex::default(), stopped, tasks: TaskTracker::new() })
    }

    /// Does this work for each plugin from now on.
    pub(crate) fn start<W: PluginWork>(self: &Arc<Self>, work: &Arc<W>) {
        let (this, work) = (Arc::clone(self), Arc::clone(work));
        self.tasks.spawn(async move {
            let mut changes = this.registry.changes();
            this.serve_new_plugins(&work);
            while let Some(Ok(())) = this.stopped.run_until_cancelled(changes.changed()).await {
                this.serve_new_plugins(&work);
            }
        });
    }

    /// Returns when all tasks have ended, after `stopped` was cancelled.
    pub(crate) async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// The lock is held for one operation. A panic leaves the set consistent.
    fn served(&self) -> MutexGuard<'_, HashSet<String>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a task for each plugin that serves and has none.
    fn serve_new_plugins<W: PluginWork>(self: &Arc<Self>, work: &Arc<W>) {
        for active in &self.registry.snapshot().plugins {
            self.begin(work, active.code.name());
        }
    }

    /// Begins the task of a plugin, if it has none.
    fn begin<W: PluginWork>(self: &Arc<Self>, work: &Arc<W>, plugin: &str) {
        if self.served().insert(plugin.to_owned()) {
            let (this, work, plugin) = (Arc::clone(self), Arc::clone(work), plugin.to_owned());
            self.tasks.spawn(async move { this.run(&work, &plugin).await });
        }
    }

    async fn run<W: PluginWork>(self: Arc<Self>, work: &Arc<W>, plugin: &str) {
        while !self.stopped.is_cancelled() {
            let mut task = W::begin(plugin.to_owned());
            let has_served = caught::<W>(plugin, work.serve(&mut task)).await;
            // What the task has begun would be aborted with it.
            let has_finished = caught::<W>(plugin, work.finish(&mut task)).await;
            if has_served && has_finished {
                break;
            }
            self.stopped.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
        }
        self.served().remove(plugin);
        // The plugin may have come back after its task has looked for the last time.
        if !self.stopped.is_cancelled() && self.registry.snapshot().plugin(plugin).is_some() {
            self.serve_new_plugins(work);
        }
    }
}

/// Awaits a part of a task. Logs a panic, and returns whether there was none.
async fn caught<W: PluginWork>(plugin: &str, part: impl Future<Output = ()> + Send) -> bool {
    let mut part = Box::pin(part);
    let caught = log::catch(part.as_mut()).await;
    if let Err(panic) = &caught {
        tracing::error!(
            plugin,
            work = W::NAME,
            error = panic.message,
            location = panic.location,
            "the host panicked in a task of a plugin: the task begins again"
        );
    }
    caught.is_ok()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// Panics so many times, and has then nothing to do.
    struct Fragile {
        panics: usize,
        calls: Mutex<Vec<&'static str>>,
        stopped: CancellationToken,
        /// How many calls of `finish` stop the host.
        stops_after: usize,
    }

    impl Fragile {
        fn called(&self, name: &'static str) -> usize {
            let mut calls = self.calls.lock().unwrap();
            calls.push(name);
            calls.iter().filter(|call| **call == name).count()
        }
    }

    impl PluginWork for Fragile {
        const NAME: &'static str = "fragile";

        type Task = ();

        fn begin(plugin: String) {
            assert_eq!(plugin, "lab");
        }

        async fn serve(self: &Arc<Self>, (): &mut ()) {
            tokio::task::yield_now().await;
            assert!(self.called("serve") > self.panics, "broken");
        }

        async fn finish(&self, (): &mut ()) {
            if self.called("finish") == self.stops_after {
                self.stopped.cancel();
            }
        }
    }

    fn fragile(panics: usize, stops_after: usize) -> (Arc<PluginTasks>, Arc<Fragile>) {
        let stopped = CancellationToken::new();
        let tasks = PluginTasks::new(Arc::default(), stopped.clone());
        let calls = Mutex::default();
        (tasks, Arc::new(Fragile { panics, calls, stopped, stops_after }))
    }

    #[tokio::test]
    async fn a_task_that_panics_begins_again_after_a_pause_when_what_it_began_has_ended() {
        let (tasks, work) = fragile(1, usize::MAX);
        let began = Instant::now();
        tasks.begin(&work, "lab");
        // It has a task already.
        tasks.begin(&work, "lab");
        tasks.ended().await;
        assert_eq!(*work.calls.lock().unwrap(), ["serve", "finish", "serve", "finish"]);
        assert!(began.elapsed() >= PAUSE, "{:?}", began.elapsed());
        assert!(tasks.served().is_empty());
    }

    #[tokio::test]
    async fn a_task_that_panics_does_not_begin_again_while_the_host_stops() {
        let (tasks, work) = fragile(usize::MAX, 1);
        tasks.begin(&work, "lab");
        tasks.ended().await;
        assert_eq!(*work.calls.lock().unwrap(), ["serve", "finish"]);
    }
}
