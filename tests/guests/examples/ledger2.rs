//! Version 2 of the plugin `ledger`: an account has several owners.

#![allow(missing_docs, reason = "nobody reads it")]

use serde::{Deserialize, Serialize};
use sockhop_guests::ledger::{Account, Account1, Account2, Version, migrating};
use sockhop_sdk::collection::{Collection, Index, Older, Record, Select};
use sockhop_sdk::{Plugin, Result};

#[derive(Serialize, Deserialize)]
struct Stored(Account2);

impl Record for Stored {
    type Id = u64;
    const FORMAT: u32 = 2;

    fn id(&self) -> u64 {
        self.0.id
    }

    fn upgrade_from(older: &Older<'_>) -> Result<Self> {
        match older.format() {
            1 => {
                let Account1 { id, owner, amount } = older.read()?;
                Ok(Self(Account2 { id, owners: vec![owner], amount }))
            }
            _ => Err(older.unknown()),
        }
    }
}

const BY_OWNER: Index<Stored, String> = Index::many("owner", |stored| stored.0.owners.clone());
const ACCOUNTS: Collection<Stored> = Collection::new("accounts").index(&BY_OWNER);

impl Version for Stored {
    const NAME: &'static str = "2.0.0";

    fn accounts() -> Collection<Self> {
        ACCOUNTS
    }

    fn of_owner(owner: &str) -> Select<Self> {
        BY_OWNER.at(owner)
    }

    fn write(Account { id, owner, cents }: Account) -> Self {
        Self(Account2 { id, owners: vec![owner], amount: cents })
    }

    fn read(self) -> Account {
        let Account2 { id, owners, amount } = self.0;
        Account { id, owner: owners.join(","), cents: amount }
    }
}

fn ledger() -> Plugin {
    migrating::<Stored>()
}

sockhop_sdk::export!(ledger);
