//! The files of the repository that the laws are about, and the code in a source without its tests.

use std::path::{Path, PathBuf};

/// The directory of the repository.
pub(super) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Returns all files below `dir`, without what is built or installed there.
pub(super) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy();
        let is_made = ["target", "node_modules"].contains(&&*name);
        // Directories of tools, such as that of git. Those of this list belong to the repository.
        let is_hidden = name.starts_with('.') && ![".ci", ".github"].contains(&&*name);
        if path.is_dir() {
            if !is_made && !is_hidden {
                found.extend(files(&path));
            }
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Returns all Rust sources below `dir`.
pub(super) fn sources(dir: &Path) -> Vec<PathBuf> {
    let is_source = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "rs");
    files(dir).into_iter().filter(is_source).collect()
}

/// The lines of a formatted source without its tests, comments and blank lines. Tests are the items
/// behind `#[cfg(test)]`, and everything from `mod tests {`.
pub(super) fn code(source: &str) -> impl Iterator<Item = &str> {
    // How far the tested item is indented whose lines are skipped.
    let mut skipped: Option<usize> = None;
    let lines = source.lines().take_while(|line| *line != "mod tests {");
    lines.filter_map(move |line| {
        let text = line.trim();
        let indent = line.len() - line.trim_start().len();
        if text.is_empty() || text.starts_with("//") {
            return None;
        }
        if let Some(item) = skipped {
            // The lines inside of an item are indented more than its last one.
            if indent == item && text.ends_with(['}', ';', ',']) {
                skipped = None;
            }
            return None;
        }
        if text.starts_with("#[cfg(test)]") || text.starts_with("#[cfg(all(test,") {
            skipped = Some(indent);
            return None;
        }
        Some(text)
    })
}

/// Whether a file has only tests, by its path below the directory of the repository or of a crate.
pub(super) fn is_of_tests(file: &Path) -> bool {
    let is_named = |name: &&str| file.file_name().is_some_and(|file| file == *name);
    let is_in = |name: &str| file.components().skip(1).any(|part| part.as_os_str() == name);
    ["tests.rs", "model.rs", "differential.rs"].iter().any(is_named)
        || is_in("tests")
        || is_in("it")
}

#[test]
fn code_behind_an_item_of_the_tests_is_code() {
    let source = "\
//! What it owns.

#[cfg(test)]
#[allow(
    dead_code,
    reason = \"a test\"
)]
use std::time::{
    Duration,
};
#[cfg(test)]
mod model;
mod outgoing;

enum Reader {
    Socket,
    #[cfg(test)]
    Pipe(Vec<u8>),
}

impl Reader {
    /// Says something.
    #[cfg(test)]
    fn is_drained<T>(
        &self,
    ) -> bool
    where
        T: Copy,
    {
        true;
    }

    fn read(&self) {
        match self {
            Reader::Socket => {}
            #[cfg(test)]
            Reader::Pipe(pipe) => {
                drop(pipe);
            }
        }
    }
}

#[cfg(test)]
fn masked() {}

#[cfg(all(test, unix))]
mod tests {
    const LAST: &str = \"
}
\";
    fn test() {}
}
";
    let expected = [
        "mod outgoing;",
        "enum Reader {",
        "Socket,",
        "}",
        "impl Reader {",
        "fn read(&self) {",
        "match self {",
        "Reader::Socket => {}",
        "}",
        "}",
        "}",
    ];
    assert_eq!(code(source).collect::<Vec<_>>(), expected);
}
