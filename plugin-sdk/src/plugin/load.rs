//! The handler of `$load`.

use sockhop_core::name::host_event;

use super::{Declaration, Plugin};
use crate::context::Context;
use crate::handlers::erase_of_load;
use crate::progress::Progress;
use crate::refusal::Result;

impl Plugin {
    /// Prepares the state that other versions of this plugin have left: calls `handler` again and
    /// again until it returns that it has finished, as `()`, or as a [`Progress`] of which
    /// everything is done. There is no caller.
    ///
    /// Each version of the plugin does this once on a host: it is not repeated at a restart, nor
    /// after a rollback to a version that has finished. A host remembers the last 64 versions. It
    /// repeats it after `sockhop state import`, because what is imported can be from any version.
    ///
    /// The version serves meanwhile, and its other events are handled beside the calls. So a
    /// handler must be able to read what is not prepared yet, as a [collection](crate::collection)
    /// does. That can also come later: an event of an earlier version may end, and store, after
    /// this version has finished, and so do all events after a rollback to it. At the host's start,
    /// the first call comes after [`on_start`](Self::on_start).
    ///
    /// Each call is one event, within the limits of every event. How far it is, is stored with its
    /// effects: a crash or a conflict repeats the last call at most, and never leaves one out. If
    /// `handler` returns `Err`, the effects of this call are dropped, and the host calls it again
    /// after 1 s, 5 s, 25 s, 125 s and then every 5 minutes, each with up to a tenth more or less.
    /// The same applies after 1,000 calls in a row without a greater `done`. The operator sees the
    /// reason in `sockhop plugins show`. Such failures do not open the breaker. The calls wait
    /// while the plugin is disabled or its breaker is open.
    ///
    /// In a test, [`TestHost::load`](crate::testing::TestHost::load) makes these calls.
    ///
    /// Hosts before 0.1.1 refuse to load a plugin that has such a handler.
    ///
    /// ```
    /// use serde_json::json;
    /// use sockhop_sdk::testing::TestHost;
    /// use sockhop_sdk::{Context, Plugin, Progress, Result, Scan};
    ///
    /// /// Version 1 has stored `user/7`, this one stores `member/7`. A handler has 256 effects.
    /// fn rename(ctx: &Context) -> Result<Progress> {
    ///     let state = ctx.state();
    ///     let old = state.scan_bytes(Scan::prefix("user/").limit(101))?;
    ///     let done: u64 = state.get("renamed")?.unwrap_or(0);
    ///     if old.is_empty() {
    ///         state.delete("renamed")?;
    ///         return Ok(Progress::finished());
    ///     }
    ///     for (key, value) in old.iter().take(100) {
    ///         state.set_bytes(&key.replace("user/", "member/"), value)?;
    ///         state.delete(key)?;
    ///     }
    ///     let now = done + old.len().min(100) as u64;
    ///     state.set("renamed", &now)?;
    ///     // The total is an estimate: at least one call more.
    ///     Ok(Progress::new(now, now + 1))
    /// }
    ///
    /// let mut host = TestHost::new(Plugin::new("members", "2.0.0", "").on_load(rename));
    /// for user in 1..=150 {
    ///     host.store(&format!("user/{user}"), &json!({}));
    /// }
    /// let calls = host.load();
    /// assert_eq!(calls.len(), 3);
    /// assert_eq!(calls[0].reply, Ok(json!({"done": 100, "total": 101})));
    /// assert_eq!(calls[2].reply, Ok(json!(null)));
    /// assert_eq!(host.state().len(), 150);
    /// assert!(host.state().contains_key("member/150"));
    /// ```
    #[must_use]
    pub fn on_load<P: Into<Progress>>(
        self,
        handler: impl Fn(&Context) -> Result<P> + Send + Sync + 'static,
    ) -> Self {
        self.and(Declaration::Listens { event: host_event::LOAD, handler: erase_of_load(handler) })
    }
}
