//! Compiling, in a process of its own and kept by content: a hostile file may take the time and memory that it is given there, and no more.
//!
//! What is kept is native code that the host will run. So it lies in a directory that only the host writes, and each entry begins with its
//! own checksum: an entry that was damaged, or is another host's, is compiled again and never run.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::Semaphore;
use wasmtime::component::Component;

use crate::config::Limits;

use super::engine::Engine;
use super::loader::Retry;

/// Compiles plugins by running a program.
#[derive(Debug, Clone)]
pub struct Compiler {
    program: PathBuf,
    /// Nothing where there is none that could be trusted.
    cache: Option<PathBuf>,
    places: Arc<Semaphore>,
}

/// Compiled versions that are kept though no plugin wants them.
const UNWANTED_KEPT: usize = 16;

/// Plugins that are compiled at once. Each takes a processor, and up to `limits.compile_memory_bytes`.
const AT_ONCE: usize = 2;

/// Why there is no compiled code.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The compiler's word on the file.
    #[error("{0}")]
    Refused(String),
    /// Too slow.
    #[error("took more than {} ms to compile (limits.compile_ms)", .0.as_millis())]
    TooSlow(Duration),
    /// The process died, as it does when its memory is over.
    #[error("could not be compiled within {memory} bytes of memory (limits.compile_memory_bytes): {status}")]
    Died {
        /// What it may have.
        memory: u64,
        /// How it ended.
        status: String,
    },
    /// More code than a plugin's can be.
    #[error("compiles to more than {0} bytes")]
    TooMuch(u64),
    /// The process can't be run.
    #[error("the compiler {} can't be run", program.display())]
    NotRun {
        /// Which.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What it gave is no compiled component.
    #[error("the compiled code can't be used")]
    Unusable(#[source] wasmtime::Error),
}

impl CompileError {
    /// When it may succeed.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Refused(_) => Retry::Never,
            // A machine that is busy makes a good file slow, and one without memory makes the process die; a bomb is no cheaper each time.
            Self::TooSlow(_) | Self::Died { .. } | Self::TooMuch(_) | Self::Unusable(_) => Retry::Later,
            Self::NotRun { .. } => Retry::Soon,
        }
    }
}

/// The running program, for [`Compiler::new`]: the same one for as long as this process lives. A program that has come to stand at its path
/// since may be another version, whose compiled code this host can't use.
///
/// # Errors
/// Returns the system's error if it can't name the program.
pub fn this_program() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    // The child resolves this link just before it runs the program, and there it still leads to the program of its parent. It leads to the
    // file itself: to remove or to replace its name changes nothing.
    Ok(if cfg!(target_os = "linux") { PathBuf::from("/proc/self/exe") } else { path })
}

/// Bytes of the checksum that an entry begins with.
const CHECKSUM: usize = 32;

/// The argument by which the program knows what it is asked.
pub const COMPILE_COMMAND: &str = "compile-plugin";

/// The status of the process where the file is at fault; its standard error says why.
const REFUSED: i32 = 3;

