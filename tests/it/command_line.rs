//! The output of the command line for operators and plugin authors.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use sockhop_tests::{
    HostProcess, asynchronous, binary, bundled, bundled_plugin, chameleon, directory_of, guest,
};

/// Runs the command and returns its exit status, standard output and standard error.
fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(binary())
        .args(arguments)
        .env_remove("SOCKHOP_KEY")
        .output()
        .expect("the command runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("an exit status"), text(output.stdout), text(output.stderr))
}

fn check(file: &Path) -> (i32, String) {
    let (status, output, errors) = run(&["check", file.to_str().expect("UTF-8")]);
    (status, output + &errors)
}

/// Writes a file that no build would produce.
fn made(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let file = dir.join(name);
    std::fs::write(&file, bytes).expect("a file");
    file
}

fn replace_all(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = bytes.to_vec();
    let mut at = 0;
    while at + from.len() <= bytes.len() {
        if bytes[at..].starts_with(from) {
            bytes[at..at + to.len()].copy_from_slice(to);
        }
        at += 1;
    }
    bytes
}

#[test]
fn check_refuses_what_is_no_plugin_with_a_reason_that_helps() {
    let dir = tempfile::tempdir().expect("a directory");
    let good = std::fs::read(bundled_plugin("connection")).expect("a plugin");
    let cases = [
        (made(dir.path(), "core.wasm", b"\0asm\x01\0\0\0"), "core module, not a component"),
        (made(dir.path(), "empty_component.wasm", b"\0asm\x0d\0\x01\0"), "another world"),
        (
            made(
                dir.path(),
                "future.wasm",
                &replace_all(
                    &good,
                    b"sockhop:plugin/registry@0.1.1",
                    b"sockhop:plugin/registry@0.9.0",
                ),
            ),
            "was built against `sockhop:plugin/registry@0.9.0`",
        ),
        (made(dir.path(), "truncated.wasm", &good[..good.len() / 2]), "only a part of one"),
        (made(dir.path(), "zero.wasm", b""), "no WebAssembly component"),
        (made(dir.path(), "text.wasm", b"hello"), "no WebAssembly component"),
        (dir.path().join("missing.wasm"), "can't be read"),
        (
            made(dir.path(), "async.wasm", &asynchronous()),
            "async builtins, which this host does not have: `task.cancel`",
        ),
        (made(dir.path(), "not_sync.wasm", &asynchronous()), "`componentize-qjs --sync`"),
        (guest("register_traps"), "no plugin today"),
        (guest("register_spins"), "ran for more than"),
        (guest("register_unnamed"), "not a valid plugin name"),
        (guest("two_handlers"), "two handlers"),
        (guest("invalid_schema"), "schema of its payload"),
        (guest("reply_with_error"), "property `error`"),
    ];
    for (file, reason) in cases {
        let (status, said) = check(&file);
        assert_eq!(status, 1, "{}: {said}", file.display());
        assert!(said.contains(reason), "{}: {said}", file.display());
    }
}

