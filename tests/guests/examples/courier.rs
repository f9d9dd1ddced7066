//! Asks for deliveries, as its events say, and keeps their results.

#![allow(missing_docs, reason = "nobody reads it")]

use schemars::JsonSchema;
use serde::Deserialize;
use sockhop_sdk::http::Request;
use sockhop_sdk::{
    Context, Delivery, DeliveryResult, Emits, Plugin, Refusal, Result, Scan, Target, Timer,
};

#[derive(Deserialize, JsonSchema)]
struct Order {
    key: String,
    url: String,
    method: Option<String>,
    #[serde(default)]
    headers: Vec<(String, String)>,
    #[serde(default)]
    body: String,
    /// Bytes of a body in its place.
    bytes: Option<usize>,
    /// Number of deliveries, with the number behind the body.
    times: Option<u32>,
    /// Whether each has a key of its own: the number behind the key.
    #[serde(default)]
    own_keys: bool,
    /// Whether the plugin gets the results.
    #[serde(default)]
    result: bool,
    /// A timer for the results that is not declared.
    #[serde(default)]
    wrong_result: bool,
    /// What the handler does at the end: `refuse`, `trap`.
    then: Option<String>,
}

const ENDED: Timer<DeliveryResult> = Timer::new("ended");
const UNDECLARED: Timer<DeliveryResult> = Timer::new("undeclared");
const TOLD: Emits<DeliveryResult> = Emits::new("told").to(&["*"]);

#[allow(clippy::panic, reason = "this is what it is for")]
fn deliver(ctx: &Context, order: Order) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    // Read, so that handlers conflict.
    let before: u64 = ctx.state().get("orders")?.unwrap_or(0);
    for number in 0..order.times.unwrap_or(1) {
        let behind = if order.times.is_some() { number.to_string() } else { String::new() };
        let mut request = Request::new(order.method.as_deref().unwrap_or("POST"), &order.url);
        for (name, value) in &order.headers {
            request = request.header(name, value);
        }
        let body = match order.bytes {
            Some(bytes) => "x".repeat(bytes),
            None => format!("{}{behind}", order.body),
        };
        let request = request.with_body(body);
        let key = if order.own_keys { format!("{}{behind}", order.key) } else { order.key.clone() };
        let mut delivery = Delivery::new(key, request);
        if order.result {
            delivery = delivery.result(&ENDED);
        }
        if order.wrong_result {
            delivery = delivery.result(&UNDECLARED);
        }
        ids.push(ctx.deliver(delivery)?);
    }
    ctx.state().set("orders", &(before + 1))?;
    match order.then.as_deref() {
        Some("refuse") => Err(Refusal::new("no", "not this one")),
        Some("trap") => panic!("as asked"),
        _ => Ok(ids),
    }
}

/// Refuses with the code of the host's refusal. Nothing is delivered.
fn try_deliver(ctx: &Context, order: Order) -> Result {
    match deliver(ctx, order) {
        Ok(_) => Err(Refusal::new("tried", "accepted")),
        Err(refusal) => {
            Err(Refusal::new("tried", format!("{}: {}", refusal.code, refusal.message)))
        }
    }
}

fn ended(ctx: &Context, result: DeliveryResult) -> Result {
    let key = format!("ended/{}", result.id);
    let times: u64 = ctx.state().get(&key)?.unwrap_or(0);
    ctx.state().set(&key, &(times + 1))?;
    ctx.emit(Target::Everyone, &TOLD, &result)
}

/// Answers with how often the result of each delivery was handled.
fn results(ctx: &Context, _: ()) -> Result<Vec<(String, u64)>> {
    let mut all: Vec<(String, u64)> = Vec::new();
    loop {
        let last = all.last().map(|(key, _)| key.clone());
        let page = Scan::prefix("ended/");
        let page = last.as_deref().map_or(page, |last| page.cursor(last));
        let page = ctx.state().scan::<u64>(page)?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}

fn plugin() -> Plugin {
    Plugin::new("courier", "1.0.0", "")
        .on("deliver", deliver)
        .on("try", try_deliver)
        .on("results", results)
        .on_timer(ENDED, ended)
        .emits(TOLD)
}

sockhop_sdk::export!(plugin);
