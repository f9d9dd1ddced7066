//! Lists the plugin files of a directory.

use crate::files::Stamp;
use std::io;
use std::path::{Path, PathBuf};

/// Returns the `.wasm` files of `dir` with their stamps, sorted by path. Hidden files (names that
/// begin with `.`, such as unfinished copies) and sub-directories are ignored; a symbolic link
/// counts as its target. The stamp is `None` if the file exists but its metadata can't be read now.
///
/// # Errors
/// If the directory can't be read.
pub(crate) fn plugin_files(dir: &Path) -> io::Result<Vec<(PathBuf, Option<Stamp>)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if !is_named_as_plugin(&path) {
            continue;
        }
        match path.metadata() {
            Ok(metadata) if metadata.is_file() => files.push((path, Some(Stamp::of(&metadata)))),
            // A dangling link does not count, and neither does a file that was just removed.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => files.push((path, None)),
        }
    }
    files.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(files)
}

/// Returns the plugin files of `dir` that are symbolic links, including dangling links. Returns
/// none if the directory can't be read.
pub(super) fn links(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let links =
        entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_symlink()));
    let mut links: Vec<_> =
        links.map(|entry| entry.path()).filter(|path| is_named_as_plugin(path)).collect();
    links.sort();
    links
}

fn is_named_as_plugin(path: &Path) -> bool {
    let is_hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
    !is_hidden && path.extension().is_some_and(|extension| extension == "wasm")
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn only_visible_wasm_files_count_in_the_order_of_their_names() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.wasm", "a.wasm", ".half.wasm", "notes.txt", "wasm"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        std::fs::create_dir(dir.path().join("c.wasm")).unwrap();
        let names: Vec<_> = plugin_files(dir.path())
            .unwrap()
            .iter()
            .map(|(path, _)| path.file_name().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["a.wasm", "b.wasm"]);
    }

    #[test]
    fn another_file_of_the_same_size_and_age_has_another_stamp() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a.wasm"), dir.path().join("b"));
        for file in [&a, &b] {
            std::fs::write(file, "same").unwrap();
            std::fs::File::options()
                .write(true)
                .open(file)
                .unwrap()
                .set_modified(SystemTime::UNIX_EPOCH)
                .unwrap();
        }
        let before = plugin_files(dir.path()).unwrap();
        std::fs::rename(&b, &a).unwrap();
        assert_ne!(before, plugin_files(dir.path()).unwrap());
    }
}
