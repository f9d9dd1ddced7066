//! The forms of a request that emits: JSON of one event or of several, and CloudEvents 1.0 in the
//! structured, the batched and the binary form.

use axum::http::{HeaderMap, StatusCode, header};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::effect::Target;

use super::super::problem::Problem;

/// The only version of CloudEvents.
const VERSION: &str = "1.0";

/// One event to emit.
pub(super) struct EmitRequest {
    pub(super) event: String,
    pub(super) data: Box<RawValue>,
    /// The target, `None` if the declaration decides, or what is wrong with it.
    pub(super) to: Result<Option<Target>, String>,
}

/// The events of one request.
pub(super) struct EmitRequests {
    pub(super) emits: Vec<EmitRequest>,
    /// Whether the answer is a list.
    pub(super) is_batch: bool,
    /// The idempotency key of a CloudEvent: its source and its id.
    pub(super) key: Option<String>,
}

/// What is wrong with a body.
pub(super) struct Wrong {
    pub(super) status: StatusCode,
    pub(super) message: String,
}

impl Wrong {
    fn bad_request(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.into() }
    }

    /// The fault of a text that should have this form.
    fn of(error: &serde_json::Error, form: &str) -> Self {
        let status = if error.is_data() {
            StatusCode::UNPROCESSABLE_ENTITY
        } else {
            StatusCode::BAD_REQUEST
        };
        Self { status, message: format!("the body must be {form}: {error}") }
    }
}

/// The form of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// An object, or an array of objects.
    Json,
    /// One CloudEvent, as JSON.
    Structured,
    /// An array of CloudEvents, as JSON.
    Batch,
    /// One CloudEvent: the data is the body, and the rest is in headers.
    Binary,
}

impl Form {
    /// Returns the form that the headers tell. A request without a media type counts as JSON.
    ///
    /// # Errors
    /// 415: the media type is another one.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let kind = headers.get(header::CONTENT_TYPE).map(|kind| kind.to_str().unwrap_or("?"));
        let kind = kind.and_then(|kind| kind.split(';').next()).map(str::trim);
        let is_binary = headers.contains_key("ce-specversion");
        match kind.map(str::to_ascii_lowercase).as_deref() {
            None | Some("application/json") if is_binary => Ok(Self::Binary),
            None | Some("application/json") => Ok(Self::Json),
            Some("application/cloudevents+json") => Ok(Self::Structured),
            Some("application/cloudevents-batch+json") => Ok(Self::Batch),
            Some(_) => Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "send `application/json`, `application/cloudevents+json` or \
                 `application/cloudevents-batch+json`",
            )),
        }
    }

    /// Whether the form has always one event.
    pub(super) fn is_single(self) -> bool {
        matches!(self, Self::Structured | Self::Binary)
    }

    /// Reads the events of a body.
    pub(super) fn requests(self, headers: &HeaderMap, body: &[u8]) -> Result<EmitRequests, Wrong> {
        let is_array = body.trim_ascii_start().starts_with(b"[");
        match self {
            Self::Json if is_array => {
                let bodies: Vec<EmitBody> = serde_json::from_slice(body)
                    .map_err(|error| Wrong::of(&error, &format!("an array of {ONE_EVENT}")))?;
                let emits = bodies.into_iter().map(EmitRequest::from).collect();
                Ok(EmitRequests { emits, is_batch: true, key: None })
            }
            Self::Json => {
                let body: EmitBody =
                    serde_json::from_slice(body).map_err(|error| Wrong::of(&error, ONE_EVENT))?;
                Ok(EmitRequests { emits: vec![body.into()], is_batch: false, key: None })
            }
            Self::Structured => {
                let event: CloudEvent = serde_json::from_slice(body)
                    .map_err(|error| Wrong::of(&error, "a CloudEvent"))?;
                event.request()
            }
            Self::Batch => {
                let events: Vec<CloudEvent> = serde_json::from_slice(body)
                    .map_err(|error| Wrong::of(&error, "an array of CloudEvents"))?;
                let mut emits = Vec::new();
                for event in events {
                    emits.extend(event.request()?.emits);
                }
                Ok(EmitRequests { emits, is_batch: true, key: None })
            }
            Self::Binary => CloudEvent::of_headers(headers, body)?.request(),
        }
    }
}

