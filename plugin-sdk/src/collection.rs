//! Collections: typed records in the plugin's state, with ids, indexes, counts, a time to live, and
//! a format that can change from version to version.
//!
//! A collection is a constant. Its records are the values of a type that implements [`Record`]:
//!
//! ```
//! use schemars::JsonSchema;
//! use serde::{Deserialize, Serialize};
//! use serde_json::json;
//! use sockhop_sdk::collection::{Collection, Index, Page, Record};
//! use sockhop_sdk::testing::TestHost;
//! use sockhop_sdk::{Context, Plugin, Result};
//!
//! #[derive(Serialize, Deserialize, JsonSchema)]
//! struct Task {
//!     id: u64,
//!     owner: String,
//!     text: String,
//!     /// When it is due, in milliseconds since 1970.
//!     due: u64,
//! }
//!
//! impl Record for Task {
//!     type Id = u64;
//!     const FORMAT: u32 = 1;
//!
//!     fn id(&self) -> u64 {
//!         self.id
//!     }
//! }
//!
//! /// The tasks of an owner, in the order in which they are due.
//! const BY_OWNER: Index<Task, (String, u64)> =
//!     Index::new("owner", |task| (task.owner.clone(), task.due));
//!
//! const TASKS: Collection<Task> = Collection::new("tasks").index(&BY_OWNER);
//!
//! #[derive(Deserialize, JsonSchema)]
//! struct Add {
//!     owner: String,
//!     text: String,
//!     due: u64,
//! }
//!
//! #[derive(Deserialize, JsonSchema)]
//! struct Next {
//!     owner: String,
//!     cursor: Option<String>,
//! }
//!
//! fn add(ctx: &Context, Add { owner, text, due }: Add) -> Result<Task> {
//!     let task = Task { id: TASKS.next_id(ctx)?, owner, text, due };
//!     TASKS.put(ctx, &task)?;
//!     Ok(task)
//! }
//!
//! fn postpone(ctx: &Context, id: u64) -> Result<Task> {
//!     TASKS.update(ctx, &id, |task| task.due += 86_400_000)
//! }
//!
//! fn next(ctx: &Context, Next { owner, cursor }: Next) -> Result<Page<Task>> {
//!     TASKS.list(ctx, BY_OWNER.starting_with(&owner).limit(2).after(cursor))
//! }
//!
//! fn done(ctx: &Context, id: u64) -> Result<u64> {
//!     TASKS.remove(ctx, &id)?;
//!     TASKS.count(ctx)
//! }
//!
//! let plugin = Plugin::new("tasks", "1.0.0", "What is to be done")
//!     .on("add", add)
//!     .on("postpone", postpone)
//!     .on("next", next)
//!     .on("done", done);
//!
//! let mut host = TestHost::new(plugin);
//! for (owner, text, due) in [("ada", "plan", 9), ("ada", "build", 7), ("bob", "rest", 8)] {
//!     host.handle("add", json!({"owner": owner, "text": text, "due": due}));
//! }
//! let page = host.handle("next", json!({"owner": "ada"})).reply.unwrap_or_default();
//! assert_eq!(page["items"][0]["text"], "build");
//! assert_eq!(page["items"][1]["text"], "plan");
//! assert_eq!(page["next"], json!(null));
//!
//! host.handle("postpone", json!(2));
//! let page = host.handle("next", json!({"owner": "ada"})).reply.unwrap_or_default();
//! assert_eq!(page["items"][0]["text"], "plan");
//! assert_eq!(host.handle("done", json!(1)).reply, Ok(json!(2)));
//! ```
//!
//! # What always holds
//!
//! A record, its entries in the indexes and the count are written in one event, so they never
//! disagree: not after a conflict, a crash or a rollback. If the host refuses one of these writes
//! after another, the event fails, also if the handler ignores the refusal. A record that has been
//! stored is replaced and removed by what is stored with it, not by what the code of this version
//! says about it.
//!
//! # Queries
//!
//! [`get`](Collection::get) finds a record by its id. [`list`](Collection::list) returns pages of
//! records: in the order of their ids ([`all`](Collection::all), [`range`](Collection::range)), or
//! in the order of an index ([`Index::at`], [`Index::range`], [`Index::starting_with`]), both also
//! [`backwards`](Select::backwards). A page reads what it returns, and one entry more.
//! [`count`](Collection::count) is exact.
//!
//! What a handler has read is checked when the host commits it; see [`State`](crate::State). So a
//! handler can rely on a query: if it finds no user with a name and adds one, no other handler adds
//! the same user at the same time.
//!
//! The order of ids and of keys is that of their values: of text by its characters, of numbers by
//! size, of tuples by their components. [`Key`] lists all types. [`encode_key`] returns the text of
//! a key, which is also useful as the key of a timer or of a delivery.
//!
//! # Formats
//!
//! Each record is stored with the number of its format, [`Record::FORMAT`]. A version of the plugin
//! that changes the format adds 1 to it, and implements [`Record::upgrade_from`] for the older
//! ones.
//!
//! - An old record is upgraded when it is read. This writes nothing. The result is stored when the
//!   record is put again, or by the [migration](Collection::migrate), so at most once.
//! - A record with a newer format is refused as `corrupt_state`, which names the record and both
//!   formats. It is there after a rollback. A handler that passes this on has failed
//!   (`plugin_failed`), and the operator sees it. All other records can be used. A newer record is
//!   never replaced, but it can be [removed](Collection::remove), and it expires.
//!
//! So a rollback loses nothing, and the records that the newer version has stored come back with
//! it. A migration converts all records, and the version before can read none of them any more. If
//! a rollback is likely, let a later version begin to migrate. A version can also be rolled back
//! while it migrates: each record has its format, by which every version recognizes it.
//!
//! # Migrations
//!
//! A record that no handler stores again keeps its old format, and a new index has no entries for
//! old records. [`Collection::migrate`] visits all records in batches, one for each call. A batch
//! and the place of the next one are stored together, so a crash or a failure repeats at most one
//! batch. The host calls a handler of [`Plugin::on_load`](crate::Plugin::on_load) again until
//! [`Progress::is_finished`], once for each version of the plugin, and shows the operator how far
//! it is (`sockhop plugins show`):
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use serde_json::json;
//! use sockhop_sdk::collection::{Collection, Older, Record};
//! use sockhop_sdk::testing::TestHost;
//! use sockhop_sdk::{Context, Plugin, Progress, Result};
//!
//! /// Format 2. In format 1, a task had no list of owners, but one owner.
//! #[derive(Serialize, Deserialize)]
//! struct Task {
//!     id: u64,
//!     owners: Vec<String>,
//! }
//!
//! #[derive(Serialize, Deserialize)]
//! struct Task1 {
//!     id: u64,
//!     owner: String,
//! }
//!
//! impl Record for Task {
//!     type Id = u64;
//!     const FORMAT: u32 = 2;
//!
//!     fn id(&self) -> u64 {
//!         self.id
//!     }
//!
//!     fn upgrade_from(older: &Older<'_>) -> Result<Self> {
//!         match older.format() {
//!             1 => {
//!                 let Task1 { id, owner } = older.read()?;
//!                 Ok(Self { id, owners: vec![owner] })
//!             }
//!             _ => Err(older.unknown()),
//!         }
//!     }
//! }
//!
//! const TASKS: Collection<Task> = Collection::new("tasks");
//!
//! /// One batch. It takes some milliseconds, and events of clients are handled beside it.
//! fn load(ctx: &Context) -> Result<Progress> {
//!     TASKS.migrate(ctx, 500)
//! }
//!
//! fn owners(ctx: &Context, id: u64) -> Result<Vec<String>> {
//!     Ok(TASKS.require(ctx, &id)?.owners)
//! }
//!
//! let plugin = || Plugin::new("tasks", "2.0.0", "").on_load(load).on("owners", owners);
//! # impl Record for Task1 {
//! #     type Id = u64;
//! #     const FORMAT: u32 = 1;
//! #     fn id(&self) -> u64 { self.id }
//! # }
//! # const OLD: Collection<Task1> = Collection::new("tasks");
//! # let version_1 = Plugin::new("tasks", "1.0.0", "").on("add", |ctx: &Context, ids: [u64; 2]| {
//! #     (ids[0]..ids[1]).try_for_each(|id| OLD.put(ctx, &Task1 { id, owner: id.to_string() }))
//! # });
//! # let mut host = TestHost::new(version_1);
//! # for first in [0, 50, 100, 150] {
//! #     assert!(host.handle("add", json!([first, first + 50])).reply.is_ok());
//! # }
//! // In a test, after version 1 has stored 200 tasks:
//! host.deploy(plugin());
//! let calls = host.load();
//! assert_eq!(calls[0].reply, Ok(json!({"done": 191, "total": 200})));
//! assert_eq!(calls[1].reply, Ok(json!(null)));
//! assert_eq!(host.handle("owners", json!(7)).reply, Ok(json!(["7"])));
//! ```
//!
//! The new version serves while it migrates, and a migration that has finished costs a few reads. A
//! rollback to a version that has finished does not call its handler again: records of a later
//! format would be left in any case, and those of an earlier one can be read. While a migration
//! runs, handlers read and write all records. Only an index that does not have all of them yet
//! refuses queries (`unavailable`), and never leaves one out.
//!
//! Two versions can serve at the same time for a moment. If the older one then stores a record
//! without an entry for a new index, it marks this record. The newer version adds the entry when
//! the index is read next, or in its migration.
//!
//! [`Plugin::on_check`](crate::Plugin::on_check) lets an operator find out on a copy of real data
//! what a version can't read, before it is deployed.
//!
//! # Time to live
//!
//! The records of a collection with a [time to live](Collection::time_to_live) expire some time
//! after they were put. No handler sees an expired record. The time is that of the event
//! ([`Context::received_at`]), so it is the same if the host runs a handler again.
//! [`Collection::sweep`] removes expired records from the state, in batches. Call it in a schedule.
//!
//! # What is stored
//!
//! All keys begin with `@` and the name of the collection: `@tasks/record/a7!` is the record with
//! the id 7. A plugin must not write such keys by other means. Each record takes a read of two or
//! three keys, and writes one key, one for each entry of an index, and one for a count if it is
//! new. Each write counts as an effect; one event has at most 256.
//!
//! The count is stored in 16 parts, so that handlers which add records at the same time rarely
//! conflict. A handler that reads the count conflicts with all of them, if it writes something.

