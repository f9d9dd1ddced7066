//! An error with its causes, as text.

use std::error::Error;
use std::fmt;
use std::iter::successors;

/// Displays an error and all its causes in one line, separated by colons. A cause is skipped if the
/// text before it ends with the same words.
pub(crate) struct ErrorChain<'error>(pub(crate) &'error dyn Error);

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = self.0.to_string();
        f.write_str(&before)?;
        for cause in successors(self.0.source(), |&cause| cause.source()) {
            let cause = cause.to_string();
            if !before.ends_with(&cause) {
                write!(f, ": {cause}")?;
                before = cause;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Failed {
        text: &'static str,
        source: Option<Box<dyn Error>>,
    }

    #[test]
    fn every_cause_is_shown_once() {
        let of = |text, source: Option<Box<dyn Error>>| Failed { text, source };
        let disk =
            of("no space: the disk is full", Some(io::Error::other("the disk is full").into()));
        let outer = of("not saved", Some(Box::new(of("not saved", Some(disk.into())))));
        assert_eq!(ErrorChain(&outer).to_string(), "not saved: no space: the disk is full");
    }
}