#[test]
fn check_prints_what_a_plugin_registers() {
    let file = bundled_plugin("connection");
    let (status, said) = check(&file);
    assert_eq!(status, 0, "{said}");
    for part in ["connection", "handles  ping", "emits    pong", "listens  $connect"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let (status, output, _) = run(&["check", "--json", file.to_str().expect("UTF-8")]);
    let document: Value = serde_json::from_str(&output).expect("JSON");
    assert_eq!(
        (status, &document["ok"], &document["plugins"][0]["handles"]),
        (0, &json!(true), &json!(["ping"]))
    );
}

#[test]
fn check_leaves_nothing_in_the_temporary_directory() {
    let temporary = tempfile::tempdir().expect("a directory");
    for (file, status) in
        [(bundled_plugin("memory_logs"), 0), (temporary.path().join("none.wasm"), 1)]
    {
        let output = Command::new(binary())
            .arg("check")
            .arg(file)
            .env("TMPDIR", temporary.path())
            .output()
            .expect("the command runs");
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        let left: Vec<_> = std::fs::read_dir(temporary.path()).expect("its entries").collect();
        assert!(left.is_empty(), "{left:?}: {output:?}");
    }
}

#[test]
fn check_tells_a_plugin_that_wants_what_another_has() {
    let (status, output, _) = run(&[
        "check",
        bundled_plugin("connection").to_str().expect("UTF-8"),
        guest("taker").to_str().expect("UTF-8"),
    ]);
    assert_eq!(status, 1, "{output}");
    assert!(output.contains("event `ping` is taken by plugin `connection`"), "{output}");
}

#[test]
fn check_warns_of_rooms_that_nobody_can_be_in_and_templates_that_nothing_fills() {
    let doubtful = guest("doubtful");
    let expected = [
        "`waved` may go to `wave_{nothing}`, but no loaded plugin declares such a room",
        "the template `wave_{nothing}` needs a property `nothing`, which the data of `waved` does \
         not have",
        "`waved` may go to `lost`, but no loaded plugin declares such a room",
    ];
    let (status, said) = check(&doubtful);
    assert_eq!(status, 0, "a warning is no refusal: {said}");
    let warnings: Vec<_> =
        said.lines().filter_map(|line| line.trim_start().strip_prefix("warning: ")).collect();
    assert_eq!(warnings.len(), expected.len(), "{said}");
    assert!(
        warnings.iter().zip(expected).all(|(warning, expected)| warning.starts_with(expected)),
        "{said}"
    );

    let (status, output, _) = run(&["check", "--json", doubtful.to_str().expect("UTF-8")]);
    let document: Value = serde_json::from_str(&output).expect("JSON");
    assert_eq!(
        (status, document["plugins"][0]["warnings"].as_array().map(Vec::len)),
        (0, Some(expected.len())),
        "{output}"
    );
}

#[test]
fn the_bundled_plugins_are_checked_without_a_warning() {
    let plugins = ["connection", "subscription", "memory_logs", "mental_notes"].map(bundled_plugin);
    let files: Vec<_> = plugins.iter().map(|file| file.to_str().expect("UTF-8")).collect();
    let (status, output, errors) = run(&[&["check"], &files[..]].concat());
    assert_eq!((status, output.contains("warning"), errors.as_str()), (0, false, ""), "{output}");
}

#[test]
fn a_bad_configuration_is_refused_before_listening() {
    let dir = tempfile::tempdir().expect("a directory");
    let cases = [
        ("[server]\nlisten = \"nowhere\"\n", ["server.listen", "nowhere"]),
        ("[server]\nport = 4000\n", ["server.port", "listen"]),
        ("[limits]\nmailbox_events = 0\n", ["limits.mailbox_events", "at least 1"]),
        ("[plugins.lab]\ninstance_policy = \"hot\"\n", ["plugins.lab.instance_policy", "warm"]),
        ("[log]\nfilter = \"a=b=c\"\n", ["log.filter", "a=b=c"]),
        ("[log]\nfilter = \"verbose\"\n", ["log.filter", "off, error, warn, info, debug or trace"]),
    ];
    for (text, named) in cases {
        let file = made(dir.path(), "sockhop.toml", text.as_bytes());
        let file = file.to_str().expect("UTF-8");
        let (status, output, errors) = run(&["serve", "--config", file, "--listen", "127.0.0.1:0"]);
        assert_eq!(status, 1, "{text}: {output}{errors}");
        assert!(!output.contains("listening"), "{output}");
        for name in named {
            assert!(errors.contains(name), "{text}: {errors}");
        }
    }
}

#[test]
fn a_second_host_names_the_first_of_a_data_directory_until_that_is_dead() {
    let (plugins_dir, data_dir) =
        (directory_of(&[bundled_plugin("connection")]), tempfile::tempdir().expect("a directory"));
    let first = HostProcess::start(plugins_dir.path(), data_dir.path());
    let (plugins, data) =
        (plugins_dir.path().to_str().expect("UTF-8"), data_dir.path().to_str().expect("UTF-8"));
    let (status, _, errors) =
        run(&["serve", "--listen", "127.0.0.1:0", "--plugins", plugins, "--data", data]);
    assert_eq!(status, 1, "{errors}");
    assert!(errors.contains(&format!("pid {}", first.pid())), "{errors}");
    first.kill();
    drop(HostProcess::start(plugins_dir.path(), data_dir.path()));
}

#[test]
fn the_commands_that_ask_a_running_host_do() {
    let data = tempfile::tempdir().expect("a directory");
    let host = HostProcess::start(&bundled(), data.path());
    let ask = |arguments: &[&str]| {
        let data = data.path().to_str().expect("UTF-8");
        run(&[arguments, &["--url", &host.url, "--data", data]].concat())
    };
    let (status, output, errors) = ask(&["plugins", "list"]);
    assert_eq!(status, 0, "{errors}");
    for name in ["NAME", "connection", "subscription", "memory_logs", "mental_notes", "active"] {
        assert!(output.contains(name), "{name}: {output}");
    }
    let (status, output, _) = ask(&["plugins", "--json"]);
    assert_eq!(status, 0);
    assert_eq!(
        serde_json::from_str::<Value>(&output).expect("JSON").as_array().map(Vec::len),
        Some(4)
    );
    let (status, output, errors) =
        ask(&["emit", "memory_log_deleted", "{\"id\": 1}", "--room", "memory_logs"]);
    assert_eq!(status, 0, "{errors}");
    assert_eq!(serde_json::from_str::<Value>(&output).expect("JSON")["receivers"], json!(0));
    let (status, _, errors) = ask(&["emit", "nobody", "1"]);
    assert_eq!(status, 1);
    assert!(errors.contains("unknown_event"), "{errors}");
}

#[test]
fn an_operator_deploys_shows_and_rolls_back() {
    let (plugins, data) =
        (directory_of(&[bundled_plugin("connection")]), tempfile::tempdir().expect("a directory"));
    let host = HostProcess::start(plugins.path(), data.path());
    let ask = |arguments: &[&str]| {
        let data = data.path().to_str().expect("UTF-8");
        run(&[arguments, &["--url", &host.url, "--data", data]].concat())
    };
    let files = tempfile::tempdir().expect("a directory");
    let dir = plugins.path().to_str().expect("UTF-8");
    let mut digests = Vec::new();
    for version in 1..=2 {
        let file = made(
            files.path(),
            &format!("v{version}.wasm"),
            &chameleon(&format!("version={version}")),
        );
        let (status, output, errors) =
            ask(&["deploy", file.to_str().expect("UTF-8"), "--wait", "--plugins", dir]);
        assert_eq!(status, 0, "{output}{errors}");
        assert!(output.contains("serves"), "{output}");
        digests.push(output.split(' ').nth(1).expect("a digest").to_owned());
    }
    assert!(
        plugins.path().join("chameleon.wasm").exists(),
        "one file, whatever the deployed ones were called"
    );
    let bad = made(files.path(), "bad.wasm", b"no plugin");
    let (status, _, errors) =
        ask(&["deploy", bad.to_str().expect("UTF-8"), "--wait", "--plugins", dir]);
    assert_eq!(status, 1);
    assert!(errors.contains("no WebAssembly component"), "{errors}");
    let (_, output, _) = ask(&["plugins", "show", "chameleon"]);
    assert!(
        digests.iter().all(|digest| output.contains(digest)),
        "both versions can be gone back to: {output}"
    );
    let (status, output, errors) = ask(&["plugins", "rollback", "chameleon", "--json"]);
    assert_eq!(status, 0, "{errors}");
    assert_eq!(serde_json::from_str::<Value>(&output).expect("JSON")["digest"], json!(digests[0]));
    assert_eq!(ask(&["plugins", "disable", "chameleon"]).0, 0);
    let (_, output, _) = ask(&["plugins", "list"]);
    assert!(
        output.lines().any(|line| line.starts_with("chameleon") && line.contains("disabled")),
        "{output}"
    );
    assert_eq!(ask(&["plugins", "enable", "chameleon"]).0, 0);
    let (status, _, errors) = ask(&["plugins", "rollback", "chameleon", "--to", "0000"]);
    assert_eq!(status, 1);
    assert!(errors.contains("no kept version"), "{errors}");
}

/// Covers every path that the host and the command print, store or send, with names that are not
/// valid UTF-8.
#[cfg(target_os = "linux")]
#[test]
fn paths_that_are_not_utf_8_are_served_checked_and_deployed_to() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let root = tempfile::tempdir().expect("a directory");
    let [plugins, data, files] = [&b"plugins\xff"[..], b"data\xff", b"files\xff"]
        .map(|name| root.path().join(OsStr::from_bytes(name)));
    std::fs::create_dir(&plugins).expect("a directory");
    std::fs::create_dir(&files).expect("a directory");
    let served = plugins.join(OsStr::from_bytes(b"\xfe.wasm"));
    std::fs::write(&served, chameleon("version=1")).expect("a file");
    let host = HostProcess::start(&plugins, &data);
    host.until("chameleon", |row| row["version"] == "1.0.0" && row["state"] == "active");
    let newer = files.join(OsStr::from_bytes(b"newer\xff.wasm"));
    std::fs::write(&newer, chameleon("version=2")).expect("a file");
    let ask = |arguments: &[&OsStr]| {
        let output = Command::new(binary())
            .args(arguments)
            .env_remove("SOCKHOP_KEY")
            .output()
            .expect("the command runs");
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")
    };
    let checked = ask(&["check".as_ref(), "--json".as_ref(), newer.as_os_str()]);
    assert!(
        checked["plugins"][0]["file"]
            .as_str()
            .is_some_and(|file| file.ends_with("newer\u{fffd}.wasm")),
        "{checked}"
    );
    let (url, wait) =
        (OsStr::new(&host.url), ["deploy", "--wait", "--json", "--url"].map(OsStr::new));
    ask(&[
        &wait[..],
        &[
            url,
            "--data".as_ref(),
            data.as_os_str(),
            "--plugins".as_ref(),
            plugins.as_os_str(),
            newer.as_os_str(),
        ],
    ]
    .concat());
    assert_eq!(
        std::fs::read(&served).expect("the file of the plugin"),
        chameleon("version=2"),
        "it was replaced, and has no second file"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn the_thread_that_reloads_stands_back_behind_those_that_serve() {
    let (plugins, data) =
        (directory_of(&[bundled_plugin("connection")]), tempfile::tempdir().expect("a directory"));
    let host = HostProcess::start(plugins.path(), data.path());
    let threads = host.niceness();
    let of = |name: &str| {
        threads
            .iter()
            .find(|(thread, _)| thread == name)
            .unwrap_or_else(|| panic!("no {name} in {threads:?}"))
            .1
    };
    assert_eq!(of("sockhop-reload"), (of("sockhop") + 10).min(19), "{threads:?}");
}

/// Settings of a host whose clients need a token.
const AUTH: &str = "[auth]\nmode = \"jwt\"\naudience = \"shop\"\nroles_claim = \"realm.roles\"
[[auth.keys]]\nalgorithm = \"HS256\"\nsecret = \"a secret that has more than thirty-two bytes\"\n";

/// Runs `sockhop token` with a configuration.
fn token(config: &Path, arguments: &[&str]) -> (i32, String, String) {
    run(&[&["token"], arguments, &["--config", config.to_str().expect("UTF-8")]].concat())
}

#[test]
fn a_token_that_the_command_makes_is_one_that_it_accepts() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = format!("[data]\ndir = {:?}\n{AUTH}", dir.path().join("data"));
    let config = made(dir.path(), "sockhop.toml", data.as_bytes());
    let arguments = ["--sub", "7", "--role", "admin", "--role", "staff", "--ttl", "90s"];
    let (status, made_token, errors) = token(&config, &arguments);
    assert_eq!((status, errors.as_str()), (0, ""));
    let file = made(dir.path(), "token", made_token.as_bytes());
    let file = file.to_str().expect("UTF-8");
    let (status, output, errors) = token(&config, &["check", file]);
    assert_eq!((status, errors.as_str()), (0, ""), "{output}");
    for part in ["accepted\n", "user     7\n", "roles    admin, staff\n", r#""aud":"shop""#] {
        assert!(output.contains(part), "no {part:?} in {output}");
    }
    let (status, output, _) = token(&config, &["check", "--json", file]);
    let document: Value = serde_json::from_str(&output).expect("JSON");
    assert_eq!((status, &document["ok"]), (0, &json!(true)), "{output}");
    assert_eq!(document["roles"], json!(["admin", "staff"]));
    let claims = &document["claims"];
    let lasts = claims["exp"].as_u64().zip(claims["iat"].as_u64()).map(|(exp, iat)| exp - iat);
    assert_eq!(lasts, Some(90), "{output}");
}

#[test]
fn a_token_that_is_refused_is_explained() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = format!("[data]\ndir = {:?}\n{AUTH}", dir.path().join("data"));
    let config = made(dir.path(), "sockhop.toml", data.as_bytes());
    let other = AUTH.replace("a secret", "another secret");
    let other = made(dir.path(), "other.toml", other.as_bytes());
    let audience = AUTH.replace("shop", "bank");
    let audience = made(dir.path(), "audience.toml", audience.as_bytes());
    let of = |config: &Path, ttl: &str| token(config, &["--sub", "7", "--ttl", ttl]).1;
    for (refused, reason) in [
        ("no token".to_owned(), "3 parts"),
        (of(&other, "1h"), "signature"),
        (of(&audience, "1h"), "audience"),
    ] {
        let file = made(dir.path(), "token", refused.as_bytes());
        let file = file.to_str().expect("UTF-8");
        let (status, output, _) = token(&config, &["check", file]);
        assert_eq!(status, 1, "{output}");
        assert!(output.starts_with("refused: ") && output.contains(reason), "{reason}: {output}");
        let (status, output, _) = token(&config, &["check", "--json", file]);
        let document: Value = serde_json::from_str(&output).expect("JSON");
        assert_eq!((status, &document["ok"]), (1, &json!(false)), "{output}");
    }
    let anonymous = made(dir.path(), "anonymous.toml", b"");
    for arguments in [vec!["--sub", "7"], vec!["check", "-"]] {
        let (status, output, errors) = token(&anonymous, &arguments);
        assert_eq!((status, output.as_str()), (1, ""));
        assert!(errors.contains("mode = \"jwt\""), "{errors}");
    }
    let (status, _, errors) = token(&config, &["--sub", "7", "--ttl", "9000h"]);
    assert!(status != 0 && errors.contains("at most 8784h"), "{errors}");
}
