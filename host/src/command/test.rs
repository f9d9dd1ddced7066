//! `sockhop test`: tests plugins by scenarios, without a running host.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use sockhop::config::Config;
use sockhop::files;
use sockhop::log::{self, Capture};
use sockhop::scenario::{self, Outcome, SCHEMA, ScenarioReport};
use sockhop::trial::play;

use super::check::Scratch;
use super::interrupts::INTERRUPTED;
use super::output;
use super::workplace::{Workplace, place};

/// Tests plugins by scenarios: virtual clients, and what must come of what they send
///
/// The plugins run as on a host, under the limits and settings of the configuration. Each scenario
/// begins with empty state. No address is opened, and nothing is sent over the network: stubs of
/// the scenario answer HTTP requests. Time stands still until the scenario advances it. Exit status
/// 0 if all scenarios pass, else 1.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Test {
    /// Plugins, and scenarios: YAML files, or directories in which `.yaml` and `.yml` files are
    #[arg(value_name = "FILE.wasm… SCENARIO", required_unless_present = "schema")]
    paths: Vec<PathBuf>,
    /// Configuration with the settings and limits of the plugins
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only scenarios whose file or name contains this text
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Prints one JSON document in each line instead, one for each scenario
    #[arg(long)]
    json: bool,
    /// Writes the results as JUnit XML too
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Prints the JSON Schema of scenarios, for editors
    #[arg(long, exclusive = true)]
    schema: bool,
}

/// Directories within directories that are searched at most.
const MAX_DEPTH: usize = 16;

impl Test {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        if self.schema {
            output::json_text(SCHEMA.trim_end());
            return Ok(ExitCode::SUCCESS);
        }
        // What is wrong with the configuration is told once, and not for each scenario.
        super::load(self.config.as_ref())?;
        let is_plugin = |path: &&PathBuf| path.extension() == Some(OsStr::new("wasm"));
        let (plugins, others): (Vec<_>, Vec<_>) = self.paths.iter().partition(is_plugin);
        let plugins: Vec<_> = plugins.into_iter().cloned().collect();
        if plugins.is_empty() {
            bail!("name the plugin to test: sockhop test FILE.wasm SCENARIO");
        }
        let mut scenarios = Vec::new();
        for path in others {
            find(path, 0, &mut scenarios)?;
        }
        if scenarios.is_empty() {
            bail!(
                "name a scenario, or a directory with scenarios: sockhop test FILE.wasm SCENARIO"
            );
        }
        let capture = log::capture()?;
        let mut workplace = Workplace::new()?;
        let began = Instant::now();
        let testing =
            workplace.run(async |scratch| self.test(&plugins, &scenarios, scratch, &capture).await);
        let Some(reports) = testing else {
            output::progress("");
            return Ok(ExitCode::from(INTERRUPTED));
        };
        let reports = reports?;
        if let Some(file) = &self.junit {
            let xml = scenario::junit(&reports);
            files::replace(file, &[xml.as_bytes()])
                .with_context(|| format!("can't write {}", file.display()))?;
        }
        if reports.is_empty() {
            bail!("no scenario contains the text of --filter, in its file's name or its own");
        }
        let passed = reports.iter().filter(|report| report.outcome() == Outcome::Passed).count();
        if !self.json {
            summary(passed, reports.len() - passed, began.elapsed());
        }
        Ok(if passed == reports.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Plays the scenarios one after the other, and prints the result of each.
    async fn test(
        &self,
        plugins: &[PathBuf],
        scenarios: &[PathBuf],
        scratch: &Scratch,
        capture: &Capture,
    ) -> anyhow::Result<Vec<ScenarioReport>> {
        let mut reports = Vec::new();
        for (index, file) in scenarios.iter().enumerate() {
            output::progress(&format!("{}/{} {}", index + 1, scenarios.len(), file.display()));
            let Some(report) = self.play(file, plugins, scratch, capture).await? else { continue };
            output::progress("");
            if self.json {
                output::raw_line(&report.document().to_string());
            } else {
                report.lines().iter().for_each(output::line);
            }
            reports.push(report);
        }
        output::progress("");
        Ok(reports)
    }

    /// Plays a scenario, unless the filter leaves it out.
    async fn play(
        &self,
        file: &Path,
        plugins: &[PathBuf],
        scratch: &Scratch,
        capture: &Capture,
    ) -> anyhow::Result<Option<ScenarioReport>> {
        let read = scenario::read(file);
        let name = read.as_ref().ok().and_then(|scenario| scenario.name.clone());
        let contains = |text: &str| self.filter.as_ref().is_none_or(|part| text.contains(part));
        if !contains(&file.to_string_lossy()) && !name.as_deref().is_some_and(contains) {
            return Ok(None);
        }
        let failed = |error: anyhow::Error| ScenarioReport {
            file: file.to_owned(),
            name: file.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            steps: Vec::new(),
            not_run: 0,
            error: Some(format!("{error:#}")),
            took: Duration::ZERO,
        };
        let config = super::config_file(self.config.as_ref());
        let read = read.map_err(anyhow::Error::from).and_then(|scenario| {
            let config = Config::load_with_plugins(config.as_deref(), &scenario.plugins);
            Ok((config.context("the settings in `plugins` are wrong")?, scenario))
        });
        Ok(Some(match read {
            Ok((config, scenario)) => {
                let place = place(scratch, "test", &config)?;
                let report = play(&scenario, file, config, plugins, &place, capture).await;
                // The next one begins with empty state.
                std::fs::remove_dir_all(&place.data)
                    .with_context(|| format!("can't remove {}", place.data.display()))?;
                report
            }
            Err(error) => failed(error),
        }))
    }
}

fn summary(passed: usize, failed: usize, took: Duration) {
    let number = passed + failed;
    let scenarios = if number == 1 { "scenario" } else { "scenarios" };
    let took = took.as_millis();
    output::line(format_args!(
        "{number} {scenarios}: {passed} passed, {failed} failed ({took} ms)"
    ));
}

/// Adds the scenarios at a path, in the order of their names.
fn find(path: &Path, depth: usize, scenarios: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let context = || format!("can't read {}", path.display());
    if !path.metadata().with_context(context)?.is_dir() {
        scenarios.push(path.to_owned());
        return Ok(());
    }
    let entries: Result<Vec<_>, _> = std::fs::read_dir(path).with_context(context)?.collect();
    let mut entries = entries.with_context(context)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let (path, kind) = (entry.path(), entry.file_type().with_context(context)?);
        let is_scenario =
            ["yaml", "yml"].iter().any(|end| path.extension() == Some(OsStr::new(end)));
        // A link to a directory could lead back to this one.
        if kind.is_dir() && depth < MAX_DEPTH {
            find(&path, depth + 1, scenarios)?;
        } else if is_scenario && !kind.is_dir() {
            scenarios.push(path);
        }
    }
    Ok(())
}
