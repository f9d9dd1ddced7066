//! The answers of one socket that are waited for. The library completes an answer in its reader
//! task, and wakes what waits for it there. A task that waits would run later, perhaps after the
//! client's next event. So the waker itself passes the answer on.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::Stream;
use socketioxide::ack::AckInnerStream;
use socketioxide::handler::Value;
use socketioxide::{AckError, SocketError};
use tokio::task::coop::unconstrained;

use crate::socketio::{Client, ClientAnswer, NotAsked};

use super::owned::own;

/// The answers of one socket that are waited for.
pub(super) struct Asks {
    /// Weak: the answer of a client that is gone is not needed.
    client: Weak<dyn Client>,
    max: usize,
    waiting: Mutex<HashMap<u64, Arc<Waiting>>>,
    /// Held while an emit is sent, until its waker is registered. Otherwise the reader task could
    /// handle the answer and the next event before.
    sending: Mutex<()>,
    /// Whether `sending` is held, so that an event need not take the lock.
    is_sending: AtomicBool,
}

/// One answer that is waited for.
struct Waiting {
    token: u64,
    asks: Weak<Asks>,
    /// `None` when it is not waited for any more.
    stream: Mutex<Option<Pin<Box<AckInnerStream>>>>,
    /// Wakes that [`Waiting::drive`] has not handled. It runs once at a time.
    wakes: AtomicUsize,
}

/// An answer is waited for. If this is dropped, it is not waited for any more.
pub(crate) struct Asked(Arc<Waiting>);

impl Asks {
    pub(super) fn new(client: &Arc<dyn Client>, max: usize) -> Arc<Self> {
        Arc::new(Self {
            client: Arc::downgrade(client),
            max,
            waiting: Mutex::default(),
            sending: Mutex::default(),
            is_sending: AtomicBool::new(false),
        })
    }

    /// Waits for the answer to what `send` sends.
    ///
    /// # Errors
    /// Returns why nothing was sent.
    pub(super) fn ask(
        self: &Arc<Self>,
        token: u64,
        send: impl FnOnce() -> Result<AckInnerStream, NotAsked>,
    ) -> Result<Asked, NotAsked> {
        let _sending = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        if self.waiting().len() >= self.max {
            return Err(NotAsked::TooManyAcks);
        }
        self.is_sending.store(true, Ordering::SeqCst);
        let asked = send().and_then(|stream| self.wait(token, stream));
        self.is_sending.store(false, Ordering::SeqCst);
        asked
    }

    fn wait(self: &Arc<Self>, token: u64, stream: AckInnerStream) -> Result<Asked, NotAsked> {
        let waiting = Arc::new(Waiting {
            token,
            asks: Arc::downgrade(self),
            stream: Mutex::new(Some(Box::pin(stream))),
            wakes: AtomicUsize::new(1),
        });
        self.waiting().insert(token, Arc::clone(&waiting));
        match waiting.drive() {
            None => Ok(Asked(waiting)),
            Some(not) => {
                self.waiting().remove(&token);
                Err(not)
            }
        }
    }

    /// Returns when no emit is being sent whose answer could be among the packets that were read.
    pub(super) fn until_sent(&self) {
        if self.is_sending.load(Ordering::SeqCst) {
            drop(self.sending.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// The connection has ended: its client answers no more.
    pub(super) fn end(&self) {
        let waiting = std::mem::take(&mut *self.waiting());
        for waiting in waiting.into_values().filter(|waiting| waiting.cancel()) {
            self.pass_on(waiting.token, None);
        }
    }

    fn pass_on(&self, token: u64, answer: Option<ClientAnswer>) {
        if let Some(client) = self.client.upgrade() {
            client.answered(token, answer);
        }
    }

    /// The lock is held for one operation of the map.
    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, Arc<Waiting>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Looks for the answer, and passes it on. Called for the first time with one wake. Returns why
    /// nothing was sent, if it was not.
    fn drive(self: &Arc<Self>) -> Option<NotAsked> {
        let waker = Waker::from(Arc::clone(self));
        loop {
            let seen = self.wakes.load(Ordering::Acquire);
            match self.poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(result) => return result,
                // Without another wake meanwhile, the next wake calls this function.
                Poll::Pending => {
                    let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
                    if self.wakes.compare_exchange(seen, 0, success, failure).is_ok() {
                        return None;
                    }
                }
            }
        }
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<Option<NotAsked>> {
        let mut stream = self.stream();
        let Some(acks) = stream.as_mut() else { return Poll::Ready(None) };
        // The task that reads is not asked to yield: the answer would come too late then.
        let next = std::future::poll_fn(|context| acks.as_mut().poll_next(context));
        let answer = match Pin::new(&mut unconstrained(next)).poll(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(answer) => answer.map(|(_, answer)| answer),
        };
        let ended = stream.take();
        drop(stream);
        // Without the lock: it may wake.
        drop(ended);
        let answer = match answer {
            Some(Ok(Value::Str(text, attachments))) => Some(ClientAnswer {
                text: arguments(&text).into(),
                attachments: attachments.into_iter().flatten().map(own).collect(),
            }),
            Some(Err(AckError::Socket(SocketError::InternalChannelFull))) => {
                return Poll::Ready(Some(NotAsked::Full));
            }
            // There was no such socket when it was to be sent.
            None => return Poll::Ready(Some(NotAsked::Disconnected)),
            // Only parsers that the host does not use produce bytes.
            Some(Ok(Value::Bytes(_)) | Err(_)) => None,
        };
        if let Some(asks) = self.asks.upgrade() {
            asks.waiting().remove(&self.token);
            asks.pass_on(self.token, answer);
        }
        Poll::Ready(None)
    }

    /// Waits no more. Returns whether it was waited for.
    fn cancel(&self) -> bool {
        let stream = self.stream().take();
        stream.is_some()
    }

    fn stream(&self) -> MutexGuard<'_, Option<Pin<Box<AckInnerStream>>>> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        if self.wakes.fetch_add(1, Ordering::AcqRel) == 0 {
            self.drive();
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.cancel();
        if let Some(asks) = self.0.asks.upgrade() {
            asks.waiting().remove(&self.0.token);
        }
    }
}

/// The text between the brackets of an array.
fn arguments(array: &str) -> &str {
    let inner = array.trim_ascii().strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    inner.unwrap_or_default().trim_ascii()
}
