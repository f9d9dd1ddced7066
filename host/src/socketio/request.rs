//! What an HTTP request asks of the Socket.IO server, by its path, query and headers.

/// The path of Socket.IO.
const PATH: &str = "/socket.io";

/// What a request asks of the Socket.IO server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestKind<'request> {
    /// It is not for Socket.IO.
    Other,
    /// It begins a session.
    Handshake,
    /// It upgrades the session with this id to a WebSocket.
    Upgrade(&'request str),
    /// It belongs to a session in another way.
    Session,
}

/// Returns what a request asks of the Socket.IO server. The request may still be invalid.
pub(crate) fn kind_of<B>(request: &http::Request<B>) -> RequestKind<'_> {
    let rest = request.uri().path().strip_prefix(PATH);
    if !rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
        return RequestKind::Other;
    }
    let query = request.uri().query().unwrap_or_default();
    let Some(sid) = parameter(query, "sid") else { return RequestKind::Handshake };
    let upgrades = request.headers().contains_key(http::header::UPGRADE)
        && parameter(query, "transport") == Some("websocket");
    if upgrades { RequestKind::Upgrade(sid) } else { RequestKind::Session }
}

/// Returns the first value of the parameter `name`. The values that are read here are never
/// escaped.
fn parameter<'query>(query: &'query str, name: &str) -> Option<&'query str> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_request_without_a_session_begins_one_and_only_an_upgrade_names_its_client() {
        use RequestKind::{Handshake, Other, Session, Upgrade};
        let cases = [
            ("/socket.io/?EIO=4&transport=polling", false, Handshake),
            ("/socket.io/?EIO=4&transport=websocket", true, Handshake),
            ("/socket.io", false, Handshake),
            ("/socket.io/x?asid=1", false, Handshake),
            ("/socket.io/?EIO=4&transport=polling&sid=abc", false, Session),
            ("/socket.io/?EIO=4&transport=polling&sid=abc", true, Session),
            ("/socket.io/?EIO=4&transport=websocket&sid=abc", false, Session),
            ("/socket.io/?EIO=4&transport=websocket&sid=abc", true, Upgrade("abc")),
            ("/socket.iox/?EIO=4&transport=websocket&sid=abc", true, Other),
            ("/elsewhere?EIO=4&transport=websocket&sid=abc", true, Other),
            ("/api/emit", false, Other),
        ];
        for (uri, is_upgrade, kind) in cases {
            let mut request = http::Request::builder().uri(uri);
            if is_upgrade {
                request = request.header(http::header::UPGRADE, "websocket");
            }
            assert_eq!(kind_of(&request.body(()).unwrap()), kind, "{uri}");
        }
    }
}
