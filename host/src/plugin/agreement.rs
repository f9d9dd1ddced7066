//! Proves that the host and the SDK's test host load the same plugins, and refuse the others for
//! the same reason. The host is called as a component would call it: through the functions of the
//! WIT interface. Also proves that both refuse the same deliveries.

use std::cell::RefCell;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::select;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use sockhop_core::declarations::{Declarations, Registration};
use sockhop_core::delivery::Delivery;
use sockhop_core::events::Events;
use sockhop_core::outbound::Request;
use sockhop_sdk::testing::TestHost;
use sockhop_sdk::{
    Access, Ack, Args, Context, Cron, Emits, Message, Output, Plugin, Registry, Result, Route,
    Timer,
};

use crate::config::{Limits, ListedOrigin, PluginSettings, WebhookSecret};
use crate::error_chain::ErrorChain;
use crate::outbound::Allowance;

use super::bindings::sockhop::plugin::registry::{self, Host};
use super::bindings::sockhop::plugin::types;
use super::output::Output as PluginOutput;
use super::state::{self, InstanceState, Phase};

/// An instance that runs `register`.
struct Registering(RefCell<InstanceState>);

impl Registering {
    fn new(limits: &Limits) -> Self {
        let output = Arc::new(PluginOutput::new("test", None, limits));
        let mut state = InstanceState::new(limits, &Arc::default(), &output, &Arc::default(), None);
        let declarations = Declarations::new(limits.declarations.get(), limits.schema_bytes.get());
        let settings = Arc::default();
        let registering = state::Registering { declarations, settings, has_read_settings: false };
        state.phase = Phase::Registering(Box::new(registering));
        Self(RefCell::new(state))
    }

    fn finish(self) -> std::result::Result<Registration, String> {
        match self.0.into_inner().phase {
            Phase::Registering(registering) => {
                registering.declarations.finish().map_err(|refusal| refusal.message)
            }
            Phase::Idle | Phase::Handling(_) => Err("the instance does not register".to_owned()),
        }
    }
}

fn of_host(refusal: types::Refusal) -> sockhop_sdk::Refusal {
    sockhop_sdk::Refusal::new(refusal.code, refusal.message)
}

impl Registry for Registering {
    fn plugin(&self, name: &str, version: &str, description: &str) -> Result {
        let (name, version, description) = (name.into(), version.into(), description.into());
        self.0.borrow_mut().plugin(name, version, description).map_err(of_host)
    }

    fn handles(&self, event: &str, data: &str, reply: Option<&str>) -> Result {
        let (event, data, reply) = (event.into(), data.into(), reply.map(Into::into));
        self.0.borrow_mut().handles(event, data, reply).map_err(of_host)
    }

    fn requires(&self, event: &str, access: &str) -> Result {
        self.0.borrow_mut().requires(event.into(), access.into()).map_err(of_host)
    }

    fn emits(&self, event: &str, data: &str, rooms: &[String]) -> Result {
        let (event, data, rooms) = (event.into(), data.into(), rooms.to_vec());
        self.0.borrow_mut().emits(event, data, rooms).map_err(of_host)
    }

    fn room(&self, pattern: &str, access: &str) -> Result {
        self.0.borrow_mut().room(pattern.into(), access.into()).map_err(of_host)
    }

    fn listens(&self, event: &str) -> Result {
        self.0.borrow_mut().listens(event.into()).map_err(of_host)
    }

    fn route(&self, method: &str, path: &str, event: &str) -> Result {
        let (method, path, event) = (method.into(), path.into(), event.into());
        self.0.borrow_mut().route(method, path, event).map_err(of_host)
    }

    fn handshake(&self) -> Result {
        self.0.borrow_mut().handshake().map_err(of_host)
    }

    fn arguments(&self, of: Message, event: &str) -> Result {
        let of = match of {
            Message::Event => registry::Message::Event,
            Message::Reply => registry::Message::Reply,
            Message::Emit => registry::Message::Emit,
        };
        self.0.borrow_mut().arguments(of, event.into()).map_err(of_host)
    }

    fn ack(&self, ack: &str, data: &str, is_list: bool) -> Result {
        self.0.borrow_mut().ack(ack.into(), data.into(), is_list).map_err(of_host)
    }

    fn timer(&self, timer: &str, data: &str) -> Result {
        self.0.borrow_mut().timer(timer.into(), data.into()).map_err(of_host)
    }

    fn every(&self, timer: &str, cron: &str, time_zone: &str) -> Result {
        let (timer, cron, time_zone) = (timer.into(), cron.into(), time_zone.into());
        self.0.borrow_mut().every(timer, cron, time_zone).map_err(of_host)
    }
}