// Each module uses only modules before it. The blank lines keep rustfmt from sorting all of them.
mod layout;
mod names;
mod properties;
mod walk;

mod envelope;

mod plan;

mod store;

mod record;
mod select;

mod index;

mod handle;

mod check;
mod list;
mod migrate;
mod sweep;

use std::borrow::Borrow;
use std::fmt;
use std::ops::RangeBounds;
use std::time::Duration;

use crate::context::Context;
#[doc(no_inline)]
pub use crate::progress::Progress;
use crate::refusal::{Refusal, Result};
use crate::time::milliseconds;

use self::handle::{Handle, id_text};
use self::index::AnyIndex;
use self::names::{Names, is_name, is_same};
use self::properties::Shape;
use self::select::{Source, bounds};
use self::store::Store;
use self::sweep::unswept;

pub(crate) use self::check::Attempts;
pub use self::index::Index;
pub use self::record::{Older, Record};
pub use self::select::{Page, Select};
pub use self::sweep::Sweep;
#[doc(inline)]
pub use sockhop_core::key::{
    CompoundKey, DecodeKey, Key, KeyParts, KeyText, decode_key, encode_key,
};

/// Number of pages that are read to find one record. A page without a record has 1,000 expired
/// ones.
const FIRST_PAGES: usize = 4;

