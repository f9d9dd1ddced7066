//! Plays a scenario on a host without listeners, and compares what comes of each step with what the
//! scenario expects.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};

use crate::config::Config;
use crate::log::{Capture, Line};
use crate::scenario::{
    Answered, Captures, Others, Problem, ReceivedEvent, Scenario, ScenarioReport, Step, StepReport,
    compare, log_lines,
};

use super::{Sent, Trial, TrialFiles};

/// Plays `scenario`, which was read from `file`, with the plugins of `plugins`. `log` has what is
/// logged meanwhile.
pub async fn play(
    scenario: &Scenario,
    file: &Path,
    config: Config,
    plugins: &[PathBuf],
    place: &TrialFiles,
    log: &Capture,
) -> ScenarioReport {
    let began = Instant::now();
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut report = ScenarioReport {
        file: file.to_owned(),
        name: scenario.name.clone().unwrap_or(stem),
        steps: Vec::new(),
        not_run: scenario.steps.len(),
        error: None,
        took: began.elapsed(),
    };
    log.take();
    match Trial::start(config, plugins, place, scenario.time).await {
        Ok(trial) => play_on(trial, scenario, log, &mut report).await,
        Err(error) => report.error = Some(with_lines(error.to_string(), &log.take().0)),
    }
    report.took = began.elapsed();
    report
}

/// An error with what was logged before it.
fn with_lines(error: String, log: &[Line]) -> String {
    let lines = log.iter().flat_map(log_lines);
    lines.fold(error, |error, line| format!("{error}\n  {line}"))
}

async fn play_on(trial: Trial, scenario: &Scenario, log: &Capture, report: &mut ScenarioReport) {
    let mut play = Play { trial, scenario, captures: Captures::default() };
    play.trial.add_stubs(&scenario.stubs);
    let begun = play.begin().await;
    let (before, _) = log.take();
    // No step can expect a failure of `$start`.
    let begun = begun.and_then(|()| match failures(&before) {
        failed if failed.is_empty() => Ok(()),
        _ => Err("a handler has failed before the first step".to_owned()),
    });
    match begun {
        Err(error) => report.error = Some(with_lines(error, &before)),
        Ok(()) => play.steps(log, report).await,
    }
    play.trial.end().await;
}

/// The failures of handlers that no client waits for.
fn failures(log: &[Line]) -> Vec<Value> {
    let is_of_host = |line: &&Line| {
        ["event failed", "event rejected"].contains(&line.message.as_str())
            && line.field("event").is_some_and(|event| event.starts_with('$'))
    };
    let shown = |line: &Line| {
        let named = ["event", "plugin", "code", "reason", "error", "detail"];
        let field = |name: &str| Some((name.to_owned(), Value::from(line.field(name)?)));
        Value::Object(named.into_iter().filter_map(field).collect())
    };
    log.iter().filter(is_of_host).map(shown).collect()
}

struct Play<'scenario> {
    trial: Trial,
    scenario: &'scenario Scenario,
    captures: Captures,
}

/// The records of a step, and the number of those that were dropped.
type Log = (Vec<Line>, usize);

