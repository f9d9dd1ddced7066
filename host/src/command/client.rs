//! Requests to a running host: how commands find its address and its key.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sockhop::config::Config;
use sockhop::host;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

/// Where the host is, and the key to it, with its configuration file
#[derive(Debug, Args)]
pub(crate) struct HostArgs {
    #[command(flatten)]
    reach: ReachArgs,
    /// Configuration file of the host
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Where the host is, and the key to it
#[derive(Debug, Args)]
pub(crate) struct ReachArgs {
    /// The host's address; without it, the one in the data directory of a running host, else the
    /// one of the configuration
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// File whose first line is the key; without it `SOCKHOP_KEY`, else the host's own in the data
    /// directory
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// The key itself
    #[arg(long, env = "SOCKHOP_KEY", hide_env_values = true, hide = true)]
    key: Option<String>,
    /// PEM file with the certificates to trust, if the host's address is `https`; without it, those
    /// of public authorities are trusted. The certificate must be for the name in `--url`
    #[arg(long, value_name = "FILE", env = "SOCKHOP_CA_FILE")]
    ca_file: Option<PathBuf>,
    /// Data directory of the host, where its own key and its address are
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// The timeout of one request.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The answer of the host: the HTTP status and the JSON document.
pub(crate) struct ApiResponse {
    pub(crate) status: u16,
    pub(crate) document: Value,
}

impl HostArgs {
    /// The configuration file, if one was named.
    pub(crate) fn config(&self) -> Option<&PathBuf> {
        self.config.as_ref()
    }

    /// The host's data directory: the named one, else the one of `config`.
    pub(crate) fn data_dir<'paths>(&'paths self, config: &'paths Config) -> &'paths Path {
        self.reach.data_dir(config)
    }

    /// Whether the host's address was named.
    pub(crate) fn has_url(&self) -> bool {
        self.reach.url.is_some()
    }

    /// Sends a request to the host: `POST` with a JSON `body`, else `GET`. The answer is not
    /// parsed, so that no number in it changes.
    pub(crate) fn ask_text(&self, path: &str, body: Option<&str>) -> anyhow::Result<TextResponse> {
        let config = super::load(self.config.as_ref())?;
        self.reach.ask_text(&config, path, body.map(RequestBody::Text))
    }

