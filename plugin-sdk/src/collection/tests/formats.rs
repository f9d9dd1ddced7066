//! Records whose format changes from version to version.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::versions::{Meaning, V1, V2, V3, Version};
use crate::testing::TestHost;
use crate::{Context, Plugin, Refusal, Result};

#[derive(Deserialize, JsonSchema)]
struct Put {
    id: u32,
    owner: String,
    text: String,
}

/// A plugin with one of the versions, and its events.
fn plugin<V: Version>() -> Plugin {
    Plugin::new("items", "1.0.0", "")
        .on("put", |ctx: &Context, Put { id, owner, text }: Put| {
            V::ITEMS.put(ctx, &V::write(&Meaning { id, owner, text }))
        })
        .on("get", |ctx: &Context, id: u32| {
            Ok(V::ITEMS.get(ctx, &id)?.map(|item| V::read(&item).text))
        })
        .on("remove", |ctx: &Context, id: u32| V::ITEMS.remove(ctx, &id))
        .on("count", |ctx: &Context, (): ()| V::ITEMS.count(ctx))
        .on("of", |ctx: &Context, owner: String| {
            let meaning = Meaning { id: 0, owner, text: String::new() };
            let (select, _) = V::queries(&meaning).remove(0);
            let page = V::ITEMS.list(ctx, select)?;
            Ok(page.items.iter().map(|item| V::read(item).text).collect::<Vec<_>>())
        })
        .on("migrate", |ctx: &Context, (): ()| V::ITEMS.migrate(ctx, 2))
}

fn put(host: &mut TestHost, id: u32, text: &str) -> Result<Value> {
    host.handle("put", json!({"id": id, "owner": "ada", "text": text})).reply
}

fn get(host: &mut TestHost, id: u32) -> Result<Value> {
    host.handle("get", json!(id)).reply
}

/// The texts of all records of the owner.
fn all(host: &mut TestHost) -> Result<Value> {
    host.handle("of", json!("ada")).reply
}

/// Runs the migration to its end, and returns its last progress.
fn migrate(host: &mut TestHost) -> Value {
    for _ in 0..100 {
        let progress = host.handle("migrate", Value::Null).reply.expect("a batch");
        if progress["done"] == progress["total"] {
            return progress;
        }
    }
    panic!("the migration does not end");
}

fn newer(host: &mut TestHost, id: u32, format: u32, own: u32) -> Result<Value> {
    let refusal = get(host, id).expect_err("this version can't read it");
    let message = format!(
        "the record `@items/record/a{id}!` of the collection `items` has format {format}, and this \
         version of the plugin reads formats up to {own}: deploy the version that has stored it, or \
         a later one"
    );
    assert_eq!(refusal, Refusal::new("corrupt_state", message));
    Err(refusal)
}

#[test]
fn a_format_that_changes_twice_with_a_rollback_in_between_loses_and_misreads_nothing() {
    let mut host = TestHost::new(plugin::<V1>());
    for (id, text) in [(1, "one"), (2, "two of"), (3, "three")] {
        put(&mut host, id, text).expect("stored");
    }

    // Version 2 reads them, and stores one of them and a new one.
    host.deploy(plugin::<V2>());
    assert_eq!(all(&mut host), Ok(json!(["one", "two of", "three"])));
    put(&mut host, 2, "two in format 2").expect("stored");
    put(&mut host, 4, "four in format 2").expect("stored");

    // The rollback: version 1 reads and changes its own, and keeps its hands off the others.
    host.deploy(plugin::<V1>());
    let before = host.state();
    for id in [2, 4] {
        let refused = newer(&mut host, id, 2, 1);
        assert_eq!(put(&mut host, id, "overwritten"), refused);
        assert_eq!(all(&mut host).map_err(|refusal| refusal.code), Err("corrupt_state".to_owned()));
    }
    assert_eq!(host.state(), before);
    put(&mut host, 1, "one in format 1").expect("stored");
    put(&mut host, 5, "five in format 1").expect("stored");
    assert_eq!(get(&mut host, 3), Ok(json!("three")));
    assert_eq!(host.handle("count", Value::Null).reply, Ok(json!(5)));

    // Version 2 comes back and migrates; version 3 has another format once more.
    host.deploy(plugin::<V2>());
    migrate(&mut host);
    let texts =
        ["one in format 1", "two in format 2", "three", "four in format 2", "five in format 1"];
    assert_eq!(all(&mut host), Ok(json!(texts)));
    host.deploy(plugin::<V3>());
    for (id, text) in (1..).zip(texts) {
        assert_eq!(get(&mut host, id), Ok(json!(text)));
    }
    migrate(&mut host);
    assert_eq!(all(&mut host), Ok(json!(texts)));
    let formats: Vec<Value> =
        host.state().into_values().filter_map(|value| value.get("format").cloned()).collect();
    assert_eq!(formats, vec![json!(3); 5]);
}

