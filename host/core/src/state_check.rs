//! The host event `$check`: what a plugin replies about the stored state that it can't read.

use serde::{Deserialize, Serialize};

/// Maximum number of entries that one reply names. Others are only counted.
pub const MAX_EXAMPLES: usize = 100;

/// Maximum bytes of the reason of one entry. The rest is cut off.
pub const MAX_REASON: usize = 1024;

/// The data of the event.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckRequest {
    /// Where the reply before has ended; `None` for the first event.
    pub cursor: Option<String>,
}

/// One reply: what the handler has found in a part of the state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReply {
    /// How many entries it has tried to read.
    pub checked: u64,
    /// How many of them it can't read.
    pub unreadable: u64,
    /// The first of those.
    pub examples: Vec<Unreadable>,
    /// Where the next event begins; `None` if nothing is left.
    pub next: Option<String>,
}

/// An entry that a version can't read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreadable {
    /// Its key.
    pub key: String,
    /// Why not.
    pub reason: String,
}

/// Reads the reply of a handler.
///
/// # Errors
/// Describes for the plugin's author what is wrong with the reply.
pub fn read_reply(reply: Option<&str>, attachments: usize) -> Result<CheckReply, String> {
    let wrong = |what: &str| {
        format!(
            "{what}: a handler of `$check` replies an object with `checked`, `unreadable`, \
             `examples` (at most {MAX_EXAMPLES}, each with `key` and `reason`) and `next`"
        )
    };
    if attachments > 0 {
        return Err(wrong("the reply has attachments"));
    }
    let reply: CheckReply = serde_json::from_str(reply.unwrap_or("null"))
        .map_err(|error| wrong(&format!("invalid reply: {error}")))?;
    let named = reply.examples.len();
    if named > MAX_EXAMPLES || named as u64 > reply.unreadable || reply.unreadable > reply.checked {
        return Err(wrong("invalid reply: its numbers contradict each other"));
    }
    Ok(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_names_the_first_entries_that_are_unreadable_and_counts_the_others() {
        let reply = CheckReply {
            checked: 500,
            unreadable: 200,
            examples: vec![Unreadable { key: "a".to_owned(), reason: "b".to_owned() }; 100],
            next: Some("0 a".to_owned()),
        };
        let text = |reply: &CheckReply| serde_json::to_string(reply).unwrap();
        assert_eq!(read_reply(Some(&text(&reply)), 0).as_ref(), Ok(&reply));
        let nothing = r#"{"checked":0,"unreadable":0,"examples":[]}"#;
        assert_eq!(read_reply(Some(nothing), 0), Ok(CheckReply::default()));
        let mut too_many = reply.clone();
        too_many.examples.extend(reply.examples.clone());
        let contradicts = [
            CheckReply { unreadable: 99, ..reply.clone() },
            CheckReply { checked: 199, ..reply },
            too_many,
        ];
        for wrong in contradicts.iter().map(text).chain(["{}".to_owned(), "null".to_owned()]) {
            let reason = read_reply(Some(&wrong), 0).unwrap_err();
            assert!(reason.contains("replies an object with `checked`"), "{reason}");
        }
        assert!(read_reply(None, 0).is_err() && read_reply(Some(nothing), 1).is_err());
    }
}
