//! The format of scenarios. The comments here are the descriptions in their JSON Schema.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;

#[cfg(test)]
use schemars::JsonSchema;

/// A scenario: virtual clients, what they send, and what must come of it. In expected values,
/// `"$any"` stands for any value, `"$any:string"` for any of a type (string, number, integer,
/// boolean, array, object), `"$NAME"` keeps a value and is the same value from then on,
/// `{"$contains": …}` needs only a part of an object or array, and `"$$TEXT"` is the text `$TEXT`.
/// Everything else must be exactly equal.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What the scenario shows. Without it, the name of the file.
    pub name: Option<String>,
    /// The time at the beginning (RFC 3339), by default 2026-01-01T00:00:00Z. Time stands still
    /// until a step advances it.
    #[serde(default = "start", deserialize_with = "time")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub time: u64,
    /// The settings of plugins by their names, each as the table `[plugins.NAME]` of a host's
    /// configuration: `config`, `outbound`, and limits.
    #[serde(default)]
    pub plugins: BTreeMap<String, Map<String, Value>>,
    /// The virtual clients by name. They connect at the beginning, in the order of the names,
    /// except those of which a step says first that they connect.
    #[serde(default)]
    pub clients: BTreeMap<String, ClientSpec>,
    /// The answers to HTTP requests and deliveries of plugins. A request without an answer fails
    /// the scenario. Nothing is sent over the network.
    #[serde(default)]
    pub stubs: Vec<Stub>,
    /// What happens, in order.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "Vec<Step>"))]
    pub steps: Vec<Spanned<Step>>,
}

/// A virtual client.
#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ClientSpec {
    /// The authenticated user. Without it, the client is anonymous.
    pub user: Option<String>,
    /// The roles of the user.
    pub roles: Vec<String>,
    /// Further claims of the user's token.
    pub claims: Map<String, Value>,
    /// The Socket.IO namespace, by default `/`.
    pub namespace: Option<String>,
    /// The query of the URL of its handshake, without `?`.
    pub query: Option<String>,
    /// The `auth` of its handshake, without a token.
    pub auth: Map<String, Value>,
    /// Rooms that it joins when it connects, as if a handler of the room's plugin had joined it.
    /// The access rules of rooms apply.
    pub rooms: Vec<String>,
}

/// One step: at most one of `connect`, `disconnect`, `send`, `advance` and `stubs`, and what must
/// come of it. Clients must receive exactly the events that the step expects.
#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Step {
    /// What the step shows.
    pub name: Option<String>,
    /// The name of the client that connects.
    pub connect: Option<String>,
    /// The name of the client that disconnects.
    pub disconnect: Option<String>,
    /// A client sends an event.
    pub send: Option<Send>,
    /// How far the time advances, such as `90s`, `30m` or `2h`. Timers fire, and deliveries are
    /// sent, in the order of their times.
    #[serde(deserialize_with = "duration")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub advance: Option<Duration>,
    /// More answers to HTTP requests, from now on. They come before the earlier ones.
    pub stubs: Vec<Stub>,
    /// The expected argument of the ack. Without `ack`, `ack_args` and `error`, any ack is
    /// accepted that is no error.
    #[serde(deserialize_with = "present")]
    #[cfg_attr(test, schemars(with = "Value"))]
    pub ack: Option<Value>,
    /// The expected arguments of the ack, if it has not exactly one.
    pub ack_args: Option<Vec<Value>>,
    /// The expected rejection: its code, or members of it such as `{code: refused, reason: …}`.
    #[serde(deserialize_with = "present")]
    #[cfg_attr(test, schemars(with = "Value"))]
    pub error: Option<Value>,
    /// What each client receives in this step, in order. A client that is not named receives
    /// nothing.
    pub receives: BTreeMap<String, Vec<ReceivedEvent>>,
    /// With `ignore`, clients that `receives` does not name may receive anything.
    pub others: Option<Others>,
    /// The clients whose connections the host ends in this step.
    pub ends: Vec<String>,
    /// What handlers have asked for, in order, such as `{join: chat}`, `{leave: chat}` or
    /// `{emit: said, to: {rooms: [chat]}, data: …}`. All must be named.
    pub effects: Option<Vec<Value>>,
    /// The values of keys in the state of the first plugin afterwards. `$absent` stands for a key
    /// that is not there. Other keys may have any value.
    #[serde(default)]
    pub state: BTreeMap<String, Value>,
    /// The rooms of clients afterwards, each in any order.
    pub rooms: BTreeMap<String, Vec<String>>,
    /// The timers of the first plugin afterwards that no schedule has set, in the order of their
    /// times. All must be named.
    pub timers: Option<Vec<TimerPattern>>,
    /// The HTTP requests and deliveries of this step, in order. All must be named.
    pub requests: Option<Vec<RequestPattern>>,
    /// The failures and refusals of handlers that no client waits for, such as those of timers, in
    /// order. Each is a part of `{event, plugin, code, reason, error, detail}`.
    pub failures: Vec<Map<String, Value>>,
}

