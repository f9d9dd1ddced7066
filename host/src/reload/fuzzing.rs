//! What a fuzzer calls for the file of saved slots: see the crate's `fuzzing`.

use std::collections::HashSet;

use super::journal::last_complete;

/// The content of the file.
pub fn slots(data: &[u8]) {
    let Ok(slots) = last_complete(data) else { return };
    let slots = slots.at_start();
    for (name, _) in slots.iter() {
        let wanted = slots.wanted(name);
        let different: HashSet<_> = wanted.iter().collect();
        assert_eq!(different.len(), wanted.len(), "no version is tried twice");
    }
    // What is saved is what the next start reads.
    if let Ok(saved) = serde_json::to_vec(&slots) {
        assert_eq!(last_complete(&saved).ok(), Some(slots));
    }
}
