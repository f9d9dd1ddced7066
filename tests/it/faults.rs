//! Invalid files and misbehaving handlers: each is refused or ended with a reason, and everything
//! else continues.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use sockhop_tests::{PATIENCE, TestHost, bundled_plugin, chameleon, drop_in, guest, table_filler};

async fn host() -> TestHost {
    let host = TestHost::start(&[bundled_plugin("connection")]).await;
    drop_in(host.plugins(), "chameleon.wasm", &chameleon("version=1"));
    host.until("chameleon", |row| row["state"] == "active").await;
    host
}

/// Returns a component with one core module, given as text.
fn component(module: &str) -> Vec<u8> {
    wat::parse_str(format!("(component (core module {module}))")).expect("a component")
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    while let Some(at) = bytes.windows(from.len()).position(|window| window == from) {
        bytes[at..at + to.len()].copy_from_slice(to);
    }
    bytes
}

/// Each file replaces a good version. The good version keeps serving, and the reason is shown.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_plugin_is_refused_with_its_reason_and_the_version_before_goes_on() {
    let good = chameleon("version=2");
    let deep = format!("(func {} {})", "block ".repeat(20_000), "end ".repeat(20_000));
    let huge = format!(
        "(func (local i32) {})",
        "local.get 0 i32.const 1 i32.add local.set 0 ".repeat(50_000)
    );
    let many = "(func) ".repeat(20_000);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("zero bytes", Vec::new(), "no WebAssembly component"),
        ("text", b"hello".to_vec(), "no WebAssembly component"),
        ("truncated", good[..good.len() / 2].to_vec(), "only a part of one"),
        ("all but its last byte", good[..good.len() - 1].to_vec(), "only a part of one"),
        ("a core module", b"\0asm\x01\0\0\0".to_vec(), "core module"),
        ("another world", component(""), "another world"),
        (
            "another version",
            replaced(&good, b"sockhop:plugin/registry@0.1.1", b"sockhop:plugin/registry@0.9.0"),
            "was built against",
        ),
        (
            "a foreign import",
            wat::parse_str(r#"(component (import "acme:db/sql" (instance)))"#)
                .expect("a component"),
            "acme:db/sql",
        ),
        ("deep nesting", component(&deep), ""),
        // Whether these compile in time depends on the machine. In both cases the host continues
        // with the next file.
        ("a huge function", component(&huge), ""),
        ("many functions", component(&many), ""),
        ("register traps", chameleon("version=2 register=trap"), "trapped"),
        ("register exits", chameleon("version=2 register=exit"), "`register`"),
        ("register spins", chameleon("version=2 register=spin"), "ran for more than"),
        ("register takes memory without end", chameleon("version=2 register=grow"), "memory"),
        (
            "register declares 10,000 events",
            chameleon("version=2 register=many"),
            "more declarations",
        ),
        ("an invalid schema", chameleon("version=2 schema=invalid"), "not valid"),
        ("an enormous schema", chameleon("version=2 schema=enormous"), "bytes"),
        ("a schema from the network", chameleon("version=2 schema=http"), "outside of the schema"),
        ("a schema from a file", chameleon("version=2 schema=file"), "outside of the schema"),
        ("a pattern that looks around", chameleon("version=2 schema=pattern"), "pattern"),
        ("a pattern that repeats repeats", chameleon("version=2 schema=repeat"), "pattern"),
        ("a schema in a circle", chameleon("version=2 schema=circle"), "circle"),
        (
            "no name",
            std::fs::read(guest("register_unnamed")).expect("a guest"),
            "not a valid plugin name",
        ),
        ("two handlers", std::fs::read(guest("two_handlers")).expect("a guest"), "two handlers"),
        (
            "a reply with an error",
            std::fs::read(guest("reply_with_error")).expect("a guest"),
            "property `error`",
        ),
    ];
    let host = TestHost::with(&[bundled_plugin("connection")], |config| {
        config.limits.register_cpu_ms = Duration::from_secs(2);
        // A handler that spins must use up its CPU time first, even on a busy machine.
        config.limits.event_wall_ms = PATIENCE;
        config.limits.compile_wall_ms = Duration::from_secs(20);
    })
    .await;
    drop_in(host.plugins(), "chameleon.wasm", &chameleon("version=1"));
    let digest = host.until("chameleon", |row| row["state"] == "active").await["digest"].clone();
    let client = host.client().await;
    for (what, bytes, reason) in cases {
        let before = host.row("chameleon").await["last_error"].clone();
        drop_in(host.plugins(), "chameleon.wasm", &bytes);
        let row = host.until("chameleon", |row| row["last_error"] != before).await;
        assert_eq!((&row["state"], &row["digest"]), (&json!("active"), &digest), "{what}: {row}");
        let said = row["last_error"]["reason"].as_str().expect("a reason");
        assert!(said.contains(reason), "{what}: {said}");
        assert_eq!(client.ask("which", json!(null)).await["version"], json!("1"), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_things_in_the_directory_disturb_nobody() {
    let host = host().await;
    let dir = host.plugins();
    std::fs::create_dir(dir.join("directory.wasm")).expect("a directory");
    std::fs::write(dir.join("notes.txt"), "hello").expect("a file");
    std::fs::write(dir.join(".hidden.wasm"), "hello").expect("a file");
    #[cfg(unix)]
    std::os::unix::fs::symlink("/nowhere/at/all", dir.join("dangling.wasm")).expect("a link");
    let large = std::fs::File::create(dir.join("large.wasm")).expect("a file");
    large.set_len((32 << 20) + 1).expect("a sparse file");
    let row = host.until("large", |row| row["state"] == "failed").await;
    assert!(
        row["last_error"]["reason"]
            .as_str()
            .expect("a reason")
            .contains("at most 33554432 are read"),
        "{row}"
    );
    let (_, rows) = host.http("/api/plugins", None).await;
    let names: Vec<_> = rows
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| row["name"].as_str().unwrap_or_default())
        .collect();
    assert_eq!(names, ["chameleon", "connection", "large"]);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_symbolic_link_counts_as_what_it_points_to() {
    let host = host().await;
    let elsewhere = tempfile::tempdir().expect("a directory");
    let target = elsewhere.path().join("linked");
    std::fs::write(&target, chameleon("version=7 name=linked claims=linked")).expect("a file");
    std::os::unix::fs::symlink(&target, host.plugins().join("linked.wasm")).expect("a link");
    host.until("linked", |row| row["version"] == "7.0.0").await;
}

/// The file name appears in HTTP answers and in stored data, which must both work with such a name.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_whose_file_name_is_not_utf_8_is_served_and_disturbs_no_other() {
    use std::os::unix::ffi::OsStrExt;
    let host = host().await;
    let file = host.plugins().join(std::ffi::OsStr::from_bytes(b"\xff.wasm"));
    let unfinished = host.plugins().join(".unfinished");
    std::fs::write(&unfinished, chameleon("version=1 name=odd claims=odd")).expect("a file");
    std::fs::rename(&unfinished, &file).expect("a renamed file");
    let row = host.until("odd", |row| row["state"] == "active").await;
    assert!(row["file"].as_str().is_some_and(|file| file.ends_with("/\u{fffd}.wasm")), "{row}");
    for name in ["chameleon", "odd"] {
        let (status, row) =
            host.http(&format!("/api/plugins/{name}/disable"), Some(json!({}))).await;
        assert_eq!((status, &row["state"]), (200, &json!("disabled")), "{row}");
    }
    let host = host.restart().await;
    for name in ["chameleon", "odd"] {
        assert_eq!(
            host.row(name).await["state"],
            json!("disabled"),
            "what was chosen is remembered"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_copied_in_slow_pieces_is_served_when_it_is_whole_and_no_failure_stays() {
    let host = host().await;
    let bytes = chameleon("version=2");
    let mut file = std::fs::File::create(host.plugins().join("chameleon.wasm")).expect("a file");
    for piece in bytes.chunks(bytes.len() / 20) {
        std::io::Write::write_all(&mut file, piece).expect("a piece");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(file);
    let row = host.until("chameleon", |row| row["version"] == "2.0.0").await;
    assert_eq!(row["last_error"], json!(null));
    let (_, metrics) = host.http("/metrics", None).await;
    assert!(
        !metrics.as_str().expect("text").contains(r#"outcome="failed""#),
        "nobody saw a failure meanwhile: {metrics}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_replaced_twice_at_once_ends_as_the_last() {
    let host = host().await;
    for version in 2..6 {
        drop_in(host.plugins(), "chameleon.wasm", &chameleon(&format!("version={version}")));
    }
    host.until("chameleon", |row| row["version"] == "5.0.0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_deleted_while_it_is_loaded_leaves_nothing() {
    let host = host().await;
    for version in 10..13 {
        let name = format!("gone{version}.wasm");
        drop_in(
            host.plugins(),
            &name,
            &chameleon(&format!("version={version} name=gone claims=gone")),
        );
        tokio::time::sleep(Duration::from_millis(u64::from(version as u32 - 9) * 60)).await;
        std::fs::remove_file(host.plugins().join(&name)).expect("a file to remove");
    }
    drop_in(host.plugins(), "sign.wasm", &chameleon("version=1 name=sign claims=sign"));
    host.until("sign", |row| row["state"] == "active").await;
    host.until("gone", Value::is_null).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_files_of_one_name_are_told_so_and_the_first_serves() {
    let host = host().await;
    drop_in(host.plugins(), "another.wasm", &chameleon("version=2"));
    let row = async || {
        let (_, rows) = host.http("/api/plugins", None).await;
        rows.as_array()
            .and_then(|rows| {
                rows.iter().find(|row| {
                    row["file"].as_str().is_some_and(|file| file.ends_with("another.wasm"))
                })
            })
            .cloned()
    };
    let found = sockhop_tests::eventually("the second file's row", async || {
        row().await.filter(|row| row["state"] == "failed")
    })
    .await;
    assert!(
        found["last_error"]["reason"]
            .as_str()
            .expect("a reason")
            .contains("holds one file of each plugin"),
        "{found}"
    );
    assert_eq!(host.client().await.ask("which", json!(null)).await["version"], json!("1"));
}

/// A fault in a handler fails only that event. The next event works.
#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_misbehaves_is_ended_and_the_next_event_works() {
    let host = host().await;
    let mut client = host.client().await;
    client.expect("connected").await;
    for (how, code) in [
        ("recurse", "plugin_failed"),
        ("grow", "plugin_failed"),
        ("trap", "plugin_failed"),
        ("exit", "plugin_failed"),
        ("shout", "plugin_failed"),
        ("spin", "timed_out"),
        ("sleep", "timed_out"),
        ("flood", "too_large"),
        ("hoard_keys", "too_large"),
        ("huge_key", "too_large"),
        ("huge_value", "too_large"),
    ] {
        let answer = client.ask("behave", json!(how)).await;
        assert_eq!(answer["error"]["code"], json!(code), "{how}: {answer}");
        assert_eq!(client.ask("which", json!(null)).await["version"], json!("1"), "{how}");
    }
    for harmless in ["print", "random", "nothing"] {
        assert_eq!(client.ask("behave", json!(harmless)).await, json!(harmless));
    }
    assert_eq!(client.pending(), []);
}

/// Creates a file where a directory is expected, so that nothing can be written there, as on a full
/// disk.
fn block(path: &Path) {
    std::fs::write(path, "in the way").expect("a file");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_cannot_be_written_makes_loading_slower_and_not_wrong() {
    let data = tempfile::tempdir().expect("a directory");
    for part in ["cache", "plugins"] {
        block(&data.path().join(part));
    }
    let host = TestHost::with_data(&[bundled_plugin("connection")], data.path()).await;
    assert_eq!(
        host.client().await.ask("ping", json!({"timestamp": 1})).await["timestamp"],
        json!(1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_cannot_be_opened_fails_its_plugin_alone_and_is_tried_again() {
    let data = tempfile::tempdir().expect("a directory");
    let host = TestHost::with_data(&[bundled_plugin("connection")], data.path()).await;
    let place = data.path().join("state").join("chameleon.sqlite");
    std::fs::create_dir(&place).expect("a directory in the way");
    drop_in(host.plugins(), "chameleon.wasm", &chameleon("version=1"));
    host.until("chameleon", |row| row["state"] == "failed").await;
    std::fs::remove_dir(&place).expect("the way is free");
    host.until("chameleon", |row| row["state"] == "active").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_cache_entry_is_compiled_again() {
    let data = tempfile::tempdir().expect("a directory");
    let host = TestHost::with_data(&[bundled_plugin("connection")], data.path()).await;
    let host = host
        .restart_after(|_| {
            for entry in std::fs::read_dir(data.path().join("cache")).expect("a cache") {
                let path = entry.expect("an entry").path();
                let mut bytes = std::fs::read(&path).expect("an entry's bytes");
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0xff;
                std::fs::write(&path, bytes).expect("a damaged entry");
            }
        })
        .await;
    assert_eq!(
        host.client().await.ask("ping", json!({"timestamp": 1})).await["timestamp"],
        json!(1)
    );
}

/// While one plugin spins on all of its instances, another plugin still answers.
#[tokio::test(flavor = "multi_thread")]
async fn spinning_handlers_of_one_plugin_do_not_keep_another_from_answering() {
    let host = host().await;
    let mut spinners = Vec::new();
    for _ in 0..4 {
        let client = host.client().await;
        spinners.push((client.ask_later(r#"["behave","spin"]"#).await, client));
    }
    let client = host.client().await;
    for number in 0..50 {
        assert_eq!(
            client.ask("ping", json!({"timestamp": number})).await["timestamp"],
            json!(number)
        );
    }
    for (answer, _client) in spinners {
        let answer = answer.await.expect("an answer");
        assert_eq!(answer["error"]["code"], json!("timed_out"));
    }
}

/// The text needs more memory than an instance has by default. With a higher limit, the guest can
/// create it, but the host rejects it.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_sends_200_mb_to_the_host_is_ended() {
    let host = TestHost::with(&[bundled_plugin("connection")], |config| {
        config.limits.event_cpu_ms = Duration::from_secs(30);
        config.limits.event_wall_ms = Duration::from_secs(30);
        let mut settings = config.of_plugin("chameleon");
        settings.limits.instance_memory_bytes =
            std::num::NonZeroUsize::new(1 << 30).expect("not zero");
        settings.limits.plugin_memory_bytes =
            std::num::NonZeroUsize::new(1 << 30).expect("not zero");
        config.plugins.by_name.insert("chameleon".to_owned(), settings);
    })
    .await;
    drop_in(host.plugins(), "chameleon.wasm", &chameleon("version=1"));
    host.until("chameleon", |row| row["state"] == "active").await;
    let client = host.client().await;
    assert_eq!(client.ask("behave", json!("roar")).await["error"]["code"], json!("plugin_failed"));
    assert_eq!(client.ask("which", json!(null)).await["version"], json!("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_fills_tables_gets_no_more_than_the_memory_that_it_may_have() {
    const MEMORY: usize = 160 << 10;
    let host = TestHost::with(&[bundled_plugin("connection")], |config| {
        let mut settings = config.of_plugin("tables");
        settings.limits.instance_memory_bytes =
            std::num::NonZeroUsize::new(MEMORY).expect("not zero");
        config.plugins.by_name.insert("tables".to_owned(), settings);
    })
    .await;
    drop_in(host.plugins(), "tables.wasm", &table_filler());
    host.until("tables", |row| row["state"] == "active").await;
    // One page of memory and some elements of the component's own tables are already in use. An
    // element has the size of a pointer.
    let (elements, own) = ((MEMORY - (64 << 10)) / size_of::<usize>(), 32);
    let filled =
        host.client().await.ask("fill", json!(null)).await.as_u64().expect("a number") as usize;
    assert!((elements - own..=elements).contains(&filled), "{filled} of {elements}");
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_may_not_be_read_is_served_as_soon_as_it_may() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, data) = (
        sockhop_tests::directory_of(&[bundled_plugin("connection")]),
        tempfile::tempdir().expect("a directory"),
    );
    let file = dir.path().join("chameleon.wasm");
    drop_in(dir.path(), "chameleon.wasm", &chameleon("version=1"));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o000)).expect("a mode");
    let host = sockhop_tests::HostProcess::start_bound_by_permissions(dir.path(), data.path());
    let client = sockhop_tests::TestClient::connect(&host.url).await;
    assert_eq!(client.ask("which", json!(null)).await["error"]["code"], json!("unknown_event"));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    sockhop_tests::eventually("the file's event", async || {
        let answer = client.ask("which", json!(null)).await;
        (answer["version"] == "1").then_some(())
    })
    .await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_that_may_not_be_written_is_named_and_a_cache_that_may_not_is_done_without()
 {
    use std::os::unix::fs::PermissionsExt;
    let (dir, data) = (
        sockhop_tests::directory_of(&[bundled_plugin("connection")]),
        tempfile::tempdir().expect("a directory"),
    );
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("a mode")
    };
    mode(data.path(), 0o500);
    let output = sockhop_tests::bound_by_permissions(dir.path(), data.path())
        .output()
        .expect("the command runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code() == Some(1) && said.contains(&*data.path().to_string_lossy()),
        "{said}"
    );
    mode(data.path(), 0o700);
    for part in ["cache", "plugins"] {
        std::fs::create_dir(data.path().join(part)).expect("a directory");
        mode(&data.path().join(part), 0o500);
    }
    let host = sockhop_tests::HostProcess::start_bound_by_permissions(dir.path(), data.path());
    let client = sockhop_tests::TestClient::connect(&host.url).await;
    assert_eq!(client.ask("ping", json!({"timestamp": 1})).await["timestamp"], json!(1));
    for part in ["cache", "plugins"] {
        assert_eq!(std::fs::read_dir(data.path().join(part)).expect("a directory").count(), 0);
    }
    // The operator's command takes effect, but it reports that the next start will not know about
    // it.
    let say = |word: &str| {
        let mut command = std::process::Command::new(sockhop_tests::binary());
        command
            .args(["plugins", word, "connection", "--url", &host.url, "--data"])
            .arg(data.path())
            .output()
            .expect("the command runs")
    };
    let disabled = say("disable");
    let said = String::from_utf8_lossy(&disabled.stderr).into_owned();
    assert!(
        disabled.status.code() == Some(1) && said.contains("can't be saved for the next start"),
        "{said}"
    );
    assert_eq!(
        client.ask("ping", json!({"timestamp": 1})).await["error"]["code"],
        json!("unavailable")
    );
    mode(&data.path().join("plugins"), 0o700);
    assert!(say("disable").status.success(), "said again when it can be remembered");
}

/// Limits that apply before a plugin has registered its name can also be set for one plugin, by the
/// name of its file.
#[tokio::test(flavor = "multi_thread")]
async fn loading_has_limits_of_one_plugin_too() {
    use std::num::{NonZeroU64, NonZeroUsize};
    type Change = fn(&mut sockhop::config::Limits);
    let cases: [(&str, Change, &str); 6] = [
        ("version=1", |limits| limits.plugin_file_bytes = NonZeroU64::MIN, "at most 1 are read"),
        (
            "version=1",
            |limits| limits.compile_ms = Duration::from_millis(1),
            "more than 1 ms of CPU time (limits.compile_ms)",
        ),
        (
            "version=1",
            |limits| limits.compile_memory_bytes = NonZeroU64::new(1 << 20).expect("not zero"),
            "could not be compiled within",
        ),
        (
            "version=1 register=spin",
            |limits| limits.register_cpu_ms = Duration::from_millis(3),
            "ran for more than 3 ms",
        ),
        ("version=1", |limits| limits.declarations = NonZeroUsize::MIN, "more declarations"),
        ("version=1", |limits| limits.schema_bytes = NonZeroUsize::MIN, "at most 1"),
    ];
    for (mood, change, reason) in cases {
        let host = TestHost::with(&[bundled_plugin("connection")], |config| {
            let mut settings = config.of_plugin("chameleon");
            change(&mut settings.limits);
            config.plugins.by_name.insert("chameleon".to_owned(), settings);
        })
        .await;
        drop_in(host.plugins(), "chameleon.wasm", &chameleon(mood));
        let row = host.until("chameleon", |row| row["state"] == "failed").await;
        let said = row["last_error"]["reason"].as_str().expect("a reason");
        assert!(said.contains(reason), "{reason}: {said}");
    }
}
