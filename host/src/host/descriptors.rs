//! File descriptors: how many the process may have, and how many are left for clients.
//!
//! Without free descriptors, a host can't read state or compile plugins. Clients therefore get only
//! the descriptors that remain after all other uses.

use std::num::NonZeroUsize;

use crate::config::DEFAULT_CONNECTIONS;

/// Descriptors that the host itself needs: standard streams, the runtimes' polls, listeners, lock,
/// watch, a log file. A host without plugins has about 25.
const HOST: u64 = 64;

/// Descriptors for compiling and loading plugins: pipes to the compilers, and files that are read,
/// written and hashed.
const LOADING: u64 = 32;

/// Plugins that can be added later before the limit of client connections is lowered.
pub(super) const MORE_PLUGINS: usize = 16;

/// The fewest client connections with which a host starts, unless fewer are configured.
const FEWEST: u64 = 16;

/// Raises the soft limit to the hard limit. Returns the limit that is then in force, or `None` if
/// the system has no such limit.
pub(super) fn raise_limit() -> Option<u64> {
    #[cfg(unix)]
    {
        // If the system refuses, the host uses the present limit.
        let raised = rlimit::increase_nofile_limit(u64::MAX).ok();
        raised.or_else(|| rlimit::Resource::NOFILE.get_soft().ok())
    }
    #[cfg(not(unix))]
    None
}

/// Returns the number of descriptors for everything except client connections, with this number of
/// plugins, whose state takes at most `of_plugin` each, and whose requests take `outbound`.
pub(super) fn needed(plugins: usize, of_plugin: u64, reserved: NonZeroUsize, outbound: u64) -> u64 {
    let plugins = u64::try_from(plugins).unwrap_or(u64::MAX);
    let reserved = u64::try_from(reserved.get()).unwrap_or(u64::MAX);
    let of_plugins = plugins.saturating_mul(of_plugin).saturating_add(outbound);
    of_plugins.saturating_add(HOST + LOADING).saturating_add(reserved)
}

/// Returns how many connections clients may have, at one descriptor each: the configured number, or
/// else the default or as many as are left.
///
/// # Errors
/// If the configured number does not fit, or too few are left.
pub(super) fn connections(
    limit: Option<u64>,
    needed: u64,
    configured: Option<NonZeroUsize>,
) -> Result<NonZeroUsize, TooFew> {
    let wanted = configured.unwrap_or(DEFAULT_CONNECTIONS);
    let Some(limit) = limit else { return Ok(wanted) };
    let left = limit.saturating_sub(needed);
    let too_few = TooFew { limit, needed, left, configured };
    match (configured, NonZeroUsize::new(usize::try_from(left).unwrap_or(usize::MAX))) {
        (_, Some(left)) if wanted <= left => Ok(wanted),
        (None, Some(left)) if left.get() as u64 >= FEWEST => Ok(left),
        _ => Err(too_few),
    }
}

/// Returns how many of `connections` clients may have now, after more plugins were added.
pub(super) fn left(limit: Option<u64>, needed: u64, connections: NonZeroUsize) -> usize {
    let left = limit.map_or(u64::MAX, |limit| limit.saturating_sub(needed));
    connections.get().min(usize::try_from(left).unwrap_or(usize::MAX))
}

/// The process has too few file descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{}: the process may have {limit} file descriptors, and files, plugins, their \
     requests and reserved connections need {needed} of them; raise the hard \
     limit (`ulimit -n`, or LimitNOFILE in systemd){}",
    match configured {
        Some(configured) => format!("limits.connections: {configured} do not fit, only {left} do"),
        None => format!("too few file descriptors are left for connections ({left}; at least \
                         {FEWEST} are needed)"),
    },
    match configured {
        Some(_) => ", or lower `connections` in `[limits]`",
        None => ", or lower `reserved_connections` in `[limits]`",
    }
)]
pub struct TooFew {
    limit: u64,
    needed: u64,
    left: u64,
    configured: Option<NonZeroUsize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(number: usize) -> NonZeroUsize {
        NonZeroUsize::new(number).unwrap()
    }

    #[test]
    fn the_default_adapts_to_what_is_left_and_a_configured_number_must_fit() {
        assert_eq!(needed(4 + MORE_PLUGINS, 8, number(32), 144), 432);
        let needed = needed(4 + MORE_PLUGINS, 8, number(32), 0);
        assert_eq!(needed, 288);
        let of = |limit, configured: Option<usize>| {
            connections(Some(limit), needed, configured.map(number)).map(NonZeroUsize::get)
        };
        assert_eq!(of(1_024, None), Ok(736));
        assert_eq!(of(1_048_576, None), Ok(50_000));
        assert_eq!(of(1_024, Some(736)), Ok(736));
        assert!(of(1_024, Some(737)).is_err());
        assert_eq!(of(304, None), Ok(16));
        assert!(of(303, None).is_err() && of(64, None).is_err() && of(0, None).is_err());
        assert_eq!(of(290, Some(2)), Ok(2), "a small configured number is granted");
        assert_eq!(connections(None, needed, None), Ok(DEFAULT_CONNECTIONS));
        assert!(connections(Some(u64::MAX), u64::MAX, None).is_err());
    }

    #[test]
    fn plugins_that_come_later_take_their_descriptors_from_clients() {
        let left = |plugins| left(Some(1_024), needed(plugins, 8, number(32), 0), number(736));
        assert_eq!((left(20), left(21), left(30), left(1_000)), (736, 728, 656, 0));
        assert_eq!(super::left(None, needed(1_000, 8, number(32), 0), number(736)), 736);
    }

    #[test]
    fn a_number_that_does_not_fit_is_named_with_the_one_that_does() {
        let error = connections(Some(1_024), 288, Some(number(50_000))).unwrap_err().to_string();
        for part in ["limits.connections", "50000", "1024", "736", "ulimit -n", "LimitNOFILE"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
