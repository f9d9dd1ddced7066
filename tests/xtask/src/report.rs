//! The output of `cargo xtask`. Only this module writes to the terminal. Progress goes to standard
//! error.

use std::io::Write;
use std::time::Instant;

use crate::Failure;

/// Numbers the steps of one command.
pub(crate) struct Steps {
    total: usize,
    begun: usize,
}

impl Steps {
    /// Returns the counter of a command with `total` steps.
    pub(crate) const fn of(total: usize) -> Self {
        Self { total, begun: 0 }
    }

    /// Runs one step and reports how long it took.
    ///
    /// # Errors
    ///
    /// Returns the error of `action`, with the number and the name of the step in front.
    pub(crate) fn step(
        &mut self,
        what: &str,
        action: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.begun += 1;
        let number = format!("{}/{}", self.begun, self.total);
        text(&format!("[{number}] {what}"));
        let started = Instant::now();
        action().map_err(|failure| Failure(format!("step {number}, {what}: {failure}")))?;
        text(&format!("[{number}] done in {:.1} s", started.elapsed().as_secs_f64()));
        Ok(())
    }
}

/// Writes one or more lines. A closed standard error does not end the command.
pub(crate) fn text(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Writes the last line of a failed command.
pub(crate) fn failure(failure: &Failure) {
    text(&format!("xtask failed: {failure}"));
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
