//! The host event `$check`: what a plugin replies about the stored state that it can't read.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

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

/// A handler that has tried no entry in so many replies in a row has failed.
pub const REPLIES_WITHOUT_ENTRIES: u32 = 1_000;

/// Finds out that the replies of one handler would never end.
#[derive(Debug, Default)]
pub struct Cursors {
    /// The hashes of all cursors: they take 8 bytes each.
    seen: HashSet<u64>,
    idle: u32,
}

impl Cursors {
    /// Takes a reply that is not the last one.
    ///
    /// # Errors
    /// Describes for the plugin's author why the handler has failed.
    pub fn take(&mut self, checked: u64, next: &str) -> Result<(), String> {
        let mut hasher = DefaultHasher::new();
        next.hash(&mut hasher);
        if !self.seen.insert(hasher.finish()) {
            return Err(
                "`$check` does not go on: `next` is a cursor that has come before".to_owned()
            );
        }
        self.idle = if checked > 0 { 0 } else { self.idle + 1 };
        if self.idle < REPLIES_WITHOUT_ENTRIES {
            return Ok(());
        }
        Err(format!(
            "`$check` does not go on: the last {REPLIES_WITHOUT_ENTRIES} calls have tried no entry"
        ))
    }
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

    #[test]
    fn a_handler_whose_cursors_come_again_or_that_tries_nothing_has_failed() {
        let mut cursors = Cursors::default();
        for next in ["a", "b", "c"] {
            assert_eq!(cursors.take(1, next), Ok(()));
        }
        assert!(cursors.take(1, "a").unwrap_err().contains("has come before"));

        let mut cursors = Cursors::default();
        for call in 1..2 * REPLIES_WITHOUT_ENTRIES {
            let checked = u64::from(call == REPLIES_WITHOUT_ENTRIES);
            assert_eq!(cursors.take(checked, &call.to_string()), Ok(()));
        }
        assert!(cursors.take(0, "last").unwrap_err().contains("1000 calls have tried no entry"));
    }
}
