//! The output of commands. Only this module prints. A closed pipe (`| head`) does not end a
//! command; any other error of standard output is reported at the end.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use comfy_table::{Table, presets};
use serde_json::Value;
use sockhop::log::{self, LineWriter, escape, escape_json};

/// Prints one line of the result.
pub(crate) fn line(text: impl std::fmt::Display) {
    print(&escape(&text.to_string()));
}

/// Prints an error with its causes. The text after a line break is indented, so that it can't look
/// like a line of this program.
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
    print_error(&text);
}

/// Prints what clap says about the arguments: help and version are results, the rest is an error.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        let text = error.render();
        print_error(&if log::colours() { text.ansi().to_string() } else { text.to_string() });
    } else {
        // A closed pipe is no error, as in `print`.
        let _ = error.print();
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1))
}

/// Writes to standard error, and waits at most [`FLUSH`] for a reader: a process that has failed
/// must end, so that its supervisor can start it again.
fn print_error(text: &str) {
    match LineWriter::start("sockhop-error", log::stderr(), usize::MAX) {
        Ok(writer) => {
            writer.line(text.trim_end());
            writer.finish(FLUSH);
        }
        // An error of standard error can't be reported anywhere.
        Err(_) => drop(log::stderr().write_all(text.as_bytes())),
    }
}

fn indented(text: &str) -> String {
    text.lines().map(escape).collect::<Vec<_>>().join("\n    ")
}

/// Prints a JSON document.
pub(crate) fn json(value: &Value) {
    print(&escape_json(&format!("{value:#}")));
}

/// Prints a JSON document that is text already, so that no number in it changes.
pub(crate) fn json_text(text: &str) {
    print(&escape_json(text));
}

/// Prints one line as it is, for a file or a pipe. On a terminal, control characters are escaped.
pub(crate) fn raw_line(text: &str) {
    if io::stdout().is_terminal() { print(&escape_json(text)) } else { print(text) }
}

/// Prints bytes as they are, without a line break, for a file or a pipe. On a terminal, they are
/// one line of text, in which control characters are escaped.
pub(crate) fn bytes(bytes: &[u8]) {
    if io::stdout().is_terminal() {
        return line(String::from_utf8_lossy(bytes));
    }
    let mut output = io::stdout().lock();
    let written = output.write_all(bytes).and_then(|()| output.flush());
    record(written);
}

/// Prints one line beside the result, on standard error.
pub(crate) fn note(text: impl std::fmt::Display) {
    print_error(&escape(&text.to_string()));
}

/// Shows on a terminal what a command does now, in place of what it did before. Empty text removes
/// it. Elsewhere nothing is shown.
pub(crate) fn progress(text: &str) {
    if io::stderr().is_terminal() {
        let width = 78;
        let shown: String = escape(text).chars().take(width).collect();
        // An error of standard error can't be reported anywhere.
        let _ = io::stderr().write_all(format!("\r\x1b[K{shown}").as_bytes());
    }
}

/// Prints `rows` as a table under `header`.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table.add_rows(rows.iter().map(|row| row.iter().map(|cell| escape(cell))));
    // Padding separates the columns. The padding of the border would indent the first column.
    for line in table.lines() {
        print(line.trim());
    }
}

/// The first error of standard output. A closed pipe does not count.
static FAILED: Mutex<Option<io::Error>> = Mutex::new(None);

fn print(text: &str) {
    let mut output = io::stdout().lock();
    let written = output
        .write_all(text.as_bytes())
        .and_then(|()| output.write_all(b"\n"))
        .and_then(|()| output.flush());
    record(written);
}

/// Keeps the first error of standard output.
fn record(written: io::Result<()>) {
    if let Err(error) = written
        && error.kind() != ErrorKind::BrokenPipe
    {
        FAILED.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

/// Returns the exit status: `code`, or a failure if the result could not be printed.
pub(crate) fn end(code: ExitCode) -> ExitCode {
    match FAILED.lock().unwrap_or_else(PoisonError::into_inner).take() {
        None => code,
        Some(source) => {
            error(&anyhow::Error::new(source).context("can't write to standard output"));
            ExitCode::FAILURE
        }
    }
}

/// Standard output of a command that runs for a long time. Printing never waits for a reader, and
/// never fails.
pub(crate) struct Background(LineWriter);

/// Bytes of the messages at the host's start that may wait for a reader.
const BACKGROUND_BYTES: usize = 256 << 10;

/// The longest time that the end of the command waits for a reader. Lines before an error are to be
/// read first.
const FLUSH: Duration = Duration::from_millis(500);

impl Background {
    pub(crate) fn start() -> io::Result<Self> {
        LineWriter::start("sockhop-output", log::stdout(), BACKGROUND_BYTES).map(Self)
    }

    /// Prints one line of the result.
    pub(crate) fn line(&self, text: impl std::fmt::Display) {
        self.0.line(&escape(&text.to_string()));
    }

    /// Ends the output. Lines that wait are still written.
    pub(crate) fn close(&self) {
        self.0.close();
    }

    /// Ends the output, and waits for at most [`FLUSH`] until the waiting lines are written.
    pub(crate) fn finish(self) {
        self.0.finish(FLUSH);
    }
}
