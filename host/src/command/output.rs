//! What people and scripts read: the only place that prints.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "printing is what a command line is for")]

use comfy_table::{Table, presets};
use serde_json::Value;

/// Prints a line of the result.
pub(crate) fn line(text: impl std::fmt::Display) {
    anstream::println!("{text}");
}

/// Prints a remark that is no part of the result.
pub(crate) fn remark(text: impl std::fmt::Display) {
    anstream::eprintln!("{text}");
}

/// Prints an error with its causes, and what to do next where it says.
pub(crate) fn error(error: &anyhow::Error) {
    anstream::eprintln!("error: {error}");
    let mut said = error.to_string();
    for cause in error.chain().skip(1) {
        let text = cause.to_string();
        if !said.contains(&text) {
            anstream::eprintln!("  because {text}");
            said = text;
        }
    }
}

/// Prints a document for scripts.
pub(crate) fn json(value: &Value) {
    anstream::println!("{value:#}");
}

/// Prints rows under `header`, in columns.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table.add_rows(rows);
    // Columns are told apart by their padding; the border's would indent the first.
    for line in table.lines() {
        anstream::println!("{}", line.trim());
    }
}
