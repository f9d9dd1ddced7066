//! What a fuzzer calls for the text of packets: see the crate's `fuzzing`.

use serde_json::Value;
use sockhop_core::json::is_deeper;

use super::argument::split;

/// The text of an event: how it is split, and how deeply it nests.
pub fn payload(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let parts = split(text);
    let _ = is_deeper(text, 1);
    let Ok(value) = serde_json::from_str::<Value>(text) else { return };
    // Of equal members, the last one remains. So the text may nest more deeply, but not less.
    for most in [1, 8, 64] {
        assert!(is_deeper(text, most) || depth(&value) <= most);
    }
    if let Value::Array(values) = &value
        && let Some((Value::String(name), arguments)) = values.split_first()
    {
        let parts =
            parts.map(|(name, rest)| (name, serde_json::from_str(&format!("[{rest}]")).ok()));
        assert_eq!(parts, Some((name.as_str().into(), Some(Value::from(arguments)))));
    }
}

/// Parsed JSON has at most 128 levels.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}
