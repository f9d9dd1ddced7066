//! The declarations of the plugin under test, and the checks against them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use crate::host::Registry;
use crate::refusal::{Refusal, Result};

/// The declarations of a plugin. Each is checked against the previous ones when it is made.
#[derive(Debug, Default)]
pub(super) struct Declared {
    handles: RefCell<BTreeMap<String, Handles>>,
    emits: RefCell<BTreeMap<String, Vec<String>>>,
    rooms: RefCell<BTreeMap<String, String>>,
    listens: RefCell<BTreeSet<String>>,
}

#[derive(Debug)]
struct Handles {
    data: String,
    access: String,
}

impl Declared {
    pub(super) fn add_room(&self, pattern: &str, access: &str) {
        self.rooms.borrow_mut().insert(pattern.to_owned(), access.to_owned());
    }

    pub(super) fn listens_to(&self, event: &str) -> bool {
        self.listens.borrow().contains(event)
    }

    pub(super) fn payload_schema(&self, event: &str) -> Option<String> {
        self.handles.borrow().get(event).map(|handles| handles.data.clone())
    }

    /// Checks whether a caller with this user and these roles can send `event`.
    pub(super) fn may_send(
        &self,
        event: &str,
        user: Option<&str>,
        roles: &BTreeSet<String>,
    ) -> Result {
        let handles = self.handles.borrow();
        let Some(handles) = handles.get(event) else {
            return Err(Refusal::new("unknown_event", format!("nobody handles `{event}`")));
        };
        if allows(&handles.access, user, roles, None) {
            Ok(())
        } else if user.is_some() {
            Err(Refusal::forbidden(format!("`{event}` asks for `{}`", handles.access)))
        } else {
            Err(Refusal::new("unauthorized", format!("`{event}` asks for `{}`", handles.access)))
        }
    }

    /// Checks whether a caller with this user and these roles can join `room`.
    pub(super) fn may_join(
        &self,
        room: &str,
        user: Option<&str>,
        roles: &BTreeSet<String>,
    ) -> Result {
        let rooms = self.rooms.borrow();
        let Some((variable, access)) =
            rooms.iter().find_map(|(pattern, access)| Some((matches(pattern, room)?, access)))
        else {
            return Err(Refusal::new(
                "unknown_room",
                format!("no loaded plugin declares the room `{room}`"),
            ));
        };
        if allows(access, user, roles, variable) {
            Ok(())
        } else {
            Err(Refusal::forbidden(format!("the room `{room}` is not open to this client")))
        }
    }

    /// Checks whether `event` can be emitted to `rooms`.
    pub(super) fn may_emit(&self, event: &str, rooms: &[String]) -> Result {
        let emits = self.emits.borrow();
        let Some(declared) = emits.get(event) else {
            return Err(Refusal::new(
                "undeclared",
                format!("this plugin does not declare that it emits `{event}`"),
            ));
        };
        let named = |room: &String| {
            declared
                .iter()
                .any(|pattern| pattern == room || (room != "*" && matches(pattern, room).is_some()))
        };
        match rooms.iter().find(|room| !named(room)) {
            Some(room) => Err(Refusal::new(
                "undeclared",
                format!("the declaration of `{event}` does not name the room `{room}`"),
            )),
            None => Ok(()),
        }
    }
}

impl Registry for Declared {
    fn plugin(&self, _: &str, _: &str, _: &str) -> Result {
        Ok(())
    }

    fn handles(&self, event: &str, data: &str, _: Option<&str>) -> Result {
        let handles = Handles { data: data.to_owned(), access: "anyone".to_owned() };
        match self.handles.borrow_mut().insert(event.to_owned(), handles) {
            Some(_) => {
                Err(Refusal::misuse(format!("event `{event}` has two handlers; an event has one")))
            }
            None => Ok(()),
        }
    }

    fn requires(&self, event: &str, access: &str) -> Result {
        match self.handles.borrow_mut().get_mut(event) {
            Some(handles) => {
                access.clone_into(&mut handles.access);
                Ok(())
            }
            None => {
                Err(Refusal::misuse("`requires` stands right after the `on` that it restricts"))
            }
        }
    }

    fn emits(&self, event: &str, _: &str, rooms: &[String]) -> Result {
        match self.emits.borrow_mut().insert(event.to_owned(), rooms.to_vec()) {
            Some(_) => {
                Err(Refusal::misuse(format!("event `{event}` is declared twice with `emits`")))
            }
            None => Ok(()),
        }
    }

    fn room(&self, pattern: &str, access: &str) -> Result {
        match self.rooms.borrow_mut().insert(pattern.to_owned(), access.to_owned()) {
            Some(_) => Err(Refusal::misuse(format!("room `{pattern}` is declared twice"))),
            None => Ok(()),
        }
    }

    fn listens(&self, event: &str) -> Result {
        if self.listens.borrow_mut().insert(event.to_owned()) {
            Ok(())
        } else {
            Err(Refusal::misuse(format!("host event `{event}` has two handlers")))
        }
    }
}

/// Returns whether the rule allows such a caller. `variable` is the value of the variable in the
/// room's template.
fn allows(
    access: &str,
    user: Option<&str>,
    roles: &BTreeSet<String>,
    variable: Option<&str>,
) -> bool {
    match access {
        "anyone" => true,
        "authenticated" => user.is_some(),
        "owner" => user.is_some() && user == variable,
        _ => {
            access.strip_prefix("role:").is_some_and(|role| user.is_some() && roles.contains(role))
        }
    }
}

/// Returns `Some` if `room` matches `pattern`, with the value of the pattern's variable, if it has
/// one.
fn matches<'room>(pattern: &str, room: &'room str) -> Option<Option<&'room str>> {
    match pattern.split_once('{').and_then(|(prefix, rest)| Some((prefix, rest.split_once('}')?.1)))
    {
        None => (pattern == room).then_some(None),
        Some((prefix, suffix)) => {
            let variable = room.strip_prefix(prefix)?.strip_suffix(suffix)?;
            (!variable.is_empty()).then_some(Some(variable))
        }
    }
}
