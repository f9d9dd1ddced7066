//! How costs grow.
use crate::Run;
pub(crate) fn scale(_run: &mut Run) {}
