//! The table of sessions, and the place that each occupies until it has ended completely.
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use tokio::sync::Mutex as AsyncMutex;

use super::end::End;
use super::memory::Memory;
use super::session::Session;
use super::sid::Sid;

/// The protocol of a session that began with polling: a POST, the keeper or the WebSocket that
/// took over speaks to it, one at a time.
pub(crate) type Shared<P> = Arc<AsyncMutex<P>>;

/// What a request with a session id finds.
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
    table: Mutex<Table<P>>,
}

#[derive(Debug)]
struct Table<P> {
    closed: bool,
    entries: HashMap<Sid, Entry<P>, RandomState>,
}

impl<P> Sessions<P> {
    pub(crate) fn new(memory: &Arc<Memory>, max: usize) -> Self {
        let table = Table { closed: false, entries: HashMap::default() };
        Self { memory: Arc::clone(memory), max, table: Mutex::new(table) }
    }

    fn table(&self) -> MutexGuard<'_, Table<P>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a place for one more session, or `None` if there are too many or the server stops.
    pub(crate) fn place(self: &Arc<Self>) -> Option<Place<P>> {
        if self.table().closed {
            return None;
        }
        let count = &self.memory.sessions;
        let free = |count: usize| (count < self.max).then_some(count + 1);
        count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free).ok()?;
        Some(Place { sessions: Arc::clone(self), session: None })
    }

    pub(crate) fn find(&self, sid: &str) -> Option<Entry<P>> {
        self.table().entries.get(&Sid::parse(sid)?).cloned()
    }

    /// Ends all sessions, and those that are still being opened.
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

/// The permit of one session among [`Config::max_sessions`](super::Config::max_sessions). The task
/// that owns the session holds it. Dropping it removes the session.
#[derive(Debug)]
pub(crate) struct Place<P> {
    sessions: Arc<Sessions<P>>,
    session: Option<Arc<Session>>,
}

impl<P> Place<P> {
    /// Lets requests find the session.
    pub(crate) fn list(&mut self, entry: Entry<P>) {
        let session = Arc::clone(&entry.session);
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

    /// Requests find the session no more.
    pub(crate) fn unlist(&mut self) {
        if let Some(session) = &self.session {
            let entry = self.sessions.table().entries.remove(&session.sid());
            // The protocol, if this was its last use, is dropped without the lock.
            drop(entry);
        }
    }
}

impl<P> Drop for Place<P> {
    fn drop(&mut self) {
        self.unlist();
        // Has an effect only if the owner did not get to its end, because a handler panicked.
        if let Some(session) = self.session.take() {
            session.end(End::Aborted);
            session.finish();
        }
        self.sessions.memory.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::Config;
    use super::super::session::Transport;
    use super::*;

    fn sessions(max: usize) -> Arc<Sessions<()>> {
        let memory = Arc::new(Memory::new(&Config::default()));
        Arc::new(Sessions::new(&memory, max))
    }

    fn session(sessions: &Sessions<()>) -> Arc<Session> {
        let config = Arc::new(Config::default());
        Session::new(Sid::random().unwrap(), &config, &sessions.memory, Transport::Polling)
    }

    #[test]
    fn a_place_is_occupied_until_it_is_dropped() {
        let sessions = sessions(2);
        let (first, second) = (sessions.place(), sessions.place());
        assert!(first.is_some() && second.is_some() && sessions.place().is_none());
        drop(first);
        assert!(sessions.place().is_some());
        assert_eq!(sessions.memory.sessions.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_session_is_found_while_it_is_listed_and_never_survives_its_place() {
        let sessions = sessions(1);
        let session = session(&sessions);
        let mut place = sessions.place().unwrap();
        place.list(Entry { session: Arc::clone(&session), protocol: None });
        assert!(sessions.find(session.sid().as_str()).is_some());
        assert!(sessions.find("0123456789abcdef").is_none());
        drop(place);
        assert!(sessions.find(session.sid().as_str()).is_none());
        assert_eq!(session.ended(), Some(End::Aborted));
    }

    #[test]
    fn a_server_that_stops_ends_what_it_has_and_opens_nothing() {
        let sessions = sessions(9);
        let (one, late) = (session(&sessions), session(&sessions));
        let (mut place, mut late_place) = (sessions.place().unwrap(), sessions.place().unwrap());
        place.list(Entry { session: Arc::clone(&one), protocol: None });
        sessions.close();
        late_place.list(Entry { session: Arc::clone(&late), protocol: None });
        assert_eq!([one.ended(), late.ended()], [Some(End::Shutdown); 2]);
        assert!(sessions.place().is_none());
    }
}