/// Loads a plugin in the host. Returns why it is refused.
fn load(plugin: &Plugin) -> std::result::Result<(), String> {
    let limits = Limits::default();
    let registering = Registering::new(&limits);
    // As in `Instance::register`.
    let returned = plugin.register(&registering).map_err(|refusal| refusal.message);
    let registration = returned.and_then(|()| registering.finish())?;
    Events::compile(&registration, limits.schema_bytes.get())
        .map(drop)
        .map_err(|error| ErrorChain(&error).to_string())
}

/// Loads a plugin in the SDK's test host. Returns why it is refused.
fn load_in_test(plugin: Plugin) -> std::result::Result<(), String> {
    TestHost::try_new(plugin).map(drop).map_err(|error| error.to_string())
}

/// A declaration of a random plugin.
#[derive(Debug, Clone)]
enum Declaration {
    On(String, Form),
    Requires(Access),
    Listens(u8),
    Emits(String, Vec<String>, Form),
    Room(String, Access),
    Route(u8, String, String),
    Arguments(Message, String),
    Handshake,
    OnAck(String, bool),
    OnTimer(String),
    Every(String, String, String),
}

/// The type of a reply or of emitted data.
#[derive(Debug, Clone, Copy)]
enum Form {
    Any,
    Record,
    /// No reply may have a property `error`.
    WithError,
    /// The host supports no look-around in patterns.
    WithLookAround,
}

#[derive(Serialize, JsonSchema)]
struct Record {
    #[schemars(length(max = 9))]
    text: String,
}

