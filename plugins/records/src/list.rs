//! Lists records page by page, newest first.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sockhop_sdk::{Context, Result, Scan};

use crate::{RECORDS, Record, Records, UserId, key, limited_to, must_own};

/// The number of records on a page if the caller sets no `limit`.
const DEFAULT_LIMIT: u32 = 20;

/// A page ends before its `limit` when its stored records have this many bytes. So a reply stays
/// small, whatever the size of the records.
const PAGE_BYTES: usize = 256 * 1024;

/// Records per scan. A message has at most 128 KiB by default, and a stored record has hardly more
/// than its message. So these records have about a quarter of the 2 MiB that one scan can return.
const CHUNK: u32 = 4;

/// Selects the records to list.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub struct List {
    /// Only the records of this user. If absent: the caller's own records if it can see no others,
    /// or else the records of all users.
    user_id: Option<UserId>,
    /// The maximum number of records, 20 if absent. A page of large records can have fewer.
    #[schemars(range(min = 1, max = 100))]
    limit: Option<u32>,
    /// Only records older than the record with this id: `next` of the previous page.
    before: Option<u64>,
}

/// A page of records, newest first.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Page<R> {
    /// The records.
    pub items: Vec<R>,
    /// The value of `before` for the next page. Null on the last page.
    pub next: Option<u64>,
}

impl<R: Record> Records<R> {
    /// Returns a page of records, newest first: the records of one user, or of all users if the
    /// caller can see them.
    ///
    /// # Errors
    /// `forbidden`: the records belong to another user, and the caller is neither an admin nor
    /// anonymous.
    pub fn list(&self, ctx: &Context, list: List) -> Result<Page<R>> {
        let user = match (list.user_id, limited_to(ctx)) {
            (Some(user), _) => {
                must_own(ctx, &user)?;
                Some(user)
            }
            (None, caller) => caller.map(|caller| UserId::Text(caller.to_owned())),
        };
        let mut page =
            Filling { items: Vec::new(), bytes: 0, limit: list.limit.unwrap_or(DEFAULT_LIMIT) };
        let more = match user {
            Some(user) => self.fill_with_users(ctx, &mut page, &user, list.before)?,
            None => self.fill_with_all(ctx, &mut page, list.before)?,
        };
        let next = page.items.last().filter(|_| more).map(Record::id);
        Ok(Page { items: page.items, next })
    }

    /// Reads all records in chunks until the page is full. Returns whether records are left.
    fn fill_with_all(
        &self,
        ctx: &Context,
        page: &mut Filling<R>,
        before: Option<u64>,
    ) -> Result<bool> {
        let mut cursor = before.map(key);
        loop {
            let scan = Scan::prefix(RECORDS).backwards().limit(page.wanted().min(CHUNK));
            let chunk = ctx
                .state()
                .scan_bytes(cursor.as_deref().map_or(scan, |cursor| scan.cursor(cursor)))?;
            if chunk.is_empty() {
                return Ok(false);
            }
            for (key, record) in chunk {
                if page.is_full() {
                    return Ok(true);
                }
                page.push(ctx.state().decode(&key, &record)?, record.len());
                cursor = Some(key);
            }
        }
    }

    /// Reads as many entries of one user's index as fit on the page, which are small, and then each
    /// record. Returns whether records are left.
    fn fill_with_users(
        &self,
        ctx: &Context,
        page: &mut Filling<R>,
        user: &UserId,
        before: Option<u64>,
    ) -> Result<bool> {
        let prefix = user.prefix();
        let cursor = before.map(|id| user.key(id));
        let scan = Scan::prefix(&prefix).backwards().limit(page.wanted());
        for (indexed, _) in
            ctx.state().scan_bytes(cursor.as_deref().map_or(scan, |cursor| scan.cursor(cursor)))?
        {
            if page.is_full() {
                return Ok(true);
            }
            let key = indexed.replacen(&prefix, RECORDS, 1);
            // It is always there: a record and its entry are written and removed together.
            if let Some(record) = ctx.state().get_bytes(&key)? {
                page.push(ctx.state().decode(&key, &record)?, record.len());
            }
        }
        Ok(false)
    }
}

/// A page that is being filled.
struct Filling<R> {
    items: Vec<R>,
    bytes: usize,
    limit: u32,
}

impl<R: Record> Filling<R> {
    fn is_full(&self) -> bool {
        self.items.len() >= self.limit as usize || self.bytes >= PAGE_BYTES
    }

    /// Returns the number of entries to read: the entries that still fit, and one more, which shows
    /// whether records are left.
    fn wanted(&self) -> u32 {
        let items = u32::try_from(self.items.len()).unwrap_or(u32::MAX);
        self.limit.saturating_sub(items).saturating_add(1)
    }

