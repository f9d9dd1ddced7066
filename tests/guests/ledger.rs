//! What the versions of the plugin `ledger` have in common: they store the same accounts, each in a
//! format of its own.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sockhop_sdk::collection::{Collection, Record, Select};
use sockhop_sdk::{Context, Plugin, Result};

/// An account as clients see it, whichever version serves.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Account {
    pub id: u64,
    pub owner: String,
    pub cents: u64,
}

/// A version: how it stores an account.
#[allow(missing_docs, reason = "the names say it")]
pub trait Version: Record<Id = u64> {
    /// The version of the plugin.
    const NAME: &'static str;

    fn accounts() -> Collection<Self>;
    fn of_owner(owner: &str) -> Select<Self>;
    fn write(account: Account) -> Self;
    fn read(self) -> Account;
}

fn put<V: Version>(ctx: &Context, account: Account) -> Result {
    V::accounts().put(ctx, &V::write(account))
}

fn get<V: Version>(ctx: &Context, id: u64) -> Result<Option<Account>> {
    Ok(V::accounts().get(ctx, &id)?.map(V::read))
}

/// The first ids of an owner.
fn ids<V: Version>(ctx: &Context, owner: String) -> Result<Vec<u64>> {
    let page = V::accounts().list(ctx, V::of_owner(&owner).limit(50))?;
    Ok(page.items.into_iter().map(|record| record.id()).collect())
}

fn count<V: Version>(ctx: &Context, _: ()) -> Result<u64> {
    V::accounts().count(ctx)
}

/// A version of the plugin.
pub fn plugin<V: Version>() -> Plugin {
    Plugin::new("ledger", V::NAME, "Accounts")
        .on("put", put::<V>)
        .on("get", get::<V>)
        .on("ids", ids::<V>)
        .on("count", count::<V>)
        .on_check(|check| check.collection(&V::accounts()))
}

/// A version of the plugin that converts what others have stored.
pub fn migrating<V: Version>() -> Plugin {
    plugin::<V>().on_load(|ctx| V::accounts().migrate(ctx, 500))
}

/// The records of format 1.
#[derive(Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Account1 {
    pub id: u64,
    pub owner: String,
    /// Of a cent.
    pub amount: u64,
}

/// The records of format 2.
#[derive(Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Account2 {
    pub id: u64,
    pub owners: Vec<String>,
    pub amount: u64,
}
