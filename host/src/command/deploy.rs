//! `sockhop deploy`

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Value, json};
use sockhop::config::Config;
use sockhop::host;

use super::client::Target;
use super::output;

/// Checks a plugin, puts it into the plugin directory in one step, and waits until it serves
#[derive(Debug, Args)]
pub(crate) struct Deploy {
    /// The plugin
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    /// Waits until the host serves it (exit status 0) or has refused it (1, with the reason)
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
    target: Target,
}

/// How often the host is asked whether the plugin serves.
const ASK: Duration = Duration::from_millis(50);

impl Deploy {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let config = super::load(self.target.config())?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        // What is compiled here need not be compiled again by the host.
        let cache = Some(host::cache_dir(self.target.data_dir(&config))).filter(|cache| cache.is_dir());
        let checked = runtime.block_on(super::check::check(config.clone(), std::slice::from_ref(&self.file), cache))?;
        let served = match checked.into_iter().next() {
            Some((_, Ok(served))) => served,
            Some((file, Err(reason))) => bail!("{} is refused: {reason}", file.display()),
            None => bail!("there is no file to deploy"),
        };
        let (name, digest) = (served.plugin.name(), served.plugin.digest.as_str());
        let place = self.place(&config, name)?;
        put(&self.file, &place)?;
        if !self.wait {
            return Ok(self.say(name, digest, &place, "deployed"));
        }
        let until = Instant::now() + Duration::from_secs(self.timeout);
        while Instant::now() < until {
            let answer = self.target.ask(&format!("/api/plugins/{name}"), None)?;
            if matches!(answer.status, 401 | 403) {
                return answer.success().map(|_| ExitCode::FAILURE);
            }
            let is = |member: &str| answer.document.pointer(member).and_then(Value::as_str).unwrap_or_default().to_owned();
            if is("/digest") == digest && is("/state") == "active" {
                return Ok(self.say(name, digest, &place, "serves"));
            }
            if is("/last_error/digest") == digest {
                bail!("{name} is refused by the host: {}", is("/last_error/reason"));
            }
            std::thread::sleep(ASK);
        }
        bail!("the host has not served {name} within {} s; `sockhop plugins show {name}` says what it does", self.timeout)
    }

    /// The file that the plugin has already; else one of its name, in the directory that was named, or that the host says it follows, or that
    /// the configuration names where no host runs.
    fn place(&self, config: &Config, name: &str) -> anyhow::Result<PathBuf> {
        let Ok(answer) = self.target.ask("/api/plugins", None) else {
            let dir = self.plugins.as_ref().unwrap_or(&config.plugins.dir);
            return Ok(dir.join(format!("{name}.wasm")));
        };
        let rows = answer.success()?;
        let rows = rows.as_array().map(Vec::as_slice).unwrap_or_default();
        let file = |row: &Value| row.get("file").and_then(Value::as_str).map(PathBuf::from);
        let own = rows.iter().find(|row| row.get("name").and_then(Value::as_str) == Some(name)).and_then(file);
        let theirs = rows.iter().find_map(|row| file(row)?.parent().map(Path::to_owned));
        let dir = self.plugins.clone().or(theirs).unwrap_or_else(|| config.plugins.dir.clone());
        let Some(own) = own else { return Ok(dir.join(format!("{name}.wasm"))) };
        if own.exists() {
            return Ok(own);
        }
        // The host's path as it was read is no path from here: the directory is called otherwise, or the path is no UTF-8.
        let file_name = own.file_name().map(Path::new).unwrap_or(&own);
        let places = [own.parent(), Some(dir.as_path())];
        Ok(places.into_iter().flatten().find_map(|dir| spelled(dir, file_name)).unwrap_or_else(|| dir.join(file_name)))
    }

    fn say(&self, name: &str, digest: &str, place: &Path, word: &str) -> ExitCode {
        match self.json {
            true => output::json(&json!({"name": name, "digest": digest, "file": place.to_string_lossy(), "status": word})),
            false => output::line(format_args!("{name} {digest} {word} ({})", place.display())),
        }
        ExitCode::SUCCESS
    }
}

/// The file of `dir` whose name the host spells as `file_name`, with marks in the place of what is no UTF-8.
fn spelled(dir: &Path, file_name: &Path) -> Option<PathBuf> {
    let mut names = std::fs::read_dir(dir).ok()?.flatten().map(|entry| entry.file_name());
    names.find(|name| name.to_string_lossy() == file_name.to_string_lossy()).map(|name| dir.join(name))
}

/// Copies beside the place, under a name that no host reads, and renames: whoever looks sees the old file or the new one, whole.
fn put(file: &Path, place: &Path) -> anyhow::Result<()> {
    let name = place.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let unfinished = place.with_file_name(format!(".{name}.{}", std::process::id()));
    let put = std::fs::copy(file, &unfinished).and_then(|_| std::fs::rename(&unfinished, place));
    if put.is_err() {
        let _ = std::fs::remove_file(&unfinished);
    }
    put.with_context(|| format!("can't put {} to {}", file.display(), place.display()))
}
