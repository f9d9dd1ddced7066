//! Acts when the tokens of connections expire. One timer serves all connections.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio_util::time::DelayQueue;
use tokio_util::time::delay_queue::Key;

use super::Sockets;

/// The connections whose tokens expire, each with the time at which to look at its token. A timer
/// wheel: to add, move and remove a connection costs the same however many there are.
pub(super) struct Expiries<C>(Mutex<Queue<C>>);

struct Queue<C> {
    due: DelayQueue<Weak<C>>,
    /// The places in `due`, by the memory addresses of the clients.
    places: HashMap<usize, Key>,
}

impl<C> Default for Expiries<C> {
    fn default() -> Self {
        Self(Mutex::new(Queue { due: DelayQueue::new(), places: HashMap::new() }))
    }
}

impl<C> Expiries<C> {
    /// Sets when to look at the token of a client. Replaces the time that was set before.
    pub(super) fn set(&self, client: &Arc<C>, after: Duration) {
        let queue = &mut *self.queue();
        let address = Arc::as_ptr(client).addr();
        if let Some(place) = queue.places.get(&address) {
            queue.due.reset(place, after);
        } else {
            let place = queue.due.insert(Arc::downgrade(client), after);
            queue.places.insert(address, place);
        }
    }

    /// Forgets a client that is being dropped.
    pub(super) fn remove(&self, client: &C) {
        let queue = &mut *self.queue();
        if let Some(place) = queue.places.remove(&std::ptr::from_ref(client).addr()) {
            queue.due.remove(&place);
        }
    }

    fn poll_next(&self, context: &mut Context<'_>) -> Poll<Weak<C>> {
        let queue = &mut *self.queue();
        match queue.due.poll_expired(context) {
            Poll::Ready(Some(due)) => {
                let client = due.into_inner();
                queue.places.remove(&client.as_ptr().addr());
                Poll::Ready(client)
            }
            // The first connection that is added wakes this task.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    /// The lock is held for one operation of the queue.
    fn queue(&self) -> MutexGuard<'_, Queue<C>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sockets {
    /// Acts on expired tokens, without end.
    pub(crate) async fn watch_tokens(self: Arc<Self>) {
        loop {
            let client = poll_fn(|context| self.expiries.poll_next(context)).await;
            if let Some(client) = client.upgrade() {
                client.watch_token(&self, Instant::now());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Number of connections.
    const MANY: usize = 10_000;

    #[tokio::test]
    async fn one_task_serves_the_timers_of_ten_thousand_connections() {
        let expiries = Expiries::default();
        let after = |number: usize| Duration::from_millis(number as u64 % 500 + 1);
        let began = Instant::now();
        let clients: Vec<_> = (0..MANY).map(Arc::new).collect();
        for client in &clients {
            // The second time replaces the first.
            expiries.set(client, Duration::from_secs(3_600));
            expiries.set(client, after(**client));
        }
        // Every tenth ends before.
        for client in clients.iter().step_by(10) {
            expiries.remove(client);
        }
        assert_eq!(expiries.queue().places.len(), MANY - MANY / 10);
        for _ in 0..MANY - MANY / 10 {
            let client = poll_fn(|context| expiries.poll_next(context)).await.upgrade();
            let client = client.expect("a client that lives");
            assert!(began.elapsed() >= after(*client), "early: {client}");
        }
        assert!(expiries.queue().places.is_empty() && expiries.queue().due.is_empty());
        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        assert_eq!(tasks, 0, "no task for a connection");
    }
}
