//! Who is present: a plugin learns that a user has come or gone, however many connections the user
//! has, and however often they break.
//!
//! What is stored is only what the plugin was told. Whether a user is present is asked of the host
//! each time, so a lost event, a crash or a rollback can't make the two differ for long.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sockhop_core::identity::room_of_user;

use crate::context::Context;
use crate::plugin::Plugin;
use crate::refusal::Result;
use crate::state::Scan;
use crate::timer::Timer;

/// Tells a plugin which users are present: [`Plugin::presence`].
///
/// A user is present while one connection or more of the user exist, in any namespace, and for a
/// grace period afterwards. So a page that is loaded again and a phone that changes its network
/// cause no calls. Anonymous clients are no users.
///
/// ```
/// use std::time::Duration;
///
/// use schemars::JsonSchema;
/// use serde::Serialize;
/// use serde_json::json;
/// use sockhop_sdk::testing::TestHost;
/// use sockhop_sdk::{Access, Context, Emits, Plugin, Presence, Result, Target};
///
/// #[derive(Serialize, JsonSchema)]
/// struct Status {
///     user: String,
///     online: bool,
/// }
///
/// const CHANGED: Emits<Status> = Emits::new("status").to(&["friends"]);
///
/// const PRESENCE: Presence = Presence::new(joined, left).grace(Duration::from_secs(30));
///
/// fn joined(ctx: &Context, user: &str) -> Result {
///     let data = Status { user: user.to_owned(), online: true };
///     ctx.emit(Target::room("friends"), &CHANGED, &data)
/// }
///
/// fn left(ctx: &Context, user: &str) -> Result {
///     let data = Status { user: user.to_owned(), online: false };
///     ctx.emit(Target::room("friends"), &CHANGED, &data)
/// }
///
/// /// The first 100 users who are present.
/// fn online(ctx: &Context, _: ()) -> Result<Vec<String>> {
///     Presence::users(ctx, None, 100)
/// }
///
/// let plugin = Plugin::new("friends", "1.0.0", "Who is online")
///     .room("friends", Access::Authenticated)
///     .emits(CHANGED)
///     .presence(PRESENCE)
///     .on("online", online);
///
/// let mut host = TestHost::new(plugin);
/// // Two devices of one user.
/// assert_eq!(host.connection("c1").user("7").connect().effects.len(), 2);
/// host.connection("c2").user("7").connect();
/// host.connection("c1").disconnect();
/// assert_eq!(host.connection("c2").handle("online", json!(null)).reply, Ok(json!(["7"])));
/// // The other one returns within the grace period.
/// host.disconnect();
/// host.advance(Duration::from_secs(20));
/// host.connection("c3").user("7").connect();
/// host.advance(Duration::from_secs(60));
/// assert_eq!(host.handle("online", json!(null)).reply, Ok(json!(["7"])));
/// host.disconnect();
/// host.advance(Duration::from_secs(30));
/// assert_eq!(host.connection("c4").handle("online", json!(null)).reply, Ok(json!([])));
/// ```
///
/// # What it promises
///
/// - For each user, `joined` and `left` are called in turn, `joined` first. Each call is one
///   transaction with what the plugin is told: if it fails, the host calls it again later.
/// - After a crash of the plugin, a reload, a rollback or a restart of the host, the plugin is
///   called for the users who have come or gone meanwhile.
/// - If an event was lost because a handler has failed, this is noticed at most three grace periods
///   and a minute later.
///
/// # What it needs
///
/// - The room `user_` + user, which each connection of a user joins by itself: the host counts its
///   members. A user for whom a plugin's rule forbids this room, or whose name is too long for a
///   room, is never present; and a connection that a plugin lets leave this room does not count.
/// - State under keys that begin with `presence/`, and the timers `presence_gone` and
///   `presence_check`. Each user that is gone has a timer until the grace period is over. A check
///   of all users runs every three grace periods, but at most once a minute. It costs one timer
///   event per 500 connections, and one per 200 users.
/// - The host events `$start`, `$connect`, `$disconnect` and `$resync`, for which the plugin has no
///   other handlers then.
#[derive(Clone, Copy)]
pub struct Presence {
    grace: Duration,
    joined: fn(&Context, &str) -> Result,
    left: fn(&Context, &str) -> Result,
}

