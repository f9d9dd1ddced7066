//! No way around a rule: every way into a host is tried against every rule.
//!
//! A way in that the sources have and that this file does not know fails a test.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};
use sockhop::config::{Key, Rule as OperatorRule, Scope};
use sockhop_tests::{TestClient, TestHost, bundled_plugin, guest, send, token, with_tokens};

/// A way in which something reaches the host that a rule may forbid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// An event over Socket.IO, in the main namespace.
    Event,
    /// The same in another namespace.
    Namespace,
    /// A route of a plugin.
    Route,
    /// `POST /api/emit` with one event.
    Emit,
    /// The same with several.
    Batch,
    /// The same with a CloudEvent, in its structured form.
    Structured,
    /// The same with a batch of CloudEvents.
    CloudBatch,
    /// The same with a CloudEvent in its binary form.
    Binary,
    /// A new connection of a user who had more rights in the connection before.
    Reconnect,
    /// A new token with fewer rights for the same connection.
    Authenticate,
}

const WAYS: [Way; 10] = [
    Way::Event,
    Way::Namespace,
    Way::Route,
    Way::Emit,
    Way::Batch,
    Way::Structured,
    Way::CloudBatch,
    Way::Binary,
    Way::Reconnect,
    Way::Authenticate,
];

/// What a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    EventOfUsers,
    EventOfARole,
    EventOfTheOperator,
    RoomOfAUser,
    RoomOfARole,
    RoomOfHandlers,
    RoomOfTheOperator,
    RoomOfAnotherPlugin,
    OwnerOfARecord,
    DeclaredReceivers,
}

const RULES: [Rule; 10] = [
    Rule::EventOfUsers,
    Rule::EventOfARole,
    Rule::EventOfTheOperator,
    Rule::RoomOfAUser,
    Rule::RoomOfARole,
    Rule::RoomOfHandlers,
    Rule::RoomOfTheOperator,
    Rule::RoomOfAnotherPlugin,
    Rule::OwnerOfARecord,
    Rule::DeclaredReceivers,
];

/// The result of an attempt.
#[derive(Debug)]
enum Attempt {
    /// The codes of the answers; each must be a refusal.
    Answered(Vec<String>),
    /// Rooms in which the client still is; there must be none.
    IsIn(Vec<String>),
    /// The way can't do this, for this reason.
    CanNot(&'static str),
}

const NO_CONNECTION: Attempt = Attempt::CanNot("a request has no connection that could join");
const NO_HANDLER: Attempt = Attempt::CanNot("no handler runs, and nobody joins");
const IN_PLUGINS: Attempt = Attempt::CanNot("only emits have receivers, and handlers declare them");

const OPEN: &str = "anyone";

const TIGHT: &str = "role:admin";

/// The configuration that a reload reads.
const TIGHTENED: &str = r#"
[limits]
event_cpu_ms = 1_000
register_cpu_ms = 10_000
breaker_failures = 4_294_967_295
breaker_calls = 4_294_967_295

[auth]
mode = "jwt"
anonymous = true
[[auth.keys]]
algorithm = "HS256"
secret = "a secret that has more than thirty-two bytes"

[[keys]]
name = "shop"
secret = "shop-secret-0123456"
scopes = ["emit"]

[[rules]]
event = "echo"
access = "role:admin"

[[rules]]
room = "lab"
access = "role:admin"
"#;

struct World {
    host: TestHost,
    /// A record of the user 8.
    record: Value,
}

impl World {
    /// With `is_reloaded`, the rules are open when the host starts, and a reload tightens them.
    async fn new(is_reloaded: bool) -> Self {
        let rule = |event: Option<&str>, room: Option<&str>, access: &str| OperatorRule {
            event: event.map(str::to_owned),
            room: room.map(str::to_owned),
            access: access.parse().expect("a rule"),
            observe: false,
        };
        let tight = [rule(Some("echo"), None, TIGHT), rule(None, Some("lab"), TIGHT)];
        let open = ["echo", "for_users", "for_admins"].map(|event| rule(Some(event), None, OPEN));
        let plugins = ["subscription", "memory_logs"].map(bundled_plugin);
        let plugins: Vec<_> = plugins.into_iter().chain(["club", "lab"].map(guest)).collect();
        let host = TestHost::with(&plugins, |config| {
            config.auth = with_tokens();
            config.auth.anonymous = true;
            config.server.namespaces = vec!["/".to_owned(), "/other".to_owned()];
            config.rules = if is_reloaded { open.to_vec() } else { tight.to_vec() };
            config.keys = vec![Key {
                name: "shop".to_owned(),
                secret: Some("shop-secret-0123456".to_owned()),
                secret_file: None,
                scopes: vec![Scope::Emit],
                user: None,
                roles: Vec::new(),
            }];
        })
        .await;
        if is_reloaded {
            let seven = connect(&host, "/", Some(&token("7", &[], 3_600))).await;
            for (event, data) in
                [("echo", json!(1)), ("for_admins", json!(1)), ("enter", json!(null))]
            {
                assert_eq!(code(&seven.ask(event, data).await["error"]), "none", "{event}");
            }
            std::fs::write(host.data().join("sockhop.toml"), TIGHTENED).expect("a file");
            assert!(host.monitor.reload().await);
            for (event, data) in
                [("echo", json!(1)), ("for_admins", json!(1)), ("enter", json!(null))]
            {
                assert_eq!(code(&seven.ask(event, data).await["error"]), "forbidden", "{event}");
            }
            assert_eq!(seven.ask("my_rooms", json!(null)).await, json!(["user_7"]));
        }
        let eight = connect(&host, "/", Some(&token("8", &[], 3_600))).await;
        let record = json!({"user_id": "8", "content": "secret"});
        let record = eight.ask("memory_log_create", record).await["id"].clone();
        Self { host, record }
    }

