//! The parent of one compiler process: starts it, passes it a plugin, reads its output, and ends it
//! if it takes too long.
//!
//! Threads that block use its pipes, because it is seldom run. tokio's own processes would add a
//! check for ended ones, with two locks, to every pause of a thread that handles events.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::child::{COMPILE_COMMAND, CompileBounds, MAX_SAID};
use super::error::CompileError;

/// Compiles `bytes` in a child process that runs `program`, to at most `max_code` bytes. Ends the
/// process after `wall`, and if the future is dropped.
pub(super) async fn run(
    program: &Path,
    bytes: Vec<u8>,
    bounds: CompileBounds,
    wall: Duration,
    max_code: u64,
) -> Result<Vec<u8>, CompileError> {
    let not_run = |source| CompileError::NotRun { program: program.to_owned(), source };
    let mut command = Command::new(program);
    // The name in process lists, independent of the path.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::arg0(&mut command, "sockhop");
    let child = command
        .arg(COMPILE_COMMAND)
        .args(bounds.arguments())
        .env_clear()
        // The memory limit counts mapped memory, so the allocator must not keep free memory.
        .env("_RJEM_MALLOC_CONF", "retain:false,background_thread:false")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(not_run)?;
    let id = child.id();
    let compiler = EndOnDrop(Process(Arc::new(Mutex::new(child))));
    let process = compiler.0.clone();
    let outcome = async {
        let exchange = tokio::task::spawn_blocking(move || exchange(&process, &bytes, max_code));
        let (code, messages) = exchange.await.map_err(io::Error::other)??;
        Ok::<_, io::Error>((compiler.0.ended().await?, code, messages))
    };
    // The process ends itself at the limit of its CPU time. `used` is only for the message.
    let not_in_time = |_| CompileError::NotInTime { wall, used: cpu_time(id) };
    let (status, code, messages) =
        tokio::time::timeout(wall, outcome).await.map_err(not_in_time)?.map_err(not_run)?;
    if code.len() as u64 > max_code {
        Err(CompileError::TooMuch(max_code))
    } else if status.success() {
        Ok(code)
    } else {
        Err(CompileError::of(status, &String::from_utf8_lossy(&messages), bounds))
    }
}

/// Passes `bytes` to the compiler. Returns its output, at most one byte more than `max_code`, and
/// the first of its messages. Returns when it has closed its pipes, at the latest when it has
/// ended.
fn exchange(process: &Process, bytes: &[u8], max_code: u64) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let (mut input, mut output, mut errors) = {
        let mut child = process.child();
        match (child.stdin.take(), child.stdout.take(), child.stderr.take()) {
            (Some(input), Some(output), Some(errors)) => (input, output, errors),
            _ => return Err(io::Error::other("it has no pipes")),
        }
    };
    thread::scope(|scope| {
        let start = || thread::Builder::new().name("sockhop-compile".to_owned());
        // Dropping `input` closes the pipe: the compiler reads until then. Write errors are
        // ignored: a compiler that died does not read, and its exit status says more.
        let write = move || _ = input.write_all(bytes);
        let listen = move || {
            let mut messages = Vec::new();
            let _ = (&mut errors).take(MAX_SAID as u64).read_to_end(&mut messages);
            // The rest is read as well: a compiler that waits for a reader would never end.
            let _ = io::copy(&mut errors, &mut io::sink());
            messages
        };
        // If a thread can't start, the pipes that it would use are closed.
        let writing = start().spawn_scoped(scope, write);
        let listening = start().spawn_scoped(scope, listen);
        let mut code = Vec::new();
        let read = (&mut output).take(max_code.saturating_add(1)).read_to_end(&mut code);
        let is_whole = read.as_ref().is_ok_and(|read| *read as u64 <= max_code);
        if !is_whole || writing.is_err() || listening.is_err() {
            // It would continue to write to a pipe that is no longer read.
            process.kill();
        }
        drop(output);
        writing?;
        let messages = listening?.join().unwrap_or_default();
        read?;
        Ok((code, messages))
    })
}

/// A process that several threads know.
#[derive(Clone)]
struct Process(Arc<Mutex<Child>>);