impl Compiler {
    /// A compiler that runs `program` and keeps what it makes in `cache`, where that is a directory to which nobody else can write.
    pub fn new(program: PathBuf, cache: PathBuf) -> Self {
        let cache = match own_directory(&cache) {
            Ok(()) => Some(cache),
            Err(error) => {
                tracing::warn!(dir = %cache.display(), %error, "compiled plugins are not kept: loading them is slower");
                None
            }
        };
        Self { program, cache, places: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// The compiled code of `bytes`, whose digest is `digest`, made within the time and memory of `limits` where it is not kept.
    pub(super) async fn compile(&self, engine: &Engine, digest: &str, bytes: Vec<u8>, limits: &Limits) -> Result<Component, CompileError> {
        let entry = self.cache.as_ref().map(|cache| cache.join(format!("{digest}-{}", engine.fingerprint())));
        if let Some(entry) = &entry
            && let Some(component) = kept(engine, entry)
        {
            return Ok(component);
        }
        let code = self.run(bytes, limits.compile_ms, limits.compile_memory_bytes.get()).await?;
        let component = deserialize(engine, &code).map_err(CompileError::Unusable)?;
        if let Some(entry) = &entry
            && let Err(error) = keep(entry, &code)
        {
            // It will be compiled again: slower, not wrong.
            tracing::warn!(file = %entry.display(), %error, "compiled plugin not kept");
        }
        Ok(component)
    }

    /// Forgets what was compiled for another host, and of other versions than these all but the newest: a plugin that was taken out may come
    /// back.
    pub(crate) fn keep_only(&self, engine: &Engine, digests: &HashSet<String>) {
        let Some(Ok(entries)) = self.cache.as_ref().map(std::fs::read_dir) else { return };
        let fingerprint = engine.fingerprint();
        let mut unwanted = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name();
            match name.to_str().and_then(|name| name.split_once('-')) {
                Some((digest, made_for)) if made_for == fingerprint => {
                    if !digests.contains(digest) {
                        unwanted.push((entry.metadata().and_then(|metadata| metadata.modified()).ok(), entry.path()));
                    }
                }
                // Another host's, or what was being written when the host was killed.
                _ => drop(std::fs::remove_file(entry.path())),
            }
        }
        unwanted.sort();
        for (_, entry) in unwanted.iter().rev().skip(UNWANTED_KEPT) {
            let _ = std::fs::remove_file(entry);
        }
    }

    async fn run(&self, bytes: Vec<u8>, time: Duration, memory: u64) -> Result<Vec<u8>, CompileError> {
        // Never closed; and where it were, there would be nothing to wait for. The time begins when its turn has come.
        let _place = self.places.acquire().await;
        let not_run = |source| CompileError::NotRun { program: self.program.clone(), source };
        let mut child = Command::new(&self.program)
            .arg(COMPILE_COMMAND)
            .arg(memory.to_string())
            .arg(time.as_secs_f64().ceil().to_string())
            .env_clear()
            // Its limit is on what is mapped: the allocator is not to keep what is free.
            .env("_RJEM_MALLOC_CONF", "retain:false,background_thread:false")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(not_run)?;
        let (Some(mut input), Some(mut output), Some(mut errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take()) else {
            return Err(not_run(io::Error::other("it has no pipes")));
        };
        let talk = async {
            let (mut code, mut said) = (Vec::new(), Vec::new());
            let mut limited = (&mut errors).take(MAX_REASON);
            let write = async {
                // Dropped at its end: the compiler reads until then. One that died does not read; its status says more.
                let _ = input.write_all(&bytes).await;
                drop(input);
            };
            let mut output = (&mut output).take(MAX_CODE + 1);
            let (_, read, _) = tokio::join!(write, output.read_to_end(&mut code), limited.read_to_end(&mut said));
            if read? as u64 > MAX_CODE {
                // It goes on writing, to nobody.
                child.start_kill()?;
            }
            Ok::<_, io::Error>((child.wait().await?, code, said))
        };
        let ended = tokio::time::timeout(time, talk).await.map_err(|_| CompileError::TooSlow(time))?;
        let (status, code, said) = ended.map_err(not_run)?;
        match status.code() {
            _ if code.len() as u64 > MAX_CODE => Err(CompileError::TooMuch(MAX_CODE)),
            Some(0) => Ok(code),
            Some(REFUSED) => Err(CompileError::Refused(String::from_utf8_lossy(&said).trim().to_owned())),
            _ => Err(CompileError::Died { memory, status: status.to_string() }),
        }
    }
}

/// Bytes of compiled code that are taken of one plugin: a file of the largest size comes to a quarter of it.
const MAX_CODE: u64 = 512 << 20;

/// Bytes of the compiler's reason that are read.
const MAX_REASON: u64 = 4 * 1024;

/// What the program does when it is asked to compile: reads a plugin, writes compiled code. It may take `memory` bytes, and on each processor
/// `seconds`: the host ends it before, unless the host has died.
///
/// # Errors
/// The status to end with.
pub fn compile(memory: u64, seconds: u64, mut input: impl Read, mut output: impl Write, mut errors: impl Write) -> Result<(), i32> {
    const FAILED: i32 = 1;
    if let Err(error) = bound(memory, seconds) {
        let _ = writeln!(errors, "what compiling takes can't be limited: {error}");
        return Err(FAILED);
    }
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes).map_err(|_| FAILED)?;
    let engine = super::engine::for_compiling().map_err(|error| {
        let _ = writeln!(errors, "{error:#}");
        FAILED
    })?;
    let code = engine.precompile_component(&bytes).map_err(|error| {
        let _ = writeln!(errors, "{error:#}");
        REFUSED
    })?;
    output.write_all(&code).and_then(|()| output.flush()).map_err(|_| FAILED)
}

/// Limits this process, and lets it yield to the host's own events.
fn bound(memory: u64, seconds: u64) -> io::Result<()> {
    // Data only: the address space that is reserved, and not used, is no memory.
    rlimit::Resource::DATA.set(memory, memory)?;
    let processors = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let cpu = seconds.saturating_mul(processors).saturating_add(1);
    rlimit::Resource::CPU.set(cpu, cpu)?;
    // So far, and not so much further: it is started by a thread that stands back already. Who stands back more may not come forward.
    if rustix::process::getpriority_process(None)? < COMPILER_NICENESS {
        rustix::process::setpriority_process(None, COMPILER_NICENESS)?;
    }
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    Ok(())
}

/// How far the compiler stands back behind whatever else the machine does: a reload is worth less than the events that are served.
const COMPILER_NICENESS: i32 = 10;

/// The kept code, where there is some that is whole.
fn kept(engine: &Engine, entry: &Path) -> Option<Component> {
    let bytes = std::fs::read(entry).ok()?;
    let component = bytes.split_at_checked(CHECKSUM).and_then(|(checksum, code)| {
        let is_whole = checksum == Sha256::digest(code).as_slice();
        is_whole.then(|| deserialize(engine, code).ok()).flatten()
    });
    if component.is_none() {
        tracing::warn!(file = %entry.display(), "kept code of a plugin is damaged; it is compiled again");
        let _ = std::fs::remove_file(entry);
    }
    component
}

/// Makes the directory where it is missing, and sees to it that nobody but the host's user can write to it: what lies there is run.
fn own_directory(cache: &Path) -> io::Result<()> {
    let mut new = std::fs::DirBuilder::new();
    new.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut new, 0o700);
    new.create(cache)?;
    // Not what a link points to: whoever made it could point it elsewhere.
    let metadata = std::fs::symlink_metadata(cache)?;
    if !metadata.is_dir() {
        return Err(io::Error::other("it is no directory"));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::Error::other("it belongs to another user"));
        }
        const OTHERS_MAY: u32 = 0o077;
        if metadata.mode() & OTHERS_MAY != 0 {
            std::fs::set_permissions(cache, std::fs::Permissions::from_mode(0o700))?;
            // What others have put there while they could is nobody's.
            for entry in std::fs::read_dir(cache)?.flatten() {
                std::fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

/// Keeps `code`: whole, or not at all.
fn keep(entry: &Path, code: &[u8]) -> io::Result<()> {
    let unfinished = entry.with_extension("new");
    let mut file = std::fs::File::create(&unfinished)?;
    let written =
        file.write_all(&Sha256::digest(code)).and_then(|()| file.write_all(code)).and_then(|()| std::fs::rename(&unfinished, entry));
    if written.is_err() {
        let _ = std::fs::remove_file(&unfinished);
    }
    written
}

#[allow(unsafe_code, reason = "running compiled code is what the host does; see the safety comment")]
fn deserialize(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: `code` is what this host's own compiler process wrote, either just now into a pipe that nobody else has, or before into a
    // directory that only the host's user may write, with a checksum that was verified. Wasmtime itself refuses code of another version
    // or of other settings.
    unsafe { Component::deserialize(&engine.wasm, code) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_cache_to_which_others_could_write_is_emptied_and_closed_and_a_link_is_not_used() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let (cache, link) = (dir.path().join("cache"), dir.path().join("link"));
        std::fs::create_dir(&cache).unwrap();
        std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(0o777)).unwrap();
        std::fs::write(cache.join("planted"), "code").unwrap();
        own_directory(&cache).unwrap();
        assert_eq!(cache.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 0);
        symlink(&cache, &link).unwrap();
        assert!(own_directory(&link).is_err());
    }

    #[test]
    fn an_entry_that_was_damaged_is_removed_and_not_run() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::new(1 << 20, 1).unwrap();
        let code = super::super::engine::for_compiling().unwrap().precompile_component(b"\0asm\x0d\0\x01\0").unwrap();
        let entry = dir.path().join("entry");
        keep(&entry, &code).unwrap();
        assert!(kept(&engine, &entry).is_some(), "what is compiled apart runs here");
        let mut bytes = std::fs::read(&entry).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&entry, &bytes).unwrap();
        assert!(kept(&engine, &entry).is_none() && !entry.exists());
        std::fs::write(&entry, b"short").unwrap();
        assert!(kept(&engine, &entry).is_none() && !entry.exists());
    }
}
