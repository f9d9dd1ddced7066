//! The traits that an application implements to use sessions, and the batch that it flushes after
//! its work.
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::StatusCode;
use http::request::Parts;
use tokio_util::task::TaskTracker;

use super::config::Config;
use super::end::End;
use super::memory::{Memory, Usage};
use super::outgoing::Frame;
use super::session::{Session, Transport};
use super::sessions::Sessions;
use super::sid::Sid;

/// Sessions with queued messages. Each is flushed when a batch of work is over, at the latest when
/// the last clone is dropped. A session is flushed earlier if 64 KiB are queued for it, and all
/// sessions are flushed earlier if the batch has its maximum number of entries.
#[derive(Debug, Default, Clone)]
pub struct Batch(Arc<Pending>);

#[derive(Debug, Default)]
struct Pending {
    /// The session whose task has begun the batch: most batches have no other.
    own: Option<Arc<Session>>,
    own_waits: AtomicBool,
    others: Mutex<Vec<Arc<Session>>>,
    /// Whether `others` may have entries: set after they were added.
    others_wait: AtomicBool,
}

/// Maximum number of entries of a batch, one for each message: the events of one read may cause
/// messages to any number of sessions.
const MAX_PENDING: usize = 1024;

impl Batch {
    /// A batch of the task of this session.
    pub(crate) fn of(session: &Arc<Session>) -> Self {
        let mut pending = Pending::default();
        pending.own = Some(Arc::clone(session));
        Self(Arc::new(pending))
    }

    /// Has `session` flushed at the end of the batch.
    pub fn add(&self, session: &Arc<Session>) {
        let pending = &*self.0;
        if pending.own.as_ref().is_some_and(|own| Arc::ptr_eq(own, session)) {
            pending.own_waits.store(true, Ordering::Release);
            return;
        }
        let mut others = pending.others();
        if others.last().is_some_and(|last| Arc::ptr_eq(last, session)) {
            return;
        }
        others.push(Arc::clone(session));
        let is_full = others.len() >= MAX_PENDING;
        pending.others_wait.store(true, Ordering::Release);
        drop(others);
        if is_full {
            self.flush();
        }
    }

    /// Flushes all sessions now.
    pub fn flush(&self) {
        self.0.flush();
    }
}

impl Pending {
    fn others(&self) -> MutexGuard<'_, Vec<Arc<Session>>> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flush(&self) {
        if let Some(own) = &self.own
            && take(&self.own_waits)
        {
            own.flush();
        }
        if take(&self.others_wait) {
            let sessions = std::mem::take(&mut *self.others());
            for session in sessions {
                session.flush();
            }
        }
    }
}

/// Whether the flag was set, which it is not any more.
fn take(flag: &AtomicBool) -> bool {
    flag.load(Ordering::Relaxed) && flag.swap(false, Ordering::Acquire)
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.flush();
    }
}

/// The protocol above one session.
///
/// All methods are called one at a time, in the order in which messages arrive, from a task of the
/// session. While one runs, nothing more is read from the client. The client is still pinged, a
/// missing pong does not end the session, and messages that are queued meanwhile are sent. The
/// session itself is flushed after each call; other sessions must be added to the `batch`. The
/// futures are not cancelled when the client disconnects.
pub trait Protocol: Send + 'static {
    /// Handles one text message.
    ///
    /// # Errors
    ///
    /// The reason for which the session ends.
    fn text(&mut self, text: &str, batch: &Batch) -> impl Future<Output = Result<(), End>> + Send;

    /// Handles one binary message.
    ///
    /// # Errors
    ///
    /// The reason for which the session ends.
    fn binary(
        &mut self,
        data: &[u8],
        batch: &Batch,
    ) -> impl Future<Output = Result<(), End>> + Send;

    /// Called after [`Session::wake`], also if it was called many times. Not called between two
    /// messages of one read, and not after the session's end.
    ///
    /// # Errors
    ///
    /// The reason for which the session ends.
    fn woken(&mut self, batch: &Batch) -> impl Future<Output = Result<(), End>> + Send {
        let _ = batch;
        std::future::ready(Ok(()))
    }

    /// Cleans up: called once, after everything else, also after a panic of another method, with
    /// [`End::Aborted`]. The session counts against
    /// [`Config::max_sessions`](super::Config::max_sessions) until the future has returned.
    fn closed(&mut self, end: End, batch: &Batch) -> impl Future<Output = ()> + Send;
}

/// Why a session is refused: an HTTP answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The status of the answer.
    pub status: StatusCode,
    /// The body of the answer, as text for people.
    pub message: String,
}

