//! `sockhop test` and `sockhop call`: plugins on a host without listeners.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sockhop_tests::{PATIENCE, binary, bundled_plugin, guest};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The command, in a directory without a configuration. All use one directory of compiled code, as
/// the commands of an author do who has a host, so that each plugin is compiled once.
fn sockhop(dir: &Path, arguments: &[&str]) -> Command {
    let data = Path::new(env!("CARGO_TARGET_TMPDIR")).join("scenarios");
    std::fs::create_dir_all(data.join("cache")).expect("a directory");
    let mut command = Command::new(binary());
    command.args(arguments).current_dir(dir).env("TMPDIR", dir).env("SOCKHOP_DATA__DIR", data);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// Plays a scenario with these plugins. Returns whether it has passed, and the output.
fn play(plugins: &[PathBuf], scenario: &str, options: &[&str]) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("scenario.yaml");
    std::fs::write(&file, scenario).expect("a scenario");
    let output = sockhop(dir.path(), &["test"])
        .args(plugins)
        .arg("scenario.yaml")
        .args(options)
        .output()
        .expect("the command runs");
    std::fs::remove_file(&file).expect("the scenario");
    let left: Vec<_> = std::fs::read_dir(dir.path()).expect("its entries").collect();
    assert!(left.is_empty(), "{left:?}: {output:?}");
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

fn passes(plugin: &str, scenario: &str) {
    let (status, said) = play(&[guest(plugin)], scenario, &[]);
    assert_eq!(status, Some(0), "{said}");
}

/// Asserts that a scenario fails, and that the output says all of this.
fn fails(plugin: &str, scenario: &str, parts: &[&str]) {
    let (status, said) = play(&[guest(plugin)], scenario, &[]);
    assert_eq!(status, Some(1), "{said}");
    for part in parts {
        assert!(said.contains(part), "no {part:?} in\n{said}");
    }
}

#[test]
fn each_bundled_plugin_passes_its_scenarios() {
    let plugins = std::fs::read_dir(root().join("plugins")).expect("the plugins");
    let names = plugins.map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().expect("UTF-8")).collect();
    names.retain(|name| root().join(format!("plugins/{name}/Cargo.toml")).exists());
    // A library of the others.
    names.retain(|name| name != "records");
    assert!(names.len() >= 6, "{names:?}");
    let dir = tempfile::tempdir().expect("a directory");
    for name in names {
        let scenarios = root().join(format!("plugins/{name}/scenarios"));
        assert!(scenarios.is_dir(), "{name} has no scenarios");
        let file = Some(bundled_plugin(&name)).filter(|file| file.exists());
        let mut plugins = vec![file.unwrap_or_else(|| guest(&name))];
        if name == "subscription" {
            plugins.extend(["memory_logs", "mental_notes"].map(bundled_plugin));
        }
        let output = sockhop(dir.path(), &["test"]).args(plugins).arg(scenarios).output();
        let Output { status, stdout, stderr } = output.expect("the command runs");
        assert!(status.success(), "{name}: {}{}", text(&stdout), text(&stderr));
    }
}

