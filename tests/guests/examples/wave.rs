//! Lets clients wave.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sockhop_sdk::{Access, Context, Emits, Plugin, Result, Target};

#[derive(Deserialize, JsonSchema)]
struct Wave {
    #[schemars(length(min = 1, max = 200))]
    text: String,
}

#[derive(Serialize, JsonSchema)]
struct Waved {
    from: Option<String>,
    text: String,
}

const WAVED: Emits<Waved> = Emits::new("waved").to(&["waves"]);

fn plugin() -> Plugin {
    Plugin::new("wave", "0.1.0", "Lets clients wave")
        .room("waves", Access::Anyone)
        .emits(WAVED)
        .on("wave", wave)
}

sockhop_sdk::export!(plugin);

fn wave(ctx: &Context, wave: Wave) -> Result<Waved> {
    let waved = Waved { from: ctx.connection().map(str::to_owned), text: wave.text };
    ctx.emit(Target::room("waves"), &WAVED, &waved)?;
    Ok(waved)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sockhop_sdk::testing::{Effect, Outcome, TestHost};

    use super::*;

    #[test]
    fn a_wave_goes_to_the_room_and_back_to_its_sender() {
        let mut host = TestHost::new(plugin());
        let waved = json!({"from": "c1", "text": "hello"});
        let effects = vec![Effect::emit(Target::room("waves"), "waved", waved.clone())];
        assert_eq!(
            host.handle("wave", json!({"text": "hello"})),
            Outcome { reply: Ok(waved), effects }
        );
    }
}
