//! One run of a handler: serves its host calls, and holds back its effects until it has returned.

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::config::Limits;
use crate::effect::{
    Effect, EffectLimits, Emit, EmitRequest, HostCalls, check_page, check_room_count,
    require_caller,
};
use crate::error_chain::ErrorChain;
use crate::event::{Connection, Event};
use crate::events;
use crate::log;
use crate::registry::{ActivePlugin, Generation};
use crate::rejection::{Refusal, Rejection, truncate};
use crate::rooms::{Rooms, page_of};
use crate::store::{View, ViewError};

use super::sequence::next_id;
use super::{Failed, contended, state_unreadable};

/// One run of the handler of one event.
pub(super) struct Run {
    event: Arc<Event>,
    generation: Arc<Generation>,
    active: Arc<ActivePlugin>,
    rooms: Arc<Rooms>,
    effects: Vec<Effect>,
    effects_bytes: usize,
    /// The caller's rooms with this run's changes. Loaded at first use.
    membership: Option<RoomChanges>,
    /// The plugin's state as of its first use in this run, with this run's writes. Boxed, because a
    /// run is moved, and most runs do not use the state.
    view: Option<Box<View>>,
    /// Why this run must be discarded, whatever the handler returns. Boxed for the same reason.
    fault: Option<Box<Discarded>>,
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
    ) -> Self {
        Self {
            event: Arc::clone(event),
            generation: Arc::clone(generation),
            active: Arc::clone(active),
            rooms: Arc::clone(rooms),
            effects: Vec::new(),
            effects_bytes: 0,
            membership: None,
            view: None,
            fault: None,
        }
    }

    /// Recovers the run from the host calls that an instance gives back.
    pub(super) fn from_calls(calls: Box<dyn HostCalls>) -> Option<Box<Self>> {
        (calls as Box<dyn Any>).downcast().ok()
    }

    /// Returns why this run must be discarded, if it must.
    pub(super) fn take_fault(&mut self) -> Option<Discarded> {
        self.fault.take().map(|fault| *fault)
    }

    /// Returns the effects, and the view with the run's reads and writes.
    pub(super) fn finish(self) -> (Vec<Effect>, Option<Box<View>>) {
        (self.effects, self.view)
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

    /// Checks whether `more` effects of `bytes` may be held back for this event. Stored values
    /// count too, because they are in the host's memory as well.
    fn check_effect_limits(&self, more: usize, bytes: usize) -> Result<(), Refusal> {
        let (keys, stored) =
            self.view.as_ref().map_or((0, 0), |view| (view.pending_keys(), view.pending_bytes()));
        let limits = self.limits();
        let limits =
            EffectLimits { effects: limits.effects.get(), bytes: limits.effects_bytes.get() };
        limits.check(self.effects.len() + keys + more, (self.effects_bytes + bytes) as u64 + stored)
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

    /// Records why the run must be discarded. The operator learns the cause, the plugin only the
    /// failure.
    fn fail(&mut self, fault: Discarded) -> Refusal {
        let message = match &fault {
            Discarded::Outdated => "the state has changed meanwhile; the event is handled again",
            Discarded::Rejected(_) => "the state can't be used now",
        };
        self.fault.get_or_insert_with(|| Box::new(fault));
        Refusal::new("unavailable", message)
    }

    fn refuse(&mut self, error: ViewError) -> Refusal {
        match error {
            ViewError::Limit(message) => Refusal::limit(message),
            ViewError::Full { .. } => {
                self.active.code.count_failure();
                Refusal::limit(error.to_string())
            }
            ViewError::Misuse(message) => Refusal::misuse(message),
            ViewError::Outdated => self.fail(Discarded::Outdated),
            ViewError::Contended => self.fail(Discarded::Rejected(contended().into())),
            ViewError::Store(error) => {
                let fault = log::Fault::new(format!("state not read: {}", ErrorChain(&error)));
                self.fail(Discarded::Rejected(Failed::new(state_unreadable(), fault)))
            }
        }
    }
}

impl HostCalls for Run {
    fn emit(&mut self, request: EmitRequest) -> Result<(), Refusal> {
        // Checked before parsing: data that is too large is not worth parsing.
        self.check_effect_limits(1, request.size())?;
        let EmitRequest { to, event, data, attachments } = request;
        let declared = events::declared(&self.active.outbound, &event)?;
        declared.check_target(&event, &to, self.event.caller.connection().is_some())?;
        let (data, _) = declared.check_data(&event, data, attachments.len())?;
        self.push(Effect::Emit(Emit { to, event, data, attachments }))
    }

    fn join(&mut self, room: String) -> Result<(), Refusal> {
        let connection = require_caller(self.event.caller.connection())?;
        self.generation.may_join(&room, &connection.identity).map_err(|not| not.refusal(&room))?;
        let max = self.limits().rooms.get();
        let membership = self.membership()?;
        if membership.now.contains(&room) {
            return Ok(());
        }
        check_room_count(membership.now.len(), max)?;
        self.push(Effect::Join(room.clone()))?;
        self.membership()?.now.insert(room);
        Ok(())
    }

    fn leave(&mut self, room: String) -> Result<(), Refusal> {
        if !self.membership()?.now.contains(&room) {
            return Ok(());
        }
        self.push(Effect::Leave(room.clone()))?;
        self.membership()?.now.remove(&room);
        Ok(())
    }

    fn room_size(&mut self, room: &str) -> u32 {
        let namespace = self.event.caller.namespace().unwrap_or("/");
        let count = self.rooms.count(namespace, room);
        let count = match &self.membership {
            Some(RoomChanges { before, now }) => {
                match (before.contains(room), now.contains(room)) {
                    (false, true) => count + 1,
                    (true, false) => count.saturating_sub(1),
                    _ => count,
                }
            }
            None => count,
        };
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    fn rooms(&mut self) -> Vec<String> {
        self.membership()
            .map_or_else(|_| Vec::new(), |membership| membership.now.iter().cloned().collect())
    }

    fn connections(
        &mut self,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Arc<Connection>>, Refusal> {
        check_page(limit)?;
        let limit = limit as usize;
        Ok(match &self.event.connections {
            Some(connections) => page_of(connections, after, limit),
            None => self.rooms.directory.page(after, limit),
        })
    }

    fn has_role(&self, role: &str) -> bool {
        self.event.caller.identity().has_role(role)
    }

    fn claims(&self) -> String {
        self.event.caller.identity().claims.to_string()
    }

    fn sid(&self) -> String {
        self.event.caller.connection().map_or_else(String::new, |connection| connection.sid.clone())
    }

    fn event_id(&self) -> String {
        self.event.id.to_string()
    }

    fn generation(&self) -> u64 {
        self.generation.number
    }

    fn received_at(&self) -> u64 {
        self.event.received_at_ms()
    }

    fn disconnect(&mut self, mut reason: String) {
        truncate(&mut reason, Rejection::MAX_MESSAGE);
        // One is enough. It bypasses the limits of the other effects, so that it is never lost.
        if !self.effects.iter().any(|effect| matches!(effect, Effect::Disconnect(_))) {
            self.effects.push(Effect::Disconnect(reason));
        }
    }

    fn get(&mut self, key: &str) -> Result<Option<Vec<u8>>, Refusal> {
        self.view().get(key).map_err(|error| self.refuse(error))
    }

    fn set(&mut self, key: String, value: Vec<u8>) -> Result<(), Refusal> {
        let new = self.new_keys(&key);
        self.check_effect_limits(new, key.len() + value.len())?;
        self.view().set(&key, value).map_err(|error| self.refuse(error))
    }

    fn delete(&mut self, key: &str) -> Result<(), Refusal> {
        let new = self.new_keys(key);
        self.check_effect_limits(new, key.len())?;
        self.view().delete(key).map_err(|error| self.refuse(error))
    }

    fn scan(
        &mut self,
        prefix: &str,
        cursor: Option<&str>,
        backwards: bool,
        limit: u32,
    ) -> Result<Vec<(String, Vec<u8>)>, Refusal> {
        self.view().scan(prefix, cursor, backwards, limit).map_err(|error| self.refuse(error))
    }

    fn next_id(&mut self, sequence: String) -> BoxFuture<'_, Result<u64, Refusal>> {
        Box::pin(async move {
            // The run is discarded anyway, so it does not wait again.
            if self.fault.is_some() {
                return Err(self.fail(Discarded::Rejected(contended().into())));
            }
            let next = match self.active.state.store.next_id_at_once(&sequence) {
                Some(next) => next,
                None => next_id(&self.active.state, sequence).await,
            };
            next.map_err(|error| self.refuse(error))
        })
    }
}
