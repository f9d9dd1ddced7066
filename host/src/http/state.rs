//! `/api/plugins/{name}/state`: the stored state of a plugin, for operators. It can hold personal
//! data, so each request is logged, without keys and values.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use sockhop_core::request::pairs;

use crate::config::Scope;
use crate::store::document::{EntryDocument, ImportDocument, PageDocument};
use crate::store::{CommitError, ContentSummary, Entry, ImportError, PageQuery};

use super::problem::Problem;
use super::{Api, body, rows};

/// What is read, for messages.
const KIND: &str = "state";

/// Number of entries in one answer, unless the request names another one.
const PAGE: usize = 100;

/// Maximum number of entries in one answer.
const MAX_PAGE: usize = 1_000;

/// Maximum bytes of the keys and values in one answer. The first entry may have more.
const PAGE_BYTES: usize = 1 << 20;

/// Maximum bytes of an import. A value of the default limit, as Base64 or escaped, fits.
const MAX_IMPORT: usize = 16 << 20;

/// Returns the numbers of commits and entries, and the sequences.
pub(super) async fn summary(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Path(name): Path<String>,
) -> Result<Json<ContentSummary>, Problem> {
    log_read(&api, &headers, &name, "state summary")?;
    let store = rows::store(&api, &name)?;
    rows::read(KIND, move || store.content_summary()).await.map(Json)
}

/// Returns entries in the order of the bytes of their keys, and the key to continue after, or null.
pub(super) async fn scan(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<PageDocument>, Problem> {
    log_read(&api, &headers, &name, "state scan")?;
    let query = page(&query.unwrap_or_default())?;
    let store = rows::store(&api, &name)?;
    let page = rows::read(KIND, move || store.content_page(&query)).await?;
    Ok(Json(page.into()))
}

/// Returns the entry of one key.
pub(super) async fn get(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<EntryDocument>, Problem> {
    log_read(&api, &headers, &name, "state get")?;
    let query = query.unwrap_or_default();
    let [(member, key)] = pairs(&query).try_into().unwrap_or_default();
    if member != "key" {
        return Err(bad_request("expected `key=KEY`"));
    }
    let store = rows::store(&api, &name)?;
    let found = rows::read(KIND, move || Ok((store.content_of(&key)?, key))).await?;
    match found {
        (Some(value), key) => Ok(Json((key, value).into())),
        (None, _) => {
            let message = "the plugin has no entry with this key";
            Err(Problem::new(StatusCode::NOT_FOUND, "not_found", message))
        }
    }
}

/// Imports entries and sequences into the state of a plugin that an operator has disabled. Answers
/// with the number of entries.
pub(super) async fn import(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Json<Value>, Problem> {
    // The key is checked first: other callers must not make the host wait for a body.
    let key = api.keys.allow(request.headers(), Scope::Operate)?;
    let store = rows::store(&api, &name)?;
    check_disabled(&api, &name)?;
    let read = body::read(request.into_body(), MAX_IMPORT).await;
    let read = read.map_err(|rejection| Problem::rejection(&rejection))?;
    // A body takes time.
    check_disabled(&api, &name)?;
    let ImportDocument { mode, sequences, entries } =
        serde_json::from_slice(&read).map_err(|error| bad_request(&error.to_string()))?;
    let entries: Result<Vec<Entry>, _> =
        entries.into_iter().map(EntryDocument::into_entry).collect();
    let entries = entries.map_err(|error| bad_request(&error.to_string()))?;
    let number = entries.len();
    let importing = move || store.import(mode, &entries, &sequences);
    let imported = tokio::task::spawn_blocking(importing).await;
    let imported = imported.unwrap_or(Err(CommitError::Unknown.into()));
    let error = imported.as_ref().err().map(ToString::to_string);
    tracing::info!(
        key = &*key,
        command = "state import",
        plugin = name,
        entries = number,
        error,
        "operator command"
    );
    imported.map_err(|error| problem(&error))?;
    Ok(Json(json!({"name": name, "imported": number})))
}

fn check_disabled(api: &Api, name: &str) -> Result<(), Problem> {
    if api.registry.snapshot().is_disabled(name) {
        return Ok(());
    }
    let message = format!(
        "the plugin serves; disable it first (`sockhop plugins disable {name}`), and enable it \
         after the import"
    );
    Err(Problem::new(StatusCode::CONFLICT, "refused", &message))
}

fn problem(error: &ImportError) -> Problem {
    let (status, code) = match error {
        ImportError::NotEmpty { .. } => (StatusCode::CONFLICT, "refused"),
        ImportError::Invalid { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_payload"),
        ImportError::Commit(CommitError::Full { .. }) => {
            (StatusCode::PAYLOAD_TOO_LARGE, "too_large")
        }
        ImportError::Commit(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
    };
    Problem::new(status, code, &error.to_string())
}

fn bad_request(message: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "bad_request", message)
}

/// Checks the key of a request that reads, and logs it.
fn log_read(api: &Api, headers: &HeaderMap, plugin: &str, command: &str) -> Result<(), Problem> {
    let key = api.keys.allow(headers, Scope::Operate)?;
    tracing::info!(key = &*key, command, plugin, "operator command");
    Ok(())
}

fn page(query: &str) -> Result<PageQuery, Problem> {
    let mut page = PageQuery { limit: PAGE, max_bytes: PAGE_BYTES, ..PageQuery::default() };
    for (name, value) in pairs(query) {
        let is_read = match &*name {
            "prefix" => {
                page.prefix = value;
                true
            }
            "after" => {
                page.after = Some(value);
                true
            }
            "limit" => value.parse().map(|limit| page.limit = limit).is_ok(),
            _ => false,
        };
        if !is_read || !(1..=MAX_PAGE).contains(&page.limit) {
            let message = format!("expected `prefix=TEXT`, `after=KEY` and `limit=1…{MAX_PAGE}`");
            return Err(bad_request(&message));
        }
    }
    Ok(page)
}
