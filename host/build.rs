//! Tells the host from which commit it is built: `SOCKHOP_COMMIT` where that is set, else what git
//! says, else `unknown`. A build without git, or from an archive, is as good as any.

#![allow(clippy::print_stdout, reason = "this is how a build script speaks to cargo")]

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=SOCKHOP_COMMIT");
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let given = std::env::var("SOCKHOP_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = given.or_else(|| commit(&repository)).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env=SOCKHOP_COMMIT={commit}");
}

/// The commit that is checked out. Cargo runs this again when another is: what is named here
/// changes with each commit and checkout. A file that does not exist must not be named, because
/// cargo would run this each time.
fn commit(repository: &Path) -> Option<String> {
    // Unpacked within somebody else's repository, it is none of theirs.
    let top = PathBuf::from(git(repository, &["rev-parse", "--show-toplevel"])?);
    if top.canonicalize().ok()? != repository.canonicalize().ok()? {
        return None;
    }
    for name in ["HEAD", "logs/HEAD"] {
        let file = repository.join(git(repository, &["rev-parse", "--git-path", name])?);
        if file.exists() {
            println!("cargo:rerun-if-changed={}", file.display());
        }
    }
    git(repository, &["rev-parse", "--short=12", "HEAD"])
}

fn git(repository: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(repository).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
