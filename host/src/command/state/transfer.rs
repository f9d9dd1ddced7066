//! `sockhop state export` and `import`: moves the state of a plugin into a file and back, page by
//! page, with the progress on standard error.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use sockhop::store::ImportMode;
use sockhop::store::document::{EntryDocument, FILE_FORMAT, HeaderDocument, ImportDocument};
use tempfile::NamedTempFile;

use super::place::Place;
use crate::command::output;

/// Entries that are read at once.
const PAGE: u32 = 1_000;

/// Entries, and bytes of their lines, that are stored at once.
const PART: usize = 1_000;
const PART_BYTES: usize = 1 << 20;

/// The time between two lines about the progress.
const PROGRESS: Duration = Duration::from_secs(1);

/// Writes a file only if all of the state was read.
pub(super) fn export(place: &Place, file: Option<&Path>) -> anyhow::Result<ExitCode> {
    let entries = match file {
        None => {
            let mut print = |line: &str| {
                output::raw_line(line);
                Ok(())
            };
            write_all(place, &mut print)?
        }
        Some(file) => {
            let unusable = || format!("can't write {}", file.display());
            // Beside the file, so that it can take its place in one step. Only its owner can read
            // it.
            let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty());
            let mut unfinished =
                NamedTempFile::new_in(dir.unwrap_or(Path::new("."))).with_context(unusable)?;
            let mut writer = io::BufWriter::new(unfinished.as_file_mut());
            let entries = write_all(place, &mut |line| writeln!(writer, "{line}"))?;
            writer.flush().with_context(unusable)?;
            drop(writer);
            unfinished.as_file().sync_all().with_context(unusable)?;
            unfinished.persist(file).with_context(unusable)?;
            entries
        }
    };
    output::note(format_args!("exported {entries} entries of {}", place.name));
    Ok(ExitCode::SUCCESS)
}

/// Writes each line. Returns the number of entries.
fn write_all(place: &Place, write: &mut dyn FnMut(&str) -> io::Result<()>) -> anyhow::Result<u64> {
    let summary = place.summary()?;
    let (commits, all) = (summary.commits, summary.entries);
    let header = HeaderDocument { sockhop_state: FILE_FORMAT, plugin: place.name.clone(), summary };
    write(&serde_json::to_string(&header)?)?;
    let (mut written, mut after, mut shown) = (0, None::<String>, Instant::now());
    loop {
        let page = place.page("", after.as_deref(), PAGE)?;
        if page.commits != commits {
            bail!(
                "the plugin has changed its state meanwhile; export again, or disable the plugin \
                 for the export (`sockhop plugins disable {}`)",
                place.name
            );
        }
        for entry in &page.entries {
            write(&serde_json::to_string(entry)?)?;
            written += 1;
        }
        show(&mut shown, "exported", written, all);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    if written != all {
        bail!("the plugin has {all} entries, but {written} were read: run `sockhop data verify`");
    }
    Ok(written)
}

/// Checks the header, then stores part by part.
pub(super) fn import(place: &Place, file: &Path, mode: ImportMode) -> anyhow::Result<ExitCode> {
    let shown_name = file.display();
    let reader: Box<dyn BufRead> = if file == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        let opened = File::open(file).with_context(|| format!("can't read {shown_name}"))?;
        Box::new(BufReader::new(opened))
    };
    let mut lines = reader.lines();
    let first = lines.next().transpose().with_context(|| format!("can't read {shown_name}"))?;
    let header: HeaderDocument =
        serde_json::from_str(&first.unwrap_or_default()).with_context(|| {
            format!("{shown_name} is no file that `sockhop state export` has written")
        })?;
    if header.sockhop_state != FILE_FORMAT {
        bail!(
            "{shown_name} has form {}, and this version of sockhop reads form {FILE_FORMAT}",
            header.sockhop_state
        );
    }
    let all = header.summary.entries;
    let mut part =
        ImportDocument { mode, sequences: header.summary.sequences, entries: Vec::new() };
    let (mut bytes, mut imported, mut shown) = (0, 0, Instant::now());
    let mut store = |part: &mut ImportDocument, imported: &mut u64| {
        let number = part.entries.len() as u64;
        let next = ImportDocument {
            mode: ImportMode::Merge,
            sequences: Default::default(),
            entries: Vec::new(),
        };
        place.import(std::mem::replace(part, next)).with_context(|| incomplete(*imported))?;
        *imported += number;
        show(&mut shown, "imported", *imported, all);
        anyhow::Ok(())
    };
    for (number, line) in (2_u64..).zip(lines) {
        let invalid =
            || format!("line {number} of {shown_name} is invalid; {}", incomplete(imported));
        let line = line.with_context(invalid)?;
        let entry: EntryDocument = serde_json::from_str(&line).with_context(invalid)?;
        if !part.entries.is_empty()
            && (part.entries.len() >= PART || bytes + line.len() > PART_BYTES)
        {
            store(&mut part, &mut imported)?;
            bytes = 0;
        }
        bytes += line.len();
        part.entries.push(entry);
    }
    store(&mut part, &mut imported)?;
    if imported != all {
        bail!("{shown_name} says that it has {all} entries, but has {imported}: it is incomplete");
    }
    output::line(format_args!("imported {imported} entries into {}", place.name));
    Ok(ExitCode::SUCCESS)
}

/// What a failed import leaves.
fn incomplete(imported: u64) -> String {
    match imported {
        0 => "nothing was imported".to_owned(),
        some => {
            format!("only {some} entries were imported: import again with --replace or --merge")
        }
    }
}

/// Shows the progress, at most once a second.
fn show(shown: &mut Instant, what: &str, done: u64, all: u64) {
    if done < all && shown.elapsed() >= PROGRESS {
        output::note(format_args!("{what} {done} of {all} entries"));
        *shown = Instant::now();
    }
}
