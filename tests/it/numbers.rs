//! Numbers keep their value on the whole way from a client through host and plugin to a client.

use serde_json::{Value, json};
use sockhop::event::Json;
use sockhop::schema::Schema;
use sockhop_tests::{TestHost, bundled_plugin, guest};

/// Formats `double` as JavaScript's `JSON.stringify` does.
fn stringify(double: f64) -> String {
    match double.abs() {
        0.0 => "0".to_owned(),
        1e-6..1e21 => double.to_string(),
        1e21.. => format!("{double:e}").replace('e', "e+"),
        _ => format!("{double:e}"),
    }
}

/// Returns finite doubles with random bits, the same in each run (xorshift64).
fn random_doubles() -> impl Iterator<Item = f64> {
    let mut bits = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(move || {
        bits ^= bits << 13;
        bits ^= bits >> 7;
        bits ^= bits << 17;
        f64::from_bits(bits)
    })
    .filter(|double| double.is_finite())
}

/// Returns clock readings with a fraction, like those of `performance.now()`.
fn readings() -> impl Iterator<Item = f64> {
    (1..).map(|reading| f64::from(reading) * 1234.567 / 7.0)
}

fn assert_same(back: &Value, sent: f64) {
    assert_eq!(back.as_f64(), Some(sent), "{sent:?} came back as {back}");
}

#[test]
fn a_double_is_written_as_javascript_writes_it() {
    let cases = [
        (0.1, "0.1"),
        (-1.5, "-1.5"),
        (1e-6, "0.000001"),
        (1e-7, "1e-7"),
        (1e20, "100000000000000000000"),
        (1.5e300, "1.5e+300"),
        (5e-324, "5e-324"),
        (123_456.789, "123456.789"),
    ];
    for (double, text) in cases {
        assert_eq!(stringify(double), text);
    }
}

#[test]
fn every_double_passes_the_hosts_check_as_it_was_written() {
    let schema = Schema::compile(r#"{"type": "number"}"#, 1024).expect("a schema");
    for double in random_doubles().take(50_000).chain(readings().take(50_000)) {
        let (json, value) = Json::parse(stringify(double)).expect("JSON");
        assert_same(&value, double);
        assert_eq!(schema.check(&value), Ok(()), "{double:?}");
        assert_eq!(json.as_str(), stringify(double), "text that was checked is passed on as it is");
        assert_same(&serde_json::from_str(&value.to_string()).expect("JSON"), double);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_gives_every_number_back_as_it_came() {
    let host = TestHost::start(&[guest("lab"), bundled_plugin("connection")]).await;
    let mut client = host.client().await;
    client.expect("connected").await;
    // Thousands of numbers in one payload, for a handler that accepts any JSON.
    let doubles: Vec<f64> = random_doubles().take(2_000).chain(readings().take(2_000)).collect();
    let array: Vec<String> = doubles.iter().copied().map(stringify).collect();
    let echoed = client.ask_raw(&format!(r#"["echo",[{}]]"#, array.join(","))).await;
    let echoed = echoed.as_array().expect("an array");
    assert_eq!(echoed.len(), doubles.len());
    for (back, sent) in echoed.iter().zip(&doubles) {
        assert_same(back, *sent);
    }
    // One number in a typed field, in the reply and in the emitted event.
    for reading in readings().take(300) {
        let reply =
            client.ask_raw(&format!(r#"["ping",{{"timestamp":{}}}]"#, stringify(reading))).await;
        assert_same(&reply["timestamp"], reading);
        assert_same(&client.expect("pong").await["timestamp"], reading);
    }
    // Integers beyond 2^53, which a double could not hold, keep all their digits.
    assert_eq!(
        client.ask_raw(r#"["echo",[9007199254740993,18446744073709551615]]"#).await,
        json!([9_007_199_254_740_993_u64, u64::MAX])
    );
}