/// What `others` may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Others {
    /// Clients that are not named may receive anything.
    Ignore,
}

/// An event that a client sends.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Send {
    /// The name of the client.
    pub client: String,
    /// The event.
    pub event: String,
    /// Its argument. Without `data` and `args`, it has none.
    #[serde(default, deserialize_with = "present")]
    #[cfg_attr(test, schemars(with = "Value"))]
    pub data: Option<Value>,
    /// Its arguments, if it has not exactly one.
    pub args: Option<Vec<Value>>,
    /// Binary attachments, each as text. The arguments refer to them as
    /// `{"_placeholder": true, "num": 0}`.
    #[serde(default)]
    pub attachments: Vec<String>,
    /// Whether the client asks for an ack, by default true. Without one, it receives a rejection as
    /// an event `error`.
    #[serde(default = "yes")]
    pub ack: bool,
}

/// An event that a client receives.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ReceivedEvent {
    /// The event.
    pub event: String,
    /// Its argument. Without `data` and `args`, the argument is not compared.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Value"))]
    pub data: Option<Value>,
    /// Its arguments, if it has not exactly one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<Value>>,
    /// Its binary attachments: text, or `{"$base64": …}` for bytes that are no text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Value>,
}

/// The answer to HTTP requests. Without a condition, it answers every request.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Stub {
    /// The method, such as `POST`. By default any.
    pub method: Option<String>,
    /// The URL, with its query.
    pub url: String,
    /// Headers that the request has, with names in lower case.
    #[serde(default)]
    pub headers: BTreeMap<String, Value>,
    /// The body, which is compared as JSON if it is JSON, else as text. By default any.
    #[serde(default, deserialize_with = "present")]
    #[cfg_attr(test, schemars(with = "Value"))]
    pub body: Option<Value>,
    /// How many requests it answers. By default any number.
    pub times: Option<u32>,
    /// The answer. By default status 200 without a body.
    #[serde(default)]
    pub answer: Answer,
}

/// What a stub answers.
#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Answer {
    /// The status, by default 200.
    #[cfg_attr(test, schemars(range(min = 100, max = 599)))]
    pub status: Option<u16>,
    /// The headers.
    pub headers: BTreeMap<String, String>,
    /// A body of JSON.
    #[serde(deserialize_with = "present")]
    #[cfg_attr(test, schemars(with = "Value"))]
    pub json: Option<Value>,
    /// A body of text.
    pub text: Option<String>,
    /// There is no response, for this reason.
    pub error: Option<StubError>,
}

/// Why there is no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum StubError {
    /// The service does not answer in time. No time passes.
    Timeout,
    /// No connection to the service is possible.
    Unreachable,
    /// The connection ends before the response is complete.
    Interrupted,
}

/// A timer that is set.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TimerPattern {
    /// The name of the timer.
    pub timer: String,
    /// Its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// When it is due (RFC 3339).
    #[serde(default, deserialize_with = "due", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub due: Option<String>,
}

