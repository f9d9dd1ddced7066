//! What is written, in which order, and what becomes of it if the host refuses a part.

use serde::{Deserialize, Serialize};

use super::fake::Db;
use crate::collection::{Collection, Index, Record};
use crate::testing::TestHost;
use crate::{Context, Plugin, Refusal, Result};
use serde_json::json;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Doc {
    name: String,
    tags: Vec<String>,
}

impl Record for Doc {
    type Id = String;
    const FORMAT: u32 = 1;

    fn id(&self) -> String {
        self.name.clone()
    }
}

const BY_TAG: Index<Doc, String> = Index::many("tag", |doc| doc.tags.clone());
const DOCS: Collection<Doc> = Collection::new("docs").index(&BY_TAG);

fn doc(name: &str, tags: &[&str]) -> Doc {
    Doc { name: name.to_owned(), tags: tags.iter().map(|&tag| tag.to_owned()).collect() }
}

#[test]
fn a_record_is_stored_with_exactly_its_entries_and_the_count() {
    let mut db = Db::default();
    db.handle(0, |ctx| DOCS.put(ctx, &doc("a/b", &["x", "y", "x"]))).expect("stored");
    let key_of_count = db.values().into_keys().find(|key| key.contains("/count/")).expect("one");
    assert_eq!(
        db.values().into_iter().collect::<Vec<_>>(),
        [
            (key_of_count.clone(), json!(1)),
            ("@docs/index/tag.1/x!a/b!".to_owned(), json!("a/b!")),
            ("@docs/index/tag.1/y!a/b!".to_owned(), json!("a/b!")),
            (
                "@docs/properties".to_owned(),
                json!({"layout": 1, "holds": ["format.1", "index.tag.1"]})
            ),
            (
                "@docs/record/a/b!".to_owned(),
                json!({
                    "layout": 1, "format": 1, "keys": {"tag.1": ["x!", "y!"]},
                    "record": {"name": "a/b", "tags": ["x", "y", "x"]},
                })
            ),
        ]
    );
    let (_, changed) = db.run(0, |ctx| DOCS.put(ctx, &doc("a/b", &["y", "z"])));
    assert_eq!(changed.writes(), 3, "the record, and the two entries that change");
    db.handle(0, |ctx| DOCS.remove(ctx, "a/b")).expect("removed");
    assert_eq!(db.values().into_keys().collect::<Vec<_>>(), ["@docs/properties"]);
}

#[test]
fn a_record_is_inserted_updated_and_required_by_its_id() {
    let mut db = Db::default();
    let code = |result: Result<Doc>| result.expect_err("a refusal").code;
    let insert = |db: &mut Db| {
        db.handle(0, |ctx| {
            let new = doc("a", &["x"]);
            DOCS.insert(ctx, &new)?;
            Ok(new)
        })
    };
    assert_eq!(code(db.handle(0, |ctx| DOCS.require(ctx, "a"))), "not_found");
    assert_eq!(code(db.handle(0, |ctx| DOCS.update(ctx, "a", |_| ()))), "not_found");
    insert(&mut db).expect("stored");
    assert_eq!(code(insert(&mut db)), "already_exists");
    let updated = db.handle(0, |ctx| DOCS.update(ctx, "a", |doc| doc.tags.clear()));
    assert_eq!(updated, Ok(doc("a", &[])));
    assert_eq!(db.handle(0, |ctx| DOCS.require(ctx, "a")), Ok(doc("a", &[])));
    let renamed = db.handle(0, |ctx| DOCS.update(ctx, "a", |doc| doc.name.push('b')));
    assert_eq!(code(renamed), "misuse");
    assert_eq!(db.handle(0, |ctx| DOCS.count(ctx)), Ok(1));
}