#[test]
fn whatever_is_not_as_expected_fails_with_its_place_and_the_difference() {
    let clients = "clients: {ada: {}, bob: {}}\nsteps:\n";
    let send = "- send: {client: ada, event: ";
    for (steps, parts) in [
        (
            format!(
                "{send}echo, data: {{\"a\": [1, 2], \"b\": 3}}}}\n  ack: {{\"a\": [1, 9], \"b\": 3}}\n"
            ),
            &[
                "step 1 (scenario.yaml:3): ada sends echo",
                "ack: at .a[1]: expected 9, found 2",
                "-     9",
                "+     2",
            ][..],
        ),
        (format!("{send}echo, data: 1}}\n  error: refused\n"), &["expected the error"]),
        (format!("{send}refuse}}\n"), &["expected an ack", "I do not want to"]),
        (
            format!("{send}refuse}}\n  error: {{code: refused, reason: other}}\n"),
            &["error: at .reason: expected \"other\", found \"because\""],
        ),
        (
            format!("{send}burst, data: 1}}\n"),
            &["ada receives: at [0]: unexpected", "\"event\": \"noise\""],
        ),
        (
            format!(
                "{send}burst, data: 2}}\n  receives: {{ada: [{{event: noise, data: 1}}, {{event: noise, data: 0}}]}}\n"
            ),
            &["at [0].data: expected 1, found 0", "at [1].data: expected 0, found 1"],
        ),
        (
            format!("{send}echo}}\n  receives: {{bob: [{{event: noise}}]}}\n"),
            &["bob receives: at [0]: expected", "found nothing"],
        ),
        (
            format!("{send}enter}}\n  rooms: {{ada: []}}\n  effects: []\n"),
            &[
                "rooms of ada: at [0]: unexpected \"lab\"",
                "effects: at [0]: unexpected {\"join\":\"lab\"}",
            ],
        ),
        (
            format!("{send}increment}}\n  ack: 1\n  state: {{counter: 2, other: $absent}}\n"),
            &["state counter: expected 2, found 1"],
        ),
        (
            format!("{send}goodbye}}\n  receives: {{ada: [{{event: noise}}]}}\n"),
            &["the host has ended the connection of ada", "`ends: [ada]`"],
        ),
        ("- name: all is well\n  ends: [bob]\n".to_owned(), &["the host has not ended bob"]),
        (format!("- disconnect: ada\n{send}echo}}\n"), &["step 2", "ada is not connected"]),
        (format!("{send}echo, data: $it}}\n"), &["no earlier step has kept a value as `$it`"]),
    ] {
        fails("lab", &format!("{clients}{steps}- {{}}\n"), parts);
    }
}

#[test]
fn what_is_as_expected_passes() {
    passes(
        "lab",
        r#"
clients:
  ada: {user: ada, roles: [tester], claims: {team: x}}
  bob: {}
steps:
- send: {client: ada, event: me}
  ack: $me
- send: {client: ada, event: enter}
  rooms: {ada: [lab, user_ada], bob: []}
- send: {client: bob, event: spread, data: everyone}
  receives:
    ada: [{event: gossip, data: everyone}]
    bob: [{event: gossip, data: everyone}]
  effects:
  - {emit: gossip, to: everyone, data: everyone}
- send: {client: bob, event: spread, data: everyone}
  others: ignore
- send: {client: ada, event: increment}
  ack: $any:integer
  state: {counter: 1, other: $absent}
- name: Without an ack, a rejection is an event
  send: {client: bob, event: refuse, ack: false}
  receives:
    bob: [{event: error, data: {"$contains": {"code": refused, "reason": because}}}]
- send: {client: bob, event: nonsense}
  error: unknown_event
- send: {client: bob, event: for_admins, data: 1}
  error: unauthorized
- send: {client: ada, event: for_users, data: 1}
  ack: 1
- name: The ack comes before the end of the connection
  send: {client: bob, event: goodbye}
  receives: {bob: [{event: noise}]}
  ends: [bob]
- connect: bob
- disconnect: bob
"#,
    );
}

#[test]
fn a_client_that_a_step_connects_is_not_connected_before() {
    passes(
        "lab",
        "clients: {ada: {}, bob: {}}\nsteps:\n- send: {client: ada, event: spread, data: everyone}\n  \
         receives: {ada: [{event: gossip}]}\n- connect: bob\n- send: {client: ada, event: spread, \
         data: everyone}\n  receives: {ada: [{event: gossip}], bob: [{event: gossip}]}\n",
    );
}

