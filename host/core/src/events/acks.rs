//! The declared acks of one plugin, and the checks of what clients answer.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::arguments::Arguments;
use crate::rejection::{Refusal, Rejection};
use crate::schema::Schema;

use super::check_payload;

/// The answers that clients give to emits with an ack.
#[derive(Debug, Clone)]
pub struct Ack {
    /// Schema of the argument of an answer, or of the array of its arguments.
    pub data: Arc<Schema>,
    /// How many arguments an answer has.
    pub arguments: Arguments,
}

/// Returns the declaration of an ack that a handler asks for.
///
/// # Errors
/// `undeclared`.
pub fn declared_ack<'declared>(
    acks: &'declared BTreeMap<String, Ack>,
    ack: &str,
) -> Result<&'declared Ack, Refusal> {
    acks.get(ack).ok_or_else(|| {
        Refusal::new("undeclared", format!("this plugin does not declare the ack `{ack}`"))
    })
}

/// Checks the context of an emit with an ack.
///
/// # Errors
/// `invalid_data`: it is not JSON.
pub fn check_context(context: &str) -> Result<(), Refusal> {
    serde_json::from_str::<serde::de::IgnoredAny>(context).map(drop).map_err(|error| {
        Refusal::new("invalid_data", format!("the context of an ack is not JSON: {error}"))
    })
}

impl Ack {
    /// Checks the answer of a client: the JSON texts of its arguments, separated by commas, and
    /// the number of its attachments. Returns the JSON of its data.
    ///
    /// # Errors
    /// Returns why it is not as the plugin declares it.
    pub fn check<'text>(
        &self,
        arguments: &'text str,
        attachments: usize,
        max_depth: usize,
    ) -> Result<Cow<'text, str>, Rejection> {
        let data = self.arguments.payload(arguments);
        check_payload(&data, attachments, &self.data, max_depth + self.arguments.levels())?;
        Ok(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::declarations::Declarations;
    use crate::events::Events;

    #[test]
    fn an_answer_is_checked_against_the_schema_of_its_argument_or_of_all_arguments() {
        let mut declarations = Declarations::default();
        declarations.plugin("quiz", "1.0.0", String::new()).unwrap();
        let schema = |of: &str| format!(r#"{{"type":"{of}"}}"#);
        declarations.ack("one", schema("boolean"), false).unwrap();
        declarations.ack("none", schema("null"), false).unwrap();
        declarations.ack("all", schema("array"), true).unwrap();
        declarations.ack("any", "true".to_owned(), true).unwrap();
        let events = Events::compile(&declarations.finish().unwrap(), 1024).unwrap();
        let check = |ack: &str, arguments: &str, attachments| {
            let ack = declared_ack(&events.acks, ack).unwrap();
            let data = ack.check(arguments, attachments, 3);
            data.map(Cow::into_owned).map_err(|rejection| rejection.code())
        };
        assert_eq!(check("one", "true", 0), Ok("true".to_owned()));
        assert_eq!(check("none", "", 0), Ok("null".to_owned()));
        assert_eq!(check("all", "1, [[]]", 0), Ok("[1, [[]]]".to_owned()));
        let placeholder = r#"{"_placeholder":true,"num":0}"#;
        assert_eq!(check("any", placeholder, 1), Ok(format!("[{placeholder}]")));
        for (ack, arguments, attachments, code) in [
            ("one", "1", 0, "invalid_payload"),
            ("one", "true,true", 0, "invalid_payload"),
            ("one", "true", 1, "invalid_payload"),
            ("any", placeholder, 2, "invalid_payload"),
            ("all", "[[[[]]]]", 0, "too_large"),
        ] {
            assert_eq!(check(ack, arguments, attachments), Err(code), "{ack} {arguments}");
        }
        assert_eq!(declared_ack(&events.acks, "other").unwrap_err().code, "undeclared");
        assert_eq!(check_context("{").unwrap_err().code, "invalid_data");
        assert_eq!(check_context("{}"), Ok(()));
    }
}
