//! `sockhop deploy`: checks a plugin, places its file, and waits for the host.

mod status;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Value, json};
use sockhop::config::Config;
use sockhop::files;
use sockhop::host;
use sockhop::registry::ActivePlugin;

use super::check::{Scratch, check};
use super::client::HostArgs;
use super::output;
use status::{DeployStatus, Deployment};

/// Checks a plugin, puts it into the plugin directory in one step, and waits until it serves
///
/// The plugin is not deployed if another plugin of the running host handles one of its events. With
/// --wait, a file that the host refuses is removed, and the file that it replaced is restored. The
/// file stays without --wait, after the time of --timeout, and if the host can't be reached any
/// more; `sockhop plugins show NAME` shows the state of the plugin.
#[derive(Debug, Args)]
pub(crate) struct Deploy {
    /// The plugin
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    /// Waits until the host serves it (exit status 0) or has refused it (1, with the reason); a
    /// refused file is removed
    #[arg(long)]
    wait: bool,
    /// How long to wait, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "wait")]
    timeout: u64,
    /// Plugin directory of the host; without it, the one of the configuration
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// Prints JSON instead
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    host: HostArgs,
}

/// Interval of the requests that ask the host whether the plugin serves.
const ASK: Duration = Duration::from_millis(50);

impl Deploy {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let config = super::load(self.host.config())?;
        // Before the file is placed: `--wait` is impossible if the host does not answer.
        let rows = match self.host.ask("/api/plugins", None) {
            Ok(answer) => answer.success()?.as_array().cloned(),
            Err(error) if self.wait => {
                return Err(error.context("nothing was deployed: --wait needs a running host"));
            }
            Err(_) => None,
        };
        let scratch = Scratch::new()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        // The host uses the compiled code in this cache, and need not compile the plugin again.
        let cache =
            Some(host::cache_dir(self.host.data_dir(&config))).filter(|cache| cache.is_dir());
        let checked = runtime.block_on(check(
            config.clone(),
            std::slice::from_ref(&self.file),
            &scratch,
            cache,
        ))?;
        let active = match checked.into_iter().next() {
            Some((_, Ok(active))) => active,
            Some((file, Err(reason))) => bail!("{} is refused: {reason}", file.display()),
            None => bail!("there is no file to deploy"),
        };
        let (name, digest) = (active.code.name(), active.code.digest.as_str());
        if let Some((event, owner)) = rows.iter().flatten().find_map(|row| claimed(&active, row)) {
            bail!(
                "{name} would be refused by the host, and was not deployed: event `{event}` is \
                 taken by plugin `{owner}`"
            );
        }
        let place = self.place(&config, name, rows.as_deref());
        let bytes = std::fs::read(&self.file)
            .with_context(|| format!("can't read {}", self.file.display()))?;
        let replaced = std::fs::read(&place).ok();
        let error_before = self.row(name)?.get("last_error").cloned().unwrap_or_default();
        let deployment =
            Deployment { digest, is_new: replaced.as_deref() != Some(&bytes), error_before };
        put(&bytes, &place)?;
        if !self.wait {
            return Ok(self.report(name, digest, &place, "deployed"));
        }
        let until = Instant::now() + Duration::from_secs(self.timeout);
        let mut trouble = None;
        while Instant::now() < until {
            let row = self.row(name).with_context(|| {
                format!(
                    "the file stays at {}; whether the host loads {name} is not known",
                    place.display()
                )
            })?;
            trouble = deployment.trouble(&row).map(str::to_owned);
            match deployment.status(&row) {
                None => std::thread::sleep(ASK),
                Some(DeployStatus::Serves) => {
                    return Ok(self.report(name, digest, &place, "serves"));
                }
                Some(DeployStatus::ServesBut(reason)) => {
                    bail!("{name} {digest} was deployed, but: {reason}")
                }
                Some(DeployStatus::Disabled) => {
                    bail!(
                        "{name} is deployed, but disabled; `sockhop plugins enable {name}` serves \
                         it"
                    )
                }
                Some(DeployStatus::HeldBack(version)) => {
                    bail!(
                        "{name} is deployed, but the host serves {version}, because an operator \
                         rolled back to it or this version failed too often; \
                         `sockhop plugins rollback {name} --to {digest}` makes the host serve this \
                         version"
                    )
                }
                Some(DeployStatus::Quarantined(reason)) => {
                    bail!("{name} is deployed, but quarantined: {reason}")
                }
                Some(DeployStatus::Refused(reason)) if deployment.is_new => {
                    let done = restore(&place, &bytes, replaced.as_deref());
                    bail!("{name} is refused by the host: {reason}; {done}");
                }
                Some(DeployStatus::Refused(reason)) => bail!(
                    "{name} is refused by the host: {reason}; its file was there before, and stays"
                ),
            }
        }
        let trouble = trouble
            .map(|reason| format!("; loading it failed and is retried: {reason}"))
            .unwrap_or_default();
        bail!(
            "the host did not serve {name} within {} s{trouble}; its file stays at {}, and may be \
             loaded later: \
             `sockhop plugins show {name}` shows its state",
            self.timeout,
            place.display()
        )
    }

    /// What the host answers about the plugin. Without `--wait`, the host is not asked, and the
    /// result is null.
    fn row(&self, name: &str) -> anyhow::Result<Value> {
        if !self.wait {
            return Ok(Value::Null);
        }
        let answer = self.host.ask(&format!("/api/plugins/{name}"), None)?;
        match answer.status {
            401 | 403 => answer.success(),
            _ => Ok(answer.document),
        }
    }

    /// The path for the plugin's file: that of its current file, else `NAME.wasm` in the plugin
    /// directory. The directory is that of `--plugins`, else that of the host's other plugins, else
    /// that of the configuration.
    fn place(&self, config: &Config, name: &str, rows: Option<&[Value]>) -> PathBuf {
        let rows = rows.unwrap_or_default();
        let file = |row: &Value| row.get("file").and_then(Value::as_str).map(PathBuf::from);
        let own = rows
            .iter()
            .find(|row| row.get("name").and_then(Value::as_str) == Some(name))
            .and_then(file);
        let theirs = rows.iter().find_map(|row| file(row)?.parent().map(Path::to_owned));
        let dir = self.plugins.clone().or(theirs).unwrap_or_else(|| config.plugins.dir.clone());
        let Some(own) = own else { return dir.join(format!("{name}.wasm")) };
        if own.exists() {
            return own;
        }
        // The host's path does not exist here: the directory has another path for this process, or
        // the path is not UTF-8.
        let file_name = own.file_name().map(Path::new).unwrap_or(&own);
        let places = [own.parent(), Some(dir.as_path())];
        places
            .into_iter()
            .flatten()
            .find_map(|dir| spelled(dir, file_name))
            .unwrap_or_else(|| dir.join(file_name))
    }

    fn report(&self, name: &str, digest: &str, place: &Path, status: &str) -> ExitCode {
        if self.json {
            output::json(
                &json!({"name": name, "digest": digest, "file": place.to_string_lossy(), "status": status}),
            );
        } else {
            output::line(format_args!("{name} {digest} {status} ({})", place.display()));
        }
        ExitCode::SUCCESS
    }
}

