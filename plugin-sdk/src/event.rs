//! An event as the host passes it to the plugin, with its caller.

/// An event as the host passes it.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) data: String,
    pub(crate) attachments: Vec<Vec<u8>>,
    pub(crate) caller: Option<Caller>,
}

/// Who caused an event.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) connection: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) namespace: String,
}