    fn push(&mut self, record: R, bytes: usize) {
        self.items.push(record);
        self.bytes += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use sockhop_sdk::Plugin;
    use sockhop_sdk::Refusal;
    use sockhop_sdk::testing::{Outcome, TestHost};

    #[derive(Serialize, Deserialize, JsonSchema)]
    struct Thing {
        id: u64,
        user_id: UserId,
        text: String,
    }

    impl Record for Thing {
        fn id(&self) -> u64 {
            self.id
        }

        fn user_id(&self) -> &UserId {
            &self.user_id
        }
    }

    #[derive(Deserialize, JsonSchema)]
    struct Add {
        user_id: UserId,
        text: String,
    }

    const THINGS: Records<Thing> = Records::new("thing");

    /// A host with one record for each of `owners`. The ids are 1, 2, and so on.
    fn things(owners: &[Value]) -> TestHost {
        fn add(ctx: &Context, Add { user_id, text }: Add) -> Result {
            THINGS.store(ctx, &Thing { id: THINGS.next_id(ctx)?, user_id, text })
        }
        fn remove(ctx: &Context, id: u64) -> Result {
            THINGS.remove(ctx, &THINGS.owned(ctx, id)?)
        }
        let plugin = Plugin::new("things", "1.0.0", "").on("add", add).on("remove", remove);
        let mut host =
            TestHost::new(plugin.on("list", |ctx: &Context, list: List| THINGS.list(ctx, list)));
        for owner in owners {
            let outcome = host.handle("add", json!({"user_id": owner, "text": ""}));
            assert_eq!(outcome, Outcome { reply: Ok(Value::Null), effects: vec![] });
        }
        host
    }

    /// Returns the ids on a page, and its `next`.
    fn ids(host: &mut TestHost, list: Value) -> Result<(Vec<Value>, Value)> {
        let page = host.handle("list", list).reply?;
        let items = page["items"].as_array().into_iter().flatten().map(|item| item["id"].clone());
        Ok((items.collect(), page["next"].clone()))
    }

    fn forbidden<T>() -> Result<T> {
        Err(Refusal::forbidden("these records belong to another user"))
    }

    #[test]
    fn listing_goes_from_the_newest_to_the_oldest_page_by_page() {
        let mut host = things(&vec![json!(7); 45]);
        let all = |from: u64, to: u64| (to..=from).rev().map(Value::from).collect::<Vec<_>>();
        for user in [json!({}), json!({"user_id": 7})] {
            let page = |more: Value| {
                let mut list = user.clone();
                list.as_object_mut()
                    .into_iter()
                    .for_each(|list| list.extend(more.as_object().cloned().unwrap_or_default()));
                list
            };
            assert_eq!(ids(&mut host, page(json!({}))), Ok((all(45, 26), json!(26))));
            assert_eq!(ids(&mut host, page(json!({"before": 26}))), Ok((all(25, 6), json!(6))));
            assert_eq!(ids(&mut host, page(json!({"before": 6}))), Ok((all(5, 1), json!(null))));
            assert_eq!(
                ids(&mut host, page(json!({"before": 6, "limit": 5}))),
                Ok((all(5, 1), json!(null)))
            );
            assert_eq!(ids(&mut host, page(json!({"before": 1}))), Ok((vec![], json!(null))));
            assert_eq!(ids(&mut host, page(json!({"limit": 100}))), Ok((all(45, 1), json!(null))));
        }
    }

    #[test]
    fn listing_by_user_finds_that_users_records_only() {
        let mut host =
            things(&[json!(1), json!("1"), json!("1/1"), json!(12), json!("a"), json!("a/b")]);
        assert_eq!(
            ids(&mut host, json!({"user_id": "1"})),
            Ok((vec![json!(2), json!(1)], json!(null)))
        );
        assert_eq!(ids(&mut host, json!({"user_id": 12})), Ok((vec![json!(4)], json!(null))));
        assert_eq!(ids(&mut host, json!({"user_id": "a"})), Ok((vec![json!(5)], json!(null))));
        assert_eq!(ids(&mut host, json!({"user_id": 8})), Ok((vec![], json!(null))));
    }

    #[test]
    fn listing_as_a_user_shows_its_own_records() {
        let mut host = things(&[json!(1), json!("2"), json!(1)]);
        host.user("1");
        assert_eq!(ids(&mut host, json!({})), Ok((vec![json!(3), json!(1)], json!(null))));
        assert_eq!(
            ids(&mut host, json!({"user_id": 1})),
            Ok((vec![json!(3), json!(1)], json!(null)))
        );
        assert_eq!(ids(&mut host, json!({"user_id": 2})), forbidden());
        host.role("admin");
        assert_eq!(
            ids(&mut host, json!({})),
            Ok((vec![json!(3), json!(2), json!(1)], json!(null)))
        );
        assert_eq!(ids(&mut host, json!({"user_id": 2})), Ok((vec![json!(2)], json!(null))));
    }

    #[test]
    fn listing_large_records_ends_a_page_early() {
        let mut host = things(&[]);
        for _ in 0..10 {
            host.handle("add", json!({"user_id": 1, "text": "x".repeat(100 * 1024)}));
        }
        assert_eq!(ids(&mut host, json!({})), Ok((vec![json!(10), json!(9), json!(8)], json!(8))));
        assert_eq!(
            ids(&mut host, json!({"user_id": 1, "before": 2})),
            Ok((vec![json!(1)], json!(null)))
        );
    }

    #[test]
    fn removing_a_record_removes_everything_that_was_stored_of_it() {
        let mut host = things(&[json!(1)]);
        assert_eq!(
            host.state().into_keys().collect::<Vec<_>>(),
            ["record/0000000000000001", "user/1:1/0000000000000001"]
        );
        assert_eq!(
            host.handle("remove", json!(1)),
            Outcome { reply: Ok(Value::Null), effects: vec![] }
        );
        assert!(host.state().is_empty());
        assert_eq!(
            host.handle("remove", json!(1)),
            Outcome::refused("not_found", "there is no thing 1")
        );
    }
}