#[test]
fn a_failure_shows_the_message_the_place_and_the_backtrace_of_a_panic() {
    fails(
        "lab",
        "clients: {ada: {}}\nsteps:\n- send: {client: ada, event: trap}\n",
        &[
            "plugin_failed",
            "location: tests/guests/examples/lab.rs:",
            "secret path: /etc/shadow",
            "wasm backtrace",
        ],
    );
    fails(
        "lab",
        "clients: {ada: {}}\nsteps:\n- send: {client: ada, event: say, data: good morning}\n",
        &["info  good morning"],
    );
    // No client waits for them.
    let bell = r#"{"key": "a", "how": "trap", "after": 1000}"#;
    let steps = format!(
        "clients: {{ada: {{}}}}\nsteps:\n- send: {{client: ada, event: set, data: {bell}}}\n- \
         advance: 1s\n"
    );
    fails("clockwork", &steps, &["failures: at [0]: unexpected", "$timer", "as asked"]);
    let expected = "  failures: [{code: plugin_failed, plugin: clockwork}]\n";
    passes("clockwork", &(steps + expected));
}

#[test]
fn the_limits_are_those_of_a_host() {
    passes(
        "lab",
        r#"
plugins: {lab: {effects: 100}}
clients: {ada: {}}
steps:
- send: {client: ada, event: spin}
  error: timed_out
- send: {client: ada, event: burst, data: 101}
  error: {code: too_large}
- send: {client: ada, event: grow}
  error: plugin_failed
"#,
    );
}

#[test]
fn time_stands_still_until_a_step_advances_it_also_for_the_guest() {
    passes(
        "lab",
        "time: 2026-06-01T12:00:00Z\nclients: {ada: {}}\nsteps:\n- send: {client: ada, event: \
         wall_clock}\n  ack: 1780315200000\n- send: {client: ada, event: run_for, data: 20}\n- send: \
         {client: ada, event: wall_clock}\n  ack: 1780315200000\n- advance: 36h\n- send: {client: \
         ada, event: wall_clock}\n  ack: 1780444800000\n",
    );
}

#[test]
fn timers_fire_in_the_order_of_their_times_when_time_advances_and_not_before() {
    passes(
        "clockwork",
        r#"
time: 2026-01-01T00:00:30Z
clients: {ada: {}}
steps:
- send: {client: ada, event: set, data: {"key": "late", "how": "ring", "after": 20000}}
- send: {client: ada, event: set, data: {"key": "soon", "how": "again", "after": 10000}}
  timers:
  - {timer: bell, key: soon, due: "2026-01-01T00:00:40Z"}
  - {timer: bell, key: late, due: "2026-01-01T00:00:50Z"}
- send: {client: ada, event: set, data: {"key": "never", "how": "ring", "after": 15000}}
- send: {client: ada, event: set, data: {"key": "never", "how": "ring"}}
- advance: 9s 999ms
- name: Also those that timers set, and those of schedules
  advance: 20s 1ms
  receives:
    ada:
    - {event: rang, data: {"key": "soon", "how": "again", "due": 1767225640000, "at": 1767225640000, "attempt": 1}}
    - {event: rang, data: {"key": "soon", "how": "ring", "due": 1767225640001, "at": 1767225640001, "attempt": 1}}
    - {event: rang, data: {"key": "late", "how": "ring", "due": 1767225650000, "at": 1767225650000, "attempt": 1}}
    - {event: rang, data: {"key": "minute", "how": "minute", "due": 1767225660000, "at": 1767225660000, "attempt": 1}}
  timers: []
- name: A timer whose handler refuses fires again later
  send: {client: ada, event: set, data: {"key": "no", "how": "refuse", "after": 1000}}
- advance: 1s
  failures: [{code: refused, reason: no}]
  timers: [{timer: bell, key: "no"}]
- advance: 30s
  failures: [{reason: no}, {reason: no}]
"#,
    );
}

#[test]
fn changes_of_rooms_are_told_in_the_step_that_makes_them() {
    passes(
        "halls",
        r#"
clients: {ada: {}, bob: {rooms: [hall_b]}}
steps:
- send: {client: ada, event: halls}
  ack: [hall_b]
- send: {client: ada, event: hall_enter, data: hall_a}
  receives: {ada: [{event: hall, data: +hall_a}]}
- disconnect: bob
- send: {client: ada, event: halls}
  ack: [hall_a]
"#,
    );
}

