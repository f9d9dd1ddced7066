//! What one event costs, part by part, with nothing around it: `cargo xtask micro` runs this. What
//! a whole server costs beside its peers is `cargo xtask bench`; see the page in this directory.
//!
//! `nothing` is a plugin of a few instructions, written by hand: what its event costs is the host's
//! own part and one way into a guest and back. Bare wasmtime, with the same engine settings and
//! host calls that do nothing, is the control.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark fails by panicking"
)]

#[path = "event/callers.rs"]
mod callers;

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use socketioxide_core::packet::Packet;
use socketioxide_core::parser::Parse;
use socketioxide_parser_common::CommonParser;
use sockhop::config::InstancePolicy;
use sockhop::schema::Schema;
use sockhop::store::{Store, StoreLimits};
use sockhop_tests::{TestDispatcher, bundled_plugin, do_nothing, drop_in};
use tokio::runtime::{Builder, Runtime};
use wasmtime::component::{Component, HasSelf, Linker, ResourceTable};
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store as WasmStore,
    UpdateDeadline,
};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_config::{WasiConfig, WasiConfigVariables};

/// What a client sends with `ping`.
const PING: &str = r#"{"timestamp":1767225600123}"#;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn dispatch(criterion: &mut Criterion) {
    let (runtime, files) = (runtime(), tempfile::tempdir().expect("a directory"));
    let nothing = drop_in(files.path(), "nothing.wasm", &do_nothing());
    let mut group = criterion.benchmark_group("dispatch");
    for (policy, name) in [(InstancePolicy::Warm, "warm"), (InstancePolicy::Fresh, "fresh")] {
        let plugins = [bundled_plugin("connection"), nothing.clone()];
        let dispatcher = runtime.block_on(TestDispatcher::new(&plugins, policy));
        group.bench_function(format!("nothing, {name}"), |bencher| {
            bencher.iter(|| runtime.block_on(dispatcher.ask("nothing", "null")).expect("a reply"));
        });
        group.bench_function(format!("ping, {name}"), |bencher| {
            bencher.iter(|| runtime.block_on(dispatcher.ask("ping", PING)).expect("a reply"));
        });
    }
    group.bench_function("nobody's event", |bencher| {
        let dispatcher = runtime.block_on(TestDispatcher::new(&[], InstancePolicy::Warm));
        bencher.iter(|| runtime.block_on(dispatcher.ask("nobody", PING)).expect_err("a rejection"));
    });
    group.finish();
}

mod bare {
    #![allow(
        unreachable_pub,
        unused_qualifications,
        clippy::all,
        clippy::pedantic,
        clippy::restriction,
        reason = "generated code"
    )]
    wasmtime::component::bindgen!({
        path: "../wit/v0.1",
        world: "plugin",
        exports: { default: async },
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

use bare::sockhop::plugin::{
    connections, deliver, http, log, members, registry, rooms, state, timers, types,
};

/// A host whose calls do nothing.
struct Bare {
    settings: WasiConfigVariables,
    wasi: WasiCtx,
    resources: ResourceTable,
}

impl WasiView for Bare {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.resources }
    }
}

type Answer<T> = Result<T, types::Refusal>;

impl types::Host for Bare {}

impl registry::Host for Bare {
    fn plugin(&mut self, _: String, _: String, _: String) -> Answer<()> {
        Ok(())
    }
    fn handles(&mut self, _: String, _: String, _: Option<String>) -> Answer<()> {
        Ok(())
    }
    fn requires(&mut self, _: String, _: String) -> Answer<()> {
        Ok(())
    }
    fn emits(&mut self, _: String, _: String, _: Vec<String>) -> Answer<()> {
        Ok(())
    }
    fn room(&mut self, _: String, _: String) -> Answer<()> {
        Ok(())
    }
    fn listens(&mut self, _: String) -> Answer<()> {
        Ok(())
    }
    fn route(&mut self, _: String, _: String, _: String) -> Answer<()> {
        Ok(())
    }
    fn ack(&mut self, _: String, _: String, _: bool) -> Answer<()> {
        Ok(())
    }
    fn timer(&mut self, _: String, _: String) -> Answer<()> {
        Ok(())
    }
    fn every(&mut self, _: String, _: String, _: String) -> Answer<()> {
        Ok(())
    }
    fn handshake(&mut self) -> Answer<()> {
        Ok(())
    }
    fn arguments(&mut self, _: registry::Message, _: String) -> Answer<()> {
        Ok(())
    }
}