#[test]
fn a_key_that_is_too_long_is_refused_before_anything_is_written() {
    let db = Db::default();
    for (refused, allowed) in [
        (doc(&"i".repeat(384), &[]), doc(&"i".repeat(383), &[])),
        // A space has three bytes.
        (doc(&" ".repeat(128), &[]), doc(&" ".repeat(127), &[])),
        (doc("a", &["ok", &"t".repeat(492)]), doc("a", &["ok", &"t".repeat(491)])),
    ] {
        let (result, transaction) = db.run(0, |ctx| {
            // The handler goes on.
            Ok(DOCS.put(ctx, &refused).expect_err("too long"))
        });
        assert_eq!(result.map(|refusal| refusal.code), Ok("limit".to_owned()));
        assert_eq!(transaction.writes(), 0);
        db.run(0, |ctx| DOCS.put(ctx, &allowed)).0.expect("not too long");
    }
    let found = db.run(0, |ctx| DOCS.get(ctx, &"i".repeat(384))).0;
    assert_eq!(found.map_err(|refusal| refusal.code), Err("limit".to_owned()));
}

#[test]
fn a_write_that_is_refused_in_the_middle_fails_the_event_also_if_it_is_ignored() {
    let mut db = Db::default();
    db.handle(0, |ctx| DOCS.put(ctx, &doc("a", &["x"]))).expect("stored");
    let new = doc("b", &["x", "y"]);
    let ignoring = |ctx: &Context| {
        let _ = DOCS.put(ctx, &new);
        Ok(())
    };
    let refused = Refusal::new("limit", "the test refuses this write");
    // The record, two entries, and the count.
    for writes in 1..4 {
        assert_eq!(db.run_with(0, writes, ignoring).0, Err(refused.clone()), "{writes}");
    }
    let (result, transaction) = db.run_with(0, 0, ignoring);
    assert_eq!((result, transaction.writes()), (Ok(()), 0), "nothing was written");
    let (result, transaction) = db.run_with(0, 4, ignoring);
    assert_eq!((result, transaction.writes()), (Ok(()), 4), "everything was written");
}

#[test]
fn too_many_effects_of_one_event_leave_no_half_record() {
    let put_many = |ctx: &Context, number: u32| -> Result<u32> {
        let stored = (0..number).map(|number| DOCS.put(ctx, &doc(&number.to_string(), &["x"])));
        Ok(stored.filter(Result::is_ok).count() as u32)
    };
    let plugin = Plugin::new("docs", "1.0.0", "").on("put_many", put_many);
    let mut host = TestHost::new(plugin);
    let outcome = host.handle("put_many", json!(200));
    assert_eq!(outcome.reply.map_err(|refusal| refusal.code), Err("limit".to_owned()));
    assert!(host.state().is_empty());
    assert_eq!(host.handle("put_many", json!(100)).reply, Ok(json!(100)));
}

#[test]
fn what_another_program_has_changed_is_refused_and_not_guessed() {
    let mut db = Db::default();
    db.handle(0, |ctx| DOCS.put(ctx, &doc("a", &["x"]))).expect("stored");
    let list = |ctx: &Context| DOCS.list(ctx, BY_TAG.all());
    for (key, value) in
        [("@docs/index/tag.1/stray!a!", json!("a!")), ("@docs/index/tag.1/x!b!", json!("b!"))]
    {
        let (listed, _) = db.run(0, |ctx| {
            ctx.state().set(key, &value)?;
            list(ctx)
        });
        let refusal = listed.expect_err("no record has this entry");
        assert_eq!(refusal.code, "corrupt_state");
        assert!(refusal.message.contains(key), "{refusal}");
    }
    // Without properties, nobody knows whether an index is complete.
    let (listed, _) = db.run(0, |ctx| {
        ctx.state().delete("@docs/properties")?;
        list(ctx)
    });
    assert_eq!(listed.map_err(|refusal| refusal.code), Err("unavailable".to_owned()));
}

#[test]
fn new_ids_are_numbers_of_the_collection() {
    #[derive(Serialize, Deserialize)]
    struct Numbered {
        id: u64,
    }
    impl Record for Numbered {
        type Id = u64;
        const FORMAT: u32 = 1;

        fn id(&self) -> u64 {
            self.id
        }
    }
    const NUMBERED: Collection<Numbered> = Collection::new("numbered");
    let add = |ctx: &Context, (): ()| -> Result<u64> {
        let id = NUMBERED.next_id(ctx)?;
        NUMBERED.insert(ctx, &Numbered { id })?;
        Ok(id)
    };
    let mut host = TestHost::new(Plugin::new("numbers", "1.0.0", "").on("add", add));
    for id in 1..4 {
        assert_eq!(host.handle("add", json!(null)).reply, Ok(json!(id)));
    }
}
