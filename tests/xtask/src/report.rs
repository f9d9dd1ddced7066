//! What `cargo xtask` says while it works: the only place here that writes to the terminal. Progress goes to standard error.
#![allow(clippy::print_stderr, reason = "xtask is a command line, and this module is its only output")]

use std::time::Instant;

use crate::Failure;

/// The steps of one command, counted.
pub(crate) struct Steps {
    total: usize,
    begun: usize,
}

impl Steps {
    /// A command of `total` steps.
    pub(crate) const fn of(total: usize) -> Self {
        Self { total, begun: 0 }
    }

    /// Does one step and says how long it took.
    ///
    /// # Errors
    ///
    /// What `action` failed with, after the step's number and name.
    pub(crate) fn step(&mut self, what: &str, action: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
        self.begun += 1;
        let number = format!("{}/{}", self.begun, self.total);
        eprintln!("[{number}] {what}");
        let started = Instant::now();
        action().map_err(|failure| Failure(format!("step {number}, {what}: {failure}")))?;
        eprintln!("[{number}] done in {:.1} s", started.elapsed().as_secs_f64());
        Ok(())
    }
}

/// One line, or more.
pub(crate) fn text(text: &str) {
    eprintln!("{text}");
}

/// The last line of a command that failed.
pub(crate) fn failure(failure: &Failure) {
    eprintln!("xtask failed: {failure}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_is_named_with_its_number() {
        let mut steps = Steps::of(2);
        assert_eq!(steps.step("plugins", || Ok(())), Ok(()));
        assert_eq!(
            steps.step("host", || Err(Failure("no space left".to_owned()))),
            Err(Failure("step 2/2, host: no space left".to_owned()))
        );
    }
}
