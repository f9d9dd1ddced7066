//! One run of a handler: serves its host calls, with one file for each WIT interface, and holds
//! back its effects until it has returned.

mod connections;
mod deliver;
mod emitter;
mod http;
mod identity;
mod members;
mod replies;
mod rooms;
mod state;
mod timers;

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use crate::config::Limits;
use crate::effect::{Effect, EffectLimits, HostCalls, require_caller};
use crate::error_chain::ErrorChain;
use crate::event::Event;
use crate::log;
use crate::registry::{ActivePlugin, Generation};
use crate::rejection::Refusal;
use crate::rooms::Rooms;
use crate::store::{View, ViewError};

use super::{Failed, contended, state_unreadable};

pub(super) use http::Sending;

/// One run of the handler of one event.
pub(super) struct Run {
    event: Arc<Event>,
    generation: Arc<Generation>,
    active: Arc<ActivePlugin>,
    rooms: Arc<Rooms>,
    effects: Vec<Effect>,
    effects_bytes: usize,
    /// What the handler has attached to its reply.
    attachments: Vec<Bytes>,
    /// The caller's rooms with this run's changes. Loaded at first use.
    membership: Option<RoomChanges>,
    /// The plugin's state as of its first use in this run, with this run's writes. Boxed, because a
    /// run is moved, and most runs do not use the state.
    view: Option<Box<View>>,
    /// What the run needs to send HTTP requests; `None` if the plugin may send none.
    sending: Option<Box<Sending>>,
    /// Why this run must be discarded, whatever the handler returns. Boxed for the same reason.
    discarded: Option<Box<Discarded>>,
}

/// Why a run must be discarded: a call to the state failed, and the handler is not the cause.
#[derive(Debug)]
pub(super) enum Discarded {
    /// The run read a state that has changed since, and could not read the rest of it. The handler
    /// must run again.
    Outdated,
    /// The state can't be read or written now.
    Rejected(Failed),
}

struct RoomChanges {
    before: BTreeSet<String>,
    now: BTreeSet<String>,
}

impl Run {
    pub(super) fn new(
        event: &Arc<Event>,
        generation: &Arc<Generation>,
        active: &Arc<ActivePlugin>,
        rooms: &Arc<Rooms>,
        sending: Option<Box<Sending>>,
    ) -> Self {
        Self {
            event: Arc::clone(event),
            generation: Arc::clone(generation),
            active: Arc::clone(active),
            rooms: Arc::clone(rooms),
            effects: Vec::new(),
            effects_bytes: 0,
            attachments: Vec::new(),
            membership: None,
            view: None,
            sending,
            discarded: None,
        }
    }

    /// Recovers the run from the host calls that an instance gives back.
    pub(super) fn from_calls(calls: Box<dyn HostCalls>) -> Option<Box<Self>> {
        (calls as Box<dyn Any>).downcast().ok()
    }

    /// Returns why this run must be discarded, if it must.
    pub(super) fn take_discarded(&mut self) -> Option<Discarded> {
        self.discarded.take().map(|discarded| *discarded)
    }

    /// Returns the effects, the attachments of the reply, and the view with the run's reads and
    /// writes.
    pub(super) fn finish(self) -> (Vec<Effect>, Vec<Bytes>, Option<Box<View>>) {
        (self.effects, self.attachments, self.view)
    }

    fn limits(&self) -> &Limits {
        self.active.code.limits()
    }

    fn push(&mut self, effect: Effect) -> Result<(), Refusal> {
        let bytes = effect.size();
        self.check_effect_limits(1, bytes)?;
        self.effects_bytes += bytes;
        self.effects.push(effect);
        Ok(())
    }

    /// Checks whether `more` effects of `bytes` may be held back for this event. Stored values and
    /// attachments of the reply count too, because they are in the host's memory as well.
    fn check_effect_limits(&self, more: usize, bytes: usize) -> Result<(), Refusal> {
        let (keys, stored) =
            self.view.as_ref().map_or((0, 0), |view| (view.pending_keys(), view.pending_bytes()));
        let limits = self.limits();
        let limits =
            EffectLimits { effects: limits.effects.get(), bytes: limits.effects_bytes.get() };
        let effects = self.effects.len() + self.attachments.len() + keys + more;
        limits.check(effects, (self.effects_bytes + bytes) as u64 + stored)
    }

    /// Returns how many more keys are pending if `key` is written.
    fn new_keys(&mut self, key: &str) -> usize {
        usize::from(!self.view().has_written(key))
    }

    fn membership(&mut self) -> Result<&mut RoomChanges, Refusal> {
        let connection = require_caller(self.event.caller.connection())?;
        let rooms = &self.rooms;
        Ok(self.membership.get_or_insert_with(|| {
            let before: BTreeSet<String> = rooms.of(connection).into_iter().collect();
            RoomChanges { now: before.clone(), before }
        }))
    }

    fn view(&mut self) -> &mut View {
        self.view.get_or_insert_with(|| Box::new(self.active.state.store.view()))
    }

    /// Records why the run must be discarded. Returns the refusal of the call: the operator learns
    /// the cause, the plugin only that the call has failed.
    fn discard(&mut self, reason: Discarded) -> Refusal {
        let message = match &reason {
            Discarded::Outdated => "the state has changed meanwhile; the event is handled again",
            Discarded::Rejected(_) => "the state can't be used now",
        };
        self.discarded.get_or_insert_with(|| Box::new(reason));
        Refusal::new("unavailable", message)
    }

    /// Returns the refusal of a call to the state that failed. If the handler is not the cause, the
    /// run is discarded.
    fn refuse(&mut self, error: ViewError) -> Refusal {
        match error {
            ViewError::Limit(message) => Refusal::limit(message),
            ViewError::Full { .. } => {
                self.active.code.count_failure();
                Refusal::limit(error.to_string())
            }
            ViewError::Misuse(message) => Refusal::misuse(message),
            ViewError::Outdated => {
                if let Some(sending) = &self.sending {
                    sending.requests.note_outdated();
                }
                self.discard(Discarded::Outdated)
            }
            ViewError::Contended => self.discard(Discarded::Rejected(contended().into())),
            ViewError::Store(error) => {
                let fault = log::Fault::new(format!("state not read: {}", ErrorChain(&error)));
                self.discard(Discarded::Rejected(Failed::new(state_unreadable(), fault)))
            }
        }
    }
}

impl HostCalls for Run {
    fn generation(&self) -> u64 {
        self.generation.number
    }
}
