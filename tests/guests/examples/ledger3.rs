//! Version 3 of the plugin `ledger`: amounts have a currency. It reads the formats 1 and 2 too.

#![allow(missing_docs, reason = "nobody reads it")]

use serde::{Deserialize, Serialize};
use sockhop_guests::ledger::{Account, Account1, Account2, Version, migrating};
use sockhop_sdk::collection::{Collection, Index, Older, Record, Select};
use sockhop_sdk::{Plugin, Result};

#[derive(Serialize, Deserialize)]
struct Stored {
    id: u64,
    owners: Vec<String>,
    amounts: Vec<(String, u64)>,
}

fn euros(cents: u64) -> Vec<(String, u64)> {
    vec![("EUR".to_owned(), cents)]
}

impl Record for Stored {
    type Id = u64;
    const FORMAT: u32 = 3;

    fn id(&self) -> u64 {
        self.id
    }

    fn upgrade_from(older: &Older<'_>) -> Result<Self> {
        match older.format() {
            1 => {
                let Account1 { id, owner, amount } = older.read()?;
                Ok(Self { id, owners: vec![owner], amounts: euros(amount) })
            }
            2 => {
                let Account2 { id, owners, amount } = older.read()?;
                Ok(Self { id, owners, amounts: euros(amount) })
            }
            _ => Err(older.unknown()),
        }
    }
}

// Its keys are those of format 2.
const BY_OWNER: Index<Stored, String> =
    Index::many("owner", |stored: &Stored| stored.owners.clone()).since(2);
const ACCOUNTS: Collection<Stored> = Collection::new("accounts").index(&BY_OWNER);

impl Version for Stored {
    const NAME: &'static str = "3.0.0";

    fn accounts() -> Collection<Self> {
        ACCOUNTS
    }

    fn of_owner(owner: &str) -> Select<Self> {
        BY_OWNER.at(owner)
    }

    fn write(Account { id, owner, cents }: Account) -> Self {
        Self { id, owners: vec![owner], amounts: euros(cents) }
    }

    fn read(self) -> Account {
        let cents = self.amounts.iter().map(|(_, cents)| cents).sum();
        Account { id: self.id, owner: self.owners.join(","), cents }
    }
}

fn ledger() -> Plugin {
    migrating::<Stored>()
}

sockhop_sdk::export!(ledger);
