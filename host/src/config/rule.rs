//! `[[rules]]`: who may send an event or join a room, in place of what its plugin declares.

use serde::{Deserialize, Deserializer, de};
use sockhop_core::rule::{Access, OperatorRule, OperatorRules, Subject};

/// `[[rules]]`: one rule of the operator. Exactly one of `event` and `room` is set.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// An event type.
    pub event: Option<String>,
    /// A room or a template for rooms, as its plugin declares it.
    pub room: Option<String>,
    /// Who may send the event or join the room.
    #[serde(deserialize_with = "access")]
    pub access: Access,
    /// Whether the rule is only tried.
    #[serde(default)]
    pub observe: bool,
}

fn access<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Access, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
}

/// Returns the rules, checked.
///
/// # Errors
/// Says which rule is wrong, and why.
pub(super) fn operator_rules(rules: &[Rule]) -> Result<OperatorRules, String> {
    let rule = |Rule { event, room, access, observe }: &Rule| {
        let subject = match (event, room) {
            (Some(event), None) => Subject::Event(event.clone()),
            (None, Some(room)) => Subject::Room(room.clone()),
            _ => return Err(format!("rules: the rule `{access}` needs one of `event` and `room`")),
        };
        Ok(OperatorRule { subject, access: access.clone(), observe: *observe })
    };
    let rules = rules.iter().map(rule).collect::<Result<_, _>>()?;
    OperatorRules::new(rules).map_err(|problem| format!("rules: {problem}"))
}
