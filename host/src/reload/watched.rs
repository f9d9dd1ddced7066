//! Which directories must be watched so that a change of the plugin directory is noticed, with every symbolic link on the way to it and to
//! its files. Pure: it is told what stands at a path.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

/// Directories that are watched at most. The plugin directory with its own links comes first; files that are links beyond that are found by
/// the slow rescan. Each costs the system about a kilobyte.
pub(super) const MAX_DIRECTORIES: usize = 256;

/// Symbolic links that are followed on the way to one file: as many as Linux itself follows.
const MAX_LINKS: usize = 40;

/// What stands at a path, which is not followed itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    /// A symbolic link with this target.
    Link(PathBuf),
    /// Anything else.
    Other,
    /// Nothing, or nothing that can be seen.
    Missing,
}

/// The directories to watch, none of them a symbolic link or behind one, with the names in each that matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Watched {
    names: BTreeMap<PathBuf, Names>,
    /// Whether there were too many.
    pub(super) is_cut: bool,
}

/// Names in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Names {
    All,
    These(BTreeSet<OsString>),
}

impl Watched {
    /// What to watch for the plugin directory `dir`, an absolute path, in which `links` are symbolic links to plugins. `at` says what stands
    /// at a path.
    pub(super) fn of(dir: &Path, links: &[PathBuf], at: impl Fn(&Path) -> Entry) -> Self {
        let mut watched = Self::default();
        let Trace { deciding, end } = trace(dir, &at);
        watched.names.insert(end.clone(), Names::All);
        watched.add(deciding);
        for link in links {
            let Some(name) = link.file_name() else { continue };
            watched.add(trace(&end.join(name), &at).deciding);
        }
        watched
    }

    /// Each with its directory; all of them or none.
    fn add(&mut self, paths: Vec<PathBuf>) {
        let mut new: Vec<&Path> = paths.iter().filter_map(|path| path.parent()).filter(|dir| !self.names.contains_key(*dir)).collect();
        new.sort_unstable();
        new.dedup();
        if self.names.len() + new.len() > MAX_DIRECTORIES {
            self.is_cut = true;
            return;
        }
        for path in &paths {
            if let (Some(dir), Some(name)) = (path.parent(), path.file_name())
                && let Names::These(names) = self.names.entry(dir.to_owned()).or_insert_with(|| Names::These(BTreeSet::new()))
            {
                names.insert(name.to_owned());
            }
        }
    }

    /// The directories.
    pub(super) fn directories(&self) -> impl Iterator<Item = &Path> {
        self.names.keys().map(PathBuf::as_path)
    }

    /// Whether a change of `path` matters.
    pub(super) fn concerns(&self, path: &Path) -> bool {
        let is_named = |dir: &Path, name: &OsStr| match self.names.get(dir) {
            Some(Names::All) => true,
            Some(Names::These(names)) => names.contains(name),
            None => false,
        };
        self.is_directory(path) || path.parent().zip(path.file_name()).is_some_and(|(dir, name)| is_named(dir, name))
    }

    /// Whether `path` is one of the directories.
    pub(super) fn is_directory(&self, path: &Path) -> bool {
        self.names.contains_key(path)
    }
}

/// The way from a path to what it leads to.
struct Trace {
    /// The paths that decide where it leads: each symbolic link on the way, and what it leads to or the first that is missing.
    deciding: Vec<PathBuf>,
    /// Where it leads, without any symbolic link.
    end: PathBuf,
}

/// Follows an absolute path component by component, as the system does.
fn trace(path: &Path, at: &impl Fn(&Path) -> Entry) -> Trace {
    let mut deciding = Vec::new();
    let mut end = PathBuf::new();
    // What is still to be followed, the next component last.
    let mut rest = reversed(path);
    while let Some(component) = rest.pop() {
        match component.as_os_str() {
            name if name == OsStr::new("..") => {
                end.pop();
                continue;
            }
            name => end.push(name),
        }
        match at(&end) {
            Entry::Link(target) if deciding.len() < MAX_LINKS => {
                deciding.push(end.clone());
                end.pop();
                // An absolute one begins anew: to push its root replaces what is there.
                rest.extend(reversed(&target));
            }
            Entry::Link(_) | Entry::Missing => break,
            Entry::Other => {}
        }
    }
    deciding.push(end.clone());
    end.extend(rest.into_iter().rev());
    Trace { deciding, end }
}