/// The file in `dir` whose name becomes `file_name` when replacement characters replace what is not
/// UTF-8, as in the host's answer.
fn spelled(dir: &Path, file_name: &Path) -> Option<PathBuf> {
    let mut names = std::fs::read_dir(dir).ok()?.flatten().map(|entry| entry.file_name());
    names
        .find(|name| name.to_string_lossy() == file_name.to_string_lossy())
        .map(|name| dir.join(name))
}

/// An event of `active` that the other plugin of `row` handles already, and the other plugin's
/// name.
fn claimed<'row>(active: &ActivePlugin, row: &'row Value) -> Option<(&'row str, &'row str)> {
    let owner = row.get("name")?.as_str().filter(|owner| *owner != active.code.name())?;
    let events = row.get("events")?.as_array()?.iter().filter_map(Value::as_str);
    events.into_iter().find(|event| active.inbound.contains_key(*event)).map(|event| (event, owner))
}

/// Undoes the placement, unless the file has changed since. Returns a text for the operator that
/// says what was done.
fn restore(place: &Path, placed: &[u8], replaced: Option<&[u8]>) -> String {
    if std::fs::read(place).ok().as_deref() != Some(placed) {
        return format!("{} was changed meanwhile, and stays in place", place.display());
    }
    let undone = match replaced {
        Some(replaced) => put(replaced, place).map(|()| "the file that it replaced was put back"),
        None => {
            std::fs::remove_file(place).map(|()| "its file was removed again").map_err(Into::into)
        }
    };
    undone.map_or_else(
        |error| format!("{} can't be removed or restored ({error:#}): remove it", place.display()),
        str::to_owned,
    )
}

fn put(bytes: &[u8], place: &Path) -> anyhow::Result<()> {
    files::replace(place, &[bytes]).with_context(|| format!("can't write {}", place.display()))
}
