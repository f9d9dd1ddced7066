//! The precedence of plugins that want the same event, room or route. Pure.

use std::time::{Duration, SystemTime};

use super::Slot;

/// The precedence of a version against another plugin that declares the same event, room or route,
/// or a conflicting schema; the weakest first. The weaker loses; if both are equal, the one whose
/// file comes later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// No version of its plugin serves.
    New,
    /// Another version of its plugin serves, or did when its file was removed; or it serves itself,
    /// as it was declared under other settings.
    Upgrade,
    /// It serves, but not for long; at a start, it served when the previous host ended.
    Serves,
    /// It served until its file was removed or the previous host ended. Since then, other plugins
    /// may have taken its events and rooms.
    Returned,
    /// It has served long enough to keep its events and rooms against every plugin that returns.
    Settled,
}

/// The situation in which a version is ranked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The version serves in this host now.
    Serving,
    /// The host starts, and nothing serves yet.
    Start,
    /// The host has started, and the version does not serve.
    Running,
    /// The version serves as it was declared under other settings.
    Redeclared,
}

impl Slot {
    /// Returns the precedence of `version` against other plugins. `settled`: how long a version
    /// must have served to keep its claims against a plugin whose file was away.
    pub fn standing(
        &self,
        version: &str,
        moment: Moment,
        now: SystemTime,
        settled: Duration,
    ) -> Standing {
        if moment == Moment::Redeclared {
            return Standing::Upgrade;
        }
        let is_last = self.serving.as_deref() == Some(version);
        let serves = match moment {
            Moment::Serving => true,
            Moment::Start => is_last && !self.has_come_back,
            Moment::Running | Moment::Redeclared => false,
        };
        if serves {
            // If the clock was set back, the age is unknown and counts as short.
            let is_settled = now.duration_since(self.serving_since).is_ok_and(|age| age >= settled);
            return if is_settled { Standing::Settled } else { Standing::Serves };
        }
        match &self.serving {
            Some(_) if is_last => Standing::Returned,
            Some(_) => Standing::Upgrade,
            None => Standing::New,
        }
    }

    /// Returns the precedence of what the plugin reserves while no version of it can serve: that of
    /// the version that served when the previous host ended. Returns `None` if none did. Always
    /// ranked as at a start.
    pub fn reserved_standing(&self, now: SystemTime, settled: Duration) -> Option<Standing> {
        let serving = self.serving.as_ref()?;
        Some(self.standing(serving, Moment::Start, now, settled))
    }
}