/// Fires when a user may be gone, or has come without an event, with the user as key.
const GONE: Timer<Gone> = Timer::new("presence_gone");

/// Fires when a part of the users must be compared with the connections.
const CHECK: Timer<Check> = Timer::new("presence_check");

/// The only key of [`CHECK`].
const THE_CHECK: &str = "all";

const PREFIX: &str = "presence/";

/// A connection whose `$disconnect` was handled may still be in its rooms while other plugins
/// handle theirs: by default for 5 s. If the user still has a connection, the host is asked again
/// after this time.
const LINGERING: Duration = Duration::from_secs(30);

/// The shortest time between two checks of all users.
const CHECKS: Duration = Duration::from_secs(60);

/// Number of connections that one check reads.
const CONNECTIONS: u32 = 500;

/// Number of users in one check for whom `joined` is to be called: each costs one effect, of 256 in
/// all.
const JOINS: usize = 200;

/// Number of users that one check reads: each can cost one effect.
const USERS: u32 = 200;

#[derive(Serialize, Deserialize, JsonSchema)]
struct Gone {
    user: String,
    /// Whether the host was asked before.
    again: bool,
}

/// The place from which a check continues: after a connection, or after a stored user.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
struct Check {
    users: bool,
    after: Option<String>,
}

impl Presence {
    /// Calls `joined` when a user has come, and `left` when a user has gone. The grace period is
    /// 15 s.
    ///
    /// `joined` is called in the handler of a connection, whose caller is the user, or of a timer,
    /// without a caller. `left` is called in the handler of a timer. Each may have at most six
    /// effects, and must not rely on a caller.
    #[must_use]
    pub const fn new(
        joined: fn(&Context, &str) -> Result,
        left: fn(&Context, &str) -> Result,
    ) -> Self {
        Self { grace: Duration::from_secs(15), joined, left }
    }

    /// Sets the grace period: for how long a user without a connection still counts as present.
    #[must_use]
    pub const fn grace(self, grace: Duration) -> Self {
        Self { grace, ..self }
    }

    /// Returns whether the plugin was told that `user` has come, and not that the user has gone.
    ///
    /// # Errors
    /// See [`State`](crate::State).
    pub fn is_present(ctx: &Context, user: &str) -> Result<bool> {
        Ok(ctx.state().get_bytes(&key(user))?.is_some())
    }

    /// Returns at most `limit` (1 to 1,000) of the users who are present: those that follow
    /// `after`, in byte order.
    ///
    /// # Errors
    /// See [`State`](crate::State).
    pub fn users(ctx: &Context, after: Option<&str>, limit: u32) -> Result<Vec<String>> {
        let after = after.map(key);
        let keys = stored(ctx, after.as_deref(), limit)?;
        Ok(keys.iter().filter_map(|key| key.strip_prefix(PREFIX)).map(str::to_owned).collect())
    }

    fn connected(self, ctx: &Context) -> Result {
        let Some(user) = ctx.user() else { return Ok(()) };
        // The call may be so late that the connection has ended.
        if has_connection(ctx, user)? {
            // Either this takes effect or the handler of the timer does. If that one does, this
            // handler runs again, and finds that the user is gone.
            ctx.cancel(&GONE, user)?;
            self.add(ctx, user)?;
        }
        Ok(())
    }

    fn disconnected(self, ctx: &Context) -> Result {
        // Also if the user has other connections: those may be ending at the same time.
        ctx.user().map_or(Ok(()), |user| self.may_be_gone(ctx, user))
    }

    fn may_be_gone(self, ctx: &Context, user: &str) -> Result {
        ctx.after(&GONE, self.grace, user, &Gone { user: user.to_owned(), again: false })
    }

