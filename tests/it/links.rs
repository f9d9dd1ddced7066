//! Symbolic links to plugins: the host notices when a link is switched or its target changes. The
//! periodic rescan is too slow to play a role here.

#![cfg(unix)]

use std::os::unix::fs::symlink;
use std::path::Path;

use sockhop_tests::{HostProcess, chameleon};
use tempfile::TempDir;

/// A host, and the directory that contains its plugin directory and all releases.
struct Linked {
    root: TempDir,
    _data: TempDir,
    host: HostProcess,
}

/// Creates releases with one version each, and starts a host. `link` must make `plugins` lead to
/// the first release.
fn releases(link: impl FnOnce(&Path)) -> Linked {
    let (root, data) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    for version in 1..=3 {
        let dir = root.path().join(format!("releases/{version}"));
        std::fs::create_dir_all(&dir).expect("a directory");
        std::fs::write(dir.join("chameleon.wasm"), chameleon(&format!("version={version}")))
            .expect("a file");
    }
    link(root.path());
    let host = HostProcess::start_with(
        &root.path().join("plugins"),
        data.path(),
        &[("SOCKHOP_PLUGINS__RESCAN_S", "86400")],
    );
    Linked { root, _data: data, host }
}

/// Makes `link` point to `target`, in the way of deployments: by a rename.
fn switch(link: &Path, target: &str) {
    let new = link.with_file_name(".switched");
    symlink(target, &new).expect("a link");
    std::fs::rename(&new, link).expect("a renamed link");
}

impl Linked {
    fn serves(&self, version: u8) {
        let version = format!("{version}.0.0");
        self.host.until("chameleon", |row| {
            row["version"] == version.as_str() && row["state"] == "active"
        });
    }
}

#[test]
fn a_plugin_directory_that_is_a_switched_link_is_noticed() {
    let linked = releases(|root| {
        symlink("current", root.join("plugins")).expect("a link");
        symlink("releases/1", root.join("current")).expect("a link");
    });
    for version in [2, 3, 1] {
        switch(&linked.root.path().join("current"), &format!("releases/{version}"));
        linked.serves(version);
    }
    // The contents of the new directory are watched as well.
    sockhop_tests::drop_in(
        &linked.root.path().join("releases/1"),
        "chameleon.wasm",
        &chameleon("version=2"),
    );
    linked.serves(2);
}

#[test]
fn a_plugin_that_is_a_link_is_noticed_when_its_target_changes_or_a_link_on_the_way() {
    let linked = releases(|root| {
        std::fs::create_dir(root.join("plugins")).expect("a directory");
        symlink("../current/chameleon.wasm", root.join("plugins/chameleon.wasm")).expect("a link");
        symlink("releases/1", root.join("current")).expect("a link");
    });
    let root = linked.root.path();
    switch(&root.join("current"), "releases/2");
    linked.serves(2);
    sockhop_tests::drop_in(&root.join("releases/2"), "chameleon.wasm", &chameleon("version=3"));
    linked.serves(3);
    std::fs::write(root.join("releases/2/chameleon.wasm"), chameleon("version=1")).expect("a file");
    linked.serves(1);
    switch(&root.join("plugins/chameleon.wasm"), "../releases/3/chameleon.wasm");
    linked.serves(3);
}

/// The directory is replaced as with `mv`.
#[test]
fn a_plugin_directory_that_is_replaced_is_noticed() {
    let linked = releases(|root| {
        std::fs::rename(root.join("releases/1"), root.join("plugins"))
            .expect("a renamed directory");
    });
    let root = linked.root.path();
    std::fs::rename(root.join("plugins"), root.join("releases/1")).expect("a renamed directory");
    std::fs::rename(root.join("releases/2"), root.join("plugins")).expect("a renamed directory");
    linked.serves(2);
    sockhop_tests::drop_in(&root.join("plugins"), "chameleon.wasm", &chameleon("version=3"));
    linked.serves(3);
}
