//! The rules that an operator sets in place of those that plugins declare.

use std::fmt;

use super::Access;

/// The event or the room that a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// An event type.
    Event(String),
    /// A room, or a template for rooms, as its plugin declares it.
    Room(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Event(event) => write!(f, "event `{event}`"),
            Self::Room(room) => write!(f, "room `{room}`"),
        }
    }
}

/// A rule of the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorRule {
    /// The event or the room.
    pub subject: Subject,
    /// Who may send the event or join the room.
    pub access: Access,
    /// Whether the rule is only tried: the declared rule decides, and the host counts what this one
    /// would refuse.
    pub observe: bool,
}

/// The rules of the operator. A subject has at most one rule that decides and one that is tried.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OperatorRules(Vec<OperatorRule>);

impl OperatorRules {
    /// Takes the rules of a configuration.
    ///
    /// # Errors
    /// Two rules are about the same, or a rule makes no sense.
    pub fn new(rules: Vec<OperatorRule>) -> Result<Self, String> {
        for (index, rule) in rules.iter().enumerate() {
            let (kind, name) = match &rule.subject {
                Subject::Event(event) => ("event", event),
                Subject::Room(room) => ("room", room),
            };
            let access = &rule.access;
            let is_template = name.contains('{');
            if kind == "event" && access.is_for_rooms_only() {
                return Err(format!("the rule `{access}` of the event `{name}` is one of rooms"));
            }
            if kind == "room" && *access == Access::Owner && !is_template {
                return Err(format!(
                    "the room `{name}` can't have the rule `owner`: only a template, such as \
                     `user_{{user}}`, names a user"
                ));
            }
            let is_same = |other: &&OperatorRule| {
                other.subject == rule.subject && other.observe == rule.observe
            };
            if rules.iter().take(index).any(|other| is_same(&other)) {
                return Err(format!("the {kind} `{name}` has two rules"));
            }
        }
        Ok(Self(rules))
    }

    /// The rule that decides about a subject, if the operator has set one.
    pub fn decides(&self, subject: &Subject) -> Option<&Access> {
        self.find(subject, false)
    }

    /// The rule that is tried for a subject, if the operator has set one.
    pub fn tries(&self, subject: &Subject) -> Option<&Access> {
        self.find(subject, true)
    }

    /// Iterates over the subjects of all rules.
    pub fn subjects(&self) -> impl Iterator<Item = &Subject> {
        self.0.iter().map(|rule| &rule.subject)
    }

    fn find(&self, subject: &Subject, observe: bool) -> Option<&Access> {
        let found = self.0.iter().find(|rule| rule.subject == *subject && rule.observe == observe);
        found.map(|rule| &rule.access)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(subject: Subject, access: &str, observe: bool) -> OperatorRule {
        OperatorRule { subject, access: access.parse().unwrap(), observe }
    }

    fn event(name: &str) -> Subject {
        Subject::Event(name.to_owned())
    }

    fn room(name: &str) -> Subject {
        Subject::Room(name.to_owned())
    }

    #[test]
    fn a_subject_has_one_rule_that_decides_and_one_that_is_tried() {
        let rules = vec![
            rule(event("say"), "authenticated", false),
            rule(event("say"), "role:admin", true),
            rule(room("say"), "handler", false),
        ];
        let rules = OperatorRules::new(rules).unwrap();
        let text = |access: Option<&Access>| access.map(ToString::to_string);
        assert_eq!(text(rules.decides(&event("say"))).as_deref(), Some("authenticated"));
        assert_eq!(text(rules.tries(&event("say"))).as_deref(), Some("role:admin"));
        assert_eq!(text(rules.decides(&room("say"))).as_deref(), Some("handler"));
        assert_eq!(rules.tries(&room("say")), None);
        assert_eq!(rules.decides(&event("other")), None);
    }

    #[test]
    fn rules_that_make_no_sense_are_refused_and_named() {
        for (rules, part) in [
            (vec![rule(event("say"), "handler", false)], "rooms"),
            (vec![rule(room("lobby"), "owner", false)], "owner"),
            (vec![rule(room("a"), "anyone", true), rule(room("a"), "handler", true)], "two rules"),
        ] {
            let refused = OperatorRules::new(rules).unwrap_err();
            assert!(refused.contains(part), "{refused}");
        }
    }
}
