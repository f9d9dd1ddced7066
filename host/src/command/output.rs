//! What people and scripts read: the only place that prints. A reader that has gone (`| head`) ends no command; any other error is told at
//! the end.

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use comfy_table::{Table, presets};
use serde_json::Value;
use sockhop::log::{self, Writer, escape, escape_json};

/// Prints a line of the result.
pub(crate) fn line(text: impl std::fmt::Display) {
    print(&escape(&text.to_string()));
}

/// Prints an error with its causes, and what to do next where it says. What follows a line break is indented, so that it can't look like
/// a line of this program's own.
pub(crate) fn error(error: &anyhow::Error) {
    let mut said = error.to_string();
    let mut text = format!("error: {}\n", indented(&said));
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !said.contains(&cause) {
            text.push_str(&format!("  because {}\n", indented(&cause)));
            said = cause;
        }
    }
    // There is nobody else to tell.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

fn indented(text: &str) -> String {
    text.lines().map(escape).collect::<Vec<_>>().join("\n    ")
}

/// Prints a document for scripts.
pub(crate) fn json(value: &Value) {
    print(&escape_json(&format!("{value:#}")));
}

/// Prints rows under `header`, in columns.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table.add_rows(rows.iter().map(|row| row.iter().map(|cell| escape(cell))));
    // Columns are told apart by their padding; the border's would indent the first.
    for line in table.lines() {
        print(line.trim());
    }
}

/// The first error of standard output but a reader that has gone.
static FAILED: Mutex<Option<io::Error>> = Mutex::new(None);

fn print(text: &str) {
    let mut output = io::stdout().lock();
    let written = output.write_all(text.as_bytes()).and_then(|()| output.write_all(b"\n")).and_then(|()| output.flush());
    if let Err(error) = written
        && error.kind() != ErrorKind::BrokenPipe
    {
        FAILED.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

/// What the command ends with: `code`, or a failure where its result could not be printed.
pub(crate) fn end(code: ExitCode) -> ExitCode {
    match FAILED.lock().unwrap_or_else(PoisonError::into_inner).take() {
        None => code,
        Some(source) => {
            error(&anyhow::Error::new(source).context("can't write to standard output"));
            ExitCode::FAILURE
        }
    }
}

/// Standard output of a command that goes on for long: printing never waits for a reader, and never fails.
pub(crate) struct Background(Writer);

/// Bytes that may wait for a reader of the host's start.
const BACKGROUND_BYTES: usize = 256 << 10;

/// How long a reader has after an error: what came before it is to be read first.
const FLUSH: Duration = Duration::from_millis(500);

impl Background {
    pub(crate) fn start() -> io::Result<Self> {
        Writer::start("sockhop-output", log::stdout(), BACKGROUND_BYTES).map(Self)
    }

    /// Prints a line of the result.
    pub(crate) fn line(&self, text: impl std::fmt::Display) {
        self.0.line(&escape(&text.to_string()));
    }

    /// Nothing more is to be printed.
    pub(crate) fn close(&self) {
        self.0.close();
    }

    /// The command ends.
    pub(crate) fn finish(self) {
        self.0.finish(FLUSH);
    }
}
