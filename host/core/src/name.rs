//! Names: which names plugins and events may have, and the names of host events.

/// Host events, which the host sends to the plugins that listen for them. Clients can't send them:
/// their names begin with `$`.
pub mod host_event {
    /// Sent once per start of the host, before the first client connects.
    pub const START: &str = "$start";
    /// Sent to each version of a plugin until its handler replies that it has finished: to prepare
    /// the state that other versions have left. It never comes again in this version.
    pub const LOAD: &str = "$load";
    /// Sent only by `sockhop check`, to a version that has the copy of a stored state: its handler
    /// replies what it can't read.
    pub const CHECK: &str = "$check";
    /// Sent once per connection, before its first event.
    pub const CONNECT: &str = "$connect";
    /// Sent once per connection, after its last event. The connection is still in its rooms, unless
    /// the plugin handles the event so late that the host has not waited for it.
    pub const DISCONNECT: &str = "$disconnect";
    /// Sent after the plugin has missed host events of a connection. The plugin must then list the
    /// connections again.
    pub const RESYNC: &str = "$resync";
    /// Sent when a room that the plugin declares first has become occupied, and has stayed so for
    /// some time. Its data names the room.
    pub const ROOM_OCCUPIED: &str = "$room_occupied";
    /// Sent when a room of which the plugin got [`ROOM_OCCUPIED`] has become empty, and has stayed
    /// so for some time.
    pub const ROOM_VACATED: &str = "$room_vacated";
    /// The names of all host events.
    pub const ALL: [&str; 8] =
        [START, LOAD, CHECK, CONNECT, DISCONNECT, RESYNC, ROOM_OCCUPIED, ROOM_VACATED];
}

/// Maximum number of characters in a plugin's name.
pub const MAX_PLUGIN_NAME: usize = 64;

/// Whether `name` has the form of a plugin's name, `[a-z][a-z0-9_]{0,63}`. It is also the name of a
/// file and of a table in the host's configuration.
pub fn is_plugin_name(name: &str) -> bool {
    name.len() <= MAX_PLUGIN_NAME
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// The names that no plugin may have: the keys of the table `[plugins]` of the host's
/// configuration. The settings of each plugin are a table beside them.
pub const RESERVED_PLUGIN_NAMES: [&str; 5] =
    ["dir", "required", "rescan_s", "empty_after_s", "forget_after_s"];

/// The event names that Socket.IO reserves. They are neither handled nor emitted.
pub const RESERVED_NAMES: [&str; 6] =
    ["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"];

/// The event by which a client sends a new token. The host handles it.
pub const AUTHENTICATE: &str = "authenticate";

/// Maximum number of characters in an event's name.
pub const MAX_EVENT_NAME: usize = 64;

/// Whether clients may send, and plugins handle and emit, events of this name. Valid names have 1
/// to 64 printable ASCII characters except `"` and `\`, do not begin with `$`, and are reserved
/// neither by Socket.IO nor by the host ([`AUTHENTICATE`]).
pub fn is_event_name(name: &str) -> bool {
    (1..=MAX_EVENT_NAME).contains(&name.len())
        && !name.starts_with('$')
        && name.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'"' && b != b'\\')
        && !RESERVED_NAMES.contains(&name)
        && name != AUTHENTICATE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugin_names_are_short_and_in_snake_case() {
        for good in ["a", "memory_logs", "a1_", &"x".repeat(64)] {
            assert!(is_plugin_name(good), "{good}");
        }
        for bad in ["", "_a", "1a", "A", "a-b", "a b", "é", &"x".repeat(65)] {
            assert!(!is_plugin_name(bad), "{bad}");
        }
    }

    #[test]
    fn event_names_are_printable_ascii_and_not_reserved() {
        for good in
            ["ping", "memory_log_create", "a b", "chat:message", "__proto__", &"x".repeat(64)]
        {
            assert!(is_event_name(good), "{good}");
        }
        for bad in [
            "",
            "$connect",
            "$",
            "connect",
            "disconnect",
            "newListener",
            "authenticate",
            "a\"b",
            "a\\b",
            "é",
            "a\nb",
            &"x".repeat(65),
        ] {
            assert!(!is_event_name(bad), "{bad}");
        }
    }
}
