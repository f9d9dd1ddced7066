//! How far work is that takes several events.

use std::iter::Sum;
use std::ops::Add;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How far a handler of [`Plugin::on_load`](crate::Plugin::on_load), or the migration of a
/// [collection](crate::collection), is. It can also be the reply of a handler:
/// `{"done": 300, "total": 1000}`.
///
/// The progress of several collections is their sum:
///
/// ```
/// # use sockhop_sdk::{Context, Progress, Result};
/// # use sockhop_sdk::collection::{Collection, Record};
/// # fn migrate<R: Record, S: Record>(
/// #     ctx: &Context, notes: &Collection<R>, users: &Collection<S>,
/// # ) -> Result<Progress> {
/// Ok(notes.migrate(ctx, 500)? + users.migrate(ctx, 500)?)
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    /// What is done. For a migration, it is the number of records that it has visited.
    pub done: u64,
    /// What there is to do in all. It is greater than `done` until the work has finished, and can
    /// change meanwhile.
    pub total: u64,
    /// The number of visited records that a later version of the plugin has stored in a newer
    /// format. They stay as they are. Absent if there are none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub newer: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Progress {
    /// So much is done of so much in all.
    #[must_use]
    pub const fn new(done: u64, total: u64) -> Self {
        Self { done, total, newer: 0 }
    }

    /// Everything is done.
    #[must_use]
    pub const fn finished() -> Self {
        Self::new(0, 0)
    }

    /// Whether everything is done. After a migration, all records are as this version stores them,
    /// except those in a newer format.
    #[must_use]
    pub const fn is_finished(&self) -> bool {
        self.done >= self.total
    }
}

/// A handler that returns nothing has finished.
impl From<()> for Progress {
    fn from((): ()) -> Self {
        Self::finished()
    }
}

impl Add for Progress {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            done: self.done.saturating_add(other.done),
            total: self.total.saturating_add(other.total),
            newer: self.newer.saturating_add(other.newer),
        }
    }
}

impl Sum for Progress {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}
