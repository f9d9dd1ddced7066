//! The declaration of the answers that clients give to emits with an ack.

use crate::arguments::Arguments;
use crate::name::is_event_name;
use crate::rejection::Refusal;

use super::Declarations;

/// The answers of clients to emits with an ack.
#[derive(Debug, Clone, PartialEq)]
pub struct DeclaredAck {
    /// Name.
    pub ack: String,
    /// JSON Schema of the argument of an answer, or of the array of its arguments.
    pub data: String,
    /// How many arguments an answer has.
    pub arguments: Arguments,
}

impl Declarations {
    /// Declares an ack by which handlers of the plugin get the answers of clients.
    ///
    /// # Errors
    /// `misuse`, `limit`.
    pub fn ack(&mut self, ack: &str, data: String, is_list: bool) -> Result<(), Refusal> {
        self.declare(|this| {
            this.check_schema(ack, &data)?;
            if !is_event_name(ack) {
                return Err(Refusal::misuse(format!(
                    "`{}` is not a valid name of an ack: it has the form of an event's name",
                    ack.escape_debug()
                )));
            }
            let plugin = this.registration()?;
            if plugin.acks.iter().any(|other| other.ack == ack) {
                return Err(Refusal::misuse(format!("ack `{ack}` is declared twice")));
            }
            let arguments = if is_list { Arguments::List } else { Arguments::One };
            plugin.acks.push(DeclaredAck { ack: ack.to_owned(), data, arguments });
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ack_has_a_valid_name_and_is_declared_once() {
        let mut declarations = Declarations::default();
        declarations.plugin("quiz", "1.0.0", String::new()).unwrap();
        declarations.ack("yes", "true".to_owned(), false).unwrap();
        declarations.ack("all", "true".to_owned(), true).unwrap();
        let refused = declarations.ack("yes", "true".to_owned(), true).unwrap_err();
        assert!(refused.message.contains("`yes` is declared twice"), "{refused:?}");
        for wrong in ["", "$yes", "connect"] {
            assert_eq!(
                declarations.ack(wrong, "true".to_owned(), false).unwrap_err().code,
                "misuse"
            );
        }
        assert!(declarations.finish().is_err(), "a refused call makes the load fail");
    }
}