/// Maximum number of indexes of one collection. Each costs a write for each new record.
const MAX_INDEXES: usize = 8;

/// The records of one type in the plugin's state. See the [module](self).
///
/// Define it as a constant. All methods that read or write need the [`Context`] of an event.
///
/// Every call can be refused as [`State`](crate::State) says, and as `corrupt_state` if a stored
/// value can't be read; see [Formats](self#formats).
pub struct Collection<R: 'static> {
    name: &'static str,
    indexes: [Option<&'static dyn AnyIndex<R>>; MAX_INDEXES],
    /// The names of the indexes. The compiler can compare them.
    index_names: [&'static str; MAX_INDEXES],
    count: usize,
    lifetime: Option<Duration>,
}

/// The declaration.
impl<R: Record> Collection<R> {
    /// A collection without indexes. The name matches `[a-z][a-z0-9_]*` and has at most 32
    /// characters. The collections of a plugin have different names.
    ///
    /// # Panics
    /// The name is invalid, or the [`FORMAT`](Record::FORMAT) of the records is 0. For a constant,
    /// the compiler shows this.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        assert!(is_name(name), "the name of a collection must match `[a-z][a-z0-9_]{{0,31}}`");
        assert!(R::FORMAT > 0, "the first format of a record is 1");
        let (indexes, index_names) = ([None; MAX_INDEXES], [""; MAX_INDEXES]);
        Self { name, indexes, index_names, count: 0, lifetime: None }
    }

    /// Adds an index. A collection has at most 8, with different names.
    ///
    /// ```compile_fail,E0080
    /// # use serde::{Deserialize, Serialize};
    /// # use sockhop_sdk::collection::{Collection, Index, Record};
    /// # #[derive(Serialize, Deserialize)]
    /// # struct Note { id: u64, owner: String, author: String }
    /// # impl Record for Note {
    /// #     type Id = u64;
    /// #     const FORMAT: u32 = 1;
    /// #     fn id(&self) -> u64 { self.id }
    /// # }
    /// const BY_OWNER: Index<Note, String> = Index::new("user", |note| note.owner.clone());
    /// const BY_AUTHOR: Index<Note, String> = Index::new("user", |note| note.author.clone());
    /// const NOTES: Collection<Note> = Collection::new("notes").index(&BY_OWNER).index(&BY_AUTHOR);
    /// # fn main() { let _ = NOTES; }
    /// ```
    ///
    /// # Panics
    /// The collection has an index with this name, or 8 indexes. For a constant, the compiler shows
    /// this.
    #[must_use]
    #[allow(
        clippy::indexing_slicing,
        reason = "the compiler evaluates it, and can call neither `get` nor an iterator"
    )]
    pub const fn index<K: Key>(mut self, index: &'static Index<R, K>) -> Self {
        assert!(self.count < MAX_INDEXES, "a collection has at most 8 indexes");
        let mut other = 0;
        while other < self.count {
            let is_new = !is_same(self.index_names[other], index.name());
            assert!(is_new, "a collection has two indexes with the same name");
            other += 1;
        }
        self.indexes[self.count] = Some(index);
        self.index_names[self.count] = index.name();
        self.count += 1;
        self
    }

    /// Lets each record expire when this time has passed since it was put last. A part of a
    /// millisecond counts as a whole one. See [Time to live](self#time-to-live).
    ///
    /// Records that a version without a time to live has stored get it when they are put again, or
    /// by the migration.
    #[must_use]
    pub const fn time_to_live(self, lifetime: Duration) -> Self {
        Self { lifetime: Some(lifetime), ..self }
    }
}

