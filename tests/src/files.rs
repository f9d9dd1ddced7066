//! The tested files, where `cargo xtask` has built them, and functions that put them into a plugin
//! directory. The benchmark includes this file without the rest of the crate, which would link it
//! with the whole host.

use std::path::{Path, PathBuf};

/// The directory of the bundled plugins, as `cargo xtask plugins` builds them.
pub fn bundled() -> PathBuf {
    from_env("SOCKHOP_PLUGINS_DIR")
}

/// The path of a bundled plugin.
pub fn bundled_plugin(name: &str) -> PathBuf {
    bundled().join(format!("{name}.wasm"))
}

/// The path of a plugin that only tests load, as `cargo xtask guests` builds it.
pub fn guest(name: &str) -> PathBuf {
    from_env("SOCKHOP_GUESTS_DIR").join(format!("{name}.wasm"))
}

/// The path of the command `sockhop`, as it was built with the tests.
pub fn binary() -> PathBuf {
    from_env("SOCKHOP_BIN")
}

/// Returns the bytes of the plugin `chameleon` with this mood, such as `version=2 schema=http`.
pub fn chameleon(mood: &str) -> Vec<u8> {
    let bytes = std::fs::read(guest("chameleon")).expect("a plugin");
    const PLACE: usize = 44;
    let at = bytes
        .windows(10)
        .position(|window| window == b"<<version=")
        .expect("the place of its mood")
        + 2;
    assert!(mood.len() <= PLACE, "{mood}");
    let mut made = bytes.clone();
    made[at..at + PLACE].copy_from_slice(format!("{mood:<PLACE$}").as_bytes());
    made
}

/// Puts `bytes` into a directory as the documentation recommends: completely, by a rename. Returns
/// the path of the file.
pub fn drop_in(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let unfinished = dir.join(format!(".{name}"));
    std::fs::write(&unfinished, bytes).expect("a file");
    std::fs::rename(&unfinished, dir.join(name)).expect("a renamed file");
    dir.join(name)
}

fn from_env(name: &str) -> PathBuf {
    PathBuf::from(
        std::env::var_os(name)
            .unwrap_or_else(|| panic!("{name} is not set: run the tests with `cargo xtask test`")),
    )
}

/// Copies one file into a directory.
pub fn put(dir: &Path, file: &Path) {
    let name = file.file_name().expect("a file's name");
    std::fs::copy(file, dir.join(name))
        .unwrap_or_else(|error| panic!("can't copy {}: {error}", file.display()));
}
