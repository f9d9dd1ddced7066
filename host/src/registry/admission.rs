//! The decision whether a plugin may join a generation. Nothing here changes a generation.

use crate::events::Outbound;

use super::{ActivePlugin, AdmitError, Generation};

/// Checks whether `active` can serve together with the plugins of `generation`.
pub(super) fn check(generation: &Generation, active: &ActivePlugin) -> Result<(), AdmitError> {
    check_name(generation, active)?;
    check_inbound(generation, active)?;
    check_outbound(generation, active)?;
    let registration = &active.code.registration;
    generation.rooms.check(active.code.name(), &registration.rooms)?;
    generation.routes.check(active.code.name(), &registration.routes)?;
    Ok(())
}

/// Checks that no other plugin has the name.
fn check_name(generation: &Generation, active: &ActivePlugin) -> Result<(), AdmitError> {
    let name = active.code.name();
    if let Some(other) = generation.plugin(name) {
        return Err(AdmitError::NameTaken { name: name.to_owned(), file: other.code.file.clone() });
    }
    Ok(())
}

/// Checks that no other plugin handles one of the events.
fn check_inbound(generation: &Generation, active: &ActivePlugin) -> Result<(), AdmitError> {
    for event in active.inbound.keys() {
        if let Some(route) = generation.events.get(event) {
            return Err(AdmitError::EventTaken {
                event: event.clone(),
                by: route.plugin.code.name().to_owned(),
            });
        }
    }
    Ok(())
}

/// Checks that plugins that emit the same event declare the same schema for it, and that both or
/// none declare a list of arguments.
fn check_outbound(generation: &Generation, active: &ActivePlugin) -> Result<(), AdmitError> {
    for (event, declared) in &active.outbound {
        if let Some(other) = generation
            .plugins
            .iter()
            .find(|other| other.outbound.get(event).is_some_and(|other| differs(other, declared)))
        {
            return Err(AdmitError::SchemaDiffers {
                event: event.clone(),
                by: other.code.name().to_owned(),
            });
        }
    }
    Ok(())
}

/// Whether two declarations of one emitted event promise different messages to clients.
fn differs(one: &Outbound, other: &Outbound) -> bool {
    one.data != other.data || one.arguments != other.arguments
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sockhop_core::arguments::Arguments;

    use super::*;
    use crate::schema::Schema;

    #[test]
    fn a_list_of_arguments_is_another_message_than_one_argument() {
        let emitted = |schema: &str, arguments| {
            let data = Arc::new(Schema::compile(schema, 100).unwrap());
            Outbound { data, arguments, rooms: Vec::new(), everyone: true }
        };
        let one = emitted("true", Arguments::One);
        assert!(differs(&one, &emitted("true", Arguments::List)));
        assert!(differs(&one, &emitted("{}", Arguments::One)));
        assert!(!differs(&one, &emitted("true", Arguments::One)));
    }
}