#[test]
fn stubs_answer_requests_and_a_request_without_one_names_what_is_missing() {
    let settings = r#"
plugins:
  forward:
    outbound: ["https://api.example.com"]
    config:
      url: "https://api.example.com/events?x=1"
      events: '{"ask": {}}'
clients: {ada: {}}
"#;
    fails(
        "forward",
        &format!("{settings}steps:\n- send: {{client: ada, event: ask}}\n"),
        &[
            "no stub answers POST https://api.example.com/events?x=1 of forward",
            "url: \"https://api.example.com/events?x=1\"",
        ],
    );
    let stub = "\"https://api.example.com/events?x=1\", answer: {status: 200";
    passes(
        "forward",
        &format!(
            r#"{settings}
stubs:
- {{url: {stub}, json: {{"reply": "always"}}}}}}
steps:
- send: {{client: ada, event: ask}}
  ack: always
- stubs:
  - {{url: {stub}, json: {{"reply": "once"}}}}, times: 1}}
- send: {{client: ada, event: ask}}
  ack: once
  requests: [{{method: POST, body: {{"$contains": {{"event": "ask"}}}}}}]
- send: {{client: ada, event: ask}}
  ack: always
"#
        ),
    );
    // What the operator does not allow stays forbidden.
    let other = settings.replace("[\"https://api.example.com\"]", "[]");
    fails(
        "forward",
        &format!("{other}steps:\n- send: {{client: ada, event: ask}}\n"),
        &["forward"],
    );
}

#[test]
fn the_scenarios_of_the_documentation_pass() {
    let page = std::fs::read_to_string(root().join("docs/scenarios.md")).expect("the page");
    let blocks = page.split("```yaml\n").skip(1);
    let blocks: Vec<_> = blocks.map(|rest| rest.split("```").next().expect("a block")).collect();
    assert_eq!(blocks.len(), 2);
    for block in blocks {
        passes(if block.contains("reminders") { "reminders" } else { "wave" }, block);
    }
}

#[test]
fn a_step_in_which_too_many_timers_fire_ends_the_scenario() {
    let dir = tempfile::tempdir().expect("a directory");
    let scenario = dir.path().join("endless.yaml");
    std::fs::write(&scenario, "clients: {ada: {}}\nsteps:\n- advance: 87840h\n  others: ignore\n")
        .expect("a scenario");
    let began = Instant::now();
    let output = sockhop(dir.path(), &["test"]).arg(guest("clockwork")).arg(&scenario).output();
    let output = output.expect("the command runs");
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("more than 10000 timers and deliveries"), "{said}");
    assert!(began.elapsed() < PATIENCE * 2, "{:?}", began.elapsed());
}

