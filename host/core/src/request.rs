//! Makes the payload of an event from the path, the query and the body of an HTTP request.
//!
//! The payload is one object: the members of the body, and one member for each variable of the path
//! and each parameter of the query. The text of the body is not changed.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::{Map, Value};

use crate::events::parse_payload;
use crate::rejection::{Detail, Rejection};
use crate::schema::Schema;

/// Returns the segments of a path, each decoded once. `None` if one is no UTF-8 text.
pub fn segments(path: &str) -> Option<Vec<String>> {
    let decode = |text: &str| Some(percent_decode_str(text).decode_utf8().ok()?.into_owned());
    path.strip_prefix('/').unwrap_or(path).split('/').map(decode).collect()
}

/// The characters of a segment that are encoded: all but those that RFC 3986 calls unreserved.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Returns a text as one segment of a path.
pub fn encode_segment(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

/// Returns the names and values of a query, decoded.
pub fn pairs(query: &str) -> Vec<(String, String)> {
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

/// Maximum number of different names in path and query together.
const MAX_PARAMETERS: usize = 64;

/// The parameters of a request, decoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parameters {
    /// The variables of the path.
    pub path: Vec<(String, String)>,
    /// The pairs of the query, in their order. A name may come several times.
    pub query: Vec<(String, String)>,
}

impl Parameters {
    /// Returns the JSON text of the payload. `schema` is that of the payload, and decides what the
    /// text of a parameter means: `7` is a number where the schema accepts a number, else text; one
    /// value is an array of one where the schema accepts only an array. Without a body and without
    /// parameters, the payload is `{}` if the schema accepts it, else `null`.
    ///
    /// The result may violate the schema: the check of the event refuses it then.
    ///
    /// # Errors
    /// The body is not JSON or too deep, it is not an object although there are parameters, or a
    /// member is given in two places.
    pub fn payload(
        self,
        body: Option<&str>,
        schema: &Schema,
        max_depth: usize,
    ) -> Result<String, Rejection> {
        let value = body.map(|body| parse_payload(body, max_depth)).transpose()?;
        let members = self.members()?;
        if members.is_empty() {
            return Ok(match body {
                Some(body) => body.to_owned(),
                None if schema.check(&Value::Object(Map::new())).is_ok() => "{}".to_owned(),
                None => "null".to_owned(),
            });
        }
        let object = match value {
            None => Map::new(),
            Some(Value::Object(object)) => object,
            Some(_) => return Err(Rejection::invalid("the body must be a JSON object")),
        };
        if let Some(member) = members.iter().find(|member| object.contains_key(&member.name)) {
            return Err(twice(&member.name, "in the body, and in the path or the query"));
        }
        let members = fit(members, object, schema);
        Ok(join(&members, body))
    }

    /// Groups the parameters by their names.
    fn members(self) -> Result<Vec<Member>, Rejection> {
        let mut members: Vec<Member> = Vec::new();
        for (name, value) in self.path {
            members.push(Member { name, values: vec![value], form: 0 });
        }
        let of_path = members.len();
        for (name, value) in self.query {
            let known = members.iter_mut().enumerate().find(|(_, member)| member.name == name);
            match known {
                Some((at, _)) if at < of_path => {
                    return Err(twice(&name, "in the path and the query"));
                }
                Some((_, member)) => member.values.push(value),
                None => members.push(Member { name, values: vec![value], form: 0 }),
            }
            if members.len() > MAX_PARAMETERS {
                return Err(Rejection::TooLarge(format!(
                    "a request has at most {MAX_PARAMETERS} parameters"
                )));
            }
        }
        Ok(members)
    }
}

fn twice(name: &str, places: &str) -> Rejection {
    Rejection::against_schema(vec![Detail {
        path: format!("/{}", name.replace('~', "~0").replace('/', "~1")),
        rule: "parameter".to_owned(),
        message: format!("is given {places}"),
    }])
}

/// A member of the payload that comes from the path or the query.
struct Member {
    name: String,
    values: Vec<String>,
    /// Which of its forms is tried; see [`Member::text`].
    form: usize,
}

impl Member {
    /// The JSON text in one of these forms, in this order: a number or a truth value; text; an
    /// array in which each value is a number, a truth value or else text; an array of texts.
    /// Returns `None` if the member has no such form.
    fn text(&self, form: usize) -> Option<String> {
        let array = |texts: Vec<String>| format!("[{}]", texts.join(","));
        match (form, self.values.as_slice()) {
            (0, [value]) => literal(value),
            (1, [value]) => Some(quoted(value)),
            (2, values) => Some(array(
                values
                    .iter()
                    .map(|value| literal(value).unwrap_or_else(|| quoted(value)))
                    .collect(),
            )),
            (3, values) => Some(array(values.iter().map(|value| quoted(value)).collect())),
            _ => None,
        }
    }

    /// Goes to the first form that exists, from the current one on, and returns the JSON text in
    /// this form.
    fn seek_text(&mut self) -> Option<String> {
        while self.form < FORMS {
            if let Some(text) = self.text(self.form) {
                return Some(text);
            }
            self.form += 1;
        }
        None
    }
}

/// Number of forms that a parameter can have.
const FORMS: usize = 4;

/// Maximum number of checks for one request. Each may cost as much as the check of a whole payload.
/// A member has four forms, so four checks try all of them if each check finds all violations.
const MAX_ROUNDS: usize = 4;

/// Tries the forms of each member until the whole payload is valid. Returns the name and the text
/// of each member. A member without a valid form has the text of its first form, so that the client
/// gets the violation of the simplest form.
fn fit(
    mut members: Vec<Member>,
    mut object: Map<String, Value>,
    schema: &Schema,
) -> Vec<(String, String)> {
    let mut texts: Vec<(String, String)> = Vec::new();
    for member in &mut members {
        let text = member.seek_text().unwrap_or_default();
        object.insert(member.name.clone(), value_of(&text));
        texts.push((member.name.clone(), text));
    }
    let first = texts.clone();
    let mut payload = Value::Object(object);
    // Each round moves all members whose violations the check has found to their next form. A check
    // finds at most 16 violations, or one in a very large body.
    for _ in 0..MAX_ROUNDS {
        let Err(details) = schema.check(&payload) else { return texts };
        let is_named = |name: &str| details.iter().any(|detail| is_at(&detail.path, name));
        // A violation without a path, for example of `oneOf`, names no member. Then all numbers and
        // truth values are tried as text.
        let is_unknown = !texts.iter().any(|(name, _)| is_named(name))
            && details.iter().any(|detail| detail.path.is_empty());
        let mut has_moved = false;
        for (member, (name, text)) in members.iter_mut().zip(&mut texts) {
            if !(is_named(name) || is_unknown && member.form == 0) {
                continue;
            }
            member.form += 1;
            if let (Some(next), Some(object)) = (member.seek_text(), payload.as_object_mut()) {
                object.insert(name.clone(), value_of(&next));
                *text = next;
                has_moved = true;
            }
        }
        if !has_moved {
            break;
        }
    }
    let has_no_valid_form = |member: &Member| member.form >= FORMS;
    let invalid = members.iter().map(has_no_valid_form);
    invalid
        .zip(first)
        .zip(texts)
        .map(|((is_invalid, first), text)| if is_invalid { first } else { text })
        .collect()
}

/// Whether a JSON pointer points to the member `name`, or into it.
fn is_at(path: &str, name: &str) -> bool {
    let first = path.strip_prefix('/').and_then(|rest| rest.split('/').next());
    first.is_some_and(|first| first.replace("~1", "/").replace("~0", "~") == name)
}

/// The text as JSON if it is an integer, a decimal number or a truth value in their usual form.
/// Anything else, such as `007` or `1e3`, is rather meant as text.
fn literal(text: &str) -> Option<String> {
    if matches!(text, "true" | "false") {
        return Some(text.to_owned());
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, decimals) = match digits.split_once('.') {
        Some((whole, decimals)) => (whole, Some(decimals)),
        None => (digits, None),
    };
    let are_digits =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_whole = are_digits(whole) && (whole == "0" || !whole.starts_with('0'));
    (is_whole && text != "-0" && decimals.is_none_or(are_digits)).then(|| text.to_owned())
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn value_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

/// The text of an object with these members, and with those of `body`, which is an object.
fn join(members: &[(String, String)], body: Option<&str>) -> String {
    let mut text = String::from("{");
    for (index, (name, value)) in members.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(&quoted(name));
        text.push(':');
        text.push_str(value);
    }
    let rest = body.and_then(|body| body.trim().strip_prefix('{')).unwrap_or("}").trim_start();
    if !rest.starts_with('}') {
        text.push(',');
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn payload(
        path: &[(&str, &str)],
        query: &[(&str, &str)],
        body: Option<&str>,
        schema: &Value,
    ) -> Result<String, Rejection> {
        let schema = Schema::compile(&schema.to_string(), 1 << 16).unwrap();
        let pairs = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        Parameters { path: pairs(path), query: pairs(query) }.payload(body, &schema, 32)
    }

    fn of(types: Value) -> Value {
        json!({"type": "object", "properties": {"a": types}})
    }

    #[test]
    fn the_schema_decides_what_the_text_of_a_parameter_means() {
        for (types, text, expected) in [
            (json!({"type": "integer"}), "7", "7"),
            (json!({"type": "string"}), "7", "\"7\""),
            (json!({"type": ["integer", "string"]}), "7", "7"),
            (json!({"type": ["integer", "string"]}), "007", "\"007\""),
            (json!({"type": ["integer", "string"], "maximum": 9}), "12", "\"12\""),
            (json!({"type": "number"}), "-1.50", "-1.50"),
            (json!({"type": "boolean"}), "true", "true"),
            (json!({"type": "string"}), "true", "\"true\""),
            (json!({"type": "array", "items": {"type": "integer"}}), "7", "[7]"),
            (json!({"type": "array", "items": {"type": "string"}}), "7", "[\"7\"]"),
            (json!({"enum": ["1", 2]}), "1", "\"1\""),
            (json!({"enum": ["1", 2]}), "2", "2"),
            (json!({"anyOf": [{"type": "boolean"}, {"type": "string"}]}), "7", "\"7\""),
            (json!(true), "7", "7"),
            (json!(true), "a \"b\"", "\"a \\\"b\\\"\""),
            // In no form valid: the first one.
            (json!({"type": "integer"}), "x", "\"x\""),
            (json!({"type": "integer", "maximum": 5}), "7", "7"),
        ] {
            let made = payload(&[], &[("a", text)], None, &of(types.clone()));
            assert_eq!(made, Ok(format!("{{\"a\":{expected}}}")), "{types} {text}");
        }
    }

    #[test]
    fn a_path_and_a_query_are_decoded_once() {
        let decoded = |path: &str| segments(path);
        let texts = |texts: &[&str]| Some(texts.iter().map(|text| (*text).to_owned()).collect());
        assert_eq!(decoded("/a/b"), texts(&["a", "b"]));
        assert_eq!(decoded("/a%2Fb/%2541/"), texts(&["a/b", "%41", ""]));
        assert_eq!(decoded("/a%FF"), None);
        assert_eq!(encode_segment("a/b ä-._~9"), "a%2Fb%20%C3%A4-._~9");
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            pairs("a=1+2&b=%26&c&a=%253"),
            [pair("a", "1 2"), pair("b", "&"), pair("c", ""), pair("a", "%3"),]
        );
    }

    #[test]
    fn a_number_is_text_where_only_a_variant_of_the_payload_needs_it() {
        let variant = |name: &str, of: Value| json!({"properties": {"type": {"const": name}, "a": of}, "required": ["type", "a"]});
        let schema = json!({"oneOf": [
            variant("named", json!({"type": "string"})),
            variant("counted", json!({"type": "integer"})),
        ]});
        let made = |kind: &str| payload(&[], &[("type", kind), ("a", "7")], None, &schema);
        assert_eq!(made("named").as_deref(), Ok(r#"{"type":"named","a":"7"}"#));
        assert_eq!(made("counted").as_deref(), Ok(r#"{"type":"counted","a":7}"#));
    }

    #[test]
    fn a_parameter_that_comes_several_times_is_an_array() {
        let tags = of(json!({"type": "array", "items": {"type": "string"}}));
        let made = payload(&[], &[("a", "1"), ("a", "x")], None, &tags);
        assert_eq!(made.as_deref(), Ok(r#"{"a":["1","x"]}"#));
    }

    #[test]
    fn path_query_and_body_are_one_object_and_the_text_of_the_body_is_kept() {
        let schema = json!({"type": "object"});
        let body = " {\n \"n\" : 1.0e2, \"x\": 12345678901234567890123} ";
        let made = payload(&[("id", "7")], &[("q", "a b")], Some(body), &schema);
        let expected = "{\"id\":7,\"q\":\"a b\",\"n\" : 1.0e2, \"x\": 12345678901234567890123}";
        assert_eq!(made.as_deref(), Ok(expected));
        let alone = payload(&[], &[], Some("[1,  2]"), &schema);
        assert_eq!(alone.as_deref(), Ok("[1,  2]"));
        for (body, expected) in
            [(Some("{}"), "{\"id\":7}"), (Some("{ }"), "{\"id\":7}"), (None, "{\"id\":7}")]
        {
            assert_eq!(payload(&[("id", "7")], &[], body, &schema).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn without_parameters_and_body_the_payload_is_empty_or_null() {
        assert_eq!(payload(&[], &[], None, &json!({"type": "object"})).as_deref(), Ok("{}"));
        assert_eq!(payload(&[], &[], None, &json!({"type": "null"})).as_deref(), Ok("null"));
    }

    #[test]
    fn a_member_that_is_given_twice_is_refused_and_named() {
        let schema = json!({"type": "object"});
        for (path, query, body) in [
            (&[("a/b", "1")][..], &[("a/b", "1")][..], None),
            (&[("a/b", "1")], &[], Some("{\"a/b\":1}")),
            (&[], &[("a/b", "1")], Some("{\"a/b\":1}")),
        ] {
            let refused = payload(path, query, body, &schema).unwrap_err();
            let Rejection::InvalidPayload { details, .. } = refused else { panic!("{refused:?}") };
            assert_eq!(details.first().map(|detail| detail.path.as_str()), Some("/a~1b"));
        }
    }

    #[test]
    fn a_body_that_is_no_object_or_no_json_is_refused() {
        let schema = json!({"type": "object"});
        let code = |body| payload(&[("id", "7")], &[], Some(body), &schema).map_err(|r| r.code());
        for body in ["[]", "7", "{", "", "{\"a\":1}x"] {
            assert_eq!(code(body), Err("invalid_payload"), "{body}");
        }
        assert_eq!(code(&format!("{}{}", "[".repeat(40), "]".repeat(40))), Err("too_large"));
    }

    #[test]
    fn the_number_of_parameters_is_limited() {
        let names: Vec<_> = (0..=MAX_PARAMETERS).map(|number| format!("p{number}")).collect();
        let query: Vec<_> = names.iter().map(|name| (name.as_str(), "1")).collect();
        let schema = json!({"type": "object"});
        assert!(payload(&[], &query[1..], None, &schema).is_ok());
        assert_eq!(payload(&[], &query, None, &schema).unwrap_err().code(), "too_large");
    }
}
