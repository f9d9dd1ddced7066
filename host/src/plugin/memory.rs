//! Limits the memory of an instance, and of all instances of its plugin together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use wasmtime::{ResourceLimiter, Result};

use crate::config::Limits;

/// Limits the bytes of all memories and tables of an instance, and of all instances of its plugin.
pub(super) struct MemoryLimiter {
    instance_bytes: usize,
    plugin_bytes: usize,
    /// Bytes used by this instance.
    pub(super) used: usize,
    /// Bytes used by all instances of the plugin.
    plugin_used: Arc<AtomicUsize>,
    /// Whether a request for more memory was refused. A trap that follows is attributed to that.
    pub(super) refused: bool,
    /// Whether a request was refused because of the limit for all instances of the plugin.
    pub(super) is_plugin_full: bool,
}

/// Bytes of one table element in the host's memory.
const TABLE_ELEMENT_BYTES: usize = size_of::<usize>();

impl MemoryLimiter {
    pub(super) fn new(limits: &Limits, plugin_used: &Arc<AtomicUsize>) -> Self {
        Self {
            instance_bytes: limits.instance_memory_bytes.get(),
            plugin_bytes: limits.plugin_memory_bytes.get(),
            used: 0,
            plugin_used: Arc::clone(plugin_used),
            refused: false,
            is_plugin_full: false,
        }
    }

    fn grow(&mut self, bytes: usize) -> bool {
        if self.used.checked_add(bytes).is_none_or(|used| used > self.instance_bytes) {
            self.refused = true;
            return false;
        }
        let more = |used: usize| used.checked_add(bytes).filter(|used| *used <= self.plugin_bytes);
        if self.plugin_used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            (self.refused, self.is_plugin_full) = (true, true);
            return false;
        }
        self.used += bytes;
        true
    }
}

impl Drop for MemoryLimiter {
    fn drop(&mut self) {
        self.plugin_used.fetch_sub(self.used, Ordering::Relaxed);
    }
}

impl ResourceLimiter for MemoryLimiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> Result<bool> {
        Ok(maximum.is_none_or(|maximum| desired <= maximum)
            && self.grow(desired.saturating_sub(current)))
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> Result<bool> {
        let elements = desired.saturating_sub(current);
        Ok(maximum.is_none_or(|maximum| desired <= maximum)
            && self.grow(elements.saturating_mul(TABLE_ELEMENT_BYTES)))
    }
}
