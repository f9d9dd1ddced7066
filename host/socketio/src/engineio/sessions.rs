//! The table of sessions, and the permit that the owner of a session holds until the session has
//! ended completely.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use tokio::sync::Mutex as AsyncMutex;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::end::End;
use super::memory::{Memory, Slot};
use super::session::Session;
use super::sid::Sid;

/// The protocol of a session that began with polling. POSTs, the task that owns the session, and
/// the WebSocket after an upgrade use it, one at a time.
pub(crate) type Shared<P> = Arc<AsyncMutex<P>>;

/// The session that a request names, and its protocol.
#[derive(Debug)]
pub(crate) struct Entry<P> {
    pub(crate) session: Arc<Session>,
    /// `None` if the session began with a WebSocket, whose task owns the protocol.
    pub(crate) protocol: Option<Shared<P>>,
}

impl<P> Clone for Entry<P> {
    fn clone(&self) -> Self {
        Self { session: Arc::clone(&self.session), protocol: self.protocol.clone() }
    }
}

/// All sessions of a server.
#[derive(Debug)]
pub(crate) struct Sessions<P> {
    memory: Arc<Memory>,
    max: usize,
    tasks: TaskTracker,
    table: Mutex<Table<P>>,
}

#[derive(Debug)]
struct Table<P> {
    closed: bool,
    entries: HashMap<Sid, Entry<P>, RandomState>,
}

impl<P> Sessions<P> {
    pub(crate) fn new(memory: &Arc<Memory>, max: usize, tasks: &TaskTracker) -> Self {
        let table = Table { closed: false, entries: HashMap::default() };
        Self { memory: Arc::clone(memory), max, tasks: tasks.clone(), table: Mutex::new(table) }
    }

    fn table(&self) -> MutexGuard<'_, Table<P>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a permit for one more session, or `None` if there are too many or the server stops.
    pub(crate) fn try_acquire(self: &Arc<Self>) -> Option<SessionPermit<P>> {
        let table = self.table();
        if table.closed {
            return None;
        }
        let slot = Slot::take(&self.memory, self.max)?;
        // Taken under the lock: a server that stops waits for every session that it lets open.
        let token = Some(self.tasks.token());
        drop(table);
        Some(SessionPermit { sessions: Arc::clone(self), session: None, slot, token })
    }

    pub(crate) fn find(&self, sid: &str) -> Option<Entry<P>> {
        self.table().entries.get(&Sid::parse(sid)?).cloned()
    }

    /// Ends all sessions, also sessions that are still being opened.
    pub(crate) fn close(&self) {
        let sessions: Vec<_> = {
            let mut table = self.table();
            table.closed = true;
            table.entries.values().map(|entry| Arc::clone(&entry.session)).collect()
        };
        for session in sessions {
            session.end(End::Shutdown);
        }
    }
}

/// The permit for one session. It counts against
/// [`Config::max_sessions`](super::Config::max_sessions). The task that owns the session holds it.
/// Dropping it removes the session.
#[derive(Debug)]
pub(crate) struct SessionPermit<P> {
    sessions: Arc<Sessions<P>>,
    session: Option<Arc<Session>>,
    /// Counts the session until this permit and all answers to its polls are dropped.
    slot: Arc<Slot>,
    /// Makes a server that stops wait until the task that owns the session has started, and is
    /// waited for itself.
    token: Option<TaskTrackerToken>,
}

impl<P> SessionPermit<P> {
    /// Called by the task that owns the session when it starts.
    pub(crate) fn task_started(&mut self) {
        self.token = None;
    }

    /// Adds the session to the table, so that requests find it.
    pub(crate) fn register(&mut self, entry: Entry<P>) {
        let session = Arc::clone(&entry.session);
        session.set_slot(&self.slot);
        self.session = Some(Arc::clone(&session));
        let closed = {
            let mut table = self.sessions.table();
            table.entries.insert(session.sid(), entry);
            table.closed
        };
        // It was opened while the server began to stop.
        if closed {
            session.end(End::Shutdown);
        }
    }

    /// Removes the session from the table, so that requests no longer find it.
    pub(crate) fn unregister(&mut self) {
        if let Some(session) = &self.session {
            let entry = self.sessions.table().entries.remove(&session.sid());
            // The protocol, if this was its last use, is dropped without the lock.
            drop(entry);
        }
    }
}

impl<P> Drop for SessionPermit<P> {
    fn drop(&mut self) {
        self.unregister();
        // Without effect if the owner has ended the session. Otherwise the owner was dropped or has
        // panicked.
        if let Some(session) = self.session.take() {
            session.end(End::Aborted);
            session.finish();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::super::config::Config;
    use super::super::session::Transport;
    use super::*;

    fn sessions(max: usize) -> Arc<Sessions<()>> {
        let memory = Arc::new(Memory::new(&Config::default()));
        Arc::new(Sessions::new(&memory, max, &TaskTracker::new()))
    }

    fn session(sessions: &Sessions<()>) -> Arc<Session> {
        let config = Arc::new(Config::default());
        Session::new(Sid::random().unwrap(), &config, &sessions.memory, Transport::Polling)
    }

    #[test]
    fn a_permit_counts_until_it_is_dropped() {
        let sessions = sessions(2);
        let (first, second) = (sessions.try_acquire(), sessions.try_acquire());
        assert!(first.is_some() && second.is_some() && sessions.try_acquire().is_none());
        drop(first);
        assert!(sessions.try_acquire().is_some());
        assert_eq!(sessions.memory.sessions.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_session_is_found_while_it_is_registered_and_ends_with_its_permit() {
        let sessions = sessions(1);
        let session = session(&sessions);
        let mut permit = sessions.try_acquire().unwrap();
        permit.register(Entry { session: Arc::clone(&session), protocol: None });
        assert!(sessions.find(session.sid().as_str()).is_some());
        assert!(sessions.find("0123456789abcdef").is_none());
        drop(permit);
        assert!(sessions.find(session.sid().as_str()).is_none());
        assert_eq!(session.ended(), Some(End::Aborted));
    }

    #[tokio::test]
    async fn a_server_that_stops_waits_for_a_session_that_is_being_opened() {
        let sessions = sessions(1);
        let permit = sessions.try_acquire().unwrap();
        sessions.close();
        sessions.tasks.close();
        let mut wait = std::pin::pin!(sessions.tasks.wait());
        let at_once = tokio::time::timeout(std::time::Duration::from_millis(20), wait.as_mut());
        assert!(at_once.await.is_err());
        drop(permit);
        wait.await;
    }

    #[test]
    fn a_server_that_stops_ends_its_sessions_and_opens_no_more() {
        let sessions = sessions(9);
        let (one, late) = (session(&sessions), session(&sessions));
        let (mut permit, mut late_permit) =
            (sessions.try_acquire().unwrap(), sessions.try_acquire().unwrap());
        permit.register(Entry { session: Arc::clone(&one), protocol: None });
        sessions.close();
        late_permit.register(Entry { session: Arc::clone(&late), protocol: None });
        assert_eq!([one.ended(), late.ended()], [Some(End::Shutdown); 2]);
        assert!(sessions.try_acquire().is_none());
    }
}
