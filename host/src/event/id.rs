//! The ids of events.

use std::fmt;
use std::time::SystemTime;

/// The id of one event in logs and rejections. It is a ULID, so that ids sort by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventId(ulid::Ulid);

impl EventId {
    /// Creates a new id with the timestamp `at`.
    pub fn new(at: SystemTime) -> Self {
        Self(ulid::Ulid::from_datetime(at))
    }

    /// The id as two numbers, the high half first.
    pub fn halves(self) -> [u64; 2] {
        let (high, low): (u64, u64) = self.0.into();
        [high, low]
    }

    /// The id with these halves, the high half first.
    pub fn of_halves([high, low]: [u64; 2]) -> Self {
        Self((high, low).into())
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.array_to_str(&mut [0; ulid::ULID_LEN]))
    }
}
