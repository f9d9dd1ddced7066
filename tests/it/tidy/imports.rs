//! Which modules of a crate use each other, read from the paths in its source text.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::source::{code, is_of_tests, sources};

/// The modules of one crate, by their paths. The path of the crate's root is empty.
pub(super) struct Crate(BTreeMap<ModulePath, Vec<Named>>);

type ModulePath = Vec<String>;

/// A path in the code of a module.
struct Named {
    path: Vec<String>,
    /// The name that a `use` gives to the item; `None` for a path outside of a `use`.
    imported_as: Option<String>,
}

/// Pairs of sibling modules, of which the first uses the second.
pub(super) type Uses = BTreeSet<(String, String)>;

impl Crate {
    /// Reads the sources in the directory `root`, without tests and without `main.rs`.
    pub(super) fn read(root: &Path) -> Self {
        let mut modules = BTreeMap::new();
        for file in sources(root) {
            let name = file.strip_prefix(root).expect("a source of the crate");
            if is_of_tests(name) {
                continue;
            }
            let name = name.with_extension("");
            let path: ModulePath =
                name.iter().map(|part| part.to_string_lossy().into_owned()).collect();
            let source = std::fs::read_to_string(&file).expect("a source");
            let tokens: Vec<_> = code(&source).flat_map(tokens).collect();
            if path == ["lib"] {
                modules.insert(Vec::new(), paths(&tokens));
            } else if path != ["main"] {
                modules.insert(path, paths(&tokens));
            }
        }
        Self(modules)
    }

    /// Adds empty modules to the root. They stand for modules that the root re-exports from another
    /// crate.
    pub(super) fn with(mut self, names: &[&str]) -> Self {
        self.0.extend(names.iter().map(|name| (vec![(*name).to_owned()], Vec::new())));
        self
    }

    /// Makes a crate of these texts, by the paths of their modules.
    pub(super) fn of<'a>(modules: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let module = |(path, source): (&str, &str)| {
            let path = path.split('/').filter(|step| !step.is_empty()).map(str::to_owned);
            (path.collect(), paths(&source.lines().flat_map(tokens).collect::<Vec<_>>()))
        };
        Self(modules.into_iter().map(module).collect())
    }

    /// For each module that has children, by its path: which of its children use each other.
    ///
    /// A child stands for all modules below it. A module may use its children, and children may use
    /// the items of their parent. An item that the parent imports from a child is that child's.
    pub(super) fn uses(&self) -> BTreeMap<String, Uses> {
        let mut uses: BTreeMap<String, Uses> = BTreeMap::new();
        for (user, named) in &self.0 {
            for used in named.iter().filter_map(|named| self.owner(user, &named.path)) {
                let common = user.iter().zip(&used).take_while(|(user, used)| user == used).count();
                if let (Some(user), Some(sibling)) = (user.get(common), used.get(common)) {
                    let pairs = uses.entry(used[..common].join("/")).or_default();
                    pairs.insert((user.clone(), sibling.clone()));
                }
            }
        }
        uses
    }

    /// The module that owns the item which `path` means in the module `at`. Returns `None` for a
    /// path that begins with the name of another crate or of a local item.
    fn owner(&self, at: &[String], path: &[String]) -> Option<ModulePath> {
        let mut module = at.to_vec();
        let mut steps = path.iter().peekable();
        while let Some(root) = steps.next_if(|step| is_root(step)) {
            match root.as_str() {
                "crate" => module.clear(),
                "super" => drop(module.pop()),
                _ => {}
            }
        }
        let is_relative = path.first().is_some_and(|first| !is_root(first));
        let own = module.len();
        while let Some(step) = steps.peek() {
            let below = [module.as_slice(), std::slice::from_ref(*step)].concat();
            if !self.0.contains_key(&below) {
                break;
            }
            module = below;
            steps.next();
        }
        if is_relative && module.len() == own {
            return None;
        }
        let import = steps.peek().and_then(|item| {
            let imports = self.0.get(&module)?.iter();
            imports
                .filter(|named| named.imported_as.as_ref() == Some(*item))
                .find(|named| !named.path.first().is_some_and(|first| is_root(first)))
        });
        let imported = import.and_then(|import| self.owner(&module, &import.path));
        Some(imported.unwrap_or(module))
    }
}

