//! The limits of one handler, and the table that names for each limit of the configuration a test
//! that reaches it.

use std::collections::BTreeMap;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sockhop::config::{Config, Limits};
use sockhop_tests::{PATIENCE, TestClient, TestHost, guest};

/// Each limit: its key, and the file and the name of a test that reaches it. The test sets a value,
/// and fails with the default one.
const REACHED: &[(&str, &str, &str)] = &[
    (
        "limits.ack_timeout_ms",
        "client_acks",
        "a_plugin_and_a_connection_wait_for_so_many_acks_as_is_set",
    ),
    (
        "limits.attachment_bytes",
        "bounds",
        "a_message_has_so_many_bytes_levels_and_attachments_as_is_set",
    ),
    (
        "limits.attachments",
        "bounds",
        "a_message_has_so_many_bytes_levels_and_attachments_as_is_set",
    ),
    (
        "limits.body_bytes_per_second",
        "edge",
        "a_body_that_comes_more_slowly_than_is_set_is_answered_408_before_its_deadline",
    ),
    ("limits.body_ms", "edge", "a_body_that_does_not_come_is_answered_408_whoever_reads_it"),
    (
        "limits.breaker_calls",
        "breaker",
        "failures_open_the_breaker_only_if_they_are_close_together",
    ),
    (
        "limits.breaker_calls_within_ms",
        "breaker",
        "failures_open_the_breaker_only_if_they_are_close_together",
    ),
    (
        "limits.breaker_failures",
        "breaker",
        "failures_open_the_breaker_only_if_they_are_close_together",
    ),
    (
        "limits.breaker_failures_within_ms",
        "breaker",
        "failures_open_the_breaker_only_if_they_are_close_together",
    ),
    (
        "limits.breaker_open_at_most_ms",
        "breaker",
        "a_breaker_stays_open_no_longer_than_is_set_however_many_probes_fail",
    ),
    (
        "limits.breaker_open_ms",
        "breaker",
        "a_breaker_is_open_for_so_long_as_is_set_and_closes_when_a_probe_succeeds",
    ),
    ("limits.compile_memory_bytes", "faults", "loading_has_limits_of_one_plugin_too"),
    ("limits.compile_ms", "faults", "loading_has_limits_of_one_plugin_too"),
    (
        "limits.compile_wall_ms",
        "compiling",
        "a_compile_that_passed_its_wall_limit_says_so_and_is_tried_again_soon",
    ),
    ("limits.connect_ms", "sessions", "a_session_that_enters_no_namespace_in_time_is_ended"),
    (
        "limits.connection_acks",
        "client_acks",
        "a_plugin_and_a_connection_wait_for_so_many_acks_as_is_set",
    ),
    (
        "limits.connections",
        "edge",
        "at_the_connection_limit_operators_are_answered_and_clients_are_told",
    ),
    (
        "limits.connections_per_network",
        "edge",
        "one_network_has_no_more_connections_and_sessions_than_is_set",
    ),
    ("limits.declarations", "faults", "loading_has_limits_of_one_plugin_too"),
    ("limits.deliveries", "deliver", "a_plugin_has_so_many_deliveries_as_is_set"),
    (
        "limits.deliveries_at_once",
        "deliver",
        "a_receiver_that_hangs_takes_no_more_places_and_time_than_is_set",
    ),
    (
        "limits.delivery_ms",
        "deliver",
        "a_receiver_that_hangs_takes_no_more_places_and_time_than_is_set",
    ),
    ("limits.drain_ms", "reload", "events_that_outlive_the_drain_are_ended"),
    ("limits.effects", "reload", "a_plugin_has_settings_and_limits_of_its_own"),
    (
        "limits.effects_bytes",
        "limits",
        "the_effects_of_one_event_have_so_many_bytes_together_as_is_set",
    ),
    ("limits.event_cpu_ms", "limits", "a_handler_ends_when_its_cpu_time_or_its_wall_time_is_over"),
    ("limits.event_wall_ms", "limits", "a_handler_ends_when_its_cpu_time_or_its_wall_time_is_over"),
    ("limits.first_byte_ms", "edge", "a_connection_that_does_not_send_a_whole_request_is_closed"),
    ("limits.handles", "limits", "a_handler_that_needs_more_handles_than_is_set_fails"),
    ("limits.handshake_bytes", "messages", "a_handshake_of_more_bytes_than_is_set_is_not_kept"),
    ("limits.head_ms", "edge", "a_connection_that_does_not_send_a_whole_request_is_closed"),
    ("limits.host_call_bytes", "limits", "one_call_takes_so_many_bytes_as_is_set"),
    (
        "limits.host_events",
        "host_events",
        "a_plugin_that_missed_too_much_reads_the_connections_again",
    ),
    (
        "limits.idempotency_bytes",
        "http",
        "the_kept_answers_of_one_key_have_no_more_bytes_than_is_set",
    ),
    (
        "limits.instance_memory_bytes",
        "faults",
        "a_guest_that_fills_tables_gets_no_more_than_the_memory_that_it_may_have",
    ),
    ("limits.instances", "reload", "no_more_instances_of_a_plugin_run_at_once_than_may"),
    ("limits.json_depth", "bounds", "a_message_has_so_many_bytes_levels_and_attachments_as_is_set"),
    (
        "limits.keep_alive_ms",
        "edge",
        "a_connection_may_be_idle_between_two_requests_for_so_long_as_is_set",
    ),
    ("limits.log_line_bytes", "logging", "a_plugin_logs_no_more_and_no_longer_lines_than_is_set"),
    (
        "limits.log_lines_per_second",
        "logging",
        "a_plugin_logs_no_more_and_no_longer_lines_than_is_set",
    ),
    (
        "limits.mailbox_bytes",
        "bounds",
        "a_mailbox_has_space_for_so_many_events_and_bytes_as_is_set",
    ),
    (
        "limits.mailbox_events",
        "bounds",
        "a_mailbox_has_space_for_so_many_events_and_bytes_as_is_set",
    ),
    ("limits.mailboxes_bytes", "edge", "all_mailboxes_together_have_no_more_than_their_memory"),
    (
        "limits.message_bytes",
        "bounds",
        "a_message_has_so_many_bytes_levels_and_attachments_as_is_set",
    ),
    (
        "limits.outbound_at_once",
        "outbound",
        "as_many_requests_are_sent_at_once_as_is_set_and_others_wait_in_their_time",
    ),
    (
        "limits.outbound_ms",
        "outbound",
        "an_event_sends_as_many_requests_of_such_a_size_in_such_a_time_as_is_set",
    ),
    (
        "limits.outbound_request_bytes",
        "outbound",
        "an_event_sends_as_many_requests_of_such_a_size_in_such_a_time_as_is_set",
    ),
    (
        "limits.outbound_requests",
        "outbound",
        "an_event_sends_as_many_requests_of_such_a_size_in_such_a_time_as_is_set",
    ),
    (
        "limits.outbound_response_bytes",
        "outbound",
        "an_event_sends_as_many_requests_of_such_a_size_in_such_a_time_as_is_set",
    ),
    (
        "limits.outgoing_packets",
        "delivery",
        "a_client_for_which_more_waits_than_its_buffer_holds_misses_nothing",
    ),
    (
        "limits.overflow_bytes",
        "delivery",
        "a_client_for_whose_events_no_memory_is_left_is_cut_at_once",
    ),
    (
        "limits.pending_acks",
        "client_acks",
        "a_plugin_and_a_connection_wait_for_so_many_acks_as_is_set",
    ),
    (
        "limits.pending_acks_bytes",
        "client_acks",
        "a_plugin_and_a_connection_wait_for_so_many_acks_as_is_set",
    ),
    ("limits.plugin_file_bytes", "faults", "loading_has_limits_of_one_plugin_too"),
    (
        "limits.plugin_memory_bytes",
        "reload",
        "all_instances_of_a_plugin_share_what_memory_it_may_have",
    ),
    ("limits.random_bytes", "limits", "one_call_takes_so_many_bytes_as_is_set"),
    ("limits.register_cpu_ms", "faults", "loading_has_limits_of_one_plugin_too"),
    (
        "limits.reserved_connections",
        "edge",
        "at_the_connection_limit_operators_are_answered_and_clients_are_told",
    ),
    ("limits.room_debounce_ms", "occupancy", "a_room_must_stay_as_it_is_for_as_long_as_is_set"),
    ("limits.rooms", "rooms", "a_connection_is_in_no_more_rooms_than_is_set"),
    ("limits.schema_bytes", "faults", "loading_has_limits_of_one_plugin_too"),
    (
        "limits.shutdown_close_ms",
        "stopping",
        "connections_are_closed_one_after_the_other_over_the_time_that_is_set",
    ),
    (
        "limits.shutdown_drain_ms",
        "stopping",
        "a_stop_waits_for_running_events_no_longer_than_is_set",
    ),
    (
        "limits.shutdown_unready_ms",
        "stopping",
        "a_stopping_host_is_not_ready_and_serves_until_a_load_balancer_knows",
    ),
    (
        "limits.stalled_reader_ms",
        "bounds",
        "a_websocket_that_reads_slower_than_it_asks_costs_its_share_and_is_disconnected",
    ),
    (
        "limits.state_bytes",
        "state",
        "a_full_quota_is_shown_to_operators_and_goes_when_there_is_room",
    ),
    ("limits.state_key_bytes", "limits", "keys_and_values_have_so_many_bytes_as_is_set"),
    ("limits.state_value_bytes", "limits", "keys_and_values_have_so_many_bytes_as_is_set"),
    (
        "limits.state_wal_bytes",
        "state",
        "the_write_ahead_log_stays_short_while_one_record_is_written_and_handlers_wait",
    ),
    ("limits.timers", "timers", "a_plugin_has_so_many_timers_as_is_set"),
    (
        "limits.unfinished_bytes",
        "bounds",
        "messages_that_are_never_finished_have_a_bound_together_and_short_ones_are_answered",
    ),
    (
        "limits.volatile_bytes",
        "volatile",
        "a_client_that_does_not_read_misses_volatile_emits_and_nothing_else",
    ),
    (
        "outbound.at_once",
        "outbound",
        "all_plugins_together_send_as_many_requests_at_once_as_is_set",
    ),
    (
        "outbound.memory_bytes",
        "outbound",
        "all_responses_together_have_at_most_as_many_bytes_as_is_set",
    ),
    (
        "server.ping_interval_ms",
        "sessions",
        "a_client_that_answers_no_ping_is_gone_in_time_and_one_that_does_stays",
    ),
    (
        "server.ping_timeout_ms",
        "sessions",
        "a_client_that_answers_no_ping_is_gone_in_time_and_one_that_does_stays",
    ),
    (
        "server.recovery.bytes",
        "sessions",
        "what_is_kept_for_clients_that_return_has_a_bound_in_time_and_in_memory",
    ),
    (
        "server.recovery.seconds",
        "sessions",
        "what_is_kept_for_clients_that_return_has_a_bound_in_time_and_in_memory",
    ),
];