/// An HTTP request of a plugin.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RequestPattern {
    /// The method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The URL, with its query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Headers that it has, with names in lower case.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Value>,
    /// Its body: a JSON document, or text.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Value"))]
    pub body: Option<Value>,
}

/// What a client was answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Answered {
    /// The arguments of the ack.
    Ack(Vec<Value>),
    /// The rejection.
    Error(Value),
    /// Nothing: the client has not asked for an ack.
    Nothing,
}

/// 2026-01-01T00:00:00Z, as in the SDK's test host.
fn start() -> u64 {
    1_767_225_600_000
}

fn yes() -> bool {
    true
}

/// Reads a value that may be `null`, which is not the same as none.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// Reads a time, or a pattern. Times get the form that actual times have.
fn due<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.starts_with('$') {
        return Ok(Some(text));
    }
    let time: Timestamp = text.parse().map_err(|_| {
        de::Error::custom(format!("{text:?} is no time; write it as \"2026-01-01T00:00:00Z\""))
    })?;
    Ok(Some(format!("{time:.3}")))
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    let time: Option<Timestamp> = text.parse().ok();
    let time = time.and_then(|time| u64::try_from(time.as_millisecond()).ok());
    time.filter(|time| *time > 0).ok_or_else(|| {
        de::Error::custom(format!(
            "{text:?} is no time after 1970; write it as \"2026-01-01T00:00:00Z\""
        ))
    })
}

/// The longest step of the time: some ten years.
const MAX_ADVANCE: SignedDuration = SignedDuration::from_hours(24 * 366 * 10);

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let time: Option<SignedDuration> = text.parse().ok();
    let time = time.filter(|time| *time <= MAX_ADVANCE);
    let time = time.and_then(|time| Duration::try_from(time).ok());
    time.map(Some).ok_or_else(|| {
        de::Error::custom(format!(
            "{text:?} is no time to advance; write it as \"90s\", \"30m\" or \"2h 30m\", at most \
             ten years"
        ))
    })
}

/// Reads a scenario.
///
/// # Errors
/// Returns what is wrong, with the line and its neighbours.
pub(super) fn parse(text: &str) -> Result<Scenario, String> {
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let text = error.to_string();
        text.strip_prefix("error: ").map(str::to_owned).unwrap_or(text)
    })
}

impl Step {
    /// What the step does, for people.
    pub fn title(&self) -> String {
        let action = match self {
            Self { connect: Some(client), .. } => format!("{client} connects"),
            Self { disconnect: Some(client), .. } => format!("{client} disconnects"),
            Self { send: Some(send), .. } => format!("{} sends {}", send.client, send.event),
            Self { advance: Some(time), .. } => {
                let time = SignedDuration::try_from(*time).unwrap_or_default();
                format!("the time advances by {time:#}")
            }
            Self { stubs, .. } if !stubs.is_empty() => "stubs".to_owned(),
            _ => "nothing happens".to_owned(),
        };
        match &self.name {
            Some(name) => format!("{name} ({action})"),
            None => action,
        }
    }

    fn actions(&self) -> usize {
        [
            self.connect.is_some(),
            self.disconnect.is_some(),
            self.send.is_some(),
            self.advance.is_some(),
            !self.stubs.is_empty(),
        ]
        .into_iter()
        .filter(|is_there| *is_there)
        .count()
    }
}

impl Scenario {
    /// Whether a step connects this client before any other step needs it.
    pub fn connects(&self, client: &str) -> bool {
        let is_first = |step: &&Spanned<Step>| {
            let Step { connect, disconnect, send, rooms, ends, .. } = &step.value;
            let sender = send.as_ref().map(|send| &send.client);
            let named = connect.iter().chain(disconnect).chain(sender).chain(ends);
            named.chain(rooms.keys()).any(|name| name == client)
        };
        let first = self.steps.iter().find(is_first);
        first.is_some_and(|step| step.value.connect.as_deref() == Some(client))
    }