impl timers::Host for Bare {
    fn after(&mut self, _: String, _: u64, _: String, _: String) -> Answer<()> {
        Ok(())
    }
    fn at(&mut self, _: String, _: u64, _: String, _: String) -> Answer<()> {
        Ok(())
    }
    fn cancel(&mut self, _: String, _: String) -> Answer<()> {
        Ok(())
    }
    fn current(&mut self) -> Option<timers::Timer> {
        None
    }
}

impl deliver::Host for Bare {
    fn send(&mut self, _: deliver::Delivery) -> Answer<String> {
        Ok(String::new())
    }
}

impl http::Host for Bare {
    fn send(&mut self, _: http::Request) -> Answer<http::Response> {
        Ok(http::Response { status: 200, headers: Vec::new(), body: Vec::new() })
    }
}

impl members::Host for Bare {
    fn join(&mut self, _: members::Who, _: String) -> Answer<()> {
        Ok(())
    }
    fn remove(&mut self, _: members::Who, _: String) -> Answer<()> {
        Ok(())
    }
    fn scan(&mut self, _: String, _: Option<String>, _: u32) -> Answer<Vec<members::Connection>> {
        Ok(Vec::new())
    }
    fn ids(&mut self, _: String, _: Option<String>, _: u32) -> Answer<Vec<String>> {
        Ok(Vec::new())
    }
    fn count(&mut self, _: String) -> Answer<members::Totals> {
        Ok(members::Totals { connections: 0, users: 0 })
    }
}

impl rooms::Host for Bare {
    fn join(&mut self, _: String) -> Answer<()> {
        Ok(())
    }
    fn leave(&mut self, _: String) -> Answer<()> {
        Ok(())
    }
    fn room_size(&mut self, _: String) -> u32 {
        0
    }
    fn rooms(&mut self) -> Vec<String> {
        Vec::new()
    }
}

impl connections::Host for Bare {
    fn scan(&mut self, _: Option<String>, _: u32) -> Answer<Vec<connections::Connection>> {
        Ok(Vec::new())
    }
}

impl state::Host for Bare {
    fn get(&mut self, _: String) -> Answer<Option<Vec<u8>>> {
        Ok(None)
    }
    fn set(&mut self, _: String, _: Vec<u8>) -> Answer<()> {
        Ok(())
    }
    fn delete(&mut self, _: String) -> Answer<()> {
        Ok(())
    }
    fn scan(&mut self, _: String, _: Option<String>, _: bool, _: u32) -> Answer<Vec<state::Entry>> {
        Ok(Vec::new())
    }
    fn next_id(&mut self, _: String) -> Answer<u64> {
        Ok(1)
    }
}

impl log::Host for Bare {
    fn write(&mut self, _: log::Level, _: String) {}
}

/// An engine with the settings of the host's own.
fn engine() -> Engine {
    let mut pool = PoolingAllocationConfig::default();
    pool.max_component_instance_size(10 << 20)
        .max_core_instance_size(10 << 20)
        .max_memory_size(128 << 20);
    let mut config = Config::new();
    config
        .concurrency_support(false)
        .epoch_interruption(true)
        .max_wasm_stack(512 << 10)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .async_stack_size(2 << 20);
    Engine::new(&config).expect("an engine")
}

fn bare_wasmtime(criterion: &mut Criterion) {
    let (runtime, engine) = (runtime(), engine());
    let mut linker = Linker::new(&engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker).expect("WASI");
    wasmtime_wasi_config::add_to_linker(&mut linker, |state: &mut Bare| {
        WasiConfig::from(&state.settings)
    })
    .expect("settings");
    bare::Plugin::add_to_linker::<_, HasSelf<_>>(&mut linker, |state: &mut Bare| state)
        .expect("the interface");
    let new_store = || {
        let mut store = WasmStore::new(
            &engine,
            Bare {
                settings: WasiConfigVariables::new(),
                wasi: WasiCtx::builder().build(),
                resources: ResourceTable::new(),
            },
        );
        store.epoch_deadline_callback(|_| {
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
        });
        store.set_epoch_deadline(1);
        store
    };
    let mut group = criterion.benchmark_group("bare wasmtime");
    for (name, payload, bytes) in [
        ("nothing", "null", do_nothing()),
        ("ping", PING, std::fs::read(bundled_plugin("connection")).expect("a plugin")),
    ] {
        let component = Component::new(&engine, &bytes).expect("a component");
        let pre = bare::PluginPre::new(linker.instantiate_pre(&component).expect("imports"))
            .expect("exports");
        let event = || types::Event {
            name,
            data: payload,
            attachments: &[],
            caller: Some(types::Caller {
                connection: Some("01ARZ3NDEKTSV4RRFFQ69G5FAV"),
                user: None,
                namespace: "/",
            }),
        };
        let mut store = new_store();
        let guest = runtime.block_on(pre.instantiate_async(&mut store)).expect("an instance");
        group.bench_function(format!("{name}, warm"), |bencher| {
            bencher.iter(|| {
                store.set_epoch_deadline(1);
                runtime
                    .block_on(guest.call_handle(&mut store, event()))
                    .expect("a call")
                    .map_err(|refusal| refusal.code)
            });
        });
        group.bench_function(format!("{name}, fresh"), |bencher| {
            bencher.iter(|| {
                let mut store = new_store();
                runtime.block_on(async {
                    let guest = pre.instantiate_async(&mut store).await.expect("an instance");
                    guest
                        .call_handle(&mut store, event())
                        .await
                        .expect("a call")
                        .map_err(|refusal| refusal.code)
                })
            });
        });
    }
    group.finish();
}