    async fn attempt(&self, way: Way, rule: Rule) -> Attempt {
        match way {
            Way::Event => self.event("/", rule).await,
            Way::Namespace => self.event("/other", rule).await,
            Way::Route => self.route(rule),
            Way::Emit | Way::Batch | Way::Structured | Way::CloudBatch | Way::Binary => {
                self.emit(way, rule)
            }
            Way::Reconnect | Way::Authenticate => self.fewer_rights(way, rule).await,
        }
    }

    async fn event(&self, namespace: &str, rule: Rule) -> Attempt {
        let nobody = connect(&self.host, namespace, None).await;
        let seven = connect(&self.host, namespace, Some(&token("7", &[], 3_600))).await;
        let answer = match rule {
            Rule::EventOfUsers => nobody.ask("for_users", json!(1)).await,
            Rule::EventOfARole => seven.ask("for_admins", json!(1)).await,
            Rule::EventOfTheOperator => seven.ask("echo", json!(1)).await,
            Rule::RoomOfAUser => seven.ask("join_room", json!("user_8")).await,
            Rule::RoomOfARole => seven.ask("join_room", json!("admin")).await,
            Rule::RoomOfHandlers => seven.ask("join_room", json!("club_a")).await,
            Rule::RoomOfTheOperator => seven.ask("enter", json!(null)).await,
            Rule::RoomOfAnotherPlugin => {
                let mut answers = Vec::new();
                for room in ["lab", "admin", "user_8", "memory_logs"] {
                    for event in ["invite", "expel"] {
                        let others = json!({"room": room, "user": "7"});
                        answers.push(code(&seven.ask(event, others).await["error"]));
                    }
                    answers.push(code(&seven.ask("who", json!(room)).await["error"]));
                }
                return Attempt::Answered(answers);
            }
            Rule::OwnerOfARecord => {
                let id = &self.record;
                let mut answers = Vec::new();
                for (event, data) in [
                    ("memory_log_create", json!({"user_id": "8", "content": "x"})),
                    ("memory_log_get", json!({"id": id})),
                    ("memory_log_update", json!({"id": id, "content": "x"})),
                    ("memory_log_delete", json!({"id": id})),
                    ("memory_log_list", json!({"user_id": "8"})),
                ] {
                    answers.push(code(&seven.ask(event, data).await["error"]));
                }
                return Attempt::Answered(answers);
            }
            Rule::DeclaredReceivers => return IN_PLUGINS,
        };
        Attempt::Answered(vec![code(&answer["error"])])
    }