impl Play<'_> {
    /// Does the steps, until one fails.
    async fn steps(&mut self, log: &Capture, report: &mut ScenarioReport) {
        for (index, step) in self.scenario.steps.iter().enumerate() {
            let began = Instant::now();
            let (problems, (lines, log_dropped)) = self.step(&step.value, log).await;
            let step = StepReport {
                number: index + 1,
                line: step.defined.line(),
                title: step.value.title(),
                problems,
                log: lines,
                log_dropped,
                took: began.elapsed(),
            };
            report.not_run -= 1;
            let is_passed = step.is_passed();
            report.steps.push(step);
            if !is_passed {
                break;
            }
        }
    }

    /// Connects the clients that no step connects. What they receive meanwhile is not compared.
    async fn begin(&mut self) -> Result<(), String> {
        for (name, spec) in &self.scenario.clients {
            if !self.scenario.connects(name) {
                self.trial.connect(name, spec).await?;
            }
        }
        self.trial.settle().await?;
        self.trial.take_received();
        self.trial.take_effects();
        let (_, missing) = self.trial.take_requests();
        missing.into_iter().next().map_or(Ok(()), Err)
    }

    /// Does a step. Returns what is not as expected, and what was logged.
    async fn step(&mut self, step: &Step, log: &Capture) -> (Vec<Problem>, Log) {
        let mut problems = Vec::new();
        let answered = match self.act(step).await {
            Ok(answered) => answered,
            Err(problem) => return (vec![problem], log.take()),
        };
        if let Err(reason) = self.trial.settle().await {
            problems.push(Problem::new("timers", reason));
        }
        // Before the received events, of which those of removed clients would be lost.
        let mut received = self.trial.take_received();
        let ended = self.trial.remove_ended().await;
        if let Err(reason) = self.trial.settle().await {
            problems.push(Problem::new("timers", reason));
        }
        for (name, more) in self.trial.take_received() {
            received.entry(name).or_default().extend(more);
        }
        let logged = log.take();
        if let Some(answered) = answered {
            self.check_answer(step, answered, &mut problems);
        }
        self.check_received(step, &received, &mut problems);
        self.check_ended(step, ended, &mut problems);
        self.check_failures(step, &logged.0, &mut problems);
        self.check_effects(step, &mut problems);
        self.check_requests(step, &mut problems);
        self.check_afterwards(step, &mut problems);
        (problems, logged)
    }

    /// Does what a step says. Returns the answer to an event.
    async fn act(&mut self, step: &Step) -> Result<Option<Answered>, Problem> {
        let failed = |what: &'static str| move |reason: String| Problem::new(what, reason);
        if let Some(name) = &step.connect {
            let spec = self.scenario.clients.get(name).cloned().unwrap_or_default();
            self.trial.connect(name, &spec).await.map_err(failed("connect"))?;
        }
        if let Some(name) = &step.disconnect {
            self.trial.disconnect(name).await.map_err(failed("disconnect"))?;
        }
        if let Some(time) = step.advance {
            self.trial.advance(time).await.map_err(failed("advance"))?;
        }
        self.trial.add_stubs(&step.stubs);
        let Some(send) = &step.send else { return Ok(None) };
        let arguments = match (&send.data, &send.args) {
            (Some(data), _) => vec![data.clone()],
            (None, Some(arguments)) => arguments.clone(),
            (None, None) => Vec::new(),
        };
        let filled: Result<Vec<_>, _> =
            arguments.iter().map(|argument| self.captures.fill(argument)).collect();
        let sent = Sent {
            event: send.event.clone(),
            arguments: filled.map_err(|error| Problem::new("send", error.to_string()))?,
            attachments: send.attachments.iter().map(|text| text.clone().into_bytes()).collect(),
            ack: send.ack,
        };
        let answered = self.trial.send(&send.client, &sent).await.map_err(failed("send"))?;
        Ok(send.ack.then_some(answered))
    }

    fn compare(&mut self, what: &str, expected: &Value, actual: &Value, to: &mut Vec<Problem>) {
        to.extend(compare(what, expected, actual, &mut self.captures).err());
    }

    fn check_answer(&mut self, step: &Step, answered: Answered, problems: &mut Vec<Problem>) {
        let expects_ack = step.ack.is_some() || step.ack_args.is_some();
        match (answered, &step.error) {
            (Answered::Error(error), Some(expected)) => {
                let expected = match expected {
                    Value::String(code) => json!({"code": code}),
                    other => other.clone(),
                };
                self.compare("error", &part(expected), &error, problems);
            }
            (Answered::Error(error), None) => {
                let what = if expects_ack { "ack" } else { "answer" };
                let text = format!("expected an ack, found the error {error:#}");
                problems.push(Problem::new(what, text));
            }
            (Answered::Ack(arguments), Some(expected)) => {
                let found = Value::Array(arguments);
                let text = format!("expected the error {expected}, found the ack {found}");
                problems.push(Problem::new("error", text));
            }
            (Answered::Ack(mut arguments), None) => {
                if let Some(expected) = &step.ack_args {
                    let expected = Value::Array(expected.clone());
                    self.compare("ack", &expected, &Value::Array(arguments), problems);
                } else if let Some(expected) = &step.ack {
                    if arguments.len() == 1 {
                        self.compare("ack", expected, &arguments.remove(0), problems);
                    } else {
                        let text = format!(
                            "expected one argument, found {}; write `ack_args`: {}",
                            arguments.len(),
                            Value::Array(arguments)
                        );
                        problems.push(Problem::new("ack", text));
                    }
                }
            }
            (Answered::Nothing, _) => {
                problems.push(Problem::new("answer", "the event was not answered"));
            }
        }
    }

    fn check_received(
        &mut self,
        step: &Step,
        received: &BTreeMap<String, Vec<Value>>,
        problems: &mut Vec<Problem>,
    ) {
        for (name, events) in received {
            let expected = step.receives.get(name);
            if expected.is_none() && step.others == Some(Others::Ignore) {
                continue;
            }
            let expected = expected.map(Vec::as_slice).unwrap_or_default();
            let expected = Value::Array(expected.iter().map(expected_event).collect());
            let actual = Value::Array(events.clone());
            self.compare(&format!("{name} receives"), &expected, &actual, problems);
        }
        for (name, expected) in &step.receives {
            if !received.contains_key(name) && !expected.is_empty() {
                problems.push(Problem::new(format!("{name} receives"), "it is not connected"));
            }
        }
    }

    fn check_ended(
        &mut self,
        step: &Step,
        ended: Vec<(String, Option<&'static str>)>,
        problems: &mut Vec<Problem>,
    ) {
        for name in &step.ends {
            if !ended.iter().any(|(ended, _)| ended == name) {
                problems.push(Problem::new("ends", format!("the host has not ended {name}")));
            }
        }
        for (name, reason) in ended {
            if !step.ends.contains(&name) {
                let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
                let text = format!(
                    "the host has ended the connection of {name}{reason}; if it shall, write \
                     `ends: [{name}]`"
                );
                problems.push(Problem::new("ends", text));
            }
        }
    }

    /// Compares the failures of handlers that no client waits for.
    fn check_failures(&mut self, step: &Step, log: &[Line], problems: &mut Vec<Problem>) {
        let actual = failures(log);
        let expected: Vec<_> = step.failures.iter().cloned().map(Value::Object).map(part).collect();
        self.compare("failures", &expected.into(), &actual.into(), problems);
    }

    fn check_effects(&mut self, step: &Step, problems: &mut Vec<Problem>) {
        let effects = self.trial.take_effects();
        if let Some(expected) = &step.effects {
            let expected = Value::Array(expected.clone());
            self.compare("effects", &expected, &effects.into(), problems);
        }
    }

    fn check_requests(&mut self, step: &Step, problems: &mut Vec<Problem>) {
        let (requests, missing) = self.trial.take_requests();
        problems.extend(missing.into_iter().map(|text| Problem::new("request", text)));
        if let Some(expected) = &step.requests {
            let expected = expected.iter().map(|request| {
                let mut value = serde_json::to_value(request).unwrap_or_default();
                if let Some(headers) = value.get_mut("headers") {
                    *headers = part(headers.take());
                }
                part(value)
            });
            let expected = Value::Array(expected.collect());
            self.compare("requests", &expected, &requests.into(), problems);
        }
    }

    /// Compares state, timers and rooms after the step.
    fn check_afterwards(&mut self, step: &Step, problems: &mut Vec<Problem>) {
        for (key, expected) in &step.state {
            match self.trial.state_of(key) {
                Ok(actual) => self.compare(&format!("state {key}"), expected, &actual, problems),
                Err(reason) => problems.push(Problem::new("state", reason)),
            }
        }
        if let Some(expected) = &step.timers {
            let expected = expected.iter().map(|timer| serde_json::to_value(timer).map(part));
            let expected = Value::Array(expected.filter_map(Result::ok).collect());
            match self.trial.timers() {
                Ok(actual) => self.compare("timers", &expected, &actual.into(), problems),
                Err(reason) => problems.push(Problem::new("timers", reason)),
            }
        }
        for (name, expected) in &step.rooms {
            let mut expected = expected.clone();
            expected.sort();
            match self.trial.rooms(name) {
                Ok(rooms) => {
                    let what = format!("rooms of {name}");
                    self.compare(&what, &json!(expected), &json!(rooms), problems);
                }
                Err(reason) => problems.push(Problem::new("rooms", reason)),
            }
        }
    }
}

/// A pattern for which a part is enough.
fn part(value: Value) -> Value {
    json!({"$contains": value})
}

/// An expected event as a pattern.
fn expected_event(event: &ReceivedEvent) -> Value {
    let value = serde_json::to_value(event).unwrap_or_default();
    if event.data.is_some() || event.args.is_some() { value } else { part(value) }
}
