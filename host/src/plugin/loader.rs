//! Loads a plugin: reads, compiles and links a file and runs `register`. A failure gives a reason
//! that helps the plugin's author.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use sockhop_core::declarations::Registration;
use tokio_util::sync::CancellationToken;
use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;

use crate::config::{Config, Limits};
use crate::rejection::Refusal;

use super::Code;
use super::bindings::PluginPre;
use super::budget::Budget;
use super::compiler::{CompileError, Compiler};
use super::engine::Engine;
use super::instance::{Failure, Instance};
use super::output::Output;
use super::retry::Retry;
use super::state::InstanceState;

/// A plugin that has registered, but is not yet checked against other plugins.
pub struct Candidate {
    /// What the plugin declared in `register`.
    pub registration: Registration,
    /// The file that it was read from.
    pub file: PathBuf,
    /// SHA-256 of the file, hexadecimal.
    pub digest: String,
    /// The plugin's own settings while it registered, if `register` has read them.
    pub settings: Option<BTreeMap<String, String>>,
    pub(super) engine: Arc<Engine>,
    pub(super) pre: PluginPre<InstanceState>,
}

/// Why a file could not be loaded as a plugin.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file can't be read.
    #[error("can't be read")]
    Unreadable(#[source] std::io::Error),
    /// The file is larger than the host reads.
    #[error("has {size} bytes; at most {limit} are read (limits.plugin_file_bytes)")]
    TooLarge {
        /// Size in bytes.
        size: u64,
        /// Limit in bytes.
        limit: u64,
    },
    /// The file is not WebAssembly: its magic number is missing.
    #[error("is no WebAssembly component, or only a part of one")]
    NotWasm,
    /// The file is truncated, or uses features that the engine does not support. Contains the
    /// compiler's reason.
    #[error("is no WebAssembly component, or only a part of one: {0}")]
    NotAComponent(String),
    /// The component is built for asynchronous calls. Contains the builtin that it needs.
    #[error(
        "needs the component model's async builtins, which this host does not have: `{0}`; build \
         it for synchronous calls \
         (JavaScript: `componentize-qjs --sync`, or `jco componentize` with \
         `--backend-qjs-disable-async`)"
    )]
    NeedsAsync(String),
    /// The file was not compiled, for a reason other than an invalid component.
    #[error(transparent)]
    NotCompiled(CompileError),
    /// The file is a core module, not a component.
    #[error(
        "is a core module, not a component; build it with `cargo build --release --target \
         wasm32-wasip2`"
    )]
    CoreModule,
    /// The component is built for another version of the interface.
    #[error(
        "was built against `{wanted}`, which this host does not have; it has \
         sockhop:plugin@{HOST_WIT}: build it with the SDK of that version"
    )]
    OtherVersion {
        /// The import.
        wanted: String,
    },
    /// The component does not export a function that the host calls.
    #[error(
        "is a component of another world: it does not export `{missing}`; a plugin implements the \
         world `sockhop:plugin/plugin`"
    )]
    OtherWorld {
        /// The missing export.
        missing: &'static str,
    },
    /// The component imports something that no plugin may have.
    #[error(
        "imports `{import}`, which a plugin can't have; it may use the world \
         `sockhop:plugin/plugin` and WASI 0.2's command-line interfaces"
    )]
    ForeignImport {
        /// The import.
        import: String,
    },
    /// The component's imports or exports have other types than the host's.
    #[error("does not fit the world `sockhop:plugin/plugin`")]
    Mismatch(#[source] wasmtime::Error),
    /// The instance could not be made, or `register` did not return a result.
    #[error("`register` {}", explain(.0))]
    RegisterFailed(#[source] Failure),
    /// `register` returned an error, or the host refused one of its declarations.
    #[error("`register` was refused: {}", .0.message)]
    Refused(Refusal),
}

impl LoadError {
    /// When another attempt may succeed.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Unreadable(_) => Retry::Soon,
            Self::NotCompiled(error) => error.retry(),
            // A busy machine can make a valid plugin fail with these errors.
            Self::RegisterFailed(
                Failure::CpuExceeded { .. } | Failure::WallExceeded(_) | Failure::NoSpace(_),
            ) => Retry::Soon,
            _ => Retry::Never,
        }
    }
}

impl From<CompileError> for LoadError {
    fn from(error: CompileError) -> Self {
        match error {
            // The validator's message for every feature of the component model's async proposal.
            // Authors of JavaScript plugins see it most. Of "…: `task.cancel` requires … (at offset
            // …)" only the name helps an author.
            CompileError::Refused(reason)
                if reason.contains("requires the component model") && reason.contains("async") =>
            {
                Self::NeedsAsync(reason.split('`').nth(1).unwrap_or(&reason).to_owned())
            }
            CompileError::Refused(reason) => Self::NotAComponent(reason),
            other => Self::NotCompiled(other),
        }
    }
}

/// The version of the interface that this host implements.
const HOST_WIT: &str = "0.1.1";

fn explain(failure: &Failure) -> String {
    match failure {
        Failure::CpuExceeded { limit, .. } => format!(
            "ran for more than {} ms; it may only declare what the plugin is",
            limit.as_millis()
        ),
        other => other.to_string(),
    }
}

/// The content of a file. `digest` always belongs to the bytes that are compiled.
pub struct Source {
    /// Path of the file.
    pub file: PathBuf,
    /// SHA-256 of its bytes, hexadecimal.
    pub digest: String,
    /// The content.
    pub bytes: Vec<u8>,
}

