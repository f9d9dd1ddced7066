//! Decides which directories must be watched to notice changes of the plugin directory, and of the
//! symbolic links on the way to it and its files. Pure: the caller says what exists at a path.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

/// The maximum number of watched directories. The plugin directory and its own links come first;
/// the slow rescan finds changes behind links to files above the limit. Each costs the system about
/// a kilobyte.
pub(super) const MAX_DIRECTORIES: usize = 256;

/// The maximum number of symbolic links that are followed on the way to one file, as in Linux
/// itself.
const MAX_LINKS: usize = 40;

/// What exists at a path, which is not followed itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PathEntry {
    /// A symbolic link with this target.
    Link(PathBuf),
    /// Anything else.
    Other,
    /// Nothing, or nothing that is accessible.
    Missing,
}

/// The directories to watch, and the relevant names in each. None of them is a symbolic link or
/// lies behind one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Watched {
    names: BTreeMap<PathBuf, Names>,
    /// Whether the limit left some out.
    pub(super) is_truncated: bool,
}

/// Relevant names in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Names {
    All,
    These(BTreeSet<OsString>),
}

impl Watched {
    /// Returns what to watch for the plugin directory `dir`, an absolute path, in which `links` are
    /// symbolic links to plugins. `at` returns what exists at a path.
    pub(super) fn of(dir: &Path, links: &[PathBuf], at: impl Fn(&Path) -> PathEntry) -> Self {
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

    /// Adds each path with its directory. Adds none if that would exceed the limit.
    fn add(&mut self, paths: Vec<PathBuf>) {
        let mut new: Vec<&Path> = paths
            .iter()
            .filter_map(|path| path.parent())
            .filter(|dir| !self.names.contains_key(*dir))
            .collect();
        new.sort_unstable();
        new.dedup();
        if self.names.len() + new.len() > MAX_DIRECTORIES {
            self.is_truncated = true;
            return;
        }
        for path in &paths {
            if let (Some(dir), Some(name)) = (path.parent(), path.file_name())
                && let Names::These(names) = self
                    .names
                    .entry(dir.to_owned())
                    .or_insert_with(|| Names::These(BTreeSet::new()))
            {
                names.insert(name.to_owned());
            }
        }
    }

    /// Iterates over the directories.
    pub(super) fn directories(&self) -> impl Iterator<Item = &Path> {
        self.names.keys().map(PathBuf::as_path)
    }

    /// Whether a change of `path` is relevant.
    pub(super) fn concerns(&self, path: &Path) -> bool {
        let is_named = |dir: &Path, name: &OsStr| match self.names.get(dir) {
            Some(Names::All) => true,
            Some(Names::These(names)) => names.contains(name),
            None => false,
        };
        self.is_directory(path)
            || path.parent().zip(path.file_name()).is_some_and(|(dir, name)| is_named(dir, name))
    }

    /// Whether `path` is one of the directories.
    pub(super) fn is_directory(&self, path: &Path) -> bool {
        self.names.contains_key(path)
    }
}

/// The resolution of a path.
struct Trace {
    /// The paths that decide the result: each symbolic link on the way, and the target or the first
    /// missing path.
    deciding: Vec<PathBuf>,
    /// The target, without any symbolic link.
    end: PathBuf,
}

/// Resolves an absolute path component by component, as the system does.
fn trace(path: &Path, at: &impl Fn(&Path) -> PathEntry) -> Trace {
    let mut deciding = Vec::new();
    let mut end = PathBuf::new();
    // The remaining components, the next one last.
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
            PathEntry::Link(target) if deciding.len() < MAX_LINKS => {
                deciding.push(end.clone());
                end.pop();
                // An absolute target starts again: pushing its root replaces `end`.
                rest.extend(reversed(&target));
            }
            PathEntry::Link(_) | PathEntry::Missing => break,
            PathEntry::Other => {}
        }
    }
    deciding.push(end.clone());
    end.extend(rest.into_iter().rev());
    Trace { deciding, end }
}

