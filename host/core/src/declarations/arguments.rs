//! The declaration that a message has a list of arguments.

use crate::arguments::{Arguments, Message};
use crate::rejection::Refusal;
use crate::route::Route;

use super::{Declarations, InboundEvent, Registration};

impl Declarations {
    /// Declares that a message of an event has a list of arguments. The event, with its reply, was
    /// declared before with [`Declarations::handles`] or [`Declarations::emits`].
    ///
    /// # Errors
    /// `misuse`, `limit`.
    pub fn arguments(&mut self, of: Message, event: &str) -> Result<(), Refusal> {
        self.declare(|this| {
            let plugin = this.registration()?;
            if of != Message::Emit
                && let Some(route) = plugin.routes.iter().find(|route| route.event == event)
            {
                return Err(no_route(route));
            }
            *message(plugin, of, event)? = Arguments::List;
            Ok(())
        })
    }
}

/// Returns the declared arguments of a message.
fn message<'plugin>(
    plugin: &'plugin mut Registration,
    of: Message,
    event: &str,
) -> Result<&'plugin mut Arguments, Refusal> {
    let undeclared = |verb: &str, call: &str| {
        Refusal::misuse(format!(
            "event `{event}` can't have a list of arguments: this plugin does not {verb} it; call \
             `arguments` after `{call}`"
        ))
    };
    if of == Message::Emit {
        let emitted = plugin.emits.iter_mut().find(|emitted| emitted.event == event);
        return emitted
            .map(|emitted| &mut emitted.arguments)
            .ok_or_else(|| undeclared("emit", "emits"));
    }
    let inbound = plugin.handles.iter_mut().find(|inbound| inbound.event == event);
    let inbound = inbound.ok_or_else(|| undeclared("handle", "handles"))?;
    if of == Message::Event {
        return Ok(&mut inbound.arguments);
    }
    if inbound.reply.is_none() {
        return Err(Refusal::misuse(format!(
            "the ack of event `{event}` can't have a list of arguments: the event was declared \
             with no reply"
        )));
    }
    Ok(&mut inbound.reply_arguments)
}

/// Checks that the event of a route, and its reply, have one argument: a request has one body.
pub(super) fn check_route(route: &Route, inbound: &InboundEvent) -> Result<(), Refusal> {
    if inbound.arguments.are_list() || inbound.reply_arguments.are_list() {
        return Err(no_route(route));
    }
    Ok(())
}

fn no_route(route: &Route) -> Refusal {
    Refusal::misuse(format!(
        "route `{route}` is for an event with a list of arguments, for which there can be no \
         route: declare another event with one argument for it"
    ))
}
