//! The plugin interface: every item is documented, and released items never change within 0.1.x.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn wit(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit").join(folder)
}

/// The items of a WIT text with their places, without comments and line breaks, and the items
/// without documentation.
struct Items {
    all: BTreeSet<(String, String)>,
    undocumented: Vec<String>,
}

fn items(text: &str) -> Items {
    let mut items = Items { all: BTreeSet::new(), undocumented: Vec::new() };
    let (mut place, mut documented) = (Vec::new(), false);
    for line in text.lines().map(str::trim) {
        if line.starts_with("///") {
            documented = true;
            continue;
        }
        // The `use` of an interface and the `import` of a world are dependencies. A comment would
        // add nothing.
        let needs_no_words = ["use ", "import "].iter().any(|word| line.starts_with(word));
        if !["", "}"].contains(&line) && !line.starts_with("package ") {
            if !documented && !needs_no_words {
                items.undocumented.push(line.to_owned());
            }
            items.all.insert((place.join(" "), line.to_owned()));
        }
        if line.ends_with('{') {
            place.push(line.trim_end_matches(['{', ' ']).to_owned());
        } else if line == "}" {
            place.pop();
        }
        documented = false;
    }
    items
}

fn items_of(folder: &Path) -> Items {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("a folder of the interface")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    let texts: Vec<_> = files
        .iter()
        .map(|file| std::fs::read_to_string(file).expect("a file of the interface"))
        .collect();
    items(&texts.join("\n"))
}

/// Returns the changes that break plugins compiled against `before`: removed or changed items, and
/// new items in a type. Records, variants and enums are closed.
fn breaking(before: &Items, now: &Items) -> Vec<String> {
    let is_type = |place: &str| {
        let innermost = place.rsplit(' ').nth(1).unwrap_or_default();
        ["record", "variant", "enum", "flags"].contains(&innermost)
    };
    let existed = |place: &str| before.all.iter().any(|(other, _)| other == place);
    let gone = before
        .all
        .difference(&now.all)
        .map(|(place, item)| format!("gone or changed: {place} {item}"));
    let grown =
        now.all.difference(&before.all).filter(|(place, _)| is_type(place) && existed(place));
    gone.chain(grown.map(|(place, item)| format!("new in a closed type: {place} {item}"))).collect()
}

#[test]
fn every_item_is_documented() {
    let items = items_of(&wit("v0.1"));
    assert!(items.all.iter().any(|(_, item)| item.contains("handle: func(event: event)")));
    assert_eq!(items.undocumented, Vec::<String>::new());
}

/// If `wit/released` exists, it holds the last released form. Items may be added, but never changed
/// or removed.
#[test]
fn nothing_that_was_released_has_changed() {
    let released = wit("released");
    if released.is_dir() {
        assert_eq!(breaking(&items_of(&released), &items_of(&wit("v0.1"))), Vec::<String>::new());
    }
}

#[test]
fn a_change_that_breaks_compiled_plugins_is_found() {
    let before = items(
        "interface types {\nrecord event {\nname: string,\n}\n}\ninterface log {\nwrite: func(m: string);\n}\nworld plugin {\nimport log;\n}",
    );
    let change = |from: &str, to: &str| {
        let text = "interface types {\nrecord event {\nname: string,\n}\n}\ninterface log {\nwrite: func(m: string);\n}\nworld plugin {\nimport log;\n}";
        assert!(text.contains(from), "{from}");
        breaking(&before, &items(&text.replace(from, to)))
    };
    assert_eq!(
        change("name: string,", "name: string,\nat: u64,"),
        ["new in a closed type: interface types record event at: u64,"]
    );
    assert_eq!(
        change("write: func(m: string);", "write: func(m: u8);"),
        ["gone or changed: interface log write: func(m: string);"]
    );
    assert_eq!(change("import log;\n", ""), ["gone or changed: world plugin import log;"]);
    assert_eq!(
        change("write: func(m: string);", "write: func(m: string);\nflush: func();"),
        Vec::<String>::new()
    );
    assert_eq!(
        change("interface log", "interface clock {\nnow: func() -> u64;\n}\ninterface log"),
        Vec::<String>::new()
    );
}