    fn gone(self, ctx: &Context, Gone { user, again }: Gone) -> Result {
        if has_connection(ctx, &user)? {
            self.add(ctx, &user)?;
            if again {
                return Ok(());
            }
            return ctx.after(&GONE, LINGERING, &user.clone(), &Gone { user, again: true });
        }
        if Self::is_present(ctx, &user)? {
            ctx.state().delete(&key(&user))?;
            (self.left)(ctx, &user)?;
        }
        Ok(())
    }

    /// Records that a user is present, and calls `joined` if that is new.
    fn add(self, ctx: &Context, user: &str) -> Result {
        if Self::is_present(ctx, user)? {
            return Ok(());
        }
        ctx.state().set(&key(user), &true)?;
        (self.joined)(ctx, user)
    }

    /// Checks a part of all users, and sets the timer for the next part.
    fn check(self, ctx: &Context, Check { users, after }: Check) -> Result {
        if users {
            self.check_users(ctx, after.as_deref())
        } else {
            self.check_connections(ctx, after)
        }
    }

    /// Finds users who have come.
    fn check_connections(self, ctx: &Context, mut after: Option<String>) -> Result {
        let page = ctx.connections_after(after.as_deref(), CONNECTIONS)?;
        let (mut joins, mut checked) = (0, 0);
        for connection in &page {
            if joins == JOINS {
                break;
            }
            if let Some(user) = &connection.user
                && has_connection(ctx, user)?
                && !Self::is_present(ctx, user)?
            {
                // In an event of its own: a call of `joined` that fails must not stop the check.
                let come = Gone { user: user.clone(), again: true };
                ctx.after(&GONE, Duration::ZERO, user, &come)?;
                joins += 1;
            }
            checked += 1;
            after = Some(connection.id.clone());
        }
        let is_last = checked == page.len() && page.len() < CONNECTIONS as usize;
        let next = if is_last {
            Check { users: true, after: None }
        } else {
            Check { users: false, after }
        };
        ctx.after(&CHECK, Duration::ZERO, THE_CHECK, &next)
    }

    /// Finds users who have gone.
    fn check_users(self, ctx: &Context, after: Option<&str>) -> Result {
        let keys = stored(ctx, after, USERS)?;
        for user in keys.iter().filter_map(|key| key.strip_prefix(PREFIX)) {
            if !has_connection(ctx, user)? {
                self.may_be_gone(ctx, user)?;
            }
        }
        let last = keys.last().filter(|_| keys.len() == USERS as usize).cloned();
        let (next, wait) = match last {
            Some(last) => (Check { users: true, after: Some(last) }, Duration::ZERO),
            // Longer than the grace period: each check sets the timers of absent users anew.
            None => (Check::default(), CHECKS.max(self.grace.saturating_mul(2))),
        };
        ctx.after(&CHECK, wait, THE_CHECK, &next)
    }
}

impl Plugin {
    /// Calls the functions of `presence` when a user comes or goes. Declares everything that
    /// [`Presence`] needs.
    ///
    /// Hosts before 0.1.1 refuse to load a plugin that calls this.
    #[must_use]
    pub fn presence(self, presence: Presence) -> Self {
        let check_all =
            |ctx: &Context| ctx.after(&CHECK, Duration::ZERO, THE_CHECK, &Check::default());
        self.on_start(check_all)
            .on_resync(check_all)
            .on_connect(move |ctx| presence.connected(ctx))
            .on_disconnect(move |ctx| presence.disconnected(ctx))
            .on_timer(GONE, move |ctx, gone| presence.gone(ctx, gone))
            .on_timer(CHECK, move |ctx, check| presence.check(ctx, check))
    }
}

fn key(user: &str) -> String {
    format!("{PREFIX}{user}")
}

/// The keys of at most `limit` users who are present, after a key.
fn stored(ctx: &Context, after: Option<&str>, limit: u32) -> Result<Vec<String>> {
    let scan = Scan::prefix(PREFIX).limit(limit);
    let scan = after.map_or(scan, |after| scan.cursor(after));
    Ok(ctx.state().scan_bytes(scan)?.into_iter().map(|(key, _)| key).collect())
}