#[derive(Serialize, JsonSchema)]
struct WithError {
    error: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct WithLookAround {
    #[schemars(regex(pattern = "(?=a)"))]
    text: String,
}

fn handler<T>(_: &Context, _: Value) -> Result<T> {
    Err(sockhop_sdk::Refusal::not_found("nothing"))
}

/// The SDK takes constants. A test may leak a few names.
fn constant(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}

fn emits<T: Output>(plugin: Plugin, event: &str, rooms: &[String]) -> Plugin {
    let rooms: Vec<&str> = rooms.iter().map(|room| constant(room)).collect();
    plugin.emits(Emits::<T>::new(constant(event)).to(Box::leak(rooms.into_boxed_slice())))
}

/// A random plugin.
#[derive(Debug, Clone)]
struct Description {
    name: String,
    version: String,
    declarations: Vec<Declaration>,
}

impl Description {
    fn plugin(&self) -> Plugin {
        let plugin = Plugin::new(self.name.clone(), self.version.clone(), "");
        self.declarations.iter().fold(plugin, |plugin, declaration| match declaration {
            Declaration::On(event, form) => {
                let event = event.clone();
                match form {
                    Form::Any => plugin.on(event, handler::<()>),
                    Form::Record => plugin.on(event, handler::<Record>),
                    Form::WithError => plugin.on(event, handler::<WithError>),
                    Form::WithLookAround => plugin.on(event, handler::<WithLookAround>),
                }
            }
            Declaration::Requires(access) => plugin.requires(*access),
            Declaration::Listens(0) => plugin.on_start(|_| Ok(())),
            Declaration::Listens(_) => plugin.on_connect(|_| Ok(())),
            Declaration::Emits(event, rooms, form) => match form {
                Form::Any => emits::<Value>(plugin, event, rooms),
                Form::Record => emits::<Record>(plugin, event, rooms),
                Form::WithError => emits::<WithError>(plugin, event, rooms),
                Form::WithLookAround => emits::<WithLookAround>(plugin, event, rooms),
            },
            Declaration::Room(pattern, access) => plugin.room(pattern.clone(), *access),
            Declaration::Route(method, path, event) => {
                let path = constant(path);
                let route = [Route::Get, Route::Post, Route::Put, Route::Patch, Route::Delete];
                plugin.route(route[usize::from(*method) % route.len()](path), event.clone())
            }
            Declaration::Handshake => plugin.handshake(),
            Declaration::Arguments(of, event) => plugin.arguments(*of, event.clone()),
            Declaration::OnAck(ack, false) => {
                plugin.on_ack(Ack::<Value>::new(constant(ack)), |_, (), _| Ok(()))
            }
            Declaration::OnAck(ack, true) => {
                plugin.on_ack(Ack::<Args<Vec<u8>>>::new(constant(ack)), |_, (), _| Ok(()))
            }
            Declaration::OnTimer(timer) => {
                plugin.on_timer(Timer::<Value>::new(constant(timer)), |_, _| Ok(()))
            }
            Declaration::Every(timer, cron, zone) => {
                plugin
                    .every(timer.clone(), Cron::in_zone(constant(cron), constant(zone)), |_| Ok(()))
            }
        })
    }
}

/// Mostly one of the `usual` texts, which are often valid and repeated; rarely any text.
fn text(usual: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop_oneof![20 => select(usual).prop_map(str::to_owned), 1 => "\\PC{0,70}", 1 => any::<String>()]
}

fn form() -> impl Strategy<Value = Form> {
    prop_oneof![
        8 => Just(Form::Any),
        8 => Just(Form::Record),
        1 => Just(Form::WithError),
        1 => Just(Form::WithLookAround),
    ]
}

fn access() -> impl Strategy<Value = Access> {
    prop_oneof![
        4 => Just(Access::Anyone),
        2 => Just(Access::Authenticated),
        2 => Just(Access::Owner),
        2 => Just(Access::Handler),
        2 => Just(Access::Role("admin")),
        1 => Just(Access::Role("")),
    ]
}

fn declaration() -> impl Strategy<Value = Declaration> {
    let event = || text(&["say", "enter", "leave", "list", "a b", "$start", "connect", "", "a\"b"]);
    let room =
        || text(&["lobby", "hall", "user_{user}", "team_{t}", "user_7", "a{", "{}", "{a}{b}"]);
    let path =
        || text(&["/notes", "/notes/{id}", "/notes/{text}", "/api/x", "/", "/notes/", "/{x}"]);
    let rooms = prop::collection::vec(prop_oneof![6 => room(), 1 => Just("*".to_owned())], 0..3);
    let cron = || text(&["0 9 * * *", "*/5 * * * MON", "0 25 * * *", "0 0 30 2 *", "* * * * * *"]);
    let zone = || text(&["UTC", "Europe/Berlin", "Europe/Atlantis", ""]);
    prop_oneof![
        event().prop_map(Declaration::OnTimer),
        (event(), any::<bool>()).prop_map(|(ack, is_list)| Declaration::OnAck(ack, is_list)),
        (event(), cron(), zone())
            .prop_map(|(timer, cron, zone)| Declaration::Every(timer, cron, zone)),
        (event(), form()).prop_map(|(event, form)| Declaration::On(event, form)),
        access().prop_map(Declaration::Requires),
        Just(Declaration::Handshake),
        (0..2_u8).prop_map(Declaration::Listens),
        (event(), rooms, form())
            .prop_map(|(event, rooms, form)| Declaration::Emits(event, rooms, form)),
        (room(), access()).prop_map(|(room, access)| Declaration::Room(room, access)),
        (select(&[Message::Event, Message::Reply, Message::Emit][..]), event())
            .prop_map(|(of, event)| Declaration::Arguments(of, event)),
        (0..5_u8, path(), event())
            .prop_map(|(method, path, event)| Declaration::Route(method, path, event)),
    ]
}

fn description() -> impl Strategy<Value = Description> {
    let names = text(&["chat", "a", "memory_logs", "c2", "dir", "Chat", "", "a-b"]);
    let versions = text(&["1.0.0", "0.1.0-rc.1", "1.2.3+build", "2.0.0", "1", "v1.0.0"]);
    (names, versions, prop::collection::vec(declaration(), 0..6))
        .prop_map(|(name, version, declarations)| Description { name, version, declarations })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_host_and_the_test_host_load_and_refuse_the_same_plugins(described in description()) {
        prop_assert_eq!(load(&described.plugin()), load_in_test(described.plugin()));
    }
}

/// A delivery of a random handler: its key, its method, its URL, a header, and bytes of its body.
type Described = (String, String, String, (String, String), usize);

fn delivery() -> impl Strategy<Value = Described> {
    let key = text(&["k", "order 7", "", "ü"]);
    let method = text(&["POST", "PUT", "CONNECT", "", "a b"]);
    // Only the host parses a URL, and only the host knows origins: the rest of each is simple.
    let url = prop_oneof![
        8 => select(&["https://a.test/hook", "HTTPS://a.test", "https://a.test:443/?x#y"][..]),
        4 => select(&["a.test", "ftp://a.test", "https://u@a.test", "https:///x", ""][..]),
    ];
    let name = text(&["content-type", "x-y", "host", "Webhook-Id", "proxy-x", "a b", ""]);
    let value = prop_oneof![8 => Just("x".to_owned()), 1 => Just("a\nb".to_owned())];
    let size = prop_oneof![8 => 0..100_usize, 1 => Just(300 << 10)];
    (key, method, url.prop_map(str::to_owned), (name, value), size)
}

/// Why the host refuses a delivery of a plugin that may deliver to its origin.
fn refused(described: &Described) -> std::result::Result<(), (String, String)> {
    let (key, method, url, (name, value), size) = described.clone();
    let headers = vec![(name, value.into_bytes())];
    let request = Request { method, url, headers, body: vec![0; size], timeout: None };
    let secret = WebhookSecret::parse("whsec_MDEyMzQ1Njc4OWFiY2RlZmdoaWprbG1u").unwrap();
    let origin = ListedOrigin::parse("https://a.test", false).unwrap();
    let outbound = vec![origin.with_webhook_secrets(vec![secret])];
    let settings = PluginSettings { outbound, ..PluginSettings::default() };
    let max_key = settings.limits.state_key_bytes.get();
    let delivery = Delivery { key, request, result: None };
    let checked = Allowance::new("a", &settings, 2).check_delivery(&delivery, max_key);
    checked.map(drop).map_err(|(refusal, _)| (refusal.code, refusal.message))
}

/// Why the test host refuses it.
fn refused_in_test(described: &Described) -> std::result::Result<(), (String, String)> {
    let deliver = |ctx: &Context, (key, method, url, (name, value), size): Described| {
        let request = sockhop_sdk::http::Request::new(&method, url).header(&name, value);
        let request = request.with_body(vec![0; size]);
        ctx.deliver(sockhop_sdk::Delivery::new(key, request)).map(drop)
    };
    let plugin = Plugin::new("courier", "1.0.0", "").on("deliver", deliver);
    let outcome = TestHost::new(plugin).handle("deliver", serde_json::to_value(described).unwrap());
    outcome.reply.map(drop).map_err(|refusal| (refusal.code, refusal.message))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_host_and_the_test_host_refuse_the_same_deliveries_for_the_same_reason(
        described in delivery()
    ) {
        prop_assert_eq!(refused(&described), refused_in_test(&described));
    }
}

#[test]
fn both_hosts_load_a_room_that_is_declared_twice_and_refuse_what_makes_no_sense() {
    let described = |declarations: &[Declaration]| Description {
        name: "chat".to_owned(),
        version: "1.0.0".to_owned(),
        declarations: declarations.to_vec(),
    };
    let room = |pattern: &str, access| Declaration::Room(pattern.to_owned(), access);
    let route = |path: &str, event: &str| Declaration::Route(1, path.to_owned(), event.to_owned());
    let on = |event: &str, form| Declaration::On(event.to_owned(), form);
    let timer = |timer: &str| Declaration::OnTimer(timer.to_owned());
    let ack = |ack: &str| Declaration::OnAck(ack.to_owned(), false);
    let every = |timer: &str, cron: &str| {
        Declaration::Every(timer.to_owned(), cron.to_owned(), "UTC".to_owned())
    };
    for (declarations, at_fault) in [
        (vec![room("lobby", Access::Anyone), room("lobby", Access::Anyone)], None),
        (vec![on("say", Form::Record), Declaration::Requires(Access::Role("admin"))], None),
        (vec![on("say", Form::Any), route("/say", "say")], None),
        (vec![on("say", Form::Any), route("/say", "other")], Some("other")),
        (vec![on("say", Form::Any), route("/api", "say")], Some("/api")),
        (vec![room("lobby", Access::Anyone), room("lobby", Access::Role("x"))], Some("lobby")),
        (vec![room("a{b", Access::Anyone)], Some("a{b")),
        (vec![on("$start", Form::Any)], Some("$start")),
        (vec![timer("late"), every("daily", "0 9 * * *")], None),
        (vec![ack("yes"), timer("yes"), on("yes", Form::Any)], None),
        (vec![ack("yes"), ack("yes")], Some("yes")),
        (vec![timer("late"), every("late", "0 9 * * *")], Some("late")),
        (vec![every("daily", "0 0 30 2 *")], Some("0 0 30 2 *")),
        (vec![on("say", Form::WithError)], Some("`error`")),
        (vec![on("say", Form::WithLookAround)], Some("look-around")),
    ] {
        let described = described(&declarations);
        let (host, test) = (load(&described.plugin()), load_in_test(described.plugin()));
        assert_eq!(host, test, "{declarations:?}");
        let reason = host.err();
        assert_eq!(reason.is_some(), at_fault.is_some(), "{declarations:?}: {reason:?}");
        assert!(at_fault.is_none_or(|part| reason.is_some_and(|reason| reason.contains(part))));
    }
}