const ONE_EVENT: &str = "a JSON object {event, data, room | rooms | everyone: true}";

/// An event in JSON. It has at most one of `room`, `rooms` and `everyone`. If it has none, the
/// declaration of the event selects the receivers.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
struct EmitBody {
    event: String,
    #[serde(default = "null")]
    data: Box<RawValue>,
    room: Option<String>,
    rooms: Option<Vec<String>>,
    #[serde(default)]
    everyone: bool,
}

fn null() -> Box<RawValue> {
    RawValue::NULL.to_owned()
}

impl From<EmitBody> for EmitRequest {
    fn from(EmitBody { event, data, room, rooms, everyone }: EmitBody) -> Self {
        let to =
            match (room, rooms, everyone) {
                (None, None, false) => Ok(None),
                (Some(room), None, false) => Ok(Some(Target::Rooms(vec![room]))),
                (None, Some(rooms), false) if !rooms.is_empty() => Ok(Some(Target::Rooms(rooms))),
                (None, None, true) => Ok(Some(Target::Everyone)),
                _ => Err("give one of `room`, `rooms` (not empty) and `everyone: true`, or none"
                    .to_owned()),
            };
        Self { event, data, to }
    }
}

/// A CloudEvent. Its type is the event type, and the extension `room` names the receivers. Other
/// attributes are ignored.
#[derive(Deserialize)]
#[serde(expecting = "a CloudEvent")]
struct CloudEvent {
    specversion: String,
    #[serde(rename = "type")]
    kind: String,
    source: String,
    id: String,
    datacontenttype: Option<String>,
    room: Option<String>,
    data: Option<Box<RawValue>>,
    /// Bytes are refused: an emitted event has JSON data.
    data_base64: Option<String>,
}

impl CloudEvent {
    /// Reads the binary form. The values of its headers are percent-encoded.
    fn of_headers(headers: &HeaderMap, body: &[u8]) -> Result<Self, Wrong> {
        let attribute = |name: &str| {
            let value = headers.get(format!("ce-{name}"))?.to_str().ok()?;
            percent_decode_str(value).decode_utf8().ok().map(String::from)
        };
        let required = |name: &str| {
            let missing = || Wrong::bad_request(format!("the header `ce-{name}` is missing"));
            attribute(name).ok_or_else(missing)
        };
        let data = if body.is_empty() {
            None
        } else {
            let data: Box<RawValue> = serde_json::from_slice(body)
                .map_err(|error| Wrong::of(&error, "the JSON data of a CloudEvent"))?;
            Some(data)
        };
        Ok(Self {
            specversion: required("specversion")?,
            kind: required("type")?,
            source: required("source")?,
            id: required("id")?,
            datacontenttype: None,
            room: attribute("room"),
            data,
            data_base64: None,
        })
    }

