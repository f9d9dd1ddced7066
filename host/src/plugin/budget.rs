//! The time that one event may take, of the processor and by the clock.

use std::time::{Duration, Instant};

/// The remaining CPU time and the deadline of one event, over all its runs.
#[derive(Debug, Clone)]
pub struct Budget {
    pub(super) cpu_left: Duration,
    pub(super) ran: Duration,
    pub(super) cpu: Duration,
    pub(super) wall: Duration,
    began: Instant,
    pub(super) in_background: bool,
}

impl Budget {
    /// A budget that begins now, with `cpu` as CPU limit and `wall` as wall-clock limit.
    pub fn new(cpu: Duration, wall: Duration) -> Self {
        Self::since(Instant::now(), cpu, wall)
    }

    /// A budget that began at `began`.
    pub fn since(began: Instant, cpu: Duration, wall: Duration) -> Self {
        Self { cpu_left: cpu, ran: Duration::ZERO, cpu, wall, began, in_background: false }
    }

    /// A budget that begins now, for work on a thread of low priority.
    pub(super) fn in_background(cpu: Duration, wall: Duration) -> Self {
        Self { in_background: true, ..Self::new(cpu, wall) }
    }

    /// Moves the deadline by a time that does not count.
    pub fn postpone(&mut self, by: Duration) {
        self.began += by;
    }

    /// Gives back the CPU time that was used since `earlier`, a copy of this budget.
    pub fn give_back(&mut self, earlier: &Self) {
        (self.cpu_left, self.ran) = (earlier.cpu_left, earlier.ran);
    }

    /// When the event began.
    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// The deadline of the event, if the process does not stand still; see
    /// [`Plugin::deadline`](super::Plugin::deadline).
    pub(super) fn until(&self) -> Instant {
        self.began + self.wall
    }
}
