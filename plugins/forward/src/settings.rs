//! The settings: what they contain, and which are wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::object::Object;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use sockhop_sdk::{Access, Refusal, Result, Settings};

/// What the settings say.
pub(crate) struct Config {
    pub(crate) backend: Backend,
    pub(crate) events: BTreeMap<String, Schemas>,
    pub(crate) emits: BTreeMap<String, Emitted>,
    pub(crate) rooms: BTreeMap<String, Rule>,
}

/// How a request is sent.
pub(crate) struct Backend {
    pub(crate) url: String,
    pub(crate) timeout: Option<Duration>,
    pub(crate) authorization: Option<String>,
}

/// The schemas of an event that clients send.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Schemas {
    pub(crate) data: Option<Box<RawValue>>,
    pub(crate) reply: Option<Box<RawValue>>,
}

/// An event that the backend may emit.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Emitted {
    pub(crate) rooms: Vec<String>,
    pub(crate) data: Option<Box<RawValue>>,
}

/// Who can join a room.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Rule {
    Anyone,
    Authenticated,
    Owner,
    Handler,
}

impl From<Rule> for Access {
    fn from(rule: Rule) -> Self {
        match rule {
            Rule::Anyone => Self::Anyone,
            Rule::Authenticated => Self::Authenticated,
            Rule::Owner => Self::Owner,
            Rule::Handler => Self::Handler,
        }
    }
}

/// Returns a schema as text. Without one, anything is allowed.
pub(crate) fn schema(schema: Option<Box<RawValue>>) -> String {
    schema.map_or_else(|| "true".to_owned(), |schema| schema.get().to_owned())
}

/// The names of all settings.
const NAMES: [&str; 6] = ["url", "events", "emits", "rooms", "timeout_ms", "token"];

/// Range of `timeout_ms`.
const TIMEOUT_MS: std::ops::RangeInclusive<u64> = 1..=60_000;

impl Config {
    /// Reads the settings.
    ///
    /// # Errors
    /// Names the setting that is missing, wrong or unknown.
    pub(crate) fn read(settings: &Settings<'_>) -> Result<Self> {
        let names = settings.names();
        if let Some(unknown) = names.iter().find(|name| !NAMES.contains(&name.as_str())) {
            let known = NAMES.join("`, `");
            return Err(wrong(format!("there is no setting `{unknown}`, only `{known}`")));
        }
        let url = required(settings, "url")?;
        check_url(&url)?;
        let events: BTreeMap<String, Schemas> = object("events", &required(settings, "events")?)?;
        for (event, schemas) in events.iter().filter(|(event, _)| event.starts_with('$')) {
            if !["$connect", "$disconnect"].contains(&event.as_str()) {
                return Err(wrong(format!(
                    "the setting `events` names `{event}`; of the host's events, only `$connect` \
                     and `$disconnect` can be forwarded"
                )));
            }
            if schemas.data.is_some() || schemas.reply.is_some() {
                return Err(wrong(format!(
                    "the setting `events` has a schema for `{event}`, which has no data and no \
                     reply"
                )));
            }
        }
        let optional = |name: &str| settings.get(name).unwrap_or_else(|| "{}".to_owned());
        let emits = object("emits", &optional("emits"))?;
        let rooms =
            serde_json::from_str(&optional("rooms")).map_err(|error| no_object("rooms", &error))?;
        let timeout = settings.get("timeout_ms").map(|text| timeout(&text)).transpose()?;
        let authorization = settings.get("token").map(|token| authorization(&token)).transpose()?;
        Ok(Self { backend: Backend { url, timeout, authorization }, events, emits, rooms })
    }
}

fn wrong(message: impl Into<String>) -> Refusal {
    Refusal::new("wrong_settings", message)
}

fn required(settings: &Settings<'_>, name: &str) -> Result<String> {
    settings.get(name).ok_or_else(|| {
        wrong(format!("the setting `{name}` is missing: set it in `[plugins.forward.config]`"))
    })
}

fn object<T: DeserializeOwned>(name: &str, text: &str) -> Result<BTreeMap<String, T>> {
    serde_json::from_str(text)
        .map(|map: BTreeMap<_, Object<T>>| map.into_iter().map(|(key, value)| (key, value.0)))
        .map(Iterator::collect)
        .map_err(|error| no_object(name, &error))
}

fn no_object(name: &str, error: &serde_json::Error) -> Refusal {
    wrong(format!("the setting `{name}` is no such JSON object: {error}"))
}

/// Refuses what the host would refuse later, in each event.
fn check_url(url: &str) -> Result {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let is_wrong = |rest: &str| {
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        authority.is_empty()
            || authority.contains('@')
            || rest.contains('#')
            || rest.contains(|c: char| c.is_whitespace() || c.is_control())
    };
    if rest.is_none_or(is_wrong) {
        return Err(wrong(
            "the setting `url` must be a URL such as `https://backend.example.com/events`, without \
             user, password and fragment",
        ));
    }
    Ok(())
}

fn timeout(text: &str) -> Result<Duration> {
    let ms = text.parse().ok().filter(|ms| TIMEOUT_MS.contains(ms));
    let (min, max) = (TIMEOUT_MS.start(), TIMEOUT_MS.end());
    ms.map(Duration::from_millis).ok_or_else(|| {
        wrong(format!("the setting `timeout_ms` must be a number from {min} to {max}"))
    })
}

/// The message does not contain the token.
fn authorization(token: &str) -> Result<String> {
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong("the setting `token` must be printable ASCII without spaces"));
    }
    Ok(format!("Bearer {token}"))
}