/// Records by their ids.
impl<R: Record> Collection<R> {
    /// Returns the record with this id, or `None` if there is none.
    ///
    /// # Errors
    /// `limit`: the id has more than 384 bytes as text. See also [`Collection`].
    pub fn get<Q>(&self, ctx: &Context, id: &Q) -> Result<Option<R>>
    where
        R::Id: Borrow<Q>,
        Q: Key + ?Sized,
    {
        self.open(ctx).get(&id_text(id)?)
    }

    /// Returns the record with this id.
    ///
    /// # Errors
    /// `not_found`: there is none. Otherwise as [`get`](Self::get).
    pub fn require<Q>(&self, ctx: &Context, id: &Q) -> Result<R>
    where
        R::Id: Borrow<Q>,
        Q: Key + ?Sized,
    {
        self.get(ctx, id)?.ok_or_else(|| self.not_found())
    }

    /// Stores `record`, in the place of the one with its id if there is one. Its time to live
    /// begins again.
    ///
    /// # Errors
    /// `limit`: the id has more than 384 bytes as text, a key in an index makes an entry with more
    /// than 512 bytes, or the record has more than 100 keys in all indexes; then nothing is
    /// written. `corrupt_state`: the stored record has a newer format; it stays. See also
    /// [`Collection`].
    pub fn put(&self, ctx: &Context, record: &R) -> Result {
        self.open(ctx).put(record, false)
    }