/// Makes the protocol of each session.
pub trait Service: Send + Sync + 'static {
    /// The protocol above a session.
    type Protocol: Protocol;

    /// Accepts a session. Called once for each handshake, before it is answered; messages queued
    /// here follow the handshake.
    ///
    /// # Errors
    ///
    /// The answer to the handshake, if there is to be no session.
    fn open(
        self: &Arc<Self>,
        session: &Arc<Session>,
        request: &Parts,
    ) -> Result<Self::Protocol, Refused>;
}

/// An Engine.IO server.
pub struct Engine<S: Service> {
    config: Arc<Config>,
    service: Arc<S>,
    memory: Arc<Memory>,
    sessions: Arc<Sessions<S::Protocol>>,
    tasks: TaskTracker,
}

impl<S: Service> fmt::Debug for Engine<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("usage", &self.usage()).finish_non_exhaustive()
    }
}

impl<S: Service> Engine<S> {
    /// Returns a server with these settings. Its methods must be called in a tokio runtime.
    pub fn new(config: Config, service: Arc<S>) -> Arc<Self> {
        Self::with_tasks(config, service, TaskTracker::new())
    }

    /// Like [`new`](Self::new), for a service that spawns tasks of its own in `tasks`.
    pub(crate) fn with_tasks(config: Config, service: Arc<S>, tasks: TaskTracker) -> Arc<Self> {
        let memory = Arc::new(Memory::new(&config));
        let sessions = Arc::new(Sessions::new(&memory, config.max_sessions, &tasks));
        Arc::new(Self { config: Arc::new(config), service, memory, sessions, tasks })
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The service.
    pub fn service(&self) -> &Arc<S> {
        &self.service
    }

    /// Encodes a message for [`Session::shared`].
    pub fn frame(&self, text: &[&[u8]], attachments: &[Bytes]) -> Frame {
        Frame::new(&self.memory, text, attachments)
    }

    /// Whether requests for this path are the server's.
    pub fn serves(&self, path: &str) -> bool {
        path.strip_prefix(&*self.config.path).is_some_and(|rest| matches!(rest, "" | "/"))
    }

    /// How much of its bounds the server uses.
    pub fn usage(&self) -> Usage {
        Usage {
            sessions: self.memory.sessions.load(Ordering::Relaxed),
            queued_bytes: self.memory.outgoing.used(),
            unfinished_bytes: self.memory.incoming.used(),
            tasks: self.tasks.len(),
        }
    }

    /// The tasks of the server: a task that is spawned here is awaited by [`wait`](Self::wait).
    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Ends all sessions with [`End::Shutdown`] and refuses new ones. Queued messages are still
    /// delivered, so requests of these sessions must reach the engine until [`wait`](Self::wait)
    /// has returned. Clients receive no close packet, so that they connect again.
    pub fn close(&self) {
        self.sessions.close();
        self.tasks.close();
    }

    /// Waits until all tasks have ended, after [`close`](Self::close). Handlers that run are
    /// awaited, and clients that read slowly within [`Config::delivery_timeout`], so the caller may
    /// want a deadline.
    pub async fn wait(&self) {
        self.tasks.wait().await;
    }

    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    pub(crate) fn sessions(&self) -> &Arc<Sessions<S::Protocol>> {
        &self.sessions
    }

    pub(crate) fn new_session(
        &self,
        transport: Transport,
    ) -> Result<Arc<Session>, getrandom::Error> {
        let sid = Sid::random()?;
        Ok(Session::new(sid, &self.config, &self.memory, transport))
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Wake, Waker};

    use super::*;
    use crate::engineio::testing::session;

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_batch_flushes_the_session_that_began_it_also_from_the_last_clone() {
        let session = session();
        let mut poll = session.start_poll().unwrap();
        let woken = Arc::<Woken>::default();
        let waker = Waker::from(Arc::clone(&woken));
        assert!(poll.poll_packets(&mut Context::from_waker(&waker)).is_pending());
        let is_woken = || woken.0.swap(false, Ordering::Relaxed);
        let batch = Batch::of(&session);
        batch.flush();
        assert!(!is_woken());
        for _ in 0..2 {
            assert!(session.text(&[b"2[]"], &[]) && !is_woken());
            batch.add(&session);
            batch.flush();
            assert!(is_woken());
        }
        let late = batch.clone();
        drop(batch);
        late.add(&session);
        assert!(!is_woken());
        drop(late);
        assert!(is_woken());
    }

    #[test]
    fn a_batch_is_flushed_at_its_maximum_number_of_entries() {
        let (batch, one, other) = (Batch::default(), session(), session());
        let entries = || batch.0.others().len();
        for _ in 0..10 {
            batch.add(&one);
        }
        assert_eq!(entries(), 1);
        for _ in 0..10 * MAX_PENDING {
            batch.add(&other);
            batch.add(&one);
            assert!(entries() < MAX_PENDING);
        }
    }
}
