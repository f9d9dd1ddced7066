//! JSON texts: the text of a parsed document, and the depth of a text that is not parsed.

use serde_json::Value;

/// Valid JSON text. It was parsed once, and is not parsed again when it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Json {
    text: String,
    /// Whether the value, or the first of a list of arguments, is an object with the property
    /// `error`. A client would take such a reply for a rejection.
    pub has_error: bool,
    /// Whether the value is an array of arguments.
    is_list: bool,
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
        Self { text, has_error: has_error(value), is_list: false }
    }

    /// The JSON value `null`.
    pub fn null() -> Self {
        Self { text: "null".to_owned(), has_error: false, is_list: false }
    }

    /// Makes it the list of the arguments of one message. `value` is its parsed value. Returns
    /// `None` if that is no array.
    #[must_use]
    pub fn into_list(self, value: &Value) -> Option<Self> {
        let has_error = value.as_array()?.first().is_some_and(has_error);
        Some(Self { text: self.text, has_error, is_list: true })
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it is a list of arguments.
    pub fn is_list(&self) -> bool {
        self.is_list
    }

    /// The texts of the arguments that a message with this JSON has, separated by commas.
    pub fn arguments(&self) -> &str {
        if !self.is_list {
            return &self.text;
        }
        let array = self.text.trim_ascii();
        // It was parsed as an array.
        let inner = array.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        inner.unwrap_or_default().trim_ascii()
    }
}

fn has_error(value: &Value) -> bool {
    value.get("error").is_some()
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
    fn the_arguments_are_the_text_or_the_elements_of_a_list() {
        let of = |text: &str| {
            let (json, value) = Json::parse(text.to_owned()).unwrap();
            json.into_list(&value).map(|json| (json.arguments().to_owned(), json.has_error))
        };
        let list = |arguments: &str, has_error| Some((arguments.to_owned(), has_error));
        assert_eq!(of(" [ 1, [2] ,{} ]\n"), list("1, [2] ,{}", false));
        assert_eq!(of("[ ]"), list("", false));
        assert_eq!(of(r#"[{"error":1}]"#), list(r#"{"error":1}"#, true));
        assert_eq!(of(r#"[1,{"error":1}]"#), list(r#"1,{"error":1}"#, false));
        assert_eq!(of(r#"{"0":1}"#), None);
        let (plain, _) = Json::parse("[1,2]".to_owned()).unwrap();
        assert_eq!((plain.arguments(), plain.is_list()), ("[1,2]", false));
    }

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
