//! The difference between two JSON documents, for people: line by line, `-` for what was expected
//! and `+` for what came.

use serde_json::Value;
use similar::{ChangeTag, TextDiff};

/// Equal lines that are shown around each difference.
const CONTEXT: usize = 3;

/// Lines of a difference. More tell nobody more.
const MAX_LINES: usize = 200;

/// Returns the lines of the difference, without line breaks.
pub(super) fn diff(expected: &Value, actual: &Value) -> Vec<String> {
    let (expected, actual) = (format!("{expected:#}\n"), format!("{actual:#}\n"));
    let compared = TextDiff::from_lines(&expected, &actual);
    let mut lines = Vec::new();
    for (index, group) in compared.grouped_ops(CONTEXT).iter().enumerate() {
        if index > 0 {
            lines.push("  …".to_owned());
        }
        for change in group.iter().flat_map(|op| compared.iter_changes(op)) {
            let sign = match change.tag() {
                ChangeTag::Delete => '-',
                ChangeTag::Insert => '+',
                ChangeTag::Equal => ' ',
            };
            lines.push(format!("{sign} {}", change.value().trim_end_matches('\n')));
        }
    }
    if lines.len() > MAX_LINES {
        let more = lines.len() - MAX_LINES;
        lines.truncate(MAX_LINES);
        lines.push(format!("  … and {more} more lines"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_difference_shows_what_was_expected_and_what_came() {
        let lines = diff(&json!({"a": 1, "b": [1, 2]}), &json!({"a": 1, "b": [1, 3]}));
        assert_eq!(
            lines,
            ["    \"a\": 1,", "    \"b\": [", "      1,", "-     2", "+     3", "    ]", "  }"]
        );
        assert!(diff(&json!(1), &json!(1)).is_empty());
    }

    #[test]
    fn a_difference_has_a_bound() {
        let long = Value::from((0..1_000).collect::<Vec<_>>());
        let lines = diff(&json!([]), &long);
        assert_eq!(lines.len(), MAX_LINES + 1);
        assert!(lines.last().unwrap().contains("more lines"));
    }
}
