//! `sockhop token`: creates tokens for experiments, and explains what is wrong with a token.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};
use sockhop::auth::{Authenticated, Authenticator, TokenError, sign, unverified_claims};
use sockhop::config::{AuthConfig, Config};

use super::output;

/// Creates a token for experiments with the first configured key that can sign, and prints it
// An option before `check` is refused, so that none is ignored: `--config` follows `check`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Token {
    #[command(subcommand)]
    command: Option<TokenCommand>,
    /// The user
    #[arg(long, required = true, value_name = "USER")]
    sub: Option<String>,
    /// A role of the user; can be repeated
    #[arg(long, value_name = "ROLE")]
    role: Vec<String>,
    /// How long the token is valid, such as `1h` or `90s`
    #[arg(long, default_value = "1h", value_parser = ttl)]
    ttl: Duration,
    /// The private key (PEM) of the configured public key; not needed for a key with a secret
    #[arg(long, value_name = "FILE")]
    private_key: Option<PathBuf>,
    /// Configuration file; without it, `sockhop.toml` if there is one
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Says whether the host accepts a token, and why not; exit status 0 if it does, else 1
    Check(Check),
}

/// Says whether the host accepts a token.
#[derive(Debug, Args)]
struct Check {
    /// The file with the token; `-` reads it from standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Prints one JSON document instead
    #[arg(long)]
    json: bool,
}

/// The longest time that a token of this command is valid.
const MAX_TTL: SignedDuration = SignedDuration::from_hours(24 * 366);

fn ttl(text: &str) -> Result<Duration, String> {
    let expected = "expected a time such as `90s`, `30m` or `1h`, at most 8784h";
    let ttl: SignedDuration = text.parse().map_err(|_| expected.to_owned())?;
    match Duration::try_from(ttl) {
        Ok(time) if ttl <= MAX_TTL && time >= Duration::from_secs(1) => Ok(time),
        Ok(_) | Err(_) => Err(expected.to_owned()),
    }
}

impl Token {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let config = super::load(self.config.as_ref())?;
        match &self.command {
            Some(TokenCommand::Check(check)) => check.run(&config),
            None => {
                let config = config.auth;
                let claims = self.claims(&config)?;
                let token = sign(&config, self.private_key.as_deref(), &claims)?;
                output::line(format_args!("{token}"));
                Ok(ExitCode::SUCCESS)
            }
        }
    }

    /// The claims that a host with this configuration asks for.
    fn claims(&self, config: &AuthConfig) -> anyhow::Result<Map<String, Value>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let mut claims = Map::new();
        let user = Value::from(self.sub.clone().unwrap_or_default());
        claims.insert("sub".to_owned(), user.clone());
        claims.insert("iat".to_owned(), now.into());
        claims.insert("exp".to_owned(), (now + self.ttl.as_secs()).into());
        insert(&mut claims, config.user_claim.as_str(), user);
        insert(&mut claims, config.roles_claim.as_str(), self.role.clone().into());
        for (name, value) in [("aud", &config.audience), ("iss", &config.issuer)] {
            if let Some(value) = value {
                claims.insert(name.to_owned(), value.clone().into());
            }
        }
        Ok(claims)
    }
}

/// Inserts a claim at a path of names separated by dots. A value on the way that is no object is
/// replaced by one.
fn insert(claims: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => drop(claims.insert(path.to_owned(), value)),
        Some((first, rest)) => {
            let inner = claims.entry(first).or_insert(Value::Null);
            if !inner.is_object() {
                *inner = json!({});
            }
            if let Some(inner) = inner.as_object_mut() {
                insert(inner, rest, value);
            }
        }
    }
}

impl Check {
    fn run(&self, config: &Config) -> anyhow::Result<ExitCode> {
        let authenticator =
            Authenticator::load(&config.auth)?.with_revocations(&config.data.dir)?;
        if !authenticator.needs_tokens() {
            bail!(
                "with this configuration every client is anonymous; set `mode = \"jwt\"` and a key \
                 in [auth]"
            );
        }
        let token = read(&self.file)?;
        let token = token.trim();
        // The check may wait for the read of a file, which needs neither I/O events nor timers.
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let result = runtime.block_on(authenticator.check(token, SystemTime::now()));
        let claims = unverified_claims(token);
        if self.json {
            output::json(&document(&result, claims));
        } else {
            print(&result, claims);
        }
        Ok(if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn document(
    result: &Result<Authenticated, TokenError>,
    claims: Option<Map<String, Value>>,
) -> Value {
    match result {
        Ok(known) => json!({
            "ok": true, "user": known.identity.user, "roles": known.identity.roles,
            "expires_at": known.expires_at.and_then(rfc3339), "claims": claims,
        }),
        Err(error) => json!({"ok": false, "reason": error.to_string(), "claims": claims}),
    }
}

fn print(result: &Result<Authenticated, TokenError>, claims: Option<Map<String, Value>>) {
    match result {
        Ok(known) => {
            let identity = &known.identity;
            output::line(format_args!("accepted"));
            output::line(format_args!(
                "  user     {}",
                identity.user.as_deref().unwrap_or_default()
            ));
            output::line(format_args!("  roles    {}", identity.roles.join(", ")));
            if let Some(expires) = known.expires_at.and_then(rfc3339) {
                output::line(format_args!("  expires  {expires}"));
            }
        }
        Err(error) => output::line(format_args!("refused: {error}")),
    }
    if let Some(claims) = claims {
        output::line(format_args!("  claims   {}", Value::Object(claims)));
    }
}

fn rfc3339(time: SystemTime) -> Option<String> {
    Some(Timestamp::try_from(time).ok()?.to_string())
}

/// The most bytes that are read. A token may have 8 KiB, so what is cut off here is refused as too
/// long.
const MAX_INPUT: u64 = 64 << 10;

fn read(file: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let result = if file == Path::new("-") {
        std::io::stdin().take(MAX_INPUT).read_to_string(&mut text)
    } else {
        let opened = std::fs::File::open(file);
        opened.and_then(|file| file.take(MAX_INPUT).read_to_string(&mut text))
    };
    result.with_context(|| format!("can't read the token from {}", file.display()))?;
    Ok(text)
}
