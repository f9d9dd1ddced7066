//! The documents: their code blocks run, and the commands and files that they name exist.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use sockhop::config::Config;
use sockhop_tests::{HostProcess, TestHost, binary, bundled_plugin, guest, serve};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the documents, as paths below the root.
fn documents() -> Vec<String> {
    fn add(dir: &Path, documents: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy();
            let is_made = ["target", "node_modules"].contains(&&*name);
            if path.is_dir() && (*name == *".github" || !is_made && !name.starts_with('.')) {
                add(&path, documents);
            } else if name.ends_with(".md") {
                let path = path.strip_prefix(root()).expect("a path below the root");
                documents.push(path.to_str().expect("UTF-8").to_owned());
            }
        }
    }
    let mut documents = Vec::new();
    add(&root(), &mut documents);
    documents.sort();
    assert!(documents.len() > 8, "{documents:?}");
    documents
}

/// A code block of a document.
struct Block {
    language: String,
    code: String,
}

/// Divides a document into its code blocks and its text.
fn parse(document: &str) -> (Vec<Block>, String) {
    let (mut blocks, mut text) = (Vec::new(), String::new());
    let mut open: Option<Block> = None;
    for line in read(document).lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => {
                open = Some(Block { language: language.to_owned(), code: String::new() });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => block.code += &format!("{line}\n"),
            (None, None) => text += &format!("{line}\n"),
        }
    }
    assert!(open.is_none(), "{document}: a code block without an end");
    (blocks, text)
}

/// Returns the code blocks of a document in `language`.
fn blocks(document: &str, language: &str) -> Vec<String> {
    let (blocks, _) = parse(document);
    blocks.into_iter().filter(|block| block.language == language).map(|block| block.code).collect()
}

const SDK: &str = "plugin-sdk/README.md";

#[test]
fn every_code_block_is_run_by_a_test() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("sockhop.toml");
    for document in documents() {
        for Block { language, code } in parse(&document).0 {
            match (language.as_str(), document.as_str()) {
                // A diagram; and commands, see the tests of commands below.
                ("" | "console" | "sh", _) => {}
                // `tests/clients/javascript/docs.test.mjs` runs it.
                ("js", "docs/clients.md") => {}
                // `tests/clients/python/test_forward.py` runs it.
                ("python", "plugins/README.md") => {}
                // See the tests of the first plugin below.
                ("rust" | "toml", SDK) => {}
                // `scenarios::the_scenarios_of_the_documentation_pass` plays it.
                ("yaml", "docs/scenarios.md") => {}
                ("toml", _) => {
                    std::fs::write(&file, &code).expect("a file");
                    Config::load(Some(&file)).unwrap_or_else(|error| panic!("{document}: {error}"));
                }
                _ => panic!("{document}: no test runs a block of `{language}`"),
            }
        }
    }
}

/// Returns the commands that the console shows, one line each, without comments.
fn commands(document: &str) -> Vec<String> {
    let shown = blocks(document, "console").into_iter().flat_map(|code| {
        let code = code.replace("\\\n", " ");
        let lines = code.lines().filter_map(|line| line.strip_prefix("$ ").map(str::to_owned));
        lines.collect::<Vec<_>>()
    });
    let scripts = blocks(document, "sh")
        .into_iter()
        .flat_map(|code| code.replace("\\\n", " ").lines().map(str::to_owned).collect::<Vec<_>>());
    let without_comment =
        |line: String| line.split(" #").next().unwrap_or_default().trim().to_owned();
    shown.chain(scripts).map(without_comment).filter(|line| !line.is_empty()).collect()
}

/// Returns what the text quotes as code and begins with one of our commands.
fn quoted(document: &str) -> Vec<String> {
    let (_, text) = parse(document);
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let quoted = text.split('`').skip(1).step_by(2);
    quoted
        .filter(|code| ["sockhop ", "cargo xtask "].iter().any(|ours| code.starts_with(ours)))
        .map(str::to_owned)
        .collect()
}