/// Reads `file`, which may have at most `limit` bytes. Blocks on disk I/O.
///
/// # Errors
/// Returns [`LoadError::Unreadable`] or [`LoadError::TooLarge`].
pub fn read(file: &Path, limit: u64) -> Result<Source, LoadError> {
    let opened = File::open(file).map_err(LoadError::Unreadable)?;
    let size = opened.metadata().map_err(LoadError::Unreadable)?.len();
    if size > limit {
        return Err(LoadError::TooLarge { size, limit });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
    // The file may have grown since. One byte over the limit is enough to detect that.
    let read = opened
        .take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(LoadError::Unreadable)?;
    if read as u64 > limit {
        return Err(LoadError::TooLarge { size: read as u64, limit });
    }
    let digest = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Source { file: file.to_owned(), digest, bytes })
}

/// Compiles and links `source`, and runs `register`, within `limits`. `settings` has the settings
/// of all plugins: only `register` tells the name of this one.
///
/// # Errors
/// Returns the reason why the file is not a usable plugin.
pub async fn load(
    engine: &Arc<Engine>,
    compiler: &Compiler,
    source: Source,
    limits: &Arc<Limits>,
    settings: &Arc<Config>,
) -> Result<Candidate, LoadError> {
    let Source { file, digest, bytes } = source;
    if !bytes.starts_with(MAGIC) {
        return Err(LoadError::NotWasm);
    }
    if bytes.starts_with(CORE_MODULE) {
        return Err(LoadError::CoreModule);
    }
    let component = compiler.compile(engine, &digest, bytes, limits).await?;
    check_world(engine, &component)?;
    let pre = engine.linker.instantiate_pre(&component).map_err(LoadError::Mismatch)?;
    let pre = PluginPre::new(pre).map_err(LoadError::Mismatch)?;
    let (registration, has_read) = register(engine, &file, &pre, limits, settings).await?;
    let settings = has_read.then(|| settings.of_plugin(&registration.name).config);
    Ok(Candidate { registration, file, digest, settings, engine: Arc::clone(engine), pre })
}

/// Runs `register` in an instance that is dropped afterwards. The second value is whether it has
/// read the plugin's settings.
async fn register(
    engine: &Arc<Engine>,
    file: &Path,
    pre: &PluginPre<InstanceState>,
    limits: &Arc<Limits>,
    settings: &Arc<Config>,
) -> Result<(Registration, bool), LoadError> {
    let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let output = Arc::new(Output::new(&stem, None, limits));
    let (config, memory, ended) = (Arc::default(), Arc::default(), CancellationToken::new());
    let code = Code {
        engine: Arc::clone(engine),
        pre: pre.clone(),
        limits: Arc::clone(limits),
        config,
        output,
        memory,
        ended,
    };
    let mut budget = Budget::in_background(limits.register_cpu_ms, limits.event_wall_ms);
    let instance = Instance::new(&code, &mut budget).await.map_err(LoadError::RegisterFailed)?;
    instance
        .register(&code, settings, &mut budget)
        .await
        .map_err(LoadError::RegisterFailed)?
        .map_err(LoadError::Refused)
}

/// The first bytes of a binary. The magic number is the same for both kinds. Version and layer
/// follow (0: core module, 1: component).
const MAGIC: &[u8] = b"\0asm";
const CORE_MODULE: &[u8] = b"\0asm\x01\0\0\0";

/// Checks imports and exports before the linker does, because its error messages help an author
/// less.
fn check_world(engine: &Engine, component: &Component) -> Result<(), LoadError> {
    let kind = component.component_type();
    for (name, _) in kind.imports(&engine.wasm) {
        match name.split_once('@') {
            Some((interface, version)) if interface.starts_with("sockhop:plugin/") => {
                if !compatible(version) {
                    return Err(LoadError::OtherVersion { wanted: name.to_owned() });
                }
            }
            _ if name.starts_with("wasi:") && is_linked(name) => {}
            _ => return Err(LoadError::ForeignImport { import: name.to_owned() }),
        }
    }
    for missing in ["register", "handle"] {
        let exported = kind.exports(&engine.wasm).any(|(name, item)| {
            name == missing && matches!(item.ty, ComponentItem::ComponentFunc(_))
        });
        if !exported {
            return Err(LoadError::OtherWorld { missing });
        }
    }
    Ok(())
}

/// Whether a guest that is built against `version` of the interface runs here. Major and minor
/// version must be equal: within a minor version, items are added but never changed.
fn compatible(version: &str) -> bool {
    match (semver::Version::parse(version), semver::Version::parse(HOST_WIT)) {
        (Ok(guest), Ok(host)) => (guest.major, guest.minor) == (host.major, host.minor),
        _ => false,
    }
}

/// Whether `import` is a part of WASI that the host links. All of these are empty except clocks,
/// randomness, output and the plugin's own settings.
fn is_linked(import: &str) -> bool {
    if import.starts_with("wasi:config/store@") {
        return true;
    }
    ["wasi:io/", "wasi:cli/", "wasi:clocks/", "wasi:random/", "wasi:filesystem/", "wasi:sockets/"]
        .iter()
        .any(|package| import.starts_with(package) && import.contains("@0.2."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_of_the_same_minor_version_is_compatible() {
        assert!(compatible("0.1.0") && compatible("0.1.5"));
        assert!(!compatible("0.2.0") && !compatible("1.1.0") && !compatible("x"));
    }
}
