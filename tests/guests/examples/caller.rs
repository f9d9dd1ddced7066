//! Sends HTTP requests, as its events ask.

#![allow(missing_docs, reason = "nobody reads it")]

use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sockhop_sdk::http::Request;
use sockhop_sdk::{Context, Plugin, Refusal, Result};

#[derive(Deserialize, JsonSchema)]
struct Call {
    url: String,
    method: Option<String>,
    #[serde(default)]
    headers: Vec<(String, String)>,
    body: Option<String>,
    timeout_ms: Option<u64>,
    /// How often the request is sent, one after the other.
    times: Option<u32>,
    /// Processor time before the request.
    work_ms: Option<u64>,
}

#[derive(Serialize, JsonSchema, Default)]
struct Called {
    status: Option<u16>,
    headers: Vec<(String, String)>,
    /// The first bytes of the body.
    body: String,
    bytes: usize,
    code: Option<String>,
    message: Option<String>,
}

fn request(call: &Call) -> Request {
    let mut request = Request::new(call.method.as_deref().unwrap_or("GET"), &call.url);
    for (name, value) in &call.headers {
        request = request.header(name, value);
    }
    if let Some(body) = &call.body {
        request = request.with_body(body.as_bytes());
    }
    match call.timeout_ms {
        Some(ms) => request.timeout(Duration::from_millis(ms)),
        None => request,
    }
}

fn send(ctx: &Context, call: &Call) -> Called {
    match ctx.send(request(call)) {
        Ok(response) => Called {
            status: Some(response.status()),
            headers: response
                .headers()
                .map(|(name, value)| (name.to_owned(), String::from_utf8_lossy(value).into()))
                .collect(),
            body: String::from_utf8_lossy(response.body()).chars().take(200).collect(),
            bytes: response.body().len(),
            ..Called::default()
        },
        Err(refusal) => {
            Called { code: Some(refusal.code), message: Some(refusal.message), ..Called::default() }
        }
    }
}

/// Answers with the results.
fn call(ctx: &Context, call: Call) -> Result<Vec<Called>> {
    Ok((0..call.times.unwrap_or(1)).map(|_| send(ctx, &call)).collect())
}

/// Uses the processor, and traps if the request has no response.
fn must(ctx: &Context, call: Call) -> Result<u16> {
    let until = Duration::from_millis(call.work_ms.unwrap_or(0));
    let began = Instant::now();
    while began.elapsed() < until {
        std::hint::spin_loop();
    }
    #[allow(clippy::expect_used, reason = "this is what it is for")]
    let response = ctx.send(request(&call)).expect("a response");
    Ok(response.status())
}

/// Passes a refusal on.
fn pass(ctx: &Context, call: Call) -> Result<u16> {
    Ok(ctx.send(request(&call))?.status())
}

/// Adds one to a counter after a request.
fn add(ctx: &Context, call: Call) -> Result<u64> {
    let before: u64 = ctx.state().get("counter")?.unwrap_or(0);
    let called = send(ctx, &call);
    if called.status != Some(200) {
        return Err(Refusal::new("not_called", called.code.unwrap_or_default()));
    }
    ctx.state().set("counter", &(before + 1))?;
    Ok(before + 1)
}

/// Reads the counter, sends a request with its value, and adds one.
fn add_numbered(ctx: &Context, mut call: Call) -> Result<u64> {
    let before: u64 = ctx.state().get("counter")?.unwrap_or(0);
    call.body = Some(before.to_string());
    call.method = Some("POST".to_owned());
    if let Err(refusal) = ctx.send(request(&call)) {
        return Err(Refusal::new("not_called", refusal.code));
    }
    ctx.state().set("counter", &(before + 1))?;
    Ok(before + 1)
}

/// Reads the counter before and after a request. Traps if it can't.
fn read_twice(ctx: &Context, call: Call) -> Result<(u64, u64)> {
    let before: u64 = ctx.state().get("counter")?.unwrap_or(0);
    send(ctx, &call);
    #[allow(clippy::expect_used, reason = "this is what it is for")]
    let after: Option<u64> = ctx.state().get("counter").expect("the counter");
    Ok((before, after.unwrap_or(0)))
}

fn bump(ctx: &Context, _: ()) -> Result<u64> {
    let before: u64 = ctx.state().get("counter")?.unwrap_or(0);
    ctx.state().set("counter", &(before + 1))?;
    Ok(before + 1)
}

/// Sends a request, and ends in the way that its body names.
fn end(ctx: &Context, call: Call) -> Result {
    send(ctx, &call);
    match call.body.as_deref() {
        #[allow(clippy::panic, reason = "this is what it is for")]
        Some("trap") => panic!("as asked"),
        Some("sleep") => {
            std::thread::sleep(Duration::from_secs(600));
            Ok(())
        }
        how => Err(Refusal::new(how.unwrap_or("no"), "as asked")),
    }
}

fn ping(_: &Context, _: ()) -> Result {
    Ok(())
}

fn plugin() -> Plugin {
    Plugin::new("caller", "1.0.0", "Sends HTTP requests")
        .on("call", call)
        .on("must", must)
        .on("pass", pass)
        .on("add", add)
        .on("add_numbered", add_numbered)
        .on("read_twice", read_twice)
        .on("bump", bump)
        .on("end", end)
        .on("ping", ping)
}

sockhop_sdk::export!(plugin);