#[test]
fn an_older_version_can_remove_a_newer_record_with_its_index_entries() {
    let mut host = TestHost::new(plugin::<V2>());
    put(&mut host, 1, "newer words").expect("stored");
    let entries = |host: &TestHost| {
        host.state().keys().filter(|key| key.starts_with("@items/index/")).count()
    };
    assert_eq!(entries(&host), 3);
    host.deploy(plugin::<V1>());
    assert_eq!(host.handle("remove", json!(1)).reply, Ok(json!(true)));
    assert_eq!(entries(&host), 0);
    assert_eq!(host.handle("count", Value::Null).reply, Ok(json!(0)));
    assert_eq!(get(&mut host, 1), Ok(Value::Null));
}

#[test]
fn an_older_record_is_upgraded_when_it_is_read_and_stored_only_when_it_is_put() {
    let mut host = TestHost::new(plugin::<V1>());
    put(&mut host, 1, "two words").expect("stored");
    host.deploy(plugin::<V3>());
    let before = host.state();
    assert_eq!(get(&mut host, 1), Ok(json!("two words")));
    assert_eq!(host.state(), before);
    put(&mut host, 1, "two words").expect("stored");
    assert_eq!(host.state()["@items/record/a1!"]["format"], json!(3));
}

#[test]
fn a_format_without_an_upgrade_is_refused_by_its_number() {
    let mut host = TestHost::new(plugin::<V3>());
    put(&mut host, 1, "").expect("stored");
    let mut record = host.state()["@items/record/a1!"].clone();
    record["format"] = json!(0);
    host.store("@items/record/a1!", &record);
    let refusal = get(&mut host, 1).expect_err("no version has this format");
    assert_eq!(refusal.code, "corrupt_state");
    assert!(refusal.message.contains("has format 0, from which"), "{refusal}");
}

#[test]
fn a_value_of_a_later_sdk_is_refused_by_its_layout() {
    let mut host = TestHost::new(plugin::<V1>());
    put(&mut host, 1, "").expect("stored");
    for key in ["@items/record/a1!", "@items/properties"] {
        let value = host.state()[key].clone();
        host.store(key, &json!({"layout": 2, "unknown": true}));
        let refusal = put(&mut host, 1, "overwritten").expect_err("a later layout");
        assert_eq!(refusal.code, "corrupt_state");
        assert!(refusal.message.contains("has layout 2"), "{refusal}");
        assert_eq!(host.state()[key], json!({"layout": 2, "unknown": true}));
        host.store(key, &value);
    }
}

#[test]
fn a_value_that_is_no_record_is_refused_by_its_key_and_not_shown() {
    let mut host = TestHost::new(plugin::<V1>());
    put(&mut host, 1, "").expect("stored");
    let mut record = host.state()["@items/record/a1!"].clone();
    for (value, error) in [
        (json!("secret"), "the value of `@items/record/a1!`"),
        (json!({"layout": 1, "record": "secret"}), "`@items/record/a1!` is not a record"),
        (
            {
                record["record"] = json!("secret");
                record.clone()
            },
            "the value of `@items/record/a1!`",
        ),
        (
            {
                record["record"] = json!({"id": 2, "owner": "secret", "text": ""});
                record.clone()
            },
            "the record `@items/record/a1!` has another id, `a2!`",
        ),
    ] {
        host.store("@items/record/a1!", &value);
        let refusal = get(&mut host, 1).expect_err("it can't be read");
        assert_eq!(refusal.code, "corrupt_state");
        assert!(refusal.message.starts_with(error), "{refusal}");
        assert!(!refusal.message.contains("secret"), "{refusal}");
    }
}
