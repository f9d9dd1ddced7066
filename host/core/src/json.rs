//! JSON texts: the text of a parsed document, and the depth of a text that is not parsed.

use serde_json::Value;

/// Valid JSON text. It was parsed once, and is not parsed again when it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Json {
    text: String,
    /// Whether the value is an object with the property `error`. A client would take such a reply
    /// for a rejection.
    pub has_error: bool,
}

impl Json {
    /// Parses `text`. Returns the text and its value.
    ///
    /// # Errors
    /// `text` is not valid JSON.
    pub fn parse(text: String) -> serde_json::Result<(Self, Value)> {
        let value = serde_json::from_str(&text)?;
        Ok((Self::of(text, &value), value))
    }

    /// Combines `text` with its parsed `value`.
    pub fn of(text: String, value: &Value) -> Self {
        Self { text, has_error: value.get("error").is_some() }
    }

    /// The JSON value `null`.
    pub fn null() -> Self {
        Self { text: "null".to_owned(), has_error: false }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl From<&Value> for Json {
    fn from(value: &Value) -> Self {
        Self::of(value.to_string(), value)
    }
}

/// Whether `json` nests arrays and objects deeper than `max`. Brackets in strings don't count. The
/// text need not be well-formed.
pub fn is_deeper(json: &str, max: usize) -> bool {
    // Nearly every text has fewer brackets than allowed levels, and counting them is many times
    // cheaper.
    json.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count() > max && depth(json) > max
}

fn depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0_usize, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_brackets_outside_of_strings() {
        assert_eq!(depth("1"), 0);
        assert_eq!(depth(r#"{"a":[{}]}"#), 3);
        assert_eq!(depth(r#"["[[[[", "\"[["]"#), 1);
        assert!(
            is_deeper("[[[]]]", 2) && !is_deeper("[[[]]]", 3) && !is_deeper(r#"[["[[[["]]"#, 2)
        );
    }
}
