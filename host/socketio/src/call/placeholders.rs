//! The placeholders of attachments in arguments: `{"_placeholder":true,"num":0}` stands for the
//! first attachment.
//!
//! The check reads text that is known to be well formed, so it only looks for object keys. It keeps
//! a list of the open objects instead of recursing: the depth of a client's document costs no
//! stack.

use std::borrow::Cow;

/// Whether every placeholder in `arguments` names one of `attachments` attachments.
///
/// `arguments` must be well-formed JSON texts separated by commas, such as the `text` of an event.
/// The reference client and server throw an error for a placeholder that this function finds
/// invalid.
///
/// ```
/// use sockhop_socketio::placeholders_are_valid;
///
/// assert!(placeholders_are_valid(r#"{"_placeholder":true,"num":0},"x""#, 1));
/// assert!(!placeholders_are_valid(r#"{"_placeholder":true,"num":1}"#, 1));
/// assert!(!placeholders_are_valid(r#"{"_placeholder":true,"num":"splice"}"#, 1));
/// ```
pub fn placeholders_are_valid(arguments: &str, attachments: usize) -> bool {
    let bytes = arguments.as_bytes();
    // The key cannot be written without one of the two.
    if memchr::memmem::find(bytes, KEY.as_bytes()).is_none()
        && memchr::memchr(b'\\', bytes).is_none()
    {
        return true;
    }
    let mut open: Vec<Object> = Vec::new();
    let mut rest = arguments;
    while let Some(at) = rest.find(['{', '}', '"']) {
        let (_, after) = rest.split_at(at);
        rest = match after.as_bytes().first() {
            Some(b'{') => {
                open.push(Object::default());
                after.get(1..).unwrap_or_default()
            }
            Some(b'}') => {
                if open
                    .pop()
                    .is_some_and(|object| object.is_placeholder && !object.names_attachment)
                {
                    return false;
                }
                after.get(1..).unwrap_or_default()
            }
            _ => {
                let (string, after) = after.split_at(string_length(after));
                // Only a key is followed by a colon. A value is left for the next turn.
                if let Some(value) = after.trim_ascii_start().strip_prefix(':')
                    && let Some(object) = open.last_mut()
                {
                    object.read(string, value.trim_ascii_start(), attachments);
                }
                after
            }
        };
    }
    true
}

const KEY: &str = "_placeholder";

/// The known keys of an object whose end was not reached. A later key replaces an earlier one, as
/// in JavaScript.
#[derive(Default)]
struct Object {
    is_placeholder: bool,
    names_attachment: bool,
}

impl Object {
    /// Reads a key, still in its quotes, and the text that its value begins.
    fn read(&mut self, key: &str, value: &str, attachments: usize) {
        if is_string(key, KEY) {
            self.is_placeholder = value.starts_with("true");
        } else if is_string(key, "num") {
            // Looks no further than a number reaches: objects in objects must not be read again and
            // again.
            let is_part =
                |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
            let length = value.bytes().take_while(is_part).count();
            let number = value.get(..length).and_then(|number| number.parse::<f64>().ok());
            self.names_attachment = number.is_some_and(|number| is_index(number, attachments));
        }
    }
}

/// Whether a number of JavaScript is the index of an element in a list of this length.
fn is_index(number: f64, length: usize) -> bool {
    // A list of attachments is far shorter than the integers that a double holds exactly.
    #[expect(clippy::cast_precision_loss, reason = "see above")]
    let length = length as f64;
    number.fract() == 0.0 && (0.0..length).contains(&number)
}

/// Whether a JSON string, in its quotes, is this text.
fn is_string(json: &str, text: &str) -> bool {
    if memchr::memchr(b'\\', json.as_bytes()).is_none() {
        return json.get(1..json.len().saturating_sub(1)) == Some(text);
    }
    serde_json::from_str::<Cow<'_, str>>(json).is_ok_and(|unescaped| unescaped == text)
}

/// The length of the string at the beginning, quotes included.
fn string_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += found;
        if bytes.get(at) == Some(&b'"') {
            return at + 1;
        }
        // The character after a backslash is ASCII in well-formed text.
        at += 2;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placeholder_names_an_attachment() {
        for (arguments, attachments) in [
            ("", 0),
            (r#"1,"_placeholder",[true]"#, 0),
            (r#"{"_placeholder":true,"num":0}"#, 1),
            (r#"{"num":1,"_placeholder":true}"#, 2),
            (r#"{ "_placeholder" : true , "num" : 1 }, {"a":{"_placeholder":true,"num":0}}"#, 2),
            (r#"{"_placeholder":false,"num":7}"#, 1),
            (r#"{"_placeholder":1,"num":7}"#, 1),
            (r#"{"_placeholder":true,"num":9,"num":0}"#, 1),
            (r#"{"_placeholder":true,"num":1.0}"#, 2),
            (r#"{"a\"":"{","\\":{"_placeholder":true,"num":0}}"#, 1),
        ] {
            assert!(placeholders_are_valid(arguments, attachments), "{arguments}");
        }
    }

    #[test]
    fn the_time_is_linear_in_the_length() {
        let nested = r#"{"num":"#.repeat(100_000) + "0" + &"}".repeat(100_000);
        let started = std::time::Instant::now();
        assert!(placeholders_are_valid(&format!(r#"{nested},"_placeholder""#), 1));
        assert!(started.elapsed().as_secs() < 10);
    }

    #[test]
    fn a_forged_placeholder_is_found() {
        for arguments in [
            r#"{"_placeholder":true,"num":1}"#,
            r#"{"_placeholder":true,"num":-1}"#,
            r#"{"_placeholder":true,"num":0.5}"#,
            r#"{"_placeholder":true,"num":1e400}"#,
            r#"{"_placeholder":true,"num":"splice"}"#,
            r#"{"_placeholder":true,"num":"0"}"#,
            r#"{"_placeholder":true,"num":null}"#,
            r#"{"_placeholder":true,"num":[0]}"#,
            r#"{"_placeholder":true,"num":{"num":0}}"#,
            r#"{"_placeholder":true}"#,
            r#"{"num":0,"_placeholder":true,"num":7}"#,
            r#"{"\u005fplaceholder":true,"num":3}"#,
            r#"1,[{"a":[{"_placeholder":true,"num":0},{"_placeholder":true,"num":3}]}]"#,
            r#"{"_placeholder":true,"a":{"num":0}}"#,
        ] {
            assert!(!placeholders_are_valid(arguments, 1), "{arguments}");
        }
    }
}
