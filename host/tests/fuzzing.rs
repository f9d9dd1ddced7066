//! The seeds of the host's fuzz targets run through the functions that the fuzzers call.
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::path::Path;

use sockhop::fuzzing;

/// What a fuzz target calls.
type Function = fn(&[u8]);

/// The fuzz targets: their names, and what they call.
const TARGETS: [(&str, Function); 7] = [
    ("configurations", fuzzing::configuration),
    ("packets", fuzzing::packet),
    ("payloads", fuzzing::payload),
    ("registrations", fuzzing::registration),
    ("schemas", fuzzing::schema),
    ("slots", fuzzing::slots),
    ("urls", fuzzing::url),
];

fn names_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(directory)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort();
    names
}

/// Each seed, each of its beginnings, and the seed without each of its bytes.
#[test]
fn seeds_of_the_fuzz_targets_break_nothing_however_they_are_cut() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let targets = TARGETS.map(|(name, _)| name);
    assert_eq!(names_in(&fuzz.join("corpus")), targets);
    assert_eq!(names_in(&fuzz.join("fuzz_targets")), targets.map(|name| format!("{name}.rs")));
    for (target, run) in TARGETS {
        let corpus = fuzz.join("corpus").join(target);
        for name in names_in(&corpus) {
            let seed = std::fs::read(corpus.join(&name)).expect("a seed");
            let inputs = (0..=seed.len()).flat_map(|at| {
                let rest = seed.get(at + 1..).unwrap_or_default();
                [seed[..at].to_vec(), [&seed[..at], rest].concat()]
            });
            for input in inputs {
                let result = std::panic::catch_unwind(|| run(&input));
                assert!(result.is_ok(), "{target}/{name}: {}", input.escape_ascii());
            }
        }
    }
}
