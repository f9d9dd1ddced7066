//! The HTTP routes of events.

/// The method and the path of an HTTP route, for [`Plugin::route`](crate::Plugin::route).
///
/// A path is a template such as `/notes/{id}`: at most 256 bytes and 16 segments. A segment is
/// either a variable in braces or text of letters, digits and `-._~`. The first segment is text.
/// Paths below `/api`, `/console`, `/contract`, `/healthz`, `/metrics`, `/readyz` and `/socket.io`
/// belong to the host. A method and a path have one owner among all plugins of a host. Within one
/// plugin, text precedes a variable. The host answers `HEAD` by the route of `GET`, and `OPTIONS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// `GET`, without a body.
    Get(&'static str),
    /// `POST`.
    Post(&'static str),
    /// `PUT`.
    Put(&'static str),
    /// `PATCH`.
    Patch(&'static str),
    /// `DELETE`, without a body.
    Delete(&'static str),
}

impl Route {
    /// The name of the method, and the path.
    pub(crate) const fn parts(self) -> (&'static str, &'static str) {
        match self {
            Self::Get(path) => ("GET", path),
            Self::Post(path) => ("POST", path),
            Self::Put(path) => ("PUT", path),
            Self::Patch(path) => ("PATCH", path),
            Self::Delete(path) => ("DELETE", path),
        }
    }
}
