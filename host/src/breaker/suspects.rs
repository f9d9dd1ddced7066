//! The sites whose events failed while the breaker opened or was open, and those of them that are
//! suspected to have caused it. A site is a user, or else an address; for IPv6, a network of the
//! size that a provider gives to one customer.

use std::time::{Duration, Instant};

use super::client::ClientKeys;
use super::recent::Recent;

/// How long a site is suspected after it became a suspect, or after its last failure since then.
pub(super) const SUSPECTED_FOR: Duration = Duration::from_secs(600);

/// If more sites failed, the plugin may have been at fault itself, and none of them is suspected.
const MAX_NEW_SUSPECTS: usize = 9;

/// What a breaker remembers of sites, also after it has closed.
#[derive(Debug)]
pub(super) struct Suspects {
    /// The sites whose events failed since the breaker was closed last.
    failed: Recent,
    suspected: Recent,
}

impl Default for Suspects {
    fn default() -> Self {
        Self { failed: Recent::new(SUSPECTED_FOR), suspected: Recent::new(SUSPECTED_FOR) }
    }
}

impl Suspects {
    /// Adds the site of a client whose event failed, when the breaker opens.
    pub(super) fn add_failed(&mut self, client: Option<&ClientKeys>, now: Instant) {
        if let Some(client) = client {
            self.failed.add(client.site_hash, now);
        }
    }

    /// Whether others may probe before the client: events of its site failed since the breaker was
    /// closed last, or its site is suspected.
    pub(super) fn comes_last(&self, client: &ClientKeys, now: Instant) -> bool {
        self.failed.contains(client.site_hash, now, SUSPECTED_FOR) || self.is_suspect(client, now)
    }

    /// Called when the plugin has answered the probe of `client`. The other sites whose events
    /// failed become suspects, if they are few.
    pub(super) fn suspect_others_if_few(&mut self, client: &ClientKeys, now: Instant) {
        self.suspected.remove(client.site_hash);
        self.failed.remove(client.site_hash);
        let failed = std::mem::replace(&mut self.failed, Recent::new(SUSPECTED_FOR));
        if failed.len() <= MAX_NEW_SUSPECTS {
            failed.clients().for_each(|site| self.suspected.add(site, now));
        }
    }

    /// Whether the client's site is suspected.
    pub(super) fn is_suspect(&self, client: &ClientKeys, now: Instant) -> bool {
        self.suspected.contains(client.site_hash, now, SUSPECTED_FOR)
    }

    /// Called when an event of `client` has failed. If its site is a suspect, it stays one for
    /// longer.
    pub(super) fn extend_suspicion(&mut self, client: &ClientKeys, now: Instant) {
        if self.is_suspect(client, now) {
            self.suspected.add(client.site_hash, now);
        }
    }

    /// Returns the size of the larger set.
    #[cfg(test)]
    pub(super) fn largest(&self) -> usize {
        self.failed.len().max(self.suspected.len())
    }
}
