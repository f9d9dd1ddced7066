//! The plugin interface: every item is documented, and released items never change within 0.1.x.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

fn wit(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit").join(folder)
}

/// The items of a WIT text with their places, without comments and line breaks, and the items
/// without documentation.
struct Items {
    all: BTreeSet<(String, String)>,
    /// The members of each closed type in their order, which is part of the type.
    closed: BTreeMap<String, Vec<String>>,
    undocumented: Vec<String>,
}

/// Whether the innermost of these nested places is a closed type: a record, a variant, an enum or
/// flags.
fn is_closed_type(place: &str) -> bool {
    let innermost = place.rsplit(' ').nth(1).unwrap_or_default();
    ["record", "variant", "enum", "flags"].contains(&innermost)
}

fn items(text: &str) -> Items {
    let mut items =
        Items { all: BTreeSet::new(), closed: BTreeMap::new(), undocumented: Vec::new() };
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
            let within = place.join(" ");
            if is_closed_type(&within) {
                items.closed.entry(within.clone()).or_default().push(line.to_owned());
            }
            items.all.insert((within, line.to_owned()));
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
        .filter(|path| path.extension().is_some_and(|extension| extension == "wit"))
        .collect();
    files.sort();
    let texts: Vec<_> = files
        .iter()
        .map(|file| std::fs::read_to_string(file).expect("a file of the interface"))
        .collect();
    items(&texts.join("\n"))
}

/// Returns the changes that break plugins compiled against `before`: removed or changed items, and
/// new or reordered items in a closed type.
fn breaking(before: &Items, now: &Items) -> Vec<String> {
    let existed = |place: &str| before.all.iter().any(|(other, _)| other == place);
    let gone = before
        .all
        .difference(&now.all)
        .map(|(place, item)| format!("gone or changed: {place} {item}"));
    let grown = now
        .all
        .difference(&before.all)
        .filter(|(place, _)| is_closed_type(place) && existed(place));
    let grown = grown.map(|(place, item)| format!("new in a closed type: {place} {item}"));
    let reordered = before.closed.iter().filter(|(place, members)| {
        let sorted = |members: &[String]| members.iter().cloned().collect::<BTreeSet<_>>();
        let now = now.closed.get(*place);
        now.is_some_and(|now| now != *members && sorted(now) == sorted(members))
    });
    let reordered = reordered.map(|(place, _)| format!("reordered: {place}"));
    gone.chain(grown).chain(reordered).collect()
}

#[test]
fn every_item_is_documented() {
    let items = items_of(&wit("v0.1"));
    assert!(items.all.iter().any(|(_, item)| item.contains("handle: func(event: event)")));
    assert_eq!(items.undocumented, Vec::<String>::new());
}

/// Returns the tags of versions, such as `v0.1.0`. A tree without a repository has none.
fn tagged_versions() -> Vec<String> {
    let git = Command::new("git")
        .args(["-C", env!("CARGO_MANIFEST_DIR"), "tag", "--list", "v[0-9]*"])
        .output();
    let tags = git.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    tags.unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Returns the newest release among these tags. A pre-release such as `v0.2.0-rc.1` is none.
fn newest(tags: &[String]) -> Option<&str> {
    let numbers = |tag: &String| {
        let numbers = tag.strip_prefix('v')?.split('.').map(|number| number.parse::<u64>().ok());
        numbers.collect::<Option<Vec<_>>>()
    };
    let releases = tags.iter().filter_map(|tag| Some((numbers(tag)?, tag.as_str())));
    releases.max().map(|(_, tag)| tag)
}

/// The last released form of the interface, which `wit/released` holds with its tag in `VERSION`.
#[derive(Debug, PartialEq, Eq)]
enum Released {
    /// It is there to compare with.
    Known,
    /// It is there to compare with. Whether it is that of the newest release is unknown, because
    /// this clone has no tags.
    Unchecked,
    /// No version is released, or this clone has no tags.
    None,
    /// The newest release is this one, and its form was not kept.
    Missing(String),
}

fn released(kept: Option<&str>, tags: &[String]) -> Released {
    match (kept, newest(tags)) {
        (Some(kept), Some(newest)) if kept == newest => Released::Known,
        (_, Some(newest)) => Released::Missing(newest.to_owned()),
        (Some(_), None) => Released::Unchecked,
        (None, None) => Released::None,
    }
}

/// Items may be added to what was released, but never changed or removed.
#[test]
#[allow(clippy::print_stderr, reason = "a test that compares nothing says so")]
fn nothing_that_was_released_has_changed() {
    let (folder, tags) = (wit("released"), tagged_versions());
    let version = || std::fs::read_to_string(folder.join("VERSION")).expect("wit/released/VERSION");
    let kept = folder.is_dir().then(|| version().trim().to_owned());
    match released(kept.as_deref(), &tags) {
        Released::Known => {}
        Released::Unchecked => eprintln!(
            "this clone has no tags (`git fetch --tags` gets them): is {kept:?} the newest release?"
        ),
        Released::None => eprintln!(
            "nothing to compare with: no version is released, or this clone has no tags \
             (`git fetch --tags` gets them)"
        ),
        Released::Missing(newest) => panic!(
            "the newest release is {newest}, and wit/released is that of {kept:?}: replace it, as \
             wit/README.md says"
        ),
    }
    if kept.is_some() {
        assert_eq!(breaking(&items_of(&folder), &items_of(&wit("v0.1"))), Vec::<String>::new());
    }
}

#[test]
fn the_newest_tagged_version_needs_its_interface_to_compare_with() {
    let tags = |tags: &[&str]| tags.iter().map(|tag| (*tag).to_owned()).collect::<Vec<_>>();
    let missing = |newest: &str| Released::Missing(newest.to_owned());
    let (first, later) = (tags(&["v0.1.0"]), tags(&["v0.1.0", "v0.1.10", "v0.1.9", "v0.2.0-rc.1"]));
    assert_eq!(released(None, &[]), Released::None);
    assert_eq!(released(None, &first), missing("v0.1.0"));
    assert_eq!(released(Some("v0.1.0"), &first), Released::Known);
    assert_eq!(released(Some("v0.1.0"), &later), missing("v0.1.10"));
    assert_eq!(released(Some("v0.1.10"), &later), Released::Known);
    assert_eq!(released(Some("v0.1.0"), &[]), Released::Unchecked);
}

#[test]
fn a_change_that_breaks_compiled_plugins_is_found() {
    const TEXT: &str = "interface types {
        record event {
            name: string,
            size: u32,
        }
    }
    interface log {
        write: func(m: string);
    }
    world plugin {
        import log;
    }";
    let change = |from: &str, to: &str| {
        assert!(TEXT.contains(from), "{from}");
        breaking(&items(TEXT), &items(&TEXT.replace(from, to)))
    };
    assert_eq!(
        change("name: string,", "name: string,\nat: u64,"),
        ["new in a closed type: interface types record event at: u64,"]
    );
    assert_eq!(
        change("write: func(m: string);", "write: func(m: u8);"),
        ["gone or changed: interface log write: func(m: string);"]
    );
    let text = TEXT.replace("name: string,", "?").replace("size: u32,", "name: string,");
    let swapped = items(&text.replace('?', "size: u32,"));
    assert_eq!(
        breaking(&items(TEXT), &swapped),
        ["reordered: interface types record event"],
        "the order is part of a type"
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