/// Returns the help text of `sockhop COMMAND` and of the commands below it, or `None` if there is
/// no such command.
fn help(command: &str) -> Option<String> {
    let below: &[&str] = match command {
        "plugins" => &["list", "show", "rollback", "disable", "enable", "forget"],
        "timers" | "deliveries" => &["list", "retry", "drop"],
        "state" => &["get", "scan", "export", "import"],
        "data" => &["verify", "accept-loss"],
        _ => &[],
    };
    let mut text = String::new();
    for arguments in
        std::iter::once(vec![command]).chain(below.iter().map(|sub| vec![command, sub]))
    {
        let output = Command::new(binary())
            .args(arguments)
            .arg("--help")
            .output()
            .expect("the command runs");
        if !output.status.success() {
            return None;
        }
        text += &String::from_utf8_lossy(&output.stdout);
    }
    Some(text)
}

/// Asserts that a command of ours exists, and the options that are given to it.
fn exists(document: &str, line: &str) {
    let words: Vec<_> = line
        .split([' ', '[', ']', '|', '\\'])
        .map(|word| word.trim_end_matches([',', '.', '…']))
        .filter(|word| !word.is_empty())
        .collect();
    match words.as_slice() {
        ["cargo", "xtask", command, ..] => {
            let known = read("tests/xtask/src/main.rs");
            assert!(known.contains(&format!("(\"{command}\"")), "{document}: {line}");
        }
        // A word in capitals stands for any command.
        ["sockhop", command, ..] if command.chars().all(|c| c.is_ascii_uppercase()) => {}
        ["sockhop", command, rest @ ..] => {
            let help = help(command).unwrap_or_else(|| panic!("{document}: {line}"));
            for option in rest.iter().filter(|word| word.starts_with("--")) {
                assert!(help.contains(option), "{document}: no {option} of {line}");
            }
        }
        ["cargo", "test" | "build" | "install" | "new", ..] | ["rustup" | "curl", ..] => {}
        _ => panic!("{document}: no test knows `{line}`"),
    }
}

#[test]
fn the_commands_that_documents_name_exist() {
    let mut seen = 0;
    for document in documents() {
        for line in commands(&document).into_iter().chain(quoted(&document)) {
            exists(&document, &line);
            seen += 1;
            // Paths of this repository, as a neighbour of it writes them.
            for path in line.split(' ').filter_map(|word| word.strip_prefix("../sockhop/")) {
                let is_built = path.starts_with("target/");
                assert!(is_built || root().join(path).exists(), "{document}: {line}");
            }
        }
    }
    assert!(seen > 20, "{seen} commands");
}

#[test]
fn the_files_that_documents_link_to_exist() {
    for document in documents() {
        let (_, text) = parse(&document);
        let dir = root().join(&document);
        let dir = dir.parent().expect("a directory");
        for rest in text.split("](").skip(1) {
            let target = rest.split([')', '#']).next().unwrap_or_default();
            let is_file = !target.is_empty() && !target.contains("://");
            assert!(!is_file || dir.join(target).exists(), "{document}: {target}");
        }
    }
}

/// Whether a line of a terminal is what the document shows. Digests, numbers and times differ.
fn is_shown(shown: &str, line: &str) -> bool {
    let differs =
        |word: &str| word.ends_with('…') || word.chars().next().is_some_and(|c| c.is_ascii_digit());
    let is_digest = |word: &str| word.len() >= 12 && word.chars().all(|c| c.is_ascii_hexdigit());
    let (shown, line): (Vec<_>, Vec<_>) =
        (shown.split_whitespace().collect(), line.split_whitespace().collect());
    shown.len() == line.len()
        && shown
            .iter()
            .zip(line)
            .all(|(shown, word)| *shown == word || differs(shown) || is_digest(shown))
}

