//! Reminders: a note of a user that returns at its time to all devices of the user, and to a
//! webhook if the user asks for it.
//!
//! It is the example for timers and deliveries. A timer fires at least once, also if the host was
//! stopped at its time. A webhook is sent at least once, with the same id each time. Both belong to
//! the commit of their handler: a reminder that is not stored never fires, and a reminder that is
//! deleted fires no more.
//!
//! A device that is not connected at the time of a reminder finds it by `reminder_list`: it stays,
//! with `fired_at`, until it is deleted.
//!
//! The operator sets the URL of the webhook, and a secret to sign it:
//!
//! ```toml
//! [plugins.reminders]
//! outbound = [{ origin = "https://hooks.example.com", webhook_secrets = ["whsec_…"] }]
//!
//! [plugins.reminders.config]
//! webhook = "https://hooks.example.com/reminders"
//! ```

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sockhop_records::{List, Page, Record, Records, UserId, must_own};
use sockhop_sdk::{
    Context, Delivery, DeliveryOutcome, DeliveryResult, Emits, Plugin, Refusal, Result, Target,
    Timer,
};

/// A reminder, as it is stored, returned and sent.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Reminder {
    id: u64,
    user_id: UserId,
    text: String,
    /// When it returns, in milliseconds since 1970.
    at: u64,
    /// When it has returned. Absent before that.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    fired_at: Option<String>,
    /// What became of the webhook. Absent if the user does not want it.
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook: Option<Webhook>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Webhook {
    /// It is sent at the time of the reminder.
    Wanted,
    /// It is being sent.
    Sent,
    /// The receiver has accepted it.
    Delivered,
    /// The receiver has refused it, or was away for days.
    Failed,
}

#[derive(Deserialize, JsonSchema)]
struct Set {
    user_id: UserId,
    #[schemars(length(min = 1, max = 2_000))]
    text: String,
    /// When it returns, in milliseconds since 1970. A time that is over means at once.
    #[schemars(range(max = 253_402_300_799_999_u64))]
    at: u64,
    /// Whether it also goes to the operator's webhook.
    #[serde(default)]
    webhook: bool,
}

/// Selects one reminder.
#[derive(Deserialize, JsonSchema)]
struct ById {
    id: u64,
}

#[derive(Serialize, JsonSchema)]
struct Deleted {
    id: u64,
}

/// The body of the webhook, in the form that Standard Webhooks recommends.
#[derive(Serialize)]
struct Hook<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    timestamp: String,
    data: &'a Reminder,
}

const DUE: Timer<u64> = Timer::new("reminder_due");
const ENDED: Timer<DeliveryResult> = Timer::new("reminder_webhook_ended");

/// The devices of a user are in the room of the user.
const OWNER: &[&str] = &["user_{user_id}"];
const FIRED: Emits<Reminder> = Emits::new("reminder_fired").to(OWNER);
const UPDATED: Emits<Reminder> = Emits::new("reminder_updated").to(OWNER);

const REMINDERS: Records<Reminder> = Records::new("reminder");

fn plugin() -> Plugin {
    Plugin::new("reminders", env!("CARGO_PKG_VERSION"), "Notes that return at their time")
        .on("reminder_set", set)
        .on("reminder_list", list)
        .on("reminder_delete", delete)
        .on_timer(DUE, fire)
        .emits(FIRED)
        .on_timer(ENDED, webhook_ended)
        .emits(UPDATED)
}

sockhop_sdk::export!(plugin);

fn owner(reminder: &Reminder) -> Target {
    Target::Rooms(vec![format!("user_{}", reminder.user_id)])
}

fn set(ctx: &Context, Set { user_id, text, at, webhook }: Set) -> Result<Reminder> {
    must_own(ctx, &user_id)?;
    if webhook && ctx.setting("webhook").is_none() {
        return Err(Refusal::new("no_webhook", "this server has no webhook for reminders"));
    }
    let id = REMINDERS.next_id(ctx)?;
    let webhook = webhook.then_some(Webhook::Wanted);
    let reminder = Reminder { id, user_id, text, at, fired_at: None, webhook };
    REMINDERS.store(ctx, &reminder)?;
    ctx.at(&DUE, at, &id.to_string(), &id)?;
    Ok(reminder)
}

fn list(ctx: &Context, list: List) -> Result<Page<Reminder>> {
    REMINDERS.list(ctx, list)
}

/// A reminder that fires in the same moment is either deleted or fires, never both.
fn delete(ctx: &Context, ById { id }: ById) -> Result<Deleted> {
    let reminder = REMINDERS.owned(ctx, id)?;
    ctx.cancel(&DUE, &id.to_string())?;
    REMINDERS.remove(ctx, &reminder)?;
    Ok(Deleted { id })
}

/// Returns the reminder, or `None` if it was deleted.
fn find(ctx: &Context, id: u64) -> Result<Option<Reminder>> {
    match REMINDERS.owned(ctx, id) {
        Ok(reminder) => Ok(Some(reminder)),
        Err(refusal) if refusal.code == "not_found" => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

/// If this handler fails, nothing of it is applied, and the host calls it again.
fn fire(ctx: &Context, id: u64) -> Result {
    let Some(mut reminder) = find(ctx, id)? else { return Ok(()) };
    reminder.fired_at = Some(ctx.now());
    if reminder.webhook == Some(Webhook::Wanted) {
        // A webhook that can't be sent does not keep the note from its owner.
        reminder.webhook = Some(Webhook::Sent);
        if let Err(refusal) = deliver(ctx, &reminder) {
            ctx.warn(format!("the webhook of reminder {id} is not sent: {refusal}"));
            reminder.webhook = Some(Webhook::Failed);
        }
    }
    REMINDERS.store(ctx, &reminder)?;
    ctx.emit(owner(&reminder), &FIRED, &reminder)
}

fn deliver(ctx: &Context, reminder: &Reminder) -> Result<String> {
    let Some(url) = ctx.setting("webhook") else {
        return Err(Refusal::new("no_webhook", "the operator has removed the setting"));
    };
    let hook = Hook { kind: "reminder.fired", timestamp: ctx.now(), data: reminder };
    // The key is that of the reminder, not of the user: a receiver that refuses one reminder does
    // not delay the next one.
    ctx.deliver(Delivery::post(reminder.id.to_string(), url, &hook)?.result(&ENDED))
}

/// The key of the delivery is the id of the reminder.
fn webhook_ended(ctx: &Context, result: DeliveryResult) -> Result {
    let Ok(id) = result.key.parse() else { return Ok(()) };
    let Some(mut reminder) = find(ctx, id)? else { return Ok(()) };
    reminder.webhook = Some(match result.outcome {
        DeliveryOutcome::Delivered => Webhook::Delivered,
        DeliveryOutcome::Dead => Webhook::Failed,
    });
    REMINDERS.store(ctx, &reminder)?;
    ctx.emit(owner(&reminder), &UPDATED, &reminder)
}

impl Record for Reminder {
    fn id(&self) -> u64 {
        self.id
    }

    fn user_id(&self) -> &UserId {
        &self.user_id
    }
}

#[cfg(test)]
mod tests;