impl Process {
    /// The lock is not held while the process runs and is waited for, so that it can always be
    /// killed.
    fn child(&self) -> MutexGuard<'_, Child> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kill(&self) {
        // An error means that it has ended.
        let _ = self.child().kill();
    }

    /// Waits until the process has ended. It has closed its pipes, so it normally ends at once. If
    /// it does not, the caller's timeout ends the waiting, which could not end a thread in `wait`.
    async fn ended(&self) -> io::Result<ExitStatus> {
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(status) = self.child().try_wait()? {
                return Ok(status);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }
}

/// Kills the process when it is dropped, unless it has ended.
struct EndOnDrop(Process);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        let process = self.0.clone();
        if matches!(process.child().try_wait(), Ok(None)) {
            process.kill();
            // The system first frees the memory of the killed process, which takes a moment. This
            // thread holds the lock meanwhile, which nobody needs any more.
            let wait = move || _ = process.child().wait();
            let _ = thread::Builder::new().name("sockhop-compile".to_owned()).spawn(wait);
        }
    }
}

/// CPU time that all threads of a process have used. Returns `None` if the system does not report
/// it.
#[cfg(target_os = "linux")]
fn cpu_time(pid: u32) -> Option<Duration> {
    /// The duration of a tick of `USER_HZ`, the unit of these times in Linux on every machine.
    const MILLISECONDS_OF_A_TICK: u64 = 10;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name may contain any character. After it, user and system time are the 12th and
    // the 13th field.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times =
        fields.split_ascii_whitespace().skip(11).map_while(|field| field.parse::<u64>().ok());
    Some(Duration::from_millis((times.next()? + times.next()?) * MILLISECONDS_OF_A_TICK))
}

#[cfg(not(target_os = "linux"))]
fn cpu_time(_: u32) -> Option<Duration> {
    None
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Compiles with a shell script as compiler, to at most 1 KiB.
    async fn run_script(script: &str) -> CompileError {
        run_script_within(script, Duration::from_secs(60)).await
    }

    async fn run_script_within(script: &str, wall: Duration) -> CompileError {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("compiler");
        std::fs::write(&program, format!("#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
        let bounds = CompileBounds { memory: 1 << 30, cpu: Duration::from_secs(60), niceness: 0 };
        run(&program, Vec::new(), bounds, wall, 1024).await.unwrap_err()
    }

    #[tokio::test]
    async fn a_compiler_that_says_much_ends_and_its_first_words_are_the_reason() {
        let said = "printf 'the file is not valid: '; head -c 200000 /dev/zero | tr '\\0' x";
        match run_script(&format!("({said}) >&2; exit 3")).await {
            CompileError::Refused(reason) => {
                assert!(reason.starts_with("the file is not valid: xxx"), "{reason}");
                assert_eq!(reason.len(), MAX_SAID);
            }
            other => panic!("{other}"),
        }
    }

    #[tokio::test]
    async fn a_compiler_that_takes_too_long_is_ended_though_it_has_closed_its_pipes() {
        for pipes in ["", "exec <&- >&- 2>&-\n"] {
            let script = format!("{pipes}exec sleep 600");
            let error = run_script_within(&script, Duration::from_millis(50)).await;
            assert!(matches!(error, CompileError::NotInTime { .. }), "{error}");
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn nothing_is_left_of_a_compiler_whose_result_is_not_wanted_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let written = dir.path().join("pid");
        let until = std::time::Instant::now() + Duration::from_secs(20);
        let soon = async || {
            assert!(std::time::Instant::now() < until, "too late");
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let script = format!("echo $$ >{}; exec sleep 600", written.display());
        let pid = tokio::select! {
            error = run_script(&script) => panic!("{error}"),
            pid = async {
                loop {
                    match std::fs::read_to_string(&written) {
                        Ok(pid) if pid.ends_with('\n') => break pid,
                        _ => soon().await,
                    }
                }
            } => pid,
        };
        // Not even a zombie.
        while Path::new("/proc").join(pid.trim()).exists() {
            soon().await;
        }
    }

    #[tokio::test]
    async fn a_compiler_whose_code_has_no_end_is_ended() {
        let error = run_script("exec cat /dev/zero").await;
        assert!(matches!(error, CompileError::TooMuch(1024)), "{error}");
    }
}