#[test]
fn the_terminal_session_of_the_first_screen_is_what_a_terminal_shows() {
    let dir = tempfile::tempdir().expect("a directory");
    let (plugins, data) = (dir.path().join("plugins"), dir.path().join("data"));
    std::fs::create_dir(&plugins).expect("a directory");
    for name in ["connection", "subscription"] {
        sockhop_tests::put(&plugins, &bundled_plugin(name));
    }
    sockhop_tests::put(dir.path(), &guest("wave"));
    sockhop_tests::put(dir.path(), &guest("taker"));
    let mut other = std::fs::read(guest("wave")).expect("a plugin");
    // A section without a meaning makes it another version.
    other.extend_from_slice(b"\0\x02\x012");
    std::fs::write(dir.path().join("wave-2.wasm"), other).expect("a file");
    let _host = HostProcess::of(serve(&plugins, &data), &data);
    let session = blocks("README.md", "console").into_iter().find(|code| code.contains("deploy"));
    let session = session.expect("a session with `sockhop deploy`");
    for command in session.split("$ ").skip(1) {
        let (line, shown) = command.split_once('\n').expect("a line");
        let line = line.split(" #").next().expect("a command");
        let output = Command::new(binary())
            .args(line.split_whitespace().skip(1))
            .current_dir(dir.path())
            .env_remove("SOCKHOP_KEY")
            .output()
            .expect("the command runs");
        let printed = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        // Paths are shown as in the directory of the host.
        let printed = printed.replace(&format!("{}/", dir.path().display()), "");
        for shown in shown.lines().filter(|shown| *shown != "…") {
            assert!(
                printed.lines().any(|printed| is_shown(shown, printed)),
                "{line}: no line like\n{shown}\nin\n{printed}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_emit_of_a_business_system_is_answered_as_its_page_shows() {
    let host =
        TestHost::start(&[bundled_plugin("memory_logs"), bundled_plugin("subscription")]).await;
    let mut clients = [host.client().await, host.client().await];
    for client in &clients {
        client.ask("subscribe_event", json!({"event_type": "memory_logs"})).await;
    }
    let block = blocks("docs/clients.md", "console")
        .into_iter()
        .find(|block| block.contains("/api/emit"))
        .expect("an emit");
    let body: Value = block
        .split_once("-d '")
        .and_then(|(_, rest)| rest.split_once('\''))
        .map(|(body, _)| serde_json::from_str(body).expect("JSON"))
        .expect("a body");
    assert!(block.contains("http://127.0.0.1:4000/api/emit"), "{block}");
    let shown = block.trim_end().lines().last().expect("an answer");
    let shown: Value = serde_json::from_str(shown).expect("JSON");
    let (status, answer) = host.http("/api/emit", Some(body.clone())).await;
    assert_eq!(status, 202, "{answer}");
    for member in ["rooms", "receivers"] {
        assert_eq!(answer[member], shown[member], "{answer}");
    }
    assert!(answer["id"].is_string(), "{answer}");
    for client in &mut clients {
        assert_eq!(client.expect(body["event"].as_str().expect("a name")).await, body["data"]);
    }
}

#[test]
fn the_first_plugin_is_one_that_is_built_and_tested() {
    assert_eq!(blocks(SDK, "rust"), [read("tests/guests/examples/wave.rs")]);
}

#[test]
fn the_manifest_is_whole_and_replaces_what_cargo_new_writes() {
    let dir = tempfile::tempdir().expect("a directory");
    let cargo = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO"))
            .args(arguments)
            .current_dir(dir.path())
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    cargo(&["new", "--lib", "--vcs", "none", "wave"]);
    let [manifest] = &blocks(SDK, "toml")[..] else { panic!("README shows one manifest") };
    std::fs::write(dir.path().join("wave/Cargo.toml"), manifest).expect("a manifest");
    let metadata = cargo(&[
        "metadata",
        "--offline",
        "--no-deps",
        "--format-version",
        "1",
        "--manifest-path",
        "wave/Cargo.toml",
    ]);
    let metadata: Value = serde_json::from_slice(&metadata).expect("JSON");
    let package = &metadata["packages"][0];
    assert_eq!(package["name"], json!("wave"));
    assert_eq!(package["targets"][0]["crate_types"], json!(["cdylib", "rlib"]));
    let names: BTreeSet<_> = package["dependencies"]
        .as_array()
        .expect("dependencies")
        .iter()
        .map(|one| one["name"].as_str().expect("a name"))
        .collect();
    assert_eq!(names, BTreeSet::from(["schemars", "serde", "serde_json", "sockhop-sdk"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_plugin_serves_those_who_subscribe_to_its_room() {
    let host = TestHost::start(&[guest("wave"), bundled_plugin("subscription")]).await;
    let (mut subscriber, client) = (host.client().await, host.client().await);
    subscriber.ask("subscribe_event", json!({"event_type": "waves"})).await;
    let reply = client.ask("wave", json!({"text": "hello"})).await;
    assert_eq!(reply["text"], json!("hello"));
    assert_eq!(subscriber.expect("waved").await, reply);
}