#[test]
fn results_are_json_and_junit_and_can_be_filtered() {
    let dir = tempfile::tempdir().expect("a directory");
    let folder = dir.path().join("scenarios/deeper");
    std::fs::create_dir_all(&folder).expect("a directory");
    let step = "clients: {ada: {}}\nsteps:\n- send: {client: ada, event: echo, data: 1}\n  ack: ";
    std::fs::write(folder.join("good.yaml"), format!("name: all <well>\n{step}1\n"))
        .expect("a file");
    std::fs::write(folder.join("wrong.yml"), format!("{step}2\n")).expect("a file");
    std::fs::write(dir.path().join("scenarios/broken.yaml"), "steps: [").expect("a file");
    std::fs::write(dir.path().join("scenarios/notes.txt"), "no scenario").expect("a file");
    let lab = guest("lab");
    let run = |options: &[&str]| {
        let output = sockhop(dir.path(), &["test", "scenarios"]).arg(&lab).args(options).output();
        let output = output.expect("the command runs");
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (status, said, errors) = run(&["--json", "--junit", "results.xml"]);
    assert_eq!(status, Some(1), "{said}{errors}");
    let documents: Vec<Value> =
        said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let outcomes: Vec<_> = documents.iter().map(|one| one["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["error", "passed", "failed"], "{said}");
    let problem = &documents[2]["steps"][0]["problems"][0];
    assert_eq!((&problem["expected"], &problem["actual"]), (&json!(2), &json!(1)));
    let xml = std::fs::read_to_string(dir.path().join("results.xml")).expect("the results");
    assert!(xml.contains("tests=\"3\" failures=\"1\" errors=\"1\""), "{xml}");
    assert!(xml.contains("name=\"all &lt;well&gt;\""), "{xml}");
    let (status, said, _) = run(&["--filter", "<well>"]);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("1 scenario: 1 passed, 0 failed"), "{said}");
    let (status, _, errors) = run(&["--filter", "nothing like it"]);
    assert_eq!(status, Some(1));
    assert!(errors.contains("--filter"), "{errors}");
}

#[test]
fn a_wrong_use_says_what_to_write() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("a.yaml"), "steps: []\n").expect("a file");
    std::fs::create_dir(dir.path().join("empty")).expect("a directory");
    let lab = guest("lab");
    let lab = lab.to_str().expect("UTF-8");
    for (arguments, status, said) in [
        (vec!["test", "a.yaml"], 1, "name the plugin to test"),
        (vec!["test", lab], 1, "name a scenario"),
        (vec!["test", lab, "empty"], 1, "name a scenario"),
        (vec!["test", lab, "b.yaml"], 1, "can't read b.yaml"),
        (vec!["test", lab, "a.yaml", "--config", "none.toml"], 1, "none.toml"),
        (vec!["test", "none.wasm", "a.yaml"], 1, "none.wasm is refused"),
        (vec!["test"], 2, "Usage"),
        (vec!["test", "--schema", lab], 2, "--schema"),
        (vec!["call", lab, "echo", "{"], 1, "is not JSON"),
        (vec!["call", lab, "echo", "1", "--role", "x"], 2, "--user"),
        (
            vec!["call", lab, "echo", "1", "--room", "nowhere"],
            1,
            "no loaded plugin declares the room",
        ),
        (vec!["call", "none.wasm", "echo"], 1, "none.wasm is refused"),
    ] {
        let output = sockhop(dir.path(), &arguments).output().expect("the command runs");
        let printed = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {printed}");
        assert!(printed.contains(said), "{arguments:?}: {printed}");
    }
}

#[test]
fn the_settings_of_a_scenario_and_of_the_configuration_are_those_of_a_host() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = "[limits]\neffects = 3\n[server]\nnamespaces = [\"/\", \"/chat\"]\n[[rules]]\nevent \
                  = \"echo\"\naccess = \"role:admin\"\n";
    std::fs::write(dir.path().join("sockhop.toml"), config).expect("a configuration");
    let scenario = "clients: {ada: {namespace: /chat}, root: {user: r, roles: [admin]}}\nsteps:\n- \
                    send: {client: ada, event: burst, data: 4}\n  error: too_large\n- send: {client: \
                    ada, event: echo, data: 1}\n  error: unauthorized\n- send: {client: root, event: \
                    echo, data: 1}\n  ack: 1\n";
    std::fs::write(dir.path().join("a.yaml"), scenario).expect("a scenario");
    let lab = guest("lab");
    let output = sockhop(dir.path(), &["test", "a.yaml"]).arg(&lab).output().expect("it runs");
    assert!(output.status.success(), "{}", text(&output.stdout));
    std::fs::write(dir.path().join("a.yaml"), "plugins: {lab: {efects: 3}}\n").expect("a scenario");
    let output = sockhop(dir.path(), &["test", "a.yaml"]).arg(&lab).output().expect("it runs");
    let said = text(&output.stdout);
    assert!(!output.status.success() && said.contains("plugins.lab.efects"), "{said}");
}

