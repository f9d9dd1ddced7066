//! The mailbox of one connection: the events that wait, and the state of the connection.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::Waker;

use crate::config::EVENT_BYTES;
use crate::effect::EndedAck;
use crate::event::{Event, EventId};
use crate::memory::ANSWER_BYTES;
use crate::rejection::Rejection;
use crate::rooms::ReplyTo;

/// The waiting events and answers of one connection.
#[derive(Default)]
pub(super) struct Mailbox {
    pub(super) events: VecDeque<QueuedEvent>,
    /// Number of events that are being handled: 0 or 1.
    pub(super) handling: usize,
    /// Number of outcomes, among the events that wait or are being handled, that take no space.
    pub(super) uncounted: usize,
    /// The task that handles the mailbox.
    pub(super) consumer: Consumer,
    /// Whether [`intake`](super::client) may handle events itself, in its caller's task; as of the
    /// last event. The consumer then ends when it has no work, and does not wait for the next
    /// event.
    pub(super) intake_may_handle: bool,
    /// Bytes of the payloads of the events that wait or are being handled, without [`EVENT_BYTES`].
    pub(super) bytes: usize,
    /// Bytes of [`QueueMemory`](crate::memory::QueueMemory) of the client's answers to emits with
    /// an ack, here and where they wait for their plugins. `None` before the first one.
    pub(super) answers: Option<Arc<AtomicUsize>>,
    /// The answers `busy` to events that were not kept. They wait, because the outgoing buffer of
    /// the client had no space.
    pub(super) pending_rejections: VecDeque<PendingRejection>,
    pub(super) state: ConnectionState,
}

/// The task that handles a mailbox.
#[derive(Debug, Default)]
pub(super) enum Consumer {
    /// No task. The next event starts one, or is handled without one. It only waits while CONNECT
    /// is not answered, or while the caller's task handles an event.
    #[default]
    None,
    /// A task that is running or already woken. It finds new events by itself.
    Running,
    /// A task that waits for the next event.
    Waiting(Waker),
}

/// The state of a connection, which decides what happens to the next event.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionState {
    /// CONNECT is not answered yet: the event waits.
    #[default]
    New,
    /// The event is handled in its turn.
    Open,
    /// The client is gone, and the consumer handles earlier events: the event is dropped.
    Closing,
    /// The client is gone, and all events are handled: the event is dropped.
    Closed,
}

/// What is handled in the order in which it came.
pub(super) enum QueuedEvent {
    /// An event of the client.
    Received(ReceivedEvent),
    /// The outcome of an emit with an ack.
    Ack(Box<QueuedAck>),
}

/// The outcome of an emit with an ack.
pub(super) struct QueuedAck {
    pub(super) ended: EndedAck,
    /// Bytes of the answer.
    pub(super) size: usize,
}

/// The space of an event in a mailbox.
#[derive(Debug, Clone, Copy)]
pub(super) struct Space {
    /// Bytes of its payload.
    pub(super) bytes: usize,
    /// Bytes of [`QueueMemory`](crate::memory::QueueMemory).
    pub(super) charged: usize,
    /// Whether it counts as one of the events of the mailbox.
    pub(super) counts: bool,
}

impl Space {
    /// The space of an event with a payload of `size` bytes.
    pub(super) const fn of(size: usize) -> Self {
        Self { bytes: size, charged: charge(size), counts: true }
    }
}

impl QueuedEvent {
    pub(super) fn space(&self) -> Space {
        match self {
            Self::Received(event) => Space::of(event.size),
            Self::Ack(ack) => {
                // Its memory is given back with the answer itself.
                Space { bytes: ack.size, charged: 0, counts: ack.ended.reserved.is_some() }
            }
        }
    }
}

/// A received event, with its rejection if it can't be handled.
pub(super) struct ReceivedEvent {
    pub(super) event: Arc<Event>,
    pub(super) rejection: Option<Rejection>,
    pub(super) to: ReplyTo,
    pub(super) size: usize,
}

/// The answer `busy` to an event that was not kept.
pub(super) struct PendingRejection {
    pub(super) event: String,
    pub(super) id: EventId,
    pub(super) busy: Busy,
    pub(super) to: ReplyTo,
}

/// The next work of a consumer.
pub(super) enum Work {
    /// Handle an event, or an outcome.
    Event(QueuedEvent),
    /// Answer an event that was not kept.
    PendingRejection(PendingRejection),
}

/// Number of events. A queue with a larger capacity is freed when the consumer finds no more work.
pub(super) const IDLE_QUEUE: usize = 4;

impl Mailbox {
    /// Whether the connection is open and nothing is handled or waits, so that an event may be
    /// handled at once.
    pub(super) fn is_idle(&self) -> bool {
        self.state == ConnectionState::Open && self.has_no_task() && !self.has_work()
    }

    /// Whether no task handles an event or will look for one.
    pub(super) fn has_no_task(&self) -> bool {
        self.handling == 0 && matches!(self.consumer, Consumer::None)
    }

    /// Whether events or pending rejections wait.
    pub(super) fn has_work(&self) -> bool {
        !self.events.is_empty() || !self.pending_rejections.is_empty()
    }

    /// Number of events that wait or are being handled, without outcomes that take no space.
    pub(super) fn counted(&self) -> usize {
        (self.events.len() + self.handling).saturating_sub(self.uncounted)
    }

    /// Bytes of [`QueueMemory`](crate::memory::QueueMemory) that the mailbox holds.
    pub(super) fn memory(&self) -> usize {
        self.bytes + self.counted() * EVENT_BYTES + self.pending_rejections.len() * ANSWER_BYTES
    }
}

/// Bytes of [`QueueMemory`](crate::memory::QueueMemory) that an event with a payload of `size`
/// bytes takes.
pub(super) const fn charge(size: usize) -> usize {
    size.saturating_add(EVENT_BYTES)
}

/// The bound that an event would exceed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Busy {
    /// The connection's own mailbox.
    Mailbox,
    /// The memory of all mailboxes.
    Host,
}

impl Busy {
    /// Which bound it is, in words.
    pub(super) fn message(self) -> &'static str {
        match self {
            Self::Mailbox => "too many events of this connection are waiting",
            Self::Host => "too many events of all connections are waiting",
        }
    }
}

impl From<Busy> for Rejection {
    fn from(busy: Busy) -> Self {
        Self::Busy(busy.message().to_owned())
    }
}
