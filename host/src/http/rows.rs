//! The lists of the rows that a plugin has, timers and deliveries, and the commands of operators
//! for them. The modules of the two kinds know how rows are read, shown and changed.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use sockhop_core::request::pairs;

use crate::config::Scope;
use crate::error_chain::ErrorChain;
use crate::store::{CommitError, Store, StoreError, Which};

use super::problem::Problem;
use super::{Api, body};

/// Number of rows in one answer, unless the request names another one.
const PAGE: u32 = 100;

/// Maximum number of rows in one answer, and of ids in one command.
const MAX_PAGE: u32 = 1_000;

/// A kind of rows. The functions that read or change rows block.
pub(super) trait Kind: 'static {
    /// What the rows are called in answers, messages and the log.
    const NAME: &'static str;

    /// What an operator sees of one.
    type Row: Send + 'static;

    /// Reads the rows of a page, in the order of their ids.
    fn read(store: &Store, page: Page) -> Result<Vec<Self::Row>, StoreError>;

    fn id(row: &Self::Row) -> i64;

    /// The row as a member of a list.
    fn document(row: &Self::Row) -> Value;

    /// Lets rows be tried again at once. Returns their number.
    fn retry(store: &Store, which: &Which, now: u64) -> Result<usize, CommitError>;

    /// Removes rows. Returns their number.
    fn drop(store: &Store, which: &Which) -> Result<usize, CommitError>;
}

/// The query of a list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Page {
    /// Lists dead rows instead of the others.
    pub(super) dead: bool,
    /// Only rows whose id follows this one.
    pub(super) after: i64,
    pub(super) limit: u32,
}

impl Page {
    fn of(query: &str) -> Result<Self, Problem> {
        let mut page = Self { dead: false, after: 0, limit: PAGE };
        for (name, value) in pairs(query) {
            let is_read = match &*name {
                "dead" => value.parse().map(|dead| page.dead = dead).is_ok(),
                "after" => value.parse().map(|after| page.after = after).is_ok(),
                "limit" => value.parse().map(|limit| page.limit = limit).is_ok(),
                _ => false,
            };
            if !is_read || !(1..=MAX_PAGE).contains(&page.limit) {
                let message =
                    format!("expected `dead=true|false`, `after=ID` and `limit=1…{MAX_PAGE}`");
                return Err(Problem::new(StatusCode::BAD_REQUEST, "bad_request", &message));
            }
        }
        Ok(page)
    }

    /// The id to continue after, if there may be more rows than `found`, whose last has the id
    /// `last`.
    fn next(self, found: usize, last: Option<i64>) -> Option<i64> {
        last.filter(|_| found >= self.limit as usize)
    }
}

/// Returns rows of one plugin, in the order of their ids, and the id to continue after, or null.
pub(super) async fn list<K: Kind>(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Problem> {
    api.keys.allow(&headers, Scope::Operate)?;
    let page = Page::of(&query.unwrap_or_default())?;
    let store = store(&api, &name)?;
    let rows = read(K::NAME, move || K::read(&store, page)).await?;
    let next = page.next(rows.len(), rows.last().map(K::id));
    Ok(Json(json!({K::NAME: rows.iter().map(K::document).collect::<Vec<_>>(), "next": next})))
}

/// Lets rows be tried again at once. Answers with their number.
pub(super) async fn retry<K: Kind>(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Json<Value>, Problem> {
    command::<K>(&api, name, request, Command::Retry).await
}

/// Removes rows. Answers with their number.
pub(super) async fn drop<K: Kind>(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Json<Value>, Problem> {
    command::<K>(&api, name, request, Command::Drop).await
}

async fn command<K: Kind>(
    api: &Api,
    name: String,
    request: Request,
    command: Command,
) -> Result<Json<Value>, Problem> {
    // The key is checked first: other callers must not make the host wait for a body.
    let key = api.keys.allow(request.headers(), Scope::Operate)?;
    let which = which(request.into_body()).await?;
    let (store, now) = (store(api, &name)?, api.dispatcher.clock().now_ms());
    let action = match command {
        Command::Retry => format!("{} retry", K::NAME),
        Command::Drop => format!("{} drop", K::NAME),
    };
    let changed = tokio::task::spawn_blocking(move || match command {
        Command::Retry => K::retry(&store, &which, now),
        Command::Drop => K::drop(&store, &which),
    });
    let changed = changed.await.unwrap_or(Err(CommitError::Unknown));
    let error = changed.as_ref().err().map(|error| ErrorChain(error).to_string());
    let rows = changed.as_ref().ok();
    tracing::info!(key = &*key, command = action, plugin = name, rows, error, "operator command");
    let rows = changed.map_err(|error| unusable(K::NAME, &error.to_string()))?;
    Ok(Json(json!({"name": name, K::NAME: rows})))
}

/// The body of a command: ids, or all that are dead.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a JSON object")]
struct Meant {
    ids: Option<Vec<i64>>,
    all_dead: bool,
}

/// What a command does.
#[derive(Debug, Clone, Copy)]
enum Command {
    Retry,
    Drop,
}

/// Reads which rows a command means.
async fn which(body: axum::body::Body) -> Result<Which, Problem> {
    let meant: Meant = body::command(body, "ids?: [ID…], all_dead?: BOOLEAN").await?;
    match meant {
        Meant { ids: Some(ids), all_dead: false } if ids.len() <= MAX_PAGE as usize => {
            Ok(Which::Ids(ids))
        }
        Meant { ids: None, all_dead: true } => Ok(Which::AllDead),
        _ => {
            let message = format!("expected either `ids` (at most {MAX_PAGE}) or `all_dead: true`");
            Err(Problem::new(StatusCode::BAD_REQUEST, "bad_request", &message))
        }
    }
}

/// The store of a plugin that serves.
pub(super) fn store(api: &Api, name: &str) -> Result<Arc<Store>, Problem> {
    let generation = api.registry.snapshot();
    let active = generation.plugin(name).ok_or_else(|| {
        Problem::new(
            StatusCode::NOT_FOUND,
            "not_found",
            &format!("no plugin `{name}` serves now; `sockhop plugins list` shows the plugins"),
        )
    })?;
    Ok(Arc::clone(&active.state.store))
}

/// Reads on a thread that may block.
///
/// # Errors
/// `unavailable`: it can't be read. `kind` says what.
pub(super) async fn read<T: Send + 'static>(
    kind: &str,
    read: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Problem> {
    let read = tokio::task::spawn_blocking(read).await;
    let read = read.unwrap_or(Err(StoreError::Damaged("the host panicked while it read")));
    read.map_err(|error| unusable(kind, &error.to_string()))
}

/// `kind` says what can't be read or changed.
fn unusable(kind: &str, error: &str) -> Problem {
    let message = format!("the {kind} can't be read or changed now: {error}");
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &message)
}

/// Formats milliseconds since 1970 as RFC 3339 in UTC.
pub(super) fn rfc3339(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map(|time| format!("{time:.3}")).unwrap_or_default()
}
