//! The interface of plugins: documented item by item, and never changed within 0.1.x.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn wit(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit").join(folder)
}

/// Every item of a folder's files as `interface item`, comments and line breaks gone; and the items that no comment stands before.
fn items(folder: &Path) -> (BTreeSet<String>, Vec<String>) {
    let (mut items, mut undocumented) = (BTreeSet::new(), Vec::new());
    for entry in std::fs::read_dir(folder).expect("a folder of the interface") {
        let file = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&file).expect("a file of the interface");
        let (mut place, mut documented) = (Vec::new(), false);
        for line in text.lines().map(str::trim) {
            if line.starts_with("///") {
                documented = true;
                continue;
            }
            let plumbing = ["", "}"].contains(&line) || ["package ", "use ", "import "].iter().any(|word| line.starts_with(word));
            if !plumbing {
                if !documented {
                    undocumented.push(format!("{}: {line}", file.display()));
                }
                items.insert(format!("{} {line}", place.join(" ")));
            }
            if line.ends_with('{') {
                place.push(line.trim_end_matches(['{', ' ']).to_owned());
            } else if line == "}" {
                place.pop();
            }
            documented = false;
        }
    }
    (items, undocumented)
}

#[test]
fn every_item_is_documented() {
    let (items, undocumented) = items(&wit("v0.1"));
    assert!(items.iter().any(|item| item.contains("handle: func(event: event)")), "{items:?}");
    assert_eq!(undocumented, Vec::<String>::new());
}

/// `wit/released` holds the last released form, once there is one: an item may be added, never changed or removed.
#[test]
fn nothing_that_was_released_has_changed() {
    let (now, _) = items(&wit("v0.1"));
    let released = wit("released");
    if released.is_dir() {
        let (before, _) = items(&released);
        let gone: Vec<_> = before.difference(&now).collect();
        assert!(gone.is_empty(), "changed or removed since the last release: {gone:#?}");
    }
}