/// Returns the keys that `[table]` may have, as the configuration itself lists them.
fn keys_of(table: &str) -> Vec<String> {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("sockhop.toml");
    std::fs::write(&file, format!("[{table}]\nno_such_key = 1\n")).expect("a file");
    let error = Config::load(Some(&file)).expect_err("an unknown key").to_string();
    let (_, keys) = error.split_once("allowed here: ").expect("the allowed keys");
    keys.split(", ").map(|key| format!("{table}.{key}")).collect()
}

/// Returns the functions of a file with tests: their bodies by their names.
fn functions(source: &str) -> BTreeMap<&str, &str> {
    let mut functions = BTreeMap::new();
    for function in source.split("\n}\n") {
        let body = function.find("fn ").map(|at| &function[at + 3..]);
        if let Some((name, _)) = body.and_then(|body| body.split_once(['(', '<'])) {
            functions.insert(name, function);
        }
    }
    functions
}

/// Whether `text` has `word`, and not only as a part of a longer one.
fn has_word(text: &str, word: &str) -> bool {
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices(word).any(|(at, _)| {
        !is_part(text[..at].chars().next_back()) && !is_part(text[at + word.len()..].chars().next())
    })
}

/// Whether a function gives `key` a value: by an assignment or in a setting's own struct, or in the
/// environment of a host. To read it is not enough.
fn sets(function: &str, key: &str) -> bool {
    let (table, own) = key.rsplit_once('.').expect("a table and its key");
    let table = table.rsplit('.').next().expect("a table");
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let gives =
        |text: &str| function.match_indices(text).any(|(at, _)| !function[..at].ends_with(is_part));
    let of = format!("{}{} {{", table[..1].to_uppercase(), &table[1..]);
    let in_environment = format!("\"SOCKHOP_{}__{}\", ", table.to_uppercase(), own.to_uppercase());
    // The value may begin on the next line.
    [" ", "\n"].iter().any(|end| gives(&format!("{table}.{own} ={end}")))
        || gives(&in_environment)
        || (gives(&of) && gives(&format!("{own}: ")))
}

