//! Where the state of a plugin is: behind the API of a running host, or in a data directory that no
//! host uses.

use anyhow::{Context, bail};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use sockhop::host::{DataLock, StartError, lock_data};
use sockhop::store::document::{EntryDocument, ImportDocument, PageDocument};
use sockhop::store::{self, ContentSummary, PageQuery, Store, StoreLimits};

use crate::command::client::HostArgs;

/// Bytes of the keys and values of one page of a stopped host.
const PAGE_BYTES: usize = 1 << 20;

/// Where the state of one plugin is.
pub(super) struct Place {
    pub(super) name: String,
    access: Access,
}

enum Access {
    Api(Box<HostArgs>),
    /// The lock keeps a host from starting meanwhile.
    File {
        store: Box<Store>,
        _lock: DataLock,
    },
}

impl Place {
    /// Finds the host, or else opens the state in its data directory.
    pub(super) fn find(host: HostArgs, name: String) -> anyhow::Result<Self> {
        if host.has_url() {
            return Ok(Self { name, access: Access::Api(Box::new(host)) });
        }
        let config = crate::command::load(host.config())?;
        let dir = host.data_dir(&config).to_owned();
        if !dir.is_dir() {
            bail!("{} is no directory; name the host's data directory with --data", dir.display());
        }
        let lock = match lock_data(&dir) {
            Ok(lock) => lock,
            Err(StartError::DataInUse { .. }) => {
                return Ok(Self { name, access: Access::Api(Box::new(host)) });
            }
            Err(error) => return Err(error.into()),
        };
        let known =
            store::plugins(&dir).with_context(|| format!("can't read {}", dir.display()))?;
        if !known.contains(&name) {
            bail!("no state of `{name}` is known in {}, which no host uses now", dir.display());
        }
        let limits = StoreLimits::of(&config.of_plugin(&name).limits);
        let store = store::open(&dir, &name, limits)
            .with_context(|| format!("can't open the state of `{name}`"))?;
        Ok(Self { name, access: Access::File { store: Box::new(store), _lock: lock } })
    }

    /// The entry of a key.
    pub(super) fn entry(&self, key: &str) -> anyhow::Result<EntryDocument> {
        match &self.access {
            Access::Api(host) => {
                let path = self.path(&format!("/entry?{}", query(&[("key", key)])));
                host.ask_text(&path, None)?.success()
            }
            Access::File { store, .. } => match store.content_of(key)? {
                Some(value) => Ok((key.to_owned(), value).into()),
                None => bail!("the plugin has no entry with this key"),
            },
        }
    }

    /// Some of the entries.
    pub(super) fn page(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> anyhow::Result<PageDocument> {
        match &self.access {
            Access::Api(host) => {
                let limit = limit.to_string();
                let mut members = vec![("prefix", prefix), ("limit", limit.as_str())];
                members.extend(after.map(|after| ("after", after)));
                let path = self.path(&format!("/entries?{}", query(&members)));
                host.ask_text(&path, None)?.success()
            }
            Access::File { store, .. } => {
                let query = PageQuery {
                    prefix: prefix.to_owned(),
                    after: after.map(str::to_owned),
                    limit: usize::try_from(limit)?,
                    max_bytes: PAGE_BYTES,
                };
                Ok(store.content_page(&query)?.into())
            }
        }
    }

    /// What there is in all.
    pub(super) fn summary(&self) -> anyhow::Result<ContentSummary> {
        match &self.access {
            Access::Api(host) => host.ask_text(&self.path(""), None)?.success(),
            Access::File { store, .. } => Ok(store.content_summary()?),
        }
    }

    /// Stores entries and sequences.
    pub(super) fn import(&self, document: ImportDocument) -> anyhow::Result<()> {
        match &self.access {
            Access::Api(host) => {
                let body = serde_json::to_string(&document)?;
                let answer = host.ask_text(&self.path("/entries"), Some(&body))?;
                answer.success::<Value>().map(drop)
            }
            Access::File { store, .. } => {
                let ImportDocument { mode, sequences, entries } = document;
                let entries: Result<Vec<_>, _> =
                    entries.into_iter().map(EntryDocument::into_entry).collect();
                Ok(store.import(mode, &entries?, &sequences)?)
            }
        }
    }

    fn path(&self, rest: &str) -> String {
        format!("/api/plugins/{}/state{rest}", self.name)
    }
}

/// Writes a query.
fn query(members: &[(&str, &str)]) -> String {
    let pair = |(name, value): &(&str, &str)| {
        format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC))
    };
    members.iter().map(pair).collect::<Vec<_>>().join("&")
}