    /// Stores `record` if there is none with its id.
    ///
    /// # Errors
    /// `already_exists`: there is one. Otherwise as [`put`](Self::put).
    pub fn insert(&self, ctx: &Context, record: &R) -> Result {
        self.open(ctx).put(record, true)
    }

    /// Changes the record with this id, and returns it as it was stored. `change` must not change
    /// the id.
    ///
    /// # Errors
    /// `not_found`: there is none. `misuse`: the id was changed. Otherwise as [`put`](Self::put).
    pub fn update<Q>(&self, ctx: &Context, id: &Q, change: impl FnOnce(&mut R)) -> Result<R>
    where
        R::Id: Borrow<Q>,
        Q: Key + ?Sized,
    {
        let mut record = self.require(ctx, id)?;
        change(&mut record);
        if encode_key(&record.id()) != encode_key(id) {
            return Err(Refusal::misuse(format!("an update of `{}` changes an id", self.name)));
        }
        self.put(ctx, &record)?;
        Ok(record)
    }

    /// Removes the record with this id, also if it has a newer format: what is stored with it is
    /// enough to remove it from all indexes. Returns whether there was one.
    ///
    /// # Errors
    /// `limit`: the id has more than 384 bytes as text. See also [`Collection`].
    pub fn remove<Q>(&self, ctx: &Context, id: &Q) -> Result<bool>
    where
        R::Id: Borrow<Q>,
        Q: Key + ?Sized,
    {
        self.open(ctx).remove(&id_text(id)?)
    }

    fn not_found(&self) -> Refusal {
        Refusal::not_found(format!("`{}` has no such record", self.name))
    }
}

/// Queries.
impl<R: Record> Collection<R> {
    /// All records, in the order of their ids.
    pub fn all(&self) -> Select<R> {
        Select::new(Source::Records)
    }

    /// The records whose id is in `range`.
    pub fn range(&self, range: impl RangeBounds<R::Id>) -> Select<R> {
        let (from, to) = bounds(&range);
        self.all().between(from, to)
    }

    /// The records whose id begins with this component.
    pub fn starting_with<Q>(&self, first: &Q) -> Select<R>
    where
        R::Id: CompoundKey,
        <R::Id as CompoundKey>::First: Borrow<Q>,
        Q: Key + ?Sized,
    {
        self.all().within(encode_key(first))
    }

    /// Returns a page of the records that `select` selects.
    ///
    /// # Errors
    /// `unavailable`: the index does not have all records yet, see [`Index`]. `corrupt_state`: a
    /// record of the page has a newer format. `misuse`: the limit is out of range, or the
    /// collection does not declare the index. See also [`Collection`].
    pub fn list(&self, ctx: &Context, select: Select<R>) -> Result<Page<R>> {
        self.open(ctx).list(&select)
    }

