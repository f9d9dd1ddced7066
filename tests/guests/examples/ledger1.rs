//! Version 1 of the plugin `ledger`. It converts nothing.

#![allow(missing_docs, reason = "nobody reads it")]

use serde::{Deserialize, Serialize};
use sockhop_guests::ledger::{Account, Account1, Version, plugin};
use sockhop_sdk::Plugin;
use sockhop_sdk::collection::{Collection, Index, Record, Select};

#[derive(Serialize, Deserialize)]
struct Stored(Account1);

impl Record for Stored {
    type Id = u64;
    const FORMAT: u32 = 1;

    fn id(&self) -> u64 {
        self.0.id
    }
}

const BY_OWNER: Index<Stored, String> = Index::new("owner", |stored| stored.0.owner.clone());
const ACCOUNTS: Collection<Stored> = Collection::new("accounts").index(&BY_OWNER);

impl Version for Stored {
    const NAME: &'static str = "1.0.0";

    fn accounts() -> Collection<Self> {
        ACCOUNTS
    }

    fn of_owner(owner: &str) -> Select<Self> {
        BY_OWNER.at(owner)
    }

    fn write(Account { id, owner, cents }: Account) -> Self {
        Self(Account1 { id, owner, amount: cents })
    }

    fn read(self) -> Account {
        let Account1 { id, owner, amount } = self.0;
        Account { id, owner, cents: amount }
    }
}

fn ledger() -> Plugin {
    plugin::<Stored>()
}

sockhop_sdk::export!(ledger);