    /// Checks what the types can't. The error has the line of the step.
    pub(super) fn check(&self) -> Result<(), (u64, String)> {
        for step in &self.steps {
            let line = step.defined.line();
            self.check_step(&step.value).map_err(|problem| (line, problem))?;
        }
        Ok(())
    }

    fn check_step(&self, step: &Step) -> Result<(), String> {
        if step.actions() > 1 {
            return Err("a step does one thing: keep one of `connect`, `disconnect`, `send`, \
                        `advance` and `stubs`, and write the others as steps of their own"
                .to_owned());
        }
        let answers = usize::from(step.ack.is_some())
            + usize::from(step.ack_args.is_some())
            + usize::from(step.error.is_some());
        match &step.send {
            None if answers > 0 => {
                return Err(
                    "`ack`, `ack_args` and `error` are answers to `send`, which this step \
                            has not"
                        .to_owned(),
                );
            }
            Some(_) if answers > 1 => {
                return Err("a step expects one of `ack`, `ack_args` and `error`".to_owned());
            }
            Some(Send { ack: false, event, .. }) if answers > 0 => {
                return Err(format!(
                    "`{event}` is sent without an ack, so it has none; `receives` an event \
                     `error` if it is rejected"
                ));
            }
            Some(Send { data: Some(_), args: Some(_), .. }) => {
                return Err("an event has `data` or `args`, not both".to_owned());
            }
            _ => {}
        }
        let named = step
            .connect
            .iter()
            .chain(&step.disconnect)
            .chain(step.send.as_ref().map(|send| &send.client))
            .chain(step.receives.keys())
            .chain(step.rooms.keys())
            .chain(&step.ends);
        for name in named {
            if !self.clients.contains_key(name) {
                let nearest = nearest(name, self.clients.keys());
                let hint = nearest.map(|near| format!("; did you mean `{near}`?"));
                let hint = hint.unwrap_or_else(|| "; add it to `clients`".to_owned());
                return Err(format!("there is no client `{name}`{hint}"));
            }
        }
        Ok(())
    }
}