#[test]
fn an_interrupt_leaves_no_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let scenario = dir.path().join("long.yaml");
    let step = "- send: {client: ada, event: run_for, data: 200}\n";
    let steps = format!("clients: {{ada: {{}}}}\nsteps:\n{}", step.repeat(1_000));
    std::fs::write(&scenario, steps).expect("a scenario");
    let entries = || std::fs::read_dir(dir.path()).expect("its entries").count();
    for signal in [nix::sys::signal::SIGINT, nix::sys::signal::SIGTERM] {
        let mut child = sockhop(dir.path(), &["test"])
            .arg(guest("lab"))
            .arg(&scenario)
            .stdout(Stdio::null())
            .spawn()
            .expect("the command starts");
        let until = Instant::now() + PATIENCE;
        // It has made its directory, and awaits signals before it compiles the plugin.
        while entries() < 2
            || !std::fs::read_dir(dir.path())
                .unwrap()
                .flatten()
                .any(|entry| entry.path().join("test").is_dir())
        {
            assert!(Instant::now() < until && child.try_wait().expect("a status").is_none());
            std::thread::sleep(Duration::from_millis(5));
        }
        let id = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
        nix::sys::signal::kill(id, signal).expect("a running process");
        let status = child.wait().expect("a status");
        assert_eq!((status.code(), entries()), (Some(130), 1), "{signal}");
    }
}

#[test]
fn call_prints_the_answer_and_the_effects_of_one_event() {
    let dir = tempfile::tempdir().expect("a directory");
    let run = |arguments: &[&str]| {
        let output = sockhop(dir.path(), arguments).output().expect("the command runs");
        let said = text(&output.stdout);
        (output.status.code(), said, text(&output.stderr))
    };
    let file = bundled_plugin("memory_logs");
    let file = file.to_str().expect("UTF-8");
    let create = ["call", file, "memory_log_create", r#"{"user_id": 7, "content": "hi"}"#];
    let (status, said, _) = run(&[&create[..], &["--user", "7", "--room", "memory_logs"]].concat());
    assert_eq!(status, Some(0), "{said}");
    for part in [
        "ack      {\"content\":\"hi\"",
        "emits    memory_log_created {\"content\":\"hi\"",
        "(to: memory_logs, user_7)",
        "state    record/0000000000000001 = {",
        "receives memory_log_created",
    ] {
        assert!(said.contains(part), "no {part} in\n{said}");
    }
    let (status, said, _) = run(&[&create[..], &["--user", "8"]].concat());
    assert_eq!(status, Some(1), "{said}");
    assert!(said.starts_with("error    {\"code\":\"forbidden\""), "{said}");
    let (status, said, _) =
        run(&[&create[..], &["--user", "8", "--role", "admin", "--json"]].concat());
    assert_eq!(status, Some(0), "{said}");
    let document: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(document["ack"][0]["id"], 1);
    assert_eq!(document["effects"][0]["to"], json!({"rooms": ["memory_logs", "user_7"]}));
    assert_eq!(document["changes"][0]["set"], "record/0000000000000001");
    let lab = guest("lab");
    let (status, said, errors) = run(&["call", lab.to_str().expect("UTF-8"), "trap"]);
    assert_eq!(status, Some(1), "{said}");
    assert!(errors.contains("secret path: /etc/shadow"), "{errors}");
    assert_eq!(std::fs::read_dir(dir.path()).expect("its entries").count(), 0);
}

#[test]
fn the_published_json_schema_is_printed_for_editors() {
    let dir = tempfile::tempdir().expect("a directory");
    let output = sockhop(dir.path(), &["test", "--schema"]).output().expect("the command runs");
    let printed: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let file = std::fs::read(root().join("host/scenario.schema.json")).expect("the schema");
    assert_eq!(printed, serde_json::from_slice::<Value>(&file).expect("JSON"));
}

#[test]
fn a_plugin_prepares_its_state_before_the_first_step() {
    let scenario = |mood: &str| {
        format!(
            "plugins: {{mover: {{config: {{mood: \"{mood}\"}}}}}}\nclients: {{ada: {{}}}}\nsteps:\n\
             - send: {{client: ada, event: done}}\n  ack: {{\"steps\": 3, \"runs\": 1}}\n"
        )
    };
    passes("mover", &scenario("steps 3"));
    fails("mover", &scenario("refuse"), &["`mover` has failed to handle `$load`", "not_ready"]);
}
