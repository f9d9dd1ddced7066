//! `sockhop state export` and `import`: moves the state of a plugin into a file and back, page by
//! page, with the progress on standard error.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, Write};
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
            if file.exists() && !file.is_file() {
                bail!("{} is no regular file; without it, `export` prints", file.display());
            }
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

/// Reads the file twice: nothing is stored before all of it is known to be valid.
pub(super) fn import(place: &Place, file: &Path, mode: ImportMode) -> anyhow::Result<ExitCode> {
    let mut source = Source::open(file)?;
    let (header, entries) = source.read()?;
    let all = header.summary.entries;
    let mut found = 0;
    for entry in entries {
        entry?;
        found += 1;
    }
    if found != all {
        bail!(
            "{} says that it has {all} entries, but has {found}: it is incomplete; nothing was \
             imported",
            source.name
        );
    }
    if header.plugin != place.name {
        let (from, into) = (&header.plugin, &place.name);
        output::note(format_args!("{} has the state of {from}, not of {into}", source.name));
    }
    let (header, entries) = source.read()?;
    let mut import = Import { place, mode, all, stored: 0, shown: Instant::now() };
    let mut part =
        ImportDocument { mode, sequences: header.summary.sequences, entries: Vec::new() };
    let mut bytes = 0;
    for entry in entries {
        let (entry, length) = entry?;
        if !part.entries.is_empty() && (part.entries.len() >= PART || bytes + length > PART_BYTES) {
            import.store(&mut part)?;
            bytes = 0;
        }
        bytes += length;
        part.entries.push(entry);
    }
    import.store(&mut part)?;
    output::line(format_args!("imported {} entries into {}", import.stored, place.name));
    Ok(ExitCode::SUCCESS)
}

/// A file that is imported.
struct Source {
    file: File,
    /// For messages.
    name: String,
}

impl Source {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let name = path.display().to_string();
        if path == Path::new("-") {
            let mut file = tempfile::tempfile().context("can't keep a copy of standard input")?;
            io::copy(&mut io::stdin().lock(), &mut file).context("can't read standard input")?;
            return Ok(Self { file, name: "standard input".to_owned() });
        }
        let file = File::open(path).with_context(|| format!("can't read {name}"))?;
        if !file.metadata().is_ok_and(|file| file.is_file()) {
            bail!("{name} is no regular file; `-` reads standard input");
        }
        Ok(Self { file, name })
    }

    /// Reads it from its begin. Returns the header, and each entry with the bytes of its line.
    fn read(
        &mut self,
    ) -> anyhow::Result<(
        HeaderDocument,
        impl Iterator<Item = anyhow::Result<(EntryDocument, usize)>>,
    )> {
        let name = &self.name;
        self.file.rewind().with_context(|| format!("can't read {name}"))?;
        let mut lines = BufReader::new(&self.file).lines();
        let first = lines.next().transpose().with_context(|| format!("can't read {name}"))?;
        let header: HeaderDocument = serde_json::from_str(&first.unwrap_or_default())
            .with_context(|| {
                format!("{name} is no file that `sockhop state export` has written")
            })?;
        if header.sockhop_state != FILE_FORMAT {
            bail!(
                "{name} has form {}, and this version of sockhop reads form {FILE_FORMAT}",
                header.sockhop_state
            );
        }
        let entries = (2_u64..).zip(lines).map(move |(number, line)| {
            let invalid = || format!("line {number} of {name} is invalid; nothing was imported");
            let line = line.with_context(invalid)?;
            let entry: EntryDocument = serde_json::from_str(&line).with_context(invalid)?;
            entry.check().with_context(invalid)?;
            Ok((entry, line.len()))
        });
        Ok((header, entries))
    }
}

/// An import that has begun.
struct Import<'place> {
    place: &'place Place,
    mode: ImportMode,
    all: u64,
    stored: u64,
    shown: Instant,
}

impl Import<'_> {
    /// Stores a part, and empties it. Later parts do not touch what is stored.
    fn store(&mut self, part: &mut ImportDocument) -> anyhow::Result<()> {
        let number = part.entries.len() as u64;
        let next = ImportDocument {
            mode: ImportMode::Merge,
            sequences: Default::default(),
            entries: Vec::new(),
        };
        let part = std::mem::replace(part, next);
        self.place.import(part).with_context(|| self.left_behind())?;
        self.stored += number;
        show(&mut self.shown, "imported", self.stored, self.all);
        Ok(())
    }

    /// What the plugin has if the import fails now.
    fn left_behind(&self) -> String {
        let Self { mode, all, stored, .. } = self;
        match (stored, mode) {
            (0, ImportMode::Empty | ImportMode::Merge) => {
                "not all of the file was imported: perhaps nothing".to_owned()
            }
            (stored, ImportMode::Replace) => format!(
                "the earlier entries may be removed, and {stored} of {all} are imported: import \
                 again with --replace"
            ),
            (stored, _) => format!(
                "only {stored} of {all} entries are imported: import again with --replace or \
                 --merge"
            ),
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
