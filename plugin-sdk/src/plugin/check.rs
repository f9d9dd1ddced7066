//! The handler of `$check`.

use sockhop_core::name::host_event;

use super::{Declaration, Plugin};
use crate::refusal::Result;
use crate::state_check::StateCheck;

impl Plugin {
    /// Lets `sockhop check NEW.wasm --state DIR` find out what this version can't read of the state
    /// that other versions have stored. The command works on a copy: it first makes the calls of
    /// [`on_load`](Self::on_load), and then calls `handler` until it has tried all. A host that
    /// serves never calls it.
    ///
    /// `handler` names what the plugin stores, always in the same order. It is called again and
    /// again, and each call tries a part.
    ///
    /// In a test, [`TestHost::check`](crate::testing::TestHost::check) does the same.
    ///
    /// Hosts before 0.1.1 refuse to load a plugin that has such a handler.
    ///
    /// ```
    /// use serde::{Deserialize, Serialize};
    /// use serde_json::json;
    /// use sockhop_sdk::Plugin;
    /// use sockhop_sdk::collection::{Collection, Record};
    /// use sockhop_sdk::testing::TestHost;
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Note { id: u64, text: String }
    ///
    /// impl Record for Note {
    ///     type Id = u64;
    ///     const FORMAT: u32 = 1;
    ///     fn id(&self) -> u64 { self.id }
    /// }
    ///
    /// const NOTES: Collection<Note> = Collection::new("notes");
    ///
    /// let plugin = Plugin::new("notes", "1.0.0", "").on_check(|check| {
    ///     check.collection(&NOTES)?;
    ///     check.values::<u64>("visits/")
    /// });
    /// let mut host = TestHost::new(plugin);
    /// host.store("visits/ada", &json!(3)).store("visits/bob", &json!("many"));
    /// let found = host.check().unwrap();
    /// assert_eq!((found.checked, found.unreadable), (2, 1));
    /// assert_eq!(found.examples[0].key, "visits/bob");
    /// ```
    #[must_use]
    pub fn on_check(
        self,
        handler: impl Fn(&mut StateCheck<'_>) -> Result + Send + Sync + 'static,
    ) -> Self {
        self.and(Declaration::Listens {
            event: host_event::CHECK,
            handler: Box::new(move |ctx, data| StateCheck::run(ctx, data, &handler)),
        })
    }
}