    fn route(&self, rule: Rule) -> Attempt {
        let bearer = format!("Bearer {}", token("7", &[], 3_600));
        let json = ("Content-Type", "application/json");
        let ask = |line: &str, body: &str, is_user: bool| {
            let all = [json, ("Authorization", bearer.as_str())];
            let headers = if is_user { &all[..] } else { &all[..1] };
            let answer = send(&self.host.url, line, headers, body);
            // The answer to HEAD has no body.
            let is_forbidden = line.starts_with("HEAD ") && answer.status == 403;
            if is_forbidden { "forbidden".to_owned() } else { code(&answer.json()) }
        };
        let id = &self.record;
        Attempt::Answered(match rule {
            Rule::EventOfUsers => vec![ask("POST /lab/for-users", "{}", false)],
            Rule::EventOfARole => vec![ask("POST /lab/for-admins", "{}", true)],
            Rule::EventOfTheOperator => vec![ask("PUT /lab/echo/x", "{}", true)],
            Rule::OwnerOfARecord => vec![
                ask("POST /memory-logs", r#"{"user_id": "8", "content": "x"}"#, true),
                ask(&format!("GET /memory-logs/{id}"), "", true),
                ask(&format!("HEAD /memory-logs/{id}"), "", true),
                ask(&format!("PATCH /memory-logs/{id}"), r#"{"content": "x"}"#, true),
                ask(&format!("DELETE /memory-logs/{id}"), "", true),
                ask("GET /memory-logs?user_id=8", "", true),
            ],
            Rule::DeclaredReceivers => return IN_PLUGINS,
            Rule::RoomOfAUser
            | Rule::RoomOfARole
            | Rule::RoomOfHandlers
            | Rule::RoomOfTheOperator
            | Rule::RoomOfAnotherPlugin => return NO_CONNECTION,
        })
    }

    fn emit(&self, way: Way, rule: Rule) -> Attempt {
        if rule != Rule::DeclaredReceivers {
            return NO_HANDLER;
        }
        let data = json!({"id": 7});
        let cloud = json!({"specversion": "1.0", "type": "memory_log_deleted", "source": "s",
                           "id": "1", "room": "admin", "data": data});
        let event = json!({"event": "memory_log_deleted", "data": data, "room": "admin"});
        let everyone = json!({"event": "memory_log_deleted", "data": data, "everyone": true});
        let binary = [
            ("ce-specversion", "1.0"),
            ("ce-type", "memory_log_deleted"),
            ("ce-source", "s"),
            ("ce-id", "2"),
            ("ce-room", "admin"),
        ];
        let of_cloud = |kind| vec![("Content-Type", kind)];
        let requests = match way {
            Way::Batch => vec![(vec![], json!([event, everyone]))],
            Way::Structured => vec![(of_cloud("application/cloudevents+json"), cloud)],
            Way::CloudBatch => {
                vec![(of_cloud("application/cloudevents-batch+json"), json!([cloud]))]
            }
            Way::Binary => vec![(binary.to_vec(), data)],
            _ => vec![(vec![], event), (vec![], everyone)],
        };
        let ask = |(mut headers, body): (Vec<(&str, &str)>, Value)| {
            headers.push(("Authorization", "Bearer shop-secret-0123456"));
            let answer = send(&self.host.url, "POST /api/emit", &headers, &body.to_string());
            code(&answer.json())
        };
        Attempt::Answered(requests.into_iter().map(ask).collect())
    }

    /// A user joins rooms as an admin, and then has another token without the role.
    async fn fewer_rights(&self, way: Way, rule: Rule) -> Attempt {
        let plain = token("7", &[], 3_600);
        let mut client =
            connect(&self.host, "/", Some(&token("7", &["admin", "staff"], 3_600))).await;
        for room in ["admin", "staff", "lab"] {
            let joined = client.ask("join_room", json!(room)).await;
            assert_eq!(joined, json!(null), "{room}");
        }
        if way == Way::Authenticate {
            let adopted = client.ask("authenticate", json!({"token": plain})).await;
            assert!(adopted["expires_at"].is_u64(), "{adopted}");
        } else {
            drop(client);
            client = connect(&self.host, "/", Some(&plain)).await;
        }
        let is_in = |room: &'static str, rooms: &Value| {
            let is_in = rooms.as_array().is_some_and(|rooms| rooms.contains(&json!(room)));
            Attempt::IsIn(is_in.then(|| room.to_owned()).into_iter().collect())
        };
        let rooms = client.ask("my_rooms", json!(null)).await;
        match rule {
            Rule::EventOfARole => {
                Attempt::Answered(vec![code(&client.ask("for_admins", json!(1)).await["error"])])
            }
            Rule::EventOfTheOperator => {
                Attempt::Answered(vec![code(&client.ask("echo", json!(1)).await["error"])])
            }
            Rule::RoomOfARole => is_in("admin", &rooms),
            Rule::RoomOfAnotherPlugin => is_in("staff", &rooms),
            Rule::RoomOfTheOperator => is_in("lab", &rooms),
            Rule::OwnerOfARecord => {
                let get = client.ask("memory_log_get", json!({"id": self.record})).await;
                Attempt::Answered(vec![code(&get["error"])])
            }
            Rule::EventOfUsers => Attempt::CanNot("the user stays a user"),
            Rule::RoomOfAUser => Attempt::CanNot("the user stays the same"),
            Rule::RoomOfHandlers => Attempt::CanNot("its plugin chooses the members"),
            Rule::DeclaredReceivers => IN_PLUGINS,
        }
    }
}

/// Connects with a token, or without one.
async fn connect(host: &TestHost, namespace: &str, token: Option<&str>) -> TestClient {
    let connected = TestClient::connect_as(&host.url, namespace, token).await;
    connected.unwrap_or_else(|refused| panic!("{refused}"))
}

fn code(error: &Value) -> String {
    error["code"].as_str().unwrap_or("none").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_way_into_a_host_leads_around_a_rule() {
    try_all(&World::new(false).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_way_leads_around_a_rule_that_a_reload_has_tightened() {
    try_all(&World::new(true).await).await;
}

async fn try_all(world: &World) {
    let mut tried = 0;
    for way in WAYS {
        for rule in RULES {
            match world.attempt(way, rule).await {
                Attempt::Answered(codes) => {
                    assert!(!codes.is_empty(), "{way:?} {rule:?}");
                    let is_refusal = |code: &String| {
                        ["unauthorized", "forbidden", "refused"].contains(&code.as_str())
                    };
                    assert!(codes.iter().all(is_refusal), "{way:?} {rule:?}: {codes:?}");
                    tried += codes.len();
                }
                Attempt::IsIn(rooms) => {
                    assert!(rooms.is_empty(), "{way:?} {rule:?}: still in {rooms:?}");
                    tried += 1;
                }
                Attempt::CanNot(reason) => assert!(!reason.is_empty(), "{way:?} {rule:?}"),
            }
        }
    }
    assert!(tried > 60, "{tried} attempts");
}

/// The texts between `before` and `after` in a source.
fn between(file: &str, before: &str, after: &str) -> BTreeSet<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    let source = std::fs::read_to_string(file).expect("a source");
    let parts = source.split(before).skip(1).filter_map(|rest| rest.split_once(after));
    parts.map(|(text, _)| text.trim().to_owned()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// If this fails, there is a new way in: add it to [`Way`], or here with the reason why it leads
/// around no rule.
#[test]
fn every_way_in_is_known_to_this_file() {
    // Requests that change something. All but the first need a key with the scope `operate`.
    let posts = between("host/src/http.rs", ".route(\"", "\", post(");
    let posts: BTreeSet<_> = posts.into_iter().filter(|path| !path.contains('"')).collect();
    assert_eq!(
        posts,
        set(&[
            "/api/emit",
            "/api/plugins/{name}/deliveries/drop",
            "/api/plugins/{name}/deliveries/retry",
            "/api/plugins/{name}/rollback",
            "/api/plugins/{name}/disable",
            "/api/plugins/{name}/enable",
            "/api/plugins/{name}/forget",
            // The handler of a timer has no caller, and its effects pass the same checks.
            "/api/plugins/{name}/timers/retry",
            "/api/plugins/{name}/timers/drop",
            "/api/drain",
            // Every attempt is made after a reload too.
            "/api/reload",
            "/api/reload/preview",
            "/api/users/{user}/disconnect",
            "/api/users/{user}/revoke",
        ])
    );
    // The forms of a request that emits: Emit and Batch, Structured, CloudBatch, Binary.
    let forms = between("host/src/http/emit/forms.rs", "=> Ok(Self::", ")");
    assert_eq!(forms, set(&["Json", "Structured", "Batch", "Binary"]));
    // Who causes events: connections, requests to routes, and the host itself, of a room in its
    // namespace. As for a timer, there is no client whose rights count.
    let callers = between("host/src/event/caller.rs", "            Self::", "(");
    let is_name = |text: &String| text.chars().all(char::is_alphanumeric);
    let callers: BTreeSet<_> = callers.into_iter().filter(is_name).collect();
    assert_eq!(callers, set(&["Connection", "Namespace", "Request"]));
    // The functions with which a handler reaches others.
    let world = std::fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit/v0.1/plugin.wit"),
    )
    .expect("the world");
    let mut reaching = BTreeSet::new();
    for interface in ["emitter", "rooms", "members"] {
        let (_, rest) = world.split_once(&format!("\ninterface {interface} {{")).expect(interface);
        let (body, _) = rest.split_once("\n}").expect("its end");
        for line in body.lines().filter(|line| line.contains(": func(")) {
            let name = line.split(':').next().unwrap_or_default().trim();
            reaching.insert(format!("{interface}.{name}"));
        }
    }
    assert_eq!(
        reaching,
        set(&[
            "emitter.emit",
            "emitter.emit-binary",
            "emitter.emit-volatile",
            // Only the client that the handler has named can answer. Its plugin handles the answer
            // after the checks of an event, except the rule of who may send one.
            "emitter.emit-with-ack",
            "members.count",
            "members.ids",
            "members.join",
            "members.remove",
            "members.scan",
            "rooms.join",
            "rooms.leave",
            "rooms.room-size",
            "rooms.rooms",
        ])
    );
}
