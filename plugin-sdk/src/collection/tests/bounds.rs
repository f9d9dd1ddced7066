//! What a later version can always do: records that have expired, and records with many keys.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::collection::{Collection, Index, Older, Record};
use crate::testing::TestHost;
use crate::{Context, Plugin, Result};

#[derive(Serialize, Deserialize)]
struct Old {
    id: u32,
    tags: u32,
}

#[derive(Serialize, Deserialize)]
struct New {
    id: u32,
    tags: u32,
    is_new: bool,
}

impl Record for Old {
    type Id = u32;
    const FORMAT: u32 = 1;

    fn id(&self) -> u32 {
        self.id
    }
}

impl Record for New {
    type Id = u32;
    const FORMAT: u32 = 2;

    fn id(&self) -> u32 {
        self.id
    }

    fn upgrade_from(older: &Older<'_>) -> Result<Self> {
        let Old { id, tags } = older.read()?;
        Ok(Self { id, tags, is_new: true })
    }
}

const HOUR: Duration = Duration::from_secs(3_600);
const OLD_TAGS: Index<Old, u32> = Index::many("tag", |old| (0..old.tags).collect());
const NEW_TAGS: Index<New, u32> = Index::many("tag", |new| (0..new.tags).collect());
const OLD: Collection<Old> = Collection::new("items").index(&OLD_TAGS).time_to_live(HOUR);
const NEW: Collection<New> = Collection::new("items").index(&NEW_TAGS);
/// The same index with other keys.
const MOVED_TAGS: Index<New, u32> = Index::many("tag", |new| (1_000..1_000 + new.tags).collect());
const MOVED: Collection<New> = Collection::new("items").index(&MOVED_TAGS);

fn old() -> Plugin {
    let put = |ctx: &Context, (id, tags): (u32, u32)| OLD.put(ctx, &Old { id, tags });
    Plugin::new("items", "1.0.0", "").on("put", put)
}

fn new() -> Plugin {
    Plugin::new("items", "2.0.0", "")
        .on("migrate", |ctx: &Context, (): ()| NEW.migrate(ctx, 10))
        .on("get", |ctx: &Context, id: u32| Ok(NEW.get(ctx, &id)?.map(|found| found.is_new)))
        .on("count", |ctx: &Context, (): ()| NEW.count(ctx))
        .on("of", |ctx: &Context, tag: u32| Ok(NEW.list(ctx, NEW_TAGS.at(&tag))?.items.len()))
}

fn migrate(host: &mut TestHost) {
    for _ in 0..20 {
        let progress = host.handle("migrate", Value::Null).reply.expect("a batch");
        if progress["done"] == progress["total"] {
            return;
        }
    }
    panic!("the migration does not end");
}

#[test]
fn a_record_that_has_expired_does_not_come_back_if_a_version_drops_the_time_to_live() {
    let mut host = TestHost::new(old());
    host.handle("put", json!([1, 2])).reply.expect("stored");
    host.advance(HOUR * 2);
    host.handle("put", json!([2, 2])).reply.expect("stored");
    host.deploy(new());
    for _ in 0..2 {
        assert_eq!(host.handle("get", json!(1)).reply, Ok(json!(null)));
        assert_eq!(host.handle("get", json!(2)).reply, Ok(json!(true)));
        assert_eq!(host.handle("count", Value::Null).reply, Ok(json!(1)));
        migrate(&mut host);
    }
    assert_eq!(host.handle("of", json!(1)).reply, Ok(json!(1)));
    assert!(!host.state().keys().any(|key| key.contains("a1!") && key.contains("record")));
}

#[test]
fn a_record_has_only_so_many_keys_that_another_version_can_replace_all() {
    let mut host = TestHost::new(old());
    let refused = host.handle("put", json!([1, 101])).reply.expect_err("too many");
    assert!(refused.code == "limit" && refused.message.contains("101 keys"), "{refused}");
    assert!(host.state().is_empty());
    host.handle("put", json!([1, 100])).reply.expect("stored");
    host.deploy(new());
    migrate(&mut host);
    assert_eq!(host.handle("of", json!(99)).reply, Ok(json!(1)));
}

#[test]
fn a_migration_ends_also_if_a_marked_record_has_all_its_keys_replaced() {
    let moved = || {
        Plugin::new("items", "3.0.0", "")
            .on("migrate", |ctx: &Context, (): ()| MOVED.migrate(ctx, 10))
            .on("of", |ctx: &Context, tag: u32| {
                Ok(MOVED.list(ctx, MOVED_TAGS.at(&tag))?.items.len())
            })
    };
    let mut host = TestHost::new(moved());
    host.deploy(old());
    host.handle("put", json!([1, 1])).reply.expect("stored");
    host.deploy(moved());
    migrate(&mut host);
    host.deploy(old());
    host.handle("put", json!([2, 100])).reply.expect("stored");
    host.deploy(moved());
    migrate(&mut host);
    assert_eq!(host.handle("of", json!(1_099)).reply, Ok(json!(1)));
}
