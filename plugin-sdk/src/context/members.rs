//! Reads of who is in any room.

use super::Context;
use crate::connection::MemberCount;
use crate::refusal::Result;

/// Who is in a room. The host answers from its own list of members, so the answers are exact, also
/// after a crash of the plugin. They do not include this handler's own changes.
impl Context {
    /// Returns how many connections and users are in `room`, in the caller's namespace, or in all
    /// if there is no caller. It need not be a room of this plugin. In the handler of
    /// [`on_disconnect`](crate::Plugin::on_disconnect), the caller is still in its rooms, unless
    /// the call is late.
    ///
    /// Hosts before 0.1.1 refuse to load a plugin that calls this or
    /// [`member_ids`](Self::member_ids).
    ///
    /// ```
    /// use serde_json::json;
    /// use sockhop_sdk::testing::TestHost;
    /// use sockhop_sdk::{Access, Context, Plugin, Result};
    ///
    /// /// Enters, and returns how many users were there before.
    /// fn enter(ctx: &Context, _: ()) -> Result<u32> {
    ///     ctx.join("lobby")?;
    ///     Ok(ctx.member_count("lobby")?.users)
    /// }
    ///
    /// let plugin = Plugin::new("lobby", "1.0.0", "")
    ///     .room("lobby", Access::Authenticated)
    ///     .on("enter", enter);
    /// let mut host = TestHost::new(plugin);
    /// // Two devices of one user.
    /// for (connection, before) in [("c1", 0), ("c2", 1)] {
    ///     host.connection(connection).user("7").connect();
    ///     assert_eq!(host.handle("enter", json!(null)).reply, Ok(json!(before)));
    /// }
    /// host.connection("c3").user("8").connect();
    /// assert_eq!(host.handle("enter", json!(null)).reply, Ok(json!(1)));
    /// ```
    ///
    /// # Errors
    /// None at present; a later host may refuse the call.
    pub fn member_count(&self, room: &str) -> Result<MemberCount> {
        #[cfg(target_family = "wasm")]
        return crate::imports::members::count(room);
        #[cfg(not(target_family = "wasm"))]
        self.host.member_count(room)
    }

    /// Returns the public ids of at most `limit` (1 to 1,000) connections in `room`: those that
    /// follow `after`, in their order. It need not be a room of this plugin;
    /// [`members`](Self::members) also returns the users in a room of this plugin.
    ///
    /// # Errors
    /// `misuse`: `limit` is out of range.
    pub fn member_ids(&self, room: &str, after: Option<&str>, limit: u32) -> Result<Vec<String>> {
        #[cfg(target_family = "wasm")]
        return crate::imports::members::ids(room, after, limit);
        #[cfg(not(target_family = "wasm"))]
        self.host.member_ids(room, after, limit)
    }
}