/// Asks the host whether a connection of the user exists.
fn has_connection(ctx: &Context, user: &str) -> Result<bool> {
    Ok(ctx.member_count(&room_of_user(user))?.connections > 0)
}

impl fmt::Debug for Presence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presence").field("grace", &self.grace).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::TestHost;

    const GRACE: Duration = Duration::from_secs(15);
    const PRESENCE: Presence = Presence::new(joined, left);

    fn note(ctx: &Context, line: String) -> Result {
        let id = ctx.state().next_id("log")?;
        ctx.state().set(&format!("log/{id:08}"), &line)
    }

    fn joined(ctx: &Context, user: &str) -> Result {
        note(ctx, format!("+{user}"))
    }

    fn left(ctx: &Context, user: &str) -> Result {
        note(ctx, format!("-{user}"))
    }

    fn host() -> TestHost {
        let plugin = Plugin::new("roster", "1.0.0", "").presence(PRESENCE);
        let forget = |ctx: &Context, key: String| ctx.state().delete(&key);
        TestHost::new(plugin.on("forget", forget))
    }

    fn log(host: &TestHost) -> Vec<String> {
        let state = host.state().into_iter().filter(|(key, _)| key.starts_with("log/"));
        state.filter_map(|(_, line)| line.as_str().map(str::to_owned)).collect()
    }

    #[test]
    fn a_user_comes_with_the_first_connection_and_goes_after_the_last_one_and_the_grace_period() {
        let mut host = host();
        host.start();
        host.advance(Duration::ZERO);
        for connection in ["c1", "c2"] {
            host.connection(connection).user("7").connect();
        }
        host.connection("c3").connect();
        host.connection("c1").disconnect();
        host.advance(GRACE * 10);
        assert_eq!(log(&host), ["+7"]);
        host.connection("c2").disconnect();
        host.advance(GRACE - Duration::from_millis(1));
        host.connection("c4").user("7").connect();
        host.advance(GRACE * 10);
        assert_eq!(log(&host), ["+7"], "returned in time");
        host.disconnect();
        host.advance(GRACE);
        assert_eq!(log(&host), ["+7", "-7"]);
    }

    #[test]
    fn a_user_who_is_back_with_another_connection_when_the_timer_fires_stays() {
        let mut host = host();
        host.connection("c1").user("7").connect();
        host.connection("c2").user("7").connect();
        host.connection("c1").disconnect();
        // Asked twice, in case that the other connection was ending too.
        host.advance(GRACE);
        assert_eq!(host.timers().iter().filter(|timer| timer.name == "presence_gone").count(), 1);
        host.advance(LINGERING);
        assert_eq!(host.timers().iter().filter(|timer| timer.name == "presence_gone").count(), 0);
        assert_eq!(log(&host), ["+7"]);
    }

    #[test]
    fn after_a_start_or_a_loss_of_events_those_who_have_come_and_gone_are_found() {
        // What an earlier run has left behind: more users than one check reads.
        let mut host = host();
        for user in 0..250 {
            host.store(&format!("presence/{user:03}"), &json!(true));
        }
        host.start();
        host.connection("c1").user("007").connect();
        host.advance(GRACE * 2);
        let left = log(&host);
        assert_eq!(left.len(), 249);
        assert!(left.iter().all(|line| line.starts_with('-') && line != "-007"));
        // Connections whose `$connect` was lost: more than one check adds, or than it reads.
        for user in 0..520 {
            host.connection(&format!("d{user:03}")).user(&format!("n{user:03}")).connect();
        }
        for user in 0..520 {
            host.handle("forget", json!(format!("presence/n{user:03}")));
        }
        host.advance(CHECKS * 2);
        assert_eq!(log(&host).len(), 249 + 520 + 520);
        host.handle("forget", json!("presence/n000"));
        host.resync();
        host.advance(Duration::ZERO);
        assert_eq!(log(&host).last().map(String::as_str), Some("+n000"));
    }
}