/// Returns the components of a path, the last one first.
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

    /// Returns what to watch if only these links exist, and no file below `/missing`.
    fn watched(dir: &str, files: &[&str], links: &[(&str, &str)]) -> Watched {
        let at = |path: &Path| match links.iter().find(|(link, _)| Path::new(link) == path) {
            Some((_, target)) => PathEntry::Link(PathBuf::from(target)),
            None if path.starts_with("/missing") => PathEntry::Missing,
            None => PathEntry::Other,
        };
        let files: Vec<_> = files.iter().map(|file| Path::new(dir).join(file)).collect();
        Watched::of(Path::new(dir), &files, at)
    }

    fn names(watched: &Watched) -> Vec<(String, String)> {
        let text = |names: &Names| match names {
            Names::All => "*".to_owned(),
            Names::These(names) => {
                names.iter().map(|name| name.to_string_lossy()).collect::<Vec<_>>().join(" ")
            }
        };
        watched.names.iter().map(|(dir, names)| (dir.display().to_string(), text(names))).collect()
    }

    #[test]
    fn every_link_on_the_way_and_every_target_is_watched_in_its_directory() {
        type Case<'case> = (
            &'case str,
            &'case [&'case str],
            &'case [(&'case str, &'case str)],
            &'case [(&'case str, &'case str)],
        );
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
                &[
                    ("/srv/p/a.wasm", "../builds/a"),
                    ("/srv/builds/a", "a-7"),
                    ("/srv/p/b.wasm", "/srv/builds/b"),
                ],
                &[("/srv", "p"), ("/srv/builds", "a a-7 b"), ("/srv/p", "*")],
            ),
            // Through a link at the directory itself, and a link in the middle of a file's path.
            (
                "/srv/p",
                &["a.wasm"],
                &[("/srv/p", "q"), ("/srv/q/a.wasm", "../new/a"), ("/srv/new", "/opt/9")],
                &[("/opt/9", "a"), ("/srv", "new p q"), ("/srv/q", "*")],
            ),
            (
                "/srv/p",
                &["a.wasm"],
                &[("/srv/p/a.wasm", "/missing/a")],
                &[("/", "missing"), ("/srv", "p"), ("/srv/p", "*")],
            ),
            ("/missing/p", &[], &[], &[("/", "missing"), ("/missing/p", "*")]),
            // A cycle of links: nothing is there, and the resolution ends.
            (
                "/srv/p",
                &["a.wasm"],
                &[("/srv/p/a.wasm", "a.wasm")],
                &[("/srv", "p"), ("/srv/p", "*")],
            ),
        ];
        for (dir, files, links, expected) in cases {
            let expected: Vec<_> = expected
                .iter()
                .map(|(dir, names)| ((*dir).to_owned(), (*names).to_owned()))
                .collect();
            assert_eq!(names(&watched(dir, files, links)), expected, "{dir} {links:?}");
        }
    }

    #[test]
    fn a_change_matters_only_where_it_may_change_a_plugin() {
        let watched = watched(
            "/srv/current",
            &["a.wasm"],
            &[("/srv/current", "42"), ("/srv/42/a.wasm", "/builds/a")],
        );
        let concerns = ["/srv/42/b.wasm", "/srv/42", "/srv/current", "/builds/a", "/srv"];
        assert!(concerns.iter().all(|path| watched.concerns(Path::new(path))));
        let others = ["/srv/data", "/builds/b", "/srv/42/dir/c.wasm", "/opt", "/"];
        assert!(!others.iter().any(|path| watched.concerns(Path::new(path))));
    }

    #[test]
    fn the_number_of_directories_is_bounded_and_the_plugin_directory_is_among_them() {
        let files: Vec<_> =
            (0..2 * MAX_DIRECTORIES).map(|number| format!("{number}.wasm")).collect();
        let files: Vec<_> = files.iter().map(String::as_str).collect();
        let links: Vec<_> = files
            .iter()
            .map(|file| (format!("/p/{file}"), format!("/store/{file}/plugin")))
            .collect();
        let links: Vec<_> =
            links.iter().map(|(link, target)| (link.as_str(), target.as_str())).collect();
        let watched = watched("/p", &files, &links);
        assert!(watched.is_truncated);
        assert_eq!(watched.directories().count(), MAX_DIRECTORIES);
        assert!(watched.is_directory(Path::new("/p")) && watched.is_directory(Path::new("/")));
    }
}