#[test]
fn only_a_value_that_is_given_counts_as_set() {
    for (function, expected) in [
        ("config.limits.rooms = number(3);", true),
        ("|limits| limits.rooms = number(3)", true),
        ("settings.limits.rooms =\n    number(3);", true),
        (r#"&[("SOCKHOP_LIMITS__ROOMS", "3")]"#, true),
        ("Limits { rooms: number(3), ..Limits::default() }", true),
        ("let most = limits.rooms.get();", false),
        ("assert_eq!(limits.rooms, 100); let rooms = limits.rooms;", false),
        ("if limits.rooms == number(3) {}", false),
        ("my_limits.rooms_of = 3", false),
        (r#"std::env::var("SOCKHOP_LIMITS__ROOMS").is_ok()"#, false),
        ("fn ask(rooms: usize) {}", false),
    ] {
        assert_eq!(sets(function, "limits.rooms"), expected, "{function}");
    }
}

#[test]
fn every_limit_is_reached_by_a_test() {
    let is_limit =
        |key: &String| ["_ms", "_s", "seconds", "bytes"].iter().any(|unit| key.ends_with(unit));
    let mut keys = keys_of("limits");
    keys.extend(keys_of("outbound").into_iter().filter(|key| key != "outbound.ca_file"));
    keys.extend(keys_of("server").into_iter().filter(is_limit));
    keys.extend(keys_of("server.recovery"));
    keys.sort();
    let named: Vec<_> = REACHED.iter().map(|(key, ..)| (*key).to_owned()).collect();
    assert_eq!(named, keys, "REACHED names each limit once, in the order of the alphabet");
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("it");
    for (key, file, test) in REACHED {
        let source = std::fs::read_to_string(tests.join(format!("{file}.rs"))).expect("a file");
        let functions = functions(&source);
        let function = functions.get(test).unwrap_or_else(|| panic!("{file}.rs has no `{test}`"));
        assert!(function.contains("#[test]") || function.contains("#[tokio::test"), "{test}");
        // The test itself, or a function of the file that it uses.
        let used = functions.iter().filter(|(name, _)| has_word(function, name));
        let is_set = used.map(|(_, body)| body).chain([function]).any(|body| sets(body, key));
        assert!(is_set, "`{test}` does not set `{key}`");
    }
}

fn number(number: usize) -> NonZeroUsize {
    NonZeroUsize::new(number).expect("a number above zero")
}

fn code(answer: &Value) -> &str {
    answer["error"]["code"].as_str().unwrap_or("no error")
}

/// Starts a host with the plugin `lab` and other limits.
async fn lab(change: impl FnOnce(&mut Limits)) -> (TestHost, TestClient) {
    let host = TestHost::with(&[guest("lab")], |config| change(&mut config.limits)).await;
    let client = host.client().await;
    (host, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_ends_when_its_cpu_time_or_its_wall_time_is_over() {
    let default = Limits::default();
    // More than the default. The elapsed time is at least the CPU time.
    let cpu = Duration::from_secs(2);
    assert!(cpu > 2 * default.event_cpu_ms);
    let (_host, client) = lab(|limits| {
        limits.event_cpu_ms = cpu;
        limits.event_wall_ms = PATIENCE;
    })
    .await;
    let began = Instant::now();
    assert_eq!(code(&client.ask("spin", json!(null)).await), "timed_out");
    assert!(began.elapsed() >= cpu, "{:?}", began.elapsed());
    let longer = json!(2 * cpu.as_millis() as u64);
    assert_eq!(client.ask("sleep", longer).await, json!(null), "a wait needs no CPU time");
    let (_host, client) = lab(|limits| {
        limits.event_cpu_ms = PATIENCE;
        limits.event_wall_ms = Duration::from_millis(200);
    })
    .await;
    let began = Instant::now();
    assert_eq!(code(&client.ask("sleep", json!(600_000)).await), "timed_out");
    assert!(began.elapsed() < default.event_wall_ms, "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_effects_of_one_event_have_so_many_bytes_together_as_is_set() {
    let (_host, mut client) = lab(|limits| limits.effects_bytes = number(1_000)).await;
    assert_eq!(client.ask("burst", json!(10)).await, json!(null));
    assert_eq!(client.pending().len(), 10);
    // Fewer effects than their number allows.
    let refused = client.ask("burst", json!(200)).await;
    assert_eq!(code(&refused), "too_large", "{refused}");
    assert_eq!(client.pending(), []);
    // Stored values count as well. The key has 48 bytes.
    assert_eq!(client.ask("note", json!("x".repeat(900))).await, json!(null));
    assert_eq!(code(&client.ask("note", json!("x".repeat(990))).await), "too_large");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_call_takes_so_many_bytes_as_is_set() {
    let (_host, client) = lab(|limits| {
        limits.host_call_bytes = number(32 << 10);
        limits.random_bytes = NonZeroU64::new(100).expect("not zero");
    })
    .await;
    for (event, payload, expected) in [
        ("spread", json!("x".repeat(1 << 10)), "no error"),
        ("spread", json!("x".repeat(64 << 10)), "plugin_failed"),
        ("draw", json!(100), "no error"),
        ("draw", json!(101), "plugin_failed"),
    ] {
        let answer = client.ask(event, payload).await;
        assert_eq!(code(&answer), expected, "{event}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_values_have_so_many_bytes_as_is_set() {
    let (_host, client) = lab(|limits| limits.state_key_bytes = number(40)).await;
    assert_eq!(client.ask("increment", json!(null)).await, json!(1));
    assert_eq!(code(&client.ask("note", json!("")).await), "too_large", "its key has 48 bytes");
    let (_host, client) = lab(|limits| limits.state_value_bytes = number(4)).await;
    // The value is JSON.
    assert_eq!(client.ask("note", json!("12")).await, json!(null));
    assert_eq!(code(&client.ask("note", json!("123")).await), "too_large");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_needs_more_handles_than_is_set_fails() {
    for (handles, fails) in [(1, true), (1_000, false)] {
        let (_host, client) = lab(|limits| limits.handles = number(handles)).await;
        assert_eq!(client.ask("echo", json!(1)).await, json!(1));
        // Standard output is a handle that stays open, and a wait needs another one.
        let printed = client.ask("print", json!(null)).await;
        let slept = client.ask("sleep", json!(1)).await;
        let has_failed = [&printed, &slept].iter().any(|answer| code(answer) == "plugin_failed");
        assert_eq!(has_failed, fails, "{handles} handles: {printed}, {slept}");
        assert_eq!(client.ask("echo", json!(2)).await, json!(2));
    }
}
