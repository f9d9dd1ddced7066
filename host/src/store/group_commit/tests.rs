//! Tests of group commit: examples, a model of the queue, and a race of many tasks.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake};
use std::time::Duration;

use proptest::prelude::*;
use tokio::task::JoinSet;

use super::*;
use crate::store::tests::fresh;

fn change(store: &Arc<Store>, key: &str, bytes: usize) -> Changes {
    let mut view = store.view();
    view.set(key, vec![1; bytes]).unwrap();
    view.into_changes()
}

fn has(store: &Arc<Store>, key: &str) -> bool {
    store.view().get(key).unwrap().is_some()
}

fn is_pending(future: std::pin::Pin<&mut impl Future>) -> bool {
    future.poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

#[tokio::test]
async fn waiting_writers_share_one_commit() {
    let (_dir, store) = fresh();
    let held = store.lock_exclusive(None).await.unwrap();
    let mut first = pin!(store.commit_in_group(change(&store, "first", 1), None));
    let mut second = pin!(store.commit_in_group(change(&store, "second", 1), None));
    assert!(is_pending(first.as_mut()) && is_pending(second.as_mut()));
    let late = store.commit_in_group(change(&store, "late", 1), Some(Instant::now())).await;
    assert!(matches!(late, Err(CommitError::Late)));
    assert!(!has(&store, "first"));
    drop(held);
    let guard = first.await.unwrap();
    assert!(has(&store, "first") && has(&store, "second") && !has(&store, "late"));
    assert!(is_pending(second.as_mut()), "the effects of the first are delivered before");
    drop(guard);
    second.await.unwrap();
}

#[tokio::test]
async fn a_writer_behind_an_exclusive_lock_is_not_committed_before_it() {
    let (_dir, store) = fresh();
    let held = store.lock_exclusive(None).await.unwrap();
    let mut before = pin!(store.commit_in_group(change(&store, "before", 1), None));
    let mut exclusive = pin!(store.lock_exclusive(None));
    let mut behind = pin!(store.commit_in_group(change(&store, "behind", 1), None));
    assert!(is_pending(before.as_mut()) && is_pending(exclusive.as_mut()));
    assert!(is_pending(behind.as_mut()));
    drop(held);
    let guard = before.await.unwrap();
    assert!(has(&store, "before") && !has(&store, "behind"));
    drop(guard);
    let guard = exclusive.await.unwrap();
    let guard = guard.commit_exclusive(change(&store, "exclusive", 1)).await.unwrap();
    assert!(has(&store, "exclusive") && !has(&store, "behind"));
    drop(guard);
    behind.await.unwrap();
    assert!(has(&store, "behind"));
}

#[tokio::test]
async fn a_dropped_writer_stores_nothing() {
    let (_dir, store) = fresh();
    let held = store.lock_exclusive(None).await.unwrap();
    let mut gone = Box::pin(store.commit_in_group(change(&store, "gone", 1), None));
    assert!(is_pending(gone.as_mut()));
    drop(gone);
    drop(held);
    store.commit_in_group(change(&store, "other", 1), None).await.unwrap();
    assert!(has(&store, "other") && !has(&store, "gone"));
}

#[tokio::test]
async fn a_writer_that_is_late_gets_the_result_of_a_commit_that_has_begun() {
    let (_dir, store) = fresh();
    let mut first = Box::pin(store.commit_in_group(change(&store, "first", 1 << 17), None));
    let held = store.lock_exclusive(None).await.unwrap();
    assert!(is_pending(first.as_mut()));
    // Its changes are taken by the first writer, which does not deliver before the deadline.
    let deadline = Instant::now() + Duration::from_millis(20);
    let mut second = pin!(store.commit_in_group(change(&store, "second", 1), Some(deadline)));
    assert!(is_pending(second.as_mut()));
    drop(held);
    let guard = first.await.unwrap();
    assert!(has(&store, "second"));
    tokio::time::sleep_until(deadline.into()).await;
    assert!(is_pending(second.as_mut()));
    drop(guard);
    second.await.unwrap();
}

/// Number of the commit that wrote `key`; `None` if no commit did.
fn commit_of(store: &Arc<Store>, key: &str) -> Option<i64> {
    let reader = store.reader().unwrap();
    let version =
        reader.query_row("SELECT version FROM entries WHERE key = ?1", [key.as_bytes()], |row| {
            row.get(0)
        });
    store.keep_reader(reader);
    version.ok()
}

/// Ends after a number of turns of the runtime.
async fn turns(number: u64) {
    for _ in 0..number {
        tokio::task::yield_now().await;
    }
}

/// Commits one key as a writer that is exclusive, has a deadline, or writes too much for a commit
/// on the thread of the event, depending on its `number`. Adds the key to `delivered` while it has
/// the guard.
async fn write(store: Arc<Store>, number: u64, delivered: Arc<Mutex<Vec<String>>>) -> bool {
    let key = number.to_string();
    let changes = change(&store, &key, if number % 11 == 3 { 40 << 10 } else { 8 });
    let deadline =
        (number % 5 == 2).then(|| Instant::now() + Duration::from_micros(number % 3_000));
    let committed = if number % 7 == 4 {
        let Some(guard) = store.lock_exclusive(deadline).await else { return false };
        turns(number % 3).await;
        guard.commit_exclusive(changes).await
    } else {
        store.commit_in_group(changes, deadline).await
    };
    match committed {
        Ok(guard) => {
            std::thread::yield_now();
            lock(&delivered).push(key);
            drop(guard);
            true
        }
        Err(CommitError::Late) if deadline.is_some() => false,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn effects_are_delivered_in_the_order_of_commits_while_tasks_are_cancelled() {
    const WRITERS: u64 = 1_000;
    let (_dir, store) = fresh();
    let delivered = Arc::default();
    let mut tasks = JoinSet::new();
    for number in 0..WRITERS {
        let writing = write(Arc::clone(&store), number, Arc::clone(&delivered));
        tasks.spawn(async move {
            if number % 3 == 0 {
                tokio::select! {
                    delivered = writing => delivered,
                    () = turns(number % 23) => false,
                }
            } else {
                writing.await
            }
        });
        if number % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let ended = tokio::time::timeout(Duration::from_secs(60), tasks.join_all());
    let ended = ended.await.expect("a writer was not woken");
    let delivered = lock(&delivered).clone();
    assert_eq!(ended.iter().filter(|is_delivered| **is_delivered).count(), delivered.len());
    let must = (0..WRITERS).filter(|number| number % 3 != 0 && number % 5 != 2).count();
    assert!(delivered.len() >= must, "only cancelled and late writers deliver nothing");
    let commits: Vec<_> = delivered.iter().map(|key| commit_of(&store, key)).collect();
    assert!(commits.iter().all(Option::is_some), "what is delivered is stored");
    assert!(commits.is_sorted(), "{commits:?}");
    // A cancelled writer leaves the queue when its commit in the blocking pool has ended.
    drop(store.lock_exclusive(None).await.expect("every writer leaves the queue"));
    assert!(lock(&store.group.0).writers.is_empty(), "every writer has left the queue");
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What happens to a queue, in any order. A number chooses one of the writers.
#[derive(Debug, Clone)]
enum Happens {
    Joins {
        is_exclusive: bool,
    },
    /// The task of a writer runs: it waits, commits, or delivers and leaves.
    Runs(usize),
    /// The commit of a batch ends; `false` if it panics.
    Ends(bool),
    Dropped(usize),
    Late(usize),
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        3 => any::<bool>().prop_map(|is_exclusive| Happens::Joins { is_exclusive }),
        6 => any::<usize>().prop_map(Happens::Runs),
        2 => prop::bool::weighted(0.8).prop_map(Happens::Ends),
        1 => any::<usize>().prop_map(Happens::Dropped),
        1 => any::<usize>().prop_map(Happens::Late),
    ]
}

/// One writer as its task knows it.
#[derive(Default)]
struct Task {
    ticket: Ticket,
    is_exclusive: bool,
    has_guard: bool,
    /// Whether it waits since its last poll.
    is_waiting: bool,
    woken: Arc<Flag>,
}

/// A queue with the tasks that use it, as [`QueuePlace`] and [`CommitGuard`] do.
#[derive(Default)]
struct Model {
    queue: WriterQueue,
    tasks: Vec<Task>,
    /// The batch that is being committed. The guard is in that commit.
    committing: Option<Batch>,
    /// In the order in which their changes were taken.
    taken: Vec<Ticket>,
    lost: Vec<Ticket>,
    /// In the order in which they got the guard.
    granted: Vec<Ticket>,
}

impl Model {
    fn happens(&mut self, what: &Happens) {
        match *what {
            Happens::Joins { is_exclusive } => {
                let stage = if is_exclusive {
                    WriterStage::Exclusive
                } else {
                    WriterStage::Waiting(Changes::default())
                };
                let ticket = self.queue.push(stage);
                self.tasks.push(Task { ticket, is_exclusive, ..Task::default() });
            }
            Happens::Runs(task) => {
                if let Some(task) = self.choose(task) {
                    self.run(task);
                }
            }
            Happens::Ends(well) => {
                let Some(batch) = self.committing.take() else { return };
                if well {
                    batch.iter().for_each(|(ticket, _)| self.queue.record_result(*ticket, Ok(())));
                } else {
                    self.lost.extend(batch.iter().map(|(ticket, _)| *ticket));
                    self.leave(0);
                }
            }
            Happens::Dropped(task) => {
                if let Some(task) = self.choose(task) {
                    self.leave(task);
                }
            }
            Happens::Late(task) => {
                let Some(task) = self.choose(task).filter(|task| !self.tasks[*task].has_guard)
                else {
                    return;
                };
                let ticket = self.tasks[task].ticket;
                assert_eq!(self.queue.was_taken(ticket), self.taken.contains(&ticket));
                if !self.queue.was_taken(ticket) {
                    self.leave(task);
                }
            }
        }
    }

    /// A task that can do something: not the one whose guard is in a commit.
    fn choose(&self, number: usize) -> Option<usize> {
        let task = number.checked_rem(self.tasks.len())?;
        (!self.tasks[task].has_guard || self.committing.is_none()).then_some(task)
    }

    fn run(&mut self, index: usize) {
        let task = &mut self.tasks[index];
        let ticket = task.ticket;
        if task.has_guard {
            if !task.is_exclusive {
                let result = self.queue.take_result(ticket);
                assert_eq!(result.is_err(), self.lost.contains(&ticket), "{result:?}");
            }
            self.leave(index);
            return;
        }
        task.woken.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(&task.woken));
        task.is_waiting = self.queue.poll_first(ticket, &waker).is_pending();
        assert_eq!(task.is_waiting, index != 0, "the oldest writer has the lock");
        if task.is_waiting {
            return;
        }
        task.has_guard = true;
        self.granted.push(ticket);
        if task.is_exclusive {
            assert!(self.taken.iter().all(|taken| *taken < ticket), "one behind was committed");
        } else {
            let batch = self.queue.take_batch();
            self.taken.extend(batch.iter().map(|(ticket, _)| *ticket));
            self.committing = Some(batch).filter(|batch| !batch.is_empty());
            assert!(self.taken.contains(&ticket));
        }
    }

    fn leave(&mut self, index: usize) {
        let next = self.queue.remove(self.tasks.remove(index).ticket);
        next.into_iter().for_each(Waker::wake);
    }

    fn check(&self) {
        let tickets: Vec<_> = self.queue.writers.iter().map(|writer| writer.ticket).collect();
        assert_eq!(tickets, self.tasks.iter().map(|task| task.ticket).collect::<Vec<_>>());
        assert!(self.taken.is_sorted(), "commits: {:?}", self.taken);
        assert!(self.granted.is_sorted(), "deliveries: {:?}", self.granted);
        if let Some(first) = self.tasks.first() {
            let is_woken = first.woken.0.load(Ordering::Relaxed);
            assert!(!first.is_waiting || is_woken, "the first writer waits and was not woken");
        }
        let is_waiting = |writer: &QueuedWriter| {
            matches!(writer.stage, WriterStage::Waiting(_) | WriterStage::Exclusive)
        };
        assert!(self.queue.writers.iter().map(is_waiting).is_sorted(), "{:?}", self.queue);
    }
}

proptest! {
    #[test]
    fn the_oldest_writer_has_the_lock_and_commits_are_in_the_order_of_the_queue(
        all in prop::collection::vec(happens(), 1..200),
    ) {
        let mut model = Model::default();
        for what in &all {
            model.happens(what);
            model.check();
        }
        // Whatever has happened, every writer comes to its end.
        while !model.tasks.is_empty() {
            model.happens(&Happens::Ends(true));
            model.happens(&Happens::Runs(0));
            model.check();
        }
    }
}