fn schema(criterion: &mut Criterion) {
    let schema = r#"{"type":"object","properties":{"user_id":{"type":["integer","string"]},"content":{"type":"string","minLength":1,
        "maxLength":10000}},"required":["user_id","content"]}"#;
    let schema = Schema::compile(schema, 1 << 20).expect("a schema");
    let mut group = criterion.benchmark_group("schema");
    for size in [20, 1_000, 10_000] {
        let text = serde_json::json!({"user_id": 7, "content": "x".repeat(size)}).to_string();
        let document = serde_json::from_str(&text).expect("JSON");
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(format!("parse, {size} B"), |bencher| {
            bencher.iter(|| {
                serde_json::from_str::<serde_json::Value>(black_box(&text)).expect("JSON")
            });
        });
        group.bench_function(format!("check, {size} B"), |bencher| {
            bencher.iter(|| schema.check(black_box(&document)))
        });
    }
    group.finish();
}

fn state(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Arc::new(
        Store::open(
            &dir.path().join("state.sqlite"),
            &dir.path().join("state.json"),
            StoreLimits::default(),
        )
        .expect("a store"),
    );
    let mut group = criterion.benchmark_group("state");
    let mut number = 0_u64;
    group.bench_function("commit of two keys", |bencher| {
        let changes = || {
            let mut view = store.view();
            // Over and over the same keys: the file does not grow with the measurement.
            number = (number + 1) % 1_000;
            view.set(&format!("record/{number:016}"), vec![b'x'; 200]).expect("room");
            view.set(&format!("user/7/{number:016}"), Vec::new()).expect("room");
            view.into_changes()
        };
        bencher.iter_batched(
            changes,
            |changes| store.commit(&changes).expect("a commit"),
            BatchSize::SmallInput,
        );
    });
    // What a commit costs for each of sixteen writers, if they shared one.
    group.throughput(Throughput::Elements(16));
    group.bench_function("commit of two keys, sixteen times in one", |bencher| {
        let changes = || {
            let mut view = store.view();
            for _ in 0..16 {
                number = (number + 1) % 1_000;
                view.set(&format!("record/{number:016}"), vec![b'x'; 200]).expect("room");
                view.set(&format!("user/7/{number:016}"), Vec::new()).expect("room");
            }
            view.into_changes()
        };
        bencher.iter_batched(
            changes,
            |changes| store.commit(&changes).expect("a commit"),
            BatchSize::SmallInput,
        );
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("read of one key", |bencher| {
        bencher.iter(|| store.view().get("record/0000000000000001").expect("a read"))
    });
    group.finish();
}

/// What an event costs for each of its receivers before it is in the connection's queue: its text
/// is put together once, and every receiver's packet is encoded from it.
fn broadcast(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("broadcast");
    for size in [20, 1_000, 10_000] {
        let text =
            serde_json::json!(["memory_log_created", {"content": "x".repeat(size)}]).to_string();
        let event = socketioxide_core::Value::Str(text.into(), None);
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("encode for one receiver, {size} B"), |bencher| {
            bencher.iter(|| CommonParser.encode(Packet::event("/", black_box(&event).clone())));
        });
    }
    group.finish();
}

criterion_group!(benches, dispatch, bare_wasmtime, schema, state, broadcast);
criterion_main!(benches);
