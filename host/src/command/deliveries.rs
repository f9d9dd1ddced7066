//! `sockhop deliveries`: shows the deliveries of a plugin, and retries or drops dead deliveries.

use super::rows::{Kind, RowsArgs};

/// The arguments of `sockhop deliveries`.
pub(crate) type Deliveries = RowsArgs<DeliveryRows>;

/// Deliveries, as a kind of rows.
#[derive(Debug)]
pub(crate) enum DeliveryRows {}

impl Kind for DeliveryRows {
    const NAME: &'static str = "deliveries";

    const COLUMNS: &'static [&'static str] = &[
        "id",
        "delivery",
        "key",
        "origin",
        "created",
        "next_attempt",
        "attempts",
        "died",
        "error",
    ];

    const LIST: &'static str = "Lists the deliveries of a plugin that wait, or the dead deliveries";

    const DEAD: &'static str = "Lists the deliveries whose last attempt has failed";

    const RETRY: &'static str = "Lets dead deliveries be sent again at once, with all their attempts; also deliveries that \
         wait for their next attempt, if their ids are given";

    const DROP: &'static str =
        "Removes dead deliveries; also deliveries that wait, if their ids are given";

    const IDS: &'static str = "The ids of the deliveries: the numbers that the list prints first";
}