    fn request(self) -> Result<EmitRequests, Wrong> {
        if self.specversion != VERSION {
            let version = self.specversion.chars().take(16).collect::<String>();
            return Err(Wrong::bad_request(format!(
                "`specversion` must be {VERSION}, not `{}`",
                version.escape_debug()
            )));
        }
        let is_json = self.datacontenttype.as_deref().is_none_or(|kind| {
            let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
            kind == "application/json" || kind.ends_with("+json")
        });
        if self.data_base64.is_some() || !is_json {
            return Err(Wrong {
                status: StatusCode::UNPROCESSABLE_ENTITY,
                message: "the data of a CloudEvent must be JSON, in `data`".to_owned(),
            });
        }
        if self.source.is_empty() || self.id.is_empty() || self.kind.is_empty() {
            return Err(Wrong::bad_request("`type`, `source` and `id` must not be empty"));
        }
        if self.source.contains(char::is_control) || self.id.contains(char::is_control) {
            return Err(Wrong::bad_request("`source` and `id` must not have control characters"));
        }
        // Neither attribute has a new line.
        let key = format!("{}\n{}", self.source, self.id);
        let emit = EmitRequest {
            event: self.kind,
            data: self.data.unwrap_or_else(null),
            to: Ok(self.room.map(|room| Target::Rooms(vec![room]))),
        };
        Ok(EmitRequests { emits: vec![emit], is_batch: false, key: Some(key) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn read(pairs: &[(&'static str, &'static str)], body: &str) -> Result<EmitRequests, u16> {
        let headers = headers(pairs);
        let form = Form::of(&headers).map_err(|_| 415_u16)?;
        form.requests(&headers, body.as_bytes()).map_err(|wrong| wrong.status.as_u16())
    }

    const STRUCTURED: (&str, &str) =
        ("content-type", "application/cloudevents+json; charset=utf-8");

    #[test]
    fn the_forms_of_one_event_are_read_alike() {
        let structured = r#"{"specversion": "1.0", "type": "said", "source": "/shop", "id": "7",
                             "room": "hall", "time": "2026-01-01T00:00:00Z", "data": {"a": 1.0}}"#;
        let binary = [
            ("ce-specversion", "1.0"),
            ("ce-type", "said"),
            ("ce-source", "/shop"),
            ("ce-id", "7"),
            ("ce-room", "h%61ll"),
            ("content-type", "application/json"),
        ];
        let json = r#"{"event": "said", "data": {"a": 1.0}, "room": "hall"}"#;
        for (headers, body, key) in [
            (&[STRUCTURED][..], structured, Some("/shop\n7")),
            (&binary, r#"{"a": 1.0}"#, Some("/shop\n7")),
            (&[("content-type", "application/json")], json, None),
            (&[], json, None),
        ] {
            let read = read(headers, body).unwrap_or_else(|status| panic!("{status}: {body}"));
            let [emit] = read.emits.as_slice() else { panic!("one event") };
            assert_eq!((emit.event.as_str(), emit.data.get()), ("said", r#"{"a": 1.0}"#));
            assert_eq!(emit.to, Ok(Some(Target::Rooms(vec!["hall".to_owned()]))));
            assert_eq!((read.key.as_deref(), read.is_batch), (key, false));
        }
    }

    #[test]
    fn a_batch_has_several_events() {
        let json = r#" [{"event": "a"}, {"event": "b", "everyone": true}]"#;
        let batch = r#"[{"specversion": "1.0", "type": "a", "source": "s", "id": "1"},
                        {"specversion": "1.0", "type": "b", "source": "s", "id": "2"}]"#;
        let of_batch = ("content-type", "application/cloudevents-batch+json");
        for (headers, body) in [(&[][..], json), (&[of_batch], batch)] {
            let read = read(headers, body).unwrap_or_else(|status| panic!("{status}"));
            let events: Vec<_> = read.emits.iter().map(|emit| emit.event.as_str()).collect();
            assert_eq!((events, read.is_batch), (vec!["a", "b"], true));
        }
    }

    #[test]
    fn what_is_wrong_with_a_body_decides_the_status() {
        let event = |members: &str| {
            format!(r#"{{"specversion":"1.0","type":"a","source":"s","id":"1"{members}}}"#)
        };
        for (headers, body, status) in [
            (&[("content-type", "text/plain")][..], "{}".to_owned(), 415),
            (&[], "{".to_owned(), 400),
            (&[], "{}".to_owned(), 422),
            (&[STRUCTURED], "{}".to_owned(), 422),
            (&[STRUCTURED], event("").replace("1.0", "0.3"), 400),
            (&[STRUCTURED], event(r#","data_base64":"AA==""#), 422),
            (&[STRUCTURED], event(r#","datacontenttype":"text/xml","data":"x""#), 422),
            (&[STRUCTURED], event("").replace("\"s\"", "\"\""), 400),
            (&[("ce-specversion", "1.0"), ("ce-type", "a")], "1".to_owned(), 400),
        ] {
            assert_eq!(read(headers, &body).err(), Some(status), "{body}");
        }
    }
}
