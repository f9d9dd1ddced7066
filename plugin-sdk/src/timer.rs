//! The timers that handlers of a plugin set, each with the type of its data, and the schedules by
//! which a host sets timers.

use std::fmt;
use std::marker::PhantomData;

/// A timer that handlers set: its name, and the type of its data.
///
/// Define it as a constant, register it together with its handler
/// ([`Plugin::on_timer`](crate::Plugin::on_timer)), and set it with
/// [`Context::after`](crate::Context::after) or [`Context::at`](crate::Context::at). Then the type
/// of the data always matches the declaration:
///
/// ```
/// # use sockhop_sdk::Timer;
/// # use serde::{Deserialize, Serialize};
/// # use schemars::JsonSchema;
/// #[derive(Serialize, Deserialize, JsonSchema)]
/// struct Remind { user: String, text: String }
///
/// const REMIND: Timer<Remind> = Timer::new("remind");
/// ```
///
/// # What the host promises
///
/// - A timer never fires before its deadline, by the clock of the host's system. It can fire later:
///   if the host was stopped, it fires after the start. While the plugin is disabled, its breaker
///   is open, its file is away, or none of its versions can be loaded, it waits.
/// - To set or cancel a timer is an effect: it is stored together with the other effects of the
///   handler, or not at all. Timers belong to the plugin's name, as its state does, and survive a
///   restart of the host.
/// - A timer fires at least once. It is removed together with the effects of the handler that has
///   handled it. If that handler sets the same timer again, it fires again.
/// - A name and a key have at most one timer. To set it again replaces the deadline and the data.
///   Its handler runs once at a time. Other timers can fire at the same time, and in any order.
/// - If the handler returns `Err`, panics or runs out of time, nothing is applied, and the host
///   calls it again: after 1 s, 5 s, 25 s, 125 s, and then every 10 minutes. After 8 attempts the
///   timer is dead: it stays for the operator, who can retry or drop it. The plugin can set another
///   one with the same name and key, which does not replace the dead one.
///
/// # Its data
///
/// The host checks the data against the schema of `T`, which describes the JSON that deserializes
/// into `T`. So `T` must serialize to the JSON that it deserializes from: do not rename or skip a
/// field in one direction only.
///
/// A timer can fire in another version of the plugin than the one that has set it. Each version
/// must be able to read the data of the versions before and after it. Data that a version can't
/// read fails its handler (`corrupt_state`). If a version no longer declares a timer, those that
/// are set wait until a version declares it again.
pub struct Timer<T> {
    name: &'static str,
    data: PhantomData<fn(T) -> T>,
}

impl<T> Timer<T> {
    /// A timer with this name. The name has the form of an event's name: 1 to 64 printable ASCII
    /// characters except `"` and `\`, and no `$` at the beginning. The timers and schedules of a
    /// plugin have different names. A timer and an event can have the same name.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self { name, data: PhantomData }
    }

    /// The timer's name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

// Not derived, because `derive` would require the same traits of `T`.
impl<T> Clone for Timer<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Timer<T> {}

impl<T> fmt::Debug for Timer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timer").field("name", &self.name).finish()
    }
}

/// The timer that a handler handles, see [`Context::timer`](crate::Context::timer).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FiredTimer {
    /// The name of the [`Timer`], or of the schedule ([`Plugin::every`](crate::Plugin::every)).
    pub name: String,
    /// The key under which it was set. Empty for a schedule, except for a time that was dead and
    /// that an operator retries: its key is its deadline.
    pub key: String,
    /// The deadline, in milliseconds since 1970. It is the same for all attempts. For a schedule,
    /// the time that the pattern names; if the host has missed several, the first of them.
    pub due: u64,
    /// The number of this attempt to handle it: 1 for the first.
    pub attempt: u32,
}

/// The times at which a host calls the handler of [`Plugin::every`](crate::Plugin::every): a cron
/// pattern in a time zone.
///
/// A pattern has five fields: minute, hour, day of the month, month, and day of the week, such as
/// `30 9 * * MON-FRI`. A host refuses to load a plugin with a pattern that it can't read or that no
/// time matches, and one with an unknown time zone. The message names it.
///
/// If clocks are set forward, a time that is left out comes when they are set. If they are set
/// back, a fixed time comes once, and `*` in the hours matches both hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cron {
    pub(crate) pattern: &'static str,
    pub(crate) zone: &'static str,
}

impl Cron {
    /// The times of `pattern` in UTC.
    #[must_use]
    pub const fn utc(pattern: &'static str) -> Self {
        Self::in_zone(pattern, "UTC")
    }

    /// The times of `pattern` in `zone`, a time zone of the IANA database, such as `Europe/Berlin`.
    #[must_use]
    pub const fn in_zone(pattern: &'static str, zone: &'static str) -> Self {
        Self { pattern, zone }
    }
}