/// The most similar name, if one is similar enough.
fn nearest<'n>(name: &str, names: impl Iterator<Item = &'n String>) -> Option<&'n String> {
    let by_likeness = names.map(|other| (strsim::damerau_levenshtein(name, other), other));
    by_likeness.min().filter(|(edits, _)| *edits <= 2).map(|(_, other)| other)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn problem(text: &str) -> String {
        match parse(text) {
            Err(problem) => problem,
            Ok(scenario) => {
                let (line, problem) = scenario.check().expect_err(text);
                format!("line {line}: {problem}")
            }
        }
    }

    #[test]
    fn json_that_an_author_pastes_is_read_as_it_is() {
        let text = "steps:\n- send: {client: a, event: e, data: {\"a\": [null, true, \"no\", 1.5]}}\n  \
                    ack: null\n";
        let step = parse(text).unwrap().steps.remove(0).value;
        assert_eq!(step.ack, Some(Value::Null));
        assert_eq!(step.send.unwrap().data, Some(json!({"a": [null, true, "no", 1.5]})));
        let whole = parse(r#"{"clients": {"no": {}}, "steps": [{"connect": "no"}]}"#).unwrap();
        assert!(whole.check().is_ok() && whole.connects("no"));
    }

    #[test]
    fn a_mistake_is_told_with_its_line_and_what_to_write() {
        let clients = "clients: {ada: {}}\nsteps:\n";
        for (text, said) in [
            ("steps:\n- sned: {}\n", "line 2 column 3: unknown field `sned`"),
            ("time: yesterday\n", "2026-01-01T00:00:00Z"),
            ("steps:\n- advance: soon\n", "\"90s\""),
            ("steps:\n- advance: 200000h\n", "ten years"),
            ("steps:\n- advance: -1s\n", "no time to advance"),
            ("steps:\n- connect: adda\n", "line 2: there is no client `adda`; add it"),
            (
                &format!("{clients}- connect: adda\n"),
                "line 3: there is no client `adda`; did you mean `ada`",
            ),
            (&format!("{clients}- connect: ada\n  advance: 1s\n"), "line 3: a step does one thing"),
            (&format!("{clients}- connect: ada\n  ack: 1\n"), "answers to `send`"),
            (
                &format!("{clients}- send: {{client: ada, event: e}}\n  ack: 1\n  error: busy\n"),
                "one of `ack`",
            ),
            (
                &format!("{clients}- send: {{client: ada, event: e, ack: false}}\n  ack: 1\n"),
                "without an ack",
            ),
            (
                &format!("{clients}- send: {{client: ada, event: e, data: 1, args: []}}\n"),
                "not both",
            ),
            ("name: a\nname: b\n", "duplicate"),
        ] {
            let problem = problem(text);
            assert!(problem.contains(said), "{text}: {problem}");
        }
    }

    #[test]
    fn aliases_that_grow_without_end_are_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let inner = vec![format!("*a{}", level - 1); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{inner}]\n"));
        }
        let text = format!("plugins:\n  p:\n    {}\n", text.trim_end().replace('\n', "\n    "));
        assert!(parse(&text).is_err());
    }

    #[test]
    fn a_step_says_what_it_does() {
        let text = "steps:\n- advance: 90m\n- send: {client: a, event: e}\n  name: x\n- {}\n";
        let steps = parse(text).unwrap().steps;
        let titles: Vec<_> = steps.iter().map(|step| step.value.title()).collect();
        assert_eq!(titles, ["the time advances by 1h 30m", "x (a sends e)", "nothing happens"]);
    }

    #[test]
    fn the_scenarios_of_the_bundled_plugins_are_valid_by_the_json_schema() {
        let schema = crate::schema::Schema::compile(crate::scenario::SCHEMA, 1 << 20).unwrap();
        let plugins = concat!(env!("CARGO_MANIFEST_DIR"), "/../plugins");
        let mut checked = 0;
        for plugin in std::fs::read_dir(plugins).unwrap().flatten() {
            let Ok(files) = std::fs::read_dir(plugin.path().join("scenarios")) else { continue };
            for file in files.flatten() {
                let text = std::fs::read_to_string(file.path()).unwrap();
                let scenario: Value = serde_saphyr::from_str(&text).unwrap();
                let valid = schema.check(&scenario);
                assert!(valid.is_ok(), "{}: {valid:?}", file.path().display());
                checked += 1;
            }
        }
        assert!(checked >= 7, "{checked}");
        assert!(schema.check(&json!({"steps": [{"sned": 1}]})).is_err());
    }

    /// Joins the lines of descriptions, which comments break where the source is too wide.
    fn unwrap_lines(schema: &mut Value) {
        match schema {
            Value::Object(members) => {
                if let Some(Value::String(text)) = members.get_mut("description") {
                    *text = text.replace('\n', " ");
                }
                members.values_mut().for_each(unwrap_lines);
            }
            Value::Array(elements) => elements.iter_mut().for_each(unwrap_lines),
            _ => {}
        }
    }

    /// `SOCKHOP_WRITE_SCHEMA=1` writes it.
    #[test]
    fn the_published_json_schema_is_that_of_the_format() {
        let mut schema = schemars::schema_for!(Scenario).to_value();
        unwrap_lines(&mut schema);
        schema["title"] = json!("Sockhop scenario");
        let text = format!("{schema:#}\n");
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/scenario.schema.json");
        if std::env::var_os("SOCKHOP_WRITE_SCHEMA").is_some() {
            std::fs::write(file, &text).unwrap();
        }
        assert!(
            std::fs::read_to_string(file).unwrap() == text,
            "run this test with SOCKHOP_WRITE_SCHEMA=1, and commit {file}"
        );
    }
}