    /// Sends a request to the host: `POST` with a `body`, else `GET`.
    pub(crate) fn ask(&self, path: &str, body: Option<&Value>) -> anyhow::Result<ApiResponse> {
        let config = super::load(self.config.as_ref())?;
        self.reach.ask(&config, path, body.map(RequestBody::Json))
    }
}

/// The answer of the host as text.
pub(crate) struct TextResponse {
    status: u16,
    text: String,
    url: String,
}

impl TextResponse {
    /// Returns the document of a successful answer. Any other answer becomes an error.
    pub(crate) fn success<T: DeserializeOwned>(self) -> anyhow::Result<T> {
        let Self { status, text, url } = self;
        if (200..300).contains(&status) {
            return serde_json::from_str(&text).with_context(|| not_a_host(&url));
        }
        let document = serde_json::from_str(&text).with_context(|| not_a_host(&url))?;
        match (ApiResponse { status, document }).success() {
            Err(error) => Err(error),
            Ok(_) => bail!(not_a_host(&url)),
        }
    }
}

fn not_a_host(url: &str) -> String {
    format!("the answer of {url} is not that of a Sockhop host")
}

/// Maximum bytes of an answer.
const MAX_ANSWER: u64 = 64 << 20;

/// The body of a request.
pub(crate) enum RequestBody<'request> {
    Json(&'request Value),
    Text(&'request str),
}

impl ReachArgs {
    fn data_dir<'paths>(&'paths self, config: &'paths Config) -> &'paths Path {
        self.data.as_ref().unwrap_or(&config.data.dir)
    }

    /// Sends a request to the host of `config`: `POST` with a `body`, else `GET`.
    pub(crate) fn ask(
        &self,
        config: &Config,
        path: &str,
        body: Option<RequestBody<'_>>,
    ) -> anyhow::Result<ApiResponse> {
        let TextResponse { status, text, url } = self.ask_text(config, path, body)?;
        let document = serde_json::from_str(&text).with_context(|| not_a_host(&url))?;
        Ok(ApiResponse { status, document })
    }

    fn ask_text(
        &self,
        config: &Config,
        path: &str,
        body: Option<RequestBody<'_>>,
    ) -> anyhow::Result<TextResponse> {
        let data = self.data_dir(config);
        let (url, source) = self.address(config, data);
        let key_file = self.key_file.clone().or_else(|| match &self.key {
            Some(_) => None,
            None => Some(host::key_file(data)),
        });
        let key = match (&key_file, &self.key) {
            (Some(file), _) => first_line(file)?,
            (None, Some(key)) => key.clone(),
            (None, None) => bail!("there is no key; give one with --key-file or SOCKHOP_KEY"),
        };
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // The host belongs to this operator: the key is sent to the host and never to a proxy.
            .proxy(None)
            .timeout_global(Some(TIMEOUT))
            .tls_config(self.tls()?)
            .build()
            .into();
        let url = format!("{}{path}", url.trim_end_matches('/'));
        let authorization = format!("Bearer {key}");
        let sent = match body {
            Some(RequestBody::Json(body)) => {
                agent.post(&url).header("Authorization", authorization).send_json(body)
            }
            Some(RequestBody::Text(text)) => {
                agent.post(&url).header("Authorization", authorization).send(text)
            }
            None => agent.get(&url).header("Authorization", authorization).call(),
        };
        let mut response = sent.map_err(|error| {
            let hint = hint(&error);
            let said = format!("can't reach a host at {url} ({source}); {hint}");
            anyhow::Error::new(error).context(said)
        })?;
        let status = response.status().as_u16();
        let answer = response.body_mut().with_config().limit(MAX_ANSWER).read_to_string();
        let text = answer.with_context(|| not_a_host(&url))?;
        Ok(TextResponse { status, text, url })
    }

    /// Which certificates are trusted.
    fn tls(&self) -> anyhow::Result<TlsConfig> {
        let Some(file) = &self.ca_file else { return Ok(TlsConfig::default()) };
        let shown = file.display();
        let pem = std::fs::read(file).with_context(|| format!("can't read {shown} (--ca-file)"))?;
        let items: Result<Vec<_>, _> = parse_pem(&pem).collect();
        let items = items.with_context(|| format!("--ca-file: {shown} is not valid PEM"))?;
        let certificates: Vec<_> = items
            .into_iter()
            .filter_map(|item| match item {
                PemItem::Certificate(certificate) => Some(certificate),
                _ => None,
            })
            .collect();
        if certificates.is_empty() {
            bail!("--ca-file: {shown} has no certificate (-----BEGIN CERTIFICATE-----)");
        }
        let roots = RootCerts::Specific(Arc::new(certificates));
        Ok(TlsConfig::builder().root_certs(roots).build())
    }

    /// The host's address, and the source of the address.
    fn address(&self, config: &Config, data: &Path) -> (String, String) {
        if let Some(url) = &self.url {
            return (url.clone(), "--url".to_owned());
        }
        let file = host::address_file(data);
        match std::fs::read_to_string(&file) {
            Ok(text) => (
                text.lines().next().unwrap_or_default().trim().to_owned(),
                file.display().to_string(),
            ),
            Err(_) => {
                let listen = config.admin.listen.as_ref().unwrap_or(&config.server.listen);
                (listen.local_url(config.operators_scheme()), "the configuration".to_owned())
            }
        }
    }
}

/// What the user can do about an error.
fn hint(error: &ureq::Error) -> &'static str {
    let is_tls = match error {
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) => true,
        // An error of the handshake is one of reading.
        ureq::Error::Io(error) => error.kind() == io::ErrorKind::InvalidData,
        _ => false,
    };
    if is_tls {
        "its certificate is not trusted: name the certificate of its issuer with --ca-file, and a \
         name for which the certificate is valid with --url https://NAME:PORT"
    } else {
        "is it running? name it with --url or --data"
    }
}

fn first_line(file: &PathBuf) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file).with_context(|| {
        format!(
            "can't read the key from {}; name a file with --key-file, or set SOCKHOP_KEY",
            file.display()
        )
    })?;
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

impl ApiResponse {
    /// Returns the document of a successful answer. Any other answer becomes an error.
    pub(crate) fn success(self) -> anyhow::Result<Value> {
        if (200..300).contains(&self.status) {
            return Ok(self.document);
        }
        let member = |name: &str| {
            self.document.get(name).and_then(Value::as_str).unwrap_or("unknown").to_owned()
        };
        bail!("{} ({}, HTTP status {})", member("message"), member("code"), self.status)
    }
}