/// Whether a path that begins with this step names a module of its own crate.
fn is_root(step: &str) -> bool {
    ["crate", "self", "super"].contains(&step)
}

/// The words and signs of a line; `::` is one of them.
fn tokens(line: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let length = if is_word(first) {
            rest.find(|c| !is_word(c)).unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        let (token, after) = rest.split_at(length);
        tokens.push(token.to_owned());
        rest = after.trim_start();
    }
    tokens
}

/// The paths of all `use` declarations, and those in other code that begin at the crate, at the
/// module itself or at its parent.
fn paths(tokens: &[String]) -> Vec<Named> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let before = at.checked_sub(1).and_then(|before| tokens.get(before));
        // `$crate` is the crate of a macro's caller.
        let is_first = before.is_none_or(|before| before != "$" && before != "::");
        if token == "use" {
            at = read(tokens, at + 1, &[], &mut |path, name| {
                found.push(Named { path, imported_as: Some(name) });
            });
        } else if is_root(token) && is_first && is(tokens, at + 1, "::") {
            at = read(tokens, at, &[], &mut |path, _| {
                found.push(Named { path, imported_as: None });
            });
        } else {
            at += 1;
        }
    }
    found
}

/// Reads the path at `at`, or all paths of a tree `{…}`, which continue `prefix`. Gives each to
/// `take`, with the name of its item. Returns the index of the token after them.
fn read(
    tokens: &[String],
    mut at: usize,
    prefix: &[String],
    take: &mut impl FnMut(Vec<String>, String),
) -> usize {
    if is(tokens, at, "{") {
        at += 1;
        while at < tokens.len() && !is(tokens, at, "}") {
            at = if is(tokens, at, ",") { at + 1 } else { read(tokens, at, prefix, take) };
        }
        return at + 1;
    }
    let Some(step) = tokens.get(at) else { return at };
    let path = [prefix, std::slice::from_ref(step)].concat();
    let continues = tokens.get(at + 2).is_some_and(|next| {
        next == "{" || next.starts_with(|c: char| c.is_alphabetic() || c == '_')
    });
    if is(tokens, at + 1, "::") && continues {
        return read(tokens, at + 2, &path, take);
    }
    if is(tokens, at + 1, "as") {
        take(path, tokens.get(at + 2).cloned().unwrap_or_default());
        return at + 3;
    }
    take(path, step.clone());
    at + 1
}

fn is(tokens: &[String], at: usize, wanted: &str) -> bool {
    tokens.get(at).is_some_and(|token| token == wanted)
}

/// The modules that import each other in a cycle, or that stand between two cycles.
pub(super) fn in_cycles(uses: &Uses) -> BTreeSet<&str> {
    let mut left: Vec<(&str, &str)> =
        uses.iter().map(|(user, used)| (user.as_str(), used.as_str())).collect();
    loop {
        // A module that uses none, or that none uses, is in no cycle.
        let users: BTreeSet<_> = left.iter().map(|(user, _)| *user).collect();
        let used: BTreeSet<_> = left.iter().map(|(_, used)| *used).collect();
        let before = left.len();
        left.retain(|(from, to)| used.contains(from) && users.contains(to));
        if left.len() == before {
            return users;
        }
    }
}

#[test]
fn a_cycle_is_found_through_trees_of_imports_and_through_the_parent() {
    let uses = Crate::of([
        ("a", "mod one;\nmod two;\npub use one::{First, Second as Other};"),
        ("a/one", "use super::{self as parent, two::{Third, below::Fourth}};"),
        ("a/two", "fn f() -> super::Other { crate::b::g::<Third>() }"),
        ("a/two/below", "use crate::a::Item;"),
        ("b", "use std::fmt; macro_rules! m { () => { $crate::a::f() } }"),
    ])
    .uses();
    let pairs = |parent: &str| {
        let pairs = uses.get(parent).into_iter().flatten();
        pairs.map(|(user, used)| format!("{user} {used}")).collect::<Vec<_>>()
    };
    assert_eq!(pairs(""), ["a b"]);
    assert_eq!(pairs("a"), ["one two", "two one"]);
    assert!(in_cycles(&uses["a"]).into_iter().eq(["one", "two"]));
    assert!(in_cycles(&uses[""]).is_empty());
}
