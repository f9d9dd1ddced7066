//! `sockhop state`: operators read, export and import the state of a plugin.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use sockhop_tests::{TestHost, binary, bundled_plugin};

fn run(data: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.arg("state").args(args).arg("--data").arg(data);
    command.output().expect("the command runs")
}

/// The standard output of a command that succeeds.
fn succeeds(data: &Path, args: &[&str]) -> String {
    let output = run(data, args);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {error}");
    String::from_utf8(output.stdout).expect("text")
}

/// The standard error of a command that fails.
fn fails(data: &Path, args: &[&str]) -> String {
    let output = run(data, args);
    assert!(!output.status.success(), "{args:?}");
    String::from_utf8(output.stderr).expect("text")
}

async fn create(host: &TestHost, content: &str) -> Value {
    let note = json!({"user_id": "ada", "content": content});
    host.client().await.ask("mental_note_create", note).await
}

async fn contents(host: &TestHost) -> Vec<Value> {
    let list = host.client().await.ask("mental_note_list", json!({"user_id": "ada"})).await;
    let items = list["items"].as_array().expect("a list");
    items.iter().map(|item| item["content"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_of_a_running_host_and_of_a_stopped_one_is_read_and_moved() {
    let data = tempfile::tempdir().expect("a directory");
    let host = TestHost::with_data(&[bundled_plugin("mental_notes")], data.path()).await;
    let notes = [create(&host, "first").await, create(&host, "second").await];
    let file = data.path().join("export.jsonl");
    let file = file.to_str().expect("text");
    let dir = data.path();

    // Through the API.
    let exported = succeeds(dir, &["export", "mental_notes"]);
    let lines: Vec<Value> =
        exported.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(
        (&lines[0]["sockhop_state"], &lines[0]["plugin"]),
        (&json!(1), &json!("mental_notes"))
    );
    assert_eq!(lines[0]["entries"], json!(lines.len() - 1));
    assert_eq!(lines[0]["sequences"].as_object().expect("sequences").len(), 1);
    let key = lines.iter().find(|line| line["json"]["content"] == "second").expect("an entry");
    let key = key["key"].as_str().expect("text");
    let value = succeeds(dir, &["get", "mental_notes", key]);
    assert_eq!(serde_json::from_str::<Value>(&value).expect("JSON")["id"], notes[1]["id"]);
    let scanned = succeeds(dir, &["scan", "mental_notes", "--prefix", key]);
    assert!(scanned.contains(key) && !scanned.contains("first"), "{scanned}");
    let page = succeeds(dir, &["scan", "mental_notes", "--limit", "1", "--json"]);
    let page: Value = serde_json::from_str(&page).expect("JSON");
    assert_eq!(page["next"], page["entries"][0]["key"]);
    assert!(fails(dir, &["get", "mental_notes", "missing"]).contains("no entry"));
    assert!(fails(dir, &["get", "unknown", "missing"]).contains("no plugin `unknown`"));
    succeeds(dir, &["export", "mental_notes", file]);

    // An import changes the state of no plugin that serves.
    assert!(fails(dir, &["import", "mental_notes", file]).contains("disable it first"));
    create(&host, "third").await;
    let (status, _) = host.http("/api/plugins/mental_notes/disable", Some(json!({}))).await;
    assert_eq!(status, 200);
    assert!(fails(dir, &["import", "mental_notes", file]).contains("--replace"));
    succeeds(dir, &["import", "mental_notes", file, "--replace"]);
    let (status, _) = host.http("/api/plugins/mental_notes/enable", Some(json!({}))).await;
    assert_eq!(status, 200);
    assert_eq!(contents(&host).await, [json!("second"), json!("first")]);
    assert_eq!(create(&host, "fourth").await["id"], json!(4), "no id is given out twice");
    host.stop().await;

    // In the files.
    assert!(succeeds(dir, &["scan", "mental_notes"]).contains("fourth"));
    assert_eq!(succeeds(dir, &["get", "mental_notes", key]), value);
    assert!(fails(dir, &["scan", "unknown"]).contains("no state of `unknown`"));
    assert!(fails(dir, &["import", "mental_notes", file]).contains("--replace"));
    succeeds(dir, &["import", "mental_notes", file, "--replace"]);
    let again = succeeds(dir, &["export", "mental_notes"]);
    let entries = |text: &str| text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(entries(&again), entries(&exported));
    let host = TestHost::with_data(&[bundled_plugin("mental_notes")], data.path()).await;
    assert_eq!(contents(&host).await, [json!("second"), json!("first")]);
    assert_eq!(create(&host, "fifth").await["id"], json!(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_state_is_moved_page_by_page_and_a_damaged_file_says_where_it_ends() {
    const ENTRIES: usize = 2_500;
    let data = tempfile::tempdir().expect("a directory");
    let host = TestHost::with_data(&[bundled_plugin("mental_notes")], data.path()).await;
    let mut file = format!(
        "{{\"sockhop_state\":1,\"plugin\":\"any\",\"commits\":1,\"entries\":{ENTRIES},\
         \"sequences\":{{}}}}\n"
    );
    for number in 0..ENTRIES {
        let value = ["\"json\":1.50", "\"text\":\"a\\nb\"", "\"base64\":\"/w==\""][number % 3];
        writeln!(file, "{{\"key\":\"é/{number:05}\",{value}}}").expect("text");
    }
    let path = data.path().join("large.jsonl");
    std::fs::write(&path, &file).expect("a file");
    let (path, dir) = (path.to_str().expect("text"), data.path());
    host.http("/api/plugins/mental_notes/disable", Some(json!({}))).await;
    assert!(succeeds(dir, &["import", "mental_notes", path]).contains("imported 2500 entries"));
    let exported = succeeds(dir, &["export", "mental_notes"]);
    assert!(exported.lines().skip(1).eq(file.lines().skip(1)));
    // Nothing of the earlier state is removed before the file is known to be whole.
    let mode = "--replace";
    let damaged = |text: &str| {
        std::fs::write(path, text).expect("a file");
        fails(dir, &["import", "mental_notes", path, mode])
    };
    let cut = file.len() - 10;
    let said = damaged(&file[..cut]);
    assert!(said.contains("line 2501") && said.contains("nothing was imported"), "{said}");
    let whole_lines: Vec<_> = file.lines().take(2_400).collect();
    assert!(damaged(&whole_lines.join("\n")).contains("incomplete"));
    assert!(damaged("").contains("is no file that"));
    assert!(damaged(&file.replacen(":1,", ":2,", 1)).contains("reads form 1"));
    let both = "{\"key\":\"a\",\"text\":\"\",\"json\":1}";
    let two = format!("{}\n{both}\n", file.lines().next().expect("a line"));
    assert!(damaged(&two).contains("exactly one valid value"), "{}", damaged(&two));
    let again = succeeds(dir, &["export", "mental_notes"]);
    assert!(again.lines().skip(1).eq(file.lines().skip(1)));

    // What a client may have written, on a terminal and in JSON.
    let deep = format!("{}1e999{}", "[".repeat(200), "]".repeat(200));
    let entries = format!(
        "{{\"key\":\"a';x\",\"json\":{deep}}}\n{{\"key\":\"b\",\"json\":12345678901234567890123}}\n"
    );
    let header = "{\"sockhop_state\":1,\"plugin\":\"other\",\"commits\":1,\"entries\":2}";
    std::fs::write(path, format!("{header}\n{entries}")).expect("a file");
    let imported = run(dir, &["import", "mental_notes", path, "--replace"]);
    let note = String::from_utf8_lossy(&imported.stderr);
    assert!(imported.status.success() && note.contains("state of other"), "{note}");
    let scanned = succeeds(dir, &["scan", "mental_notes", "--json"]);
    assert!(scanned.contains("12345678901234567890123") && scanned.contains(&deep), "{scanned}");
    let scanned = succeeds(dir, &["scan", "mental_notes", "--limit", "1"]);
    assert!(scanned.contains(r"--after='a'\'';x'"), "{scanned}");
    #[cfg(unix)]
    assert!(fails(dir, &["export", "mental_notes", "/dev/null"]).contains("no regular file"));
}
