//! Every finite double that comes in goes out as the same double, wherever a handler keeps it
//! meanwhile.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::cell::RefCell;

use proptest::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Number, Value, json};
use sockhop_sdk::testing::{Effect, TestHost};
use sockhop_sdk::{Context, Emits, Plugin, Result, Target};

/// One number in every form in which a handler may take it.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Forms {
    typed: f64,
    number: Number,
    any: Value,
}

const SENT: Emits<Forms> = Emits::new("sent");

/// Stores the number, reads it again, emits it and replies with it.
fn keep(ctx: &Context, forms: Forms) -> Result<Forms> {
    ctx.state().set("forms", &forms)?;
    let stored = ctx.state().get("forms")?.unwrap_or(forms);
    ctx.emit(Target::Sender, &SENT, &stored)?;
    Ok(stored)
}

fn plugin() -> Plugin {
    Plugin::new("numbers", "1.0.0", "Keeps numbers").emits(SENT).on("keep", keep)
}

thread_local! {
    /// One host for all numbers: the schemas are compiled once.
    static HOST: RefCell<TestHost> = RefCell::new(TestHost::new(plugin()));
}

/// Sends `double` in its shortest text, and compares it wherever it can be seen afterwards.
fn assert_exact(double: f64) {
    HOST.with_borrow_mut(|host| assert_exact_in(host, double));
}

fn assert_exact_in(host: &mut TestHost, double: f64) {
    let sent: Value = serde_json::from_str(&format!("{double:e}")).expect("a JSON number");
    let outcome = host.handle("keep", json!({"typed": sent, "number": sent, "any": sent}));
    let Some(Effect::Emit { data: emitted, .. }) = outcome.effects.into_iter().next() else {
        panic!("nothing was emitted")
    };
    for place in [&outcome.reply.expect("a reply"), &emitted, &host.state()["forms"]] {
        for form in ["typed", "number", "any"] {
            let back = place[form].as_f64().expect("a number");
            assert_eq!(
                back.to_bits(),
                double.to_bits(),
                "{form}: {double:e} came back as {back:e}"
            );
        }
    }
}

#[test]
fn the_edges_of_the_doubles_are_exact() {
    let subnormal = f64::MIN_POSITIVE.next_down();
    let beyond_integers = 9_007_199_254_740_994.0;
    for edge in [
        0.0,
        f64::from_bits(1),
        subnormal,
        f64::MIN_POSITIVE,
        f64::EPSILON,
        beyond_integers,
        1e21,
        1e23,
        f64::MAX,
    ] {
        assert_exact(edge);
        assert_exact(-edge);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_finite_double_is_exact(double in any::<u64>().prop_map(f64::from_bits).prop_filter("finite", |double| double.is_finite())) {
        assert_exact(double);
    }

    /// Clocks such as JavaScript's `performance.now()`: many digits, a small exponent.
    #[test]
    fn every_reading_of_a_clock_is_exact(milliseconds in 0.0..1e13_f64) {
        assert_exact(milliseconds);
    }
}