/// The components of a path, the last one first.
fn reversed(path: &Path) -> Vec<PathBuf> {
    path.components()
        .rev()
        .filter(|component| *component != Component::CurDir)
        .map(|component| PathBuf::from(component.as_os_str()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What to watch in a world in which only these links, and no file below `/missing`, are special.
    fn watched(dir: &str, files: &[&str], links: &[(&str, &str)]) -> Watched {
        let at = |path: &Path| match links.iter().find(|(link, _)| Path::new(link) == path) {
            Some((_, target)) => Entry::Link(PathBuf::from(target)),
            None if path.starts_with("/missing") => Entry::Missing,
            None => Entry::Other,
        };
        let files: Vec<_> = files.iter().map(|file| Path::new(dir).join(file)).collect();
        Watched::of(Path::new(dir), &files, at)
    }

    fn names(watched: &Watched) -> Vec<(String, String)> {
        let text = |names: &Names| match names {
            Names::All => "*".to_owned(),
            Names::These(names) => names.iter().map(|name| name.to_string_lossy()).collect::<Vec<_>>().join(" "),
        };
        watched.names.iter().map(|(dir, names)| (dir.display().to_string(), text(names))).collect()
    }

    #[test]
    fn every_link_on_the_way_and_every_target_is_watched_in_its_directory() {
        type Case<'case> = (&'case str, &'case [&'case str], &'case [(&'case str, &'case str)], &'case [(&'case str, &'case str)]);
        let cases: [Case<'_>; 8] = [
            ("/srv/plugins", &[], &[], &[("/srv", "plugins"), ("/srv/plugins", "*")]),
            (
                "/srv/current",
                &[],
                &[("/srv/current", "releases/42")],
                &[("/srv", "current"), ("/srv/releases", "42"), ("/srv/releases/42", "*")],
            ),
            (
                "/srv/current/plugins",
                &[],
                &[("/srv/current", "/opt/42")],
                &[("/opt/42", "plugins"), ("/opt/42/plugins", "*"), ("/srv", "current")],
            ),
            (
                "/srv/p",
                &["a.wasm", "b.wasm"],
                &[("/srv/p/a.wasm", "../builds/a"), ("/srv/builds/a", "a-7"), ("/srv/p/b.wasm", "/srv/builds/b")],
                &[("/srv", "p"), ("/srv/builds", "a a-7 b"), ("/srv/p", "*")],
            ),
            // Through the directory's own link, and a link in the middle of a file's.
            (
                "/srv/p",
                &["a.wasm"],
                &[("/srv/p", "q"), ("/srv/q/a.wasm", "../new/a"), ("/srv/new", "/opt/9")],
                &[("/opt/9", "a"), ("/srv", "new p q"), ("/srv/q", "*")],
            ),
            ("/srv/p", &["a.wasm"], &[("/srv/p/a.wasm", "/missing/a")], &[("/", "missing"), ("/srv", "p"), ("/srv/p", "*")]),
            ("/missing/p", &[], &[], &[("/", "missing"), ("/missing/p", "*")]),
            // In a circle: nothing is there, and it ends.
            ("/srv/p", &["a.wasm"], &[("/srv/p/a.wasm", "a.wasm")], &[("/srv", "p"), ("/srv/p", "*")]),
        ];
        for (dir, files, links, expected) in cases {
            let expected: Vec<_> = expected.iter().map(|(dir, names)| ((*dir).to_owned(), (*names).to_owned())).collect();
            assert_eq!(names(&watched(dir, files, links)), expected, "{dir} {links:?}");
        }
    }

    #[test]
    fn a_change_matters_only_where_it_may_change_a_plugin() {
        let watched = watched("/srv/current", &["a.wasm"], &[("/srv/current", "42"), ("/srv/42/a.wasm", "/builds/a")]);
        let concerns = ["/srv/42/b.wasm", "/srv/42", "/srv/current", "/builds/a", "/srv"];
        assert!(concerns.iter().all(|path| watched.concerns(Path::new(path))));
        let others = ["/srv/data", "/builds/b", "/srv/42/dir/c.wasm", "/opt", "/"];
        assert!(!others.iter().any(|path| watched.concerns(Path::new(path))));
    }

    #[test]
    fn the_number_of_directories_is_bounded_and_the_plugin_directory_is_among_them() {
        let files: Vec<_> = (0..2 * MAX_DIRECTORIES).map(|number| format!("{number}.wasm")).collect();
        let files: Vec<_> = files.iter().map(String::as_str).collect();
        let links: Vec<_> = files.iter().map(|file| (format!("/p/{file}"), format!("/store/{file}/plugin"))).collect();
        let links: Vec<_> = links.iter().map(|(link, target)| (link.as_str(), target.as_str())).collect();
        let watched = watched("/p", &files, &links);
        assert!(watched.is_cut);
        assert_eq!(watched.directories().count(), MAX_DIRECTORIES);
        assert!(watched.is_directory(Path::new("/p")) && watched.is_directory(Path::new("/")));
    }
}
