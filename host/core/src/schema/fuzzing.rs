//! What a fuzzer calls for schemas: see the crate's `fuzzing`.

use serde_json::Value;

use super::{MAX_DETAILS, Schema};

/// The default of `limits.schema_bytes`.
const MAX_BYTES: usize = 256 << 10;

/// A schema, a line break, and a document that is checked against it.
pub fn schema(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (schema, document) = text.split_once('\n').unwrap_or((text, "null"));
    let Ok(schema) = Schema::compile(schema, MAX_BYTES) else { return };
    let again = Schema::compile(&schema.source.to_string(), usize::MAX);
    assert_eq!(again.as_ref(), Ok(&schema));
    let Ok(document) = serde_json::from_str::<Value>(document) else { return };
    let checked = schema.check(&document);
    assert_eq!(checked, schema.check(&document));
    if let Err(details) = checked {
        assert!((1..=MAX_DETAILS).contains(&details.len()));
    }
}