    /// Returns the first record that `select` selects.
    ///
    /// # Errors
    /// `unavailable`: more than 4,000 expired records before it wait for the
    /// [`sweep`](Self::sweep). Otherwise as [`list`](Self::list).
    pub fn first(&self, ctx: &Context, select: Select<R>) -> Result<Option<R>> {
        let mut select = select.limit(1);
        for _ in 0..FIRST_PAGES {
            let page = self.list(ctx, select.clone())?;
            match (page.items.into_iter().next(), page.next) {
                // The page has only expired records.
                (None, Some(next)) => select = select.after(Some(next)),
                (first, _) => return Ok(first),
            }
        }
        Err(unswept(ctx, self.name))
    }

    /// Returns the number of records, without those that have expired. It is one scan, and a second
    /// one if the collection has a time to live.
    ///
    /// # Errors
    /// `unavailable`: more than 4,000 expired records wait for the [`sweep`](Self::sweep). See also
    /// [`Collection`].
    pub fn count(&self, ctx: &Context) -> Result<u64> {
        self.open(ctx).count()
    }
}

/// Ids.
impl<R: Record<Id = u64>> Collection<R> {
    /// Returns a new id: 1, 2 and so on, below 2^53. It is taken at once and never returned, as
    /// [`State::next_id`](crate::State::next_id) says. For a text that is unique and that nobody
    /// guesses from another one, take [`Context::event_id`], and one record for each event.
    ///
    /// # Errors
    /// See [`State::next_id`](crate::State::next_id).
    pub fn next_id(&self, ctx: &Context) -> Result<u64> {
        ctx.state().next_id(&Names(self.name).sequence())
    }
}

/// Maintenance.
impl<R: Record> Collection<R> {
    /// Runs one batch of the migration to this version: gives up to `limit` records the format, the
    /// entries in indexes and the time to live that this version stores, and removes the entries of
    /// indexes that it does not declare. See [Migrations](self#migrations).
    ///
    /// A batch also ends when the collections have written 192 keys or 512 KiB in this event, so a
    /// handler can migrate several collections in one event. 500 is a good limit.
    ///
    /// Records in a newer format stay as they are, and the result counts them.
    ///
    /// # Errors
    /// `corrupt_state`: a record can't be read or upgraded. The migration does not go on before it
    /// can. `misuse`: the limit is 0. See also [`Collection`].
    pub fn migrate(&self, ctx: &Context, limit: u32) -> Result<Progress> {
        self.open(ctx).migrate(limit)
    }

    /// Removes up to `limit` records that have expired, those in a newer format included. As a
    /// batch of a [migration](Self::migrate), it also ends when the collections have written 192
    /// keys in this event. What is left is removed by the next call.
    ///
    /// # Errors
    /// `misuse`: the limit is 0. See also [`Collection`].
    pub fn sweep(&self, ctx: &Context, limit: u32) -> Result<Sweep> {
        self.open(ctx).sweep(limit)
    }

    /// Tries to read the records whose id follows `after`, as text. Returns the last one if there
    /// are more.
    pub(crate) fn check(
        &self,
        ctx: &Context,
        after: Option<String>,
        attempts: &mut impl Attempts,
    ) -> Result<Option<String>> {
        self.open(ctx).check(after, attempts)
    }

    fn open<'a>(&self, ctx: &'a Context) -> Handle<'a, R> {
        let indexes: Vec<_> = self.indexes.iter().flatten().copied().collect();
        let shape = Shape {
            format: R::FORMAT,
            expires: self.lifetime.is_some(),
            indexes: indexes.iter().map(|index| index.id()).collect(),
        };
        let store = Store { ctx, names: Names(self.name), shape };
        Handle { store, indexes, lifetime: self.lifetime.map(milliseconds) }
    }
}

// Not derived, because `derive` would require the same traits of `R`.
impl<R> Clone for Collection<R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Collection<R> {}

impl<R> fmt::Debug for Collection<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.index_names.iter().take(self.count);
        f.debug_struct("Collection")
            .field("name", &self.name)
            .field("indexes", &names.collect::<Vec<_>>())
            .field("lifetime", &self.lifetime)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
