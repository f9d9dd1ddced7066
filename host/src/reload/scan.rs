//! Which files of a directory are plugins.

use std::io;
use std::path::{Path, PathBuf};

/// The `.wasm` files of `dir`, in the order of their names. Hidden files (names that begin with `.`, as unfinished copies do) and
/// sub-directories are passed over; a symbolic link counts as what it points to.
///
/// # Errors
/// Where the directory can't be read.
pub fn scan(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        let named = path.extension().is_some_and(|extension| extension == "wasm");
        if named && !hidden && path.metadata().is_ok_and(|metadata| metadata.is_file()) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_visible_wasm_files_count_in_the_order_of_their_names() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.wasm", "a.wasm", ".half.wasm", "notes.txt", "wasm"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        std::fs::create_dir(dir.path().join("c.wasm")).unwrap();
        let names: Vec<_> = scan(dir.path()).unwrap().iter().map(|path| path.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["a.wasm", "b.wasm"]);
    }
}
