//! Makes text from plugins and clients safe to show: without line breaks, terminal control
//! characters, and characters that reorder or hide other text.

use std::borrow::Cow;
use std::fmt::Write;

/// Whether a character could change how the text around it is read: control characters, line and
/// paragraph separators, bidirectional controls, and zero-width characters.
pub(super) fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Replaces every unsafe character by an escape such as `\n` or `\u{202e}`. The result is one line.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_unsafe(c) {
            push_escape(&mut escaped, c);
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

fn push_escape(to: &mut String, c: char) {
    match c {
        '\n' => to.push_str("\\n"),
        '\r' => to.push_str("\\r"),
        '\t' => to.push_str("\\t"),
        other => {
            // Writing to a string can't fail.
            let _ = write!(to, "\\u{{{:x}}}", u32::from(other));
        }
    }
}

/// Appends the value of a field: unchanged if it is one plain word, otherwise quoted and escaped. A
/// value therefore can't look like another field.
pub(super) fn push_value(to: &mut String, text: &str) {
    let is_plain = !text.is_empty()
        && !text
            .contains(|c: char| c.is_whitespace() || matches!(c, '=' | '"' | '\\') || is_unsafe(c));
    if is_plain {
        to.push_str(text);
    } else {
        push_quoted(to, text);
    }
}

/// Appends the message of a line; quoted if it could look like a field or the end of the line.
pub(super) fn push_message(to: &mut String, text: &str) {
    if text.contains(|c: char| matches!(c, '=' | '"' | '\\') || is_unsafe(c)) {
        push_quoted(to, text);
    } else {
        to.push_str(text);
    }
}

fn push_quoted(to: &mut String, text: &str) {
    to.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => to.extend(['\\', c]),
            c if is_unsafe(c) => push_escape(to, c),
            c => to.push(c),
        }
    }
    to.push('"');
}

/// Replaces every unsafe character in a JSON document by an escape of JSON. Such characters occur
/// only within strings. Line breaks between values stay.
pub fn escape_json(document: &str) -> Cow<'_, str> {
    let is_unsafe = |c: char| c != '\n' && is_unsafe(c);
    if !document.contains(is_unsafe) {
        return Cow::Borrowed(document);
    }
    let mut escaped = String::with_capacity(document.len() + 16);
    for c in document.chars() {
        if is_unsafe(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Text in which unsafe characters are as frequent as others.
    fn hostile() -> impl Strategy<Value = String> {
        let odd = prop::sample::select(vec![
            '\n',
            '\r',
            '\t',
            '\u{1b}',
            '\u{7f}',
            '\u{85}',
            '\u{202e}',
            '\u{2028}',
            '\u{2066}',
            '\u{200b}',
            '\u{feff}',
            '\u{e0041}',
            ' ',
            '=',
            '"',
            '\\',
            'n',
            'u',
            '{',
            '}',
            'ä',
            '😀',
        ]);
        prop::collection::vec(prop_oneof![odd, any::<char>()], 0..40)
            .prop_map(|chars| chars.into_iter().collect())
    }

    /// Reverses `push_quoted`.
    fn unquoted(text: &str) -> String {
        let Some(inner) = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) else {
            return text.to_owned();
        };
        let (mut plain, mut rest) = (String::new(), inner.chars());
        while let Some(c) = rest.next() {
            match (c, if c == '\\' { rest.next() } else { None }) {
                ('\\', Some('n')) => plain.push('\n'),
                ('\\', Some('r')) => plain.push('\r'),
                ('\\', Some('t')) => plain.push('\t'),
                ('\\', Some('u')) => {
                    let digits: String = rest.by_ref().skip(1).take_while(|c| *c != '}').collect();
                    plain.extend(char::from_u32(u32::from_str_radix(&digits, 16).unwrap()));
                }
                ('\\', Some(other)) => plain.push(other),
                (other, _) => plain.push(other),
            }
        }
        plain
    }

    proptest! {
        #[test]
        fn escaped_text_is_one_line_of_safe_characters(text in hostile()) {
            prop_assert!(!escape(&text).contains(is_unsafe));
        }

        #[test]
        fn a_value_is_one_word_or_quoted_and_can_be_read_back(text in hostile()) {
            let mut value = String::new();
            push_value(&mut value, &text);
            prop_assert!(!value.contains(is_unsafe));
            prop_assert!(value.starts_with('"') || !value.contains([' ', '=', '"']));
            prop_assert_eq!(unquoted(&value), text.clone());
            let mut message = String::new();
            push_message(&mut message, &text);
            prop_assert!(message.starts_with('"') || !message.contains('='));
            prop_assert_eq!(unquoted(&message), text);
        }

        #[test]
        fn an_escaped_document_says_the_same(text in hostile()) {
            let document = serde_json::to_string_pretty(&serde_json::json!({ "text": [&text, 1] })).unwrap();
            let escaped = escape_json(&document);
            prop_assert!(!escaped.replace('\n', "").contains(is_unsafe));
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), serde_json::json!({ "text": [text, 1] }));
        }
    }
}
