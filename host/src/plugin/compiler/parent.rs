//! The parent of one compiler process: starts it, passes it a plugin, reads its output, and ends it
//! if it takes too long.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::child::{COMPILE_COMMAND, CompileBounds};
use super::error::CompileError;

/// Maximum bytes of compiled code of one plugin. A file of the maximum size compiles to a quarter
/// of this.
const MAX_CODE: u64 = 512 << 20;

/// Bytes of the compiler's messages that are read.
const MAX_SAID: u64 = 4 * 1024;

/// Compiles `bytes` in a child process that runs `program`. Ends the process after `wall`.
pub(super) async fn run(
    program: &Path,
    bytes: Vec<u8>,
    bounds: CompileBounds,
    wall: Duration,
) -> Result<Vec<u8>, CompileError> {
    let not_run = |source| CompileError::NotRun { program: program.to_owned(), source };
    let mut command = Command::new(program);
    // The name in process lists, independent of the path.
    #[cfg(unix)]
    command.arg0("sockhop");
    let mut child = command
        .arg(COMPILE_COMMAND)
        .args(bounds.arguments())
        .env_clear()
        // The memory limit counts mapped memory, so the allocator must not keep free memory.
        .env("_RJEM_MALLOC_CONF", "retain:false,background_thread:false")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(not_run)?;
    let (Some(mut input), Some(mut output), Some(mut errors)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(not_run(io::Error::other("it has no pipes")));
    };
    let id = child.id();
    let talk = async {
        let (mut code, mut said) = (Vec::new(), Vec::new());
        let mut limited = (&mut errors).take(MAX_SAID);
        let write = async {
            // Dropping `input` closes the pipe: the compiler reads until then. Write errors are
            // ignored: a compiler that died does not read, and its exit status says more.
            let _ = input.write_all(&bytes).await;
            drop(input);
        };
        let mut output = (&mut output).take(MAX_CODE + 1);
        let (_, read, _) =
            tokio::join!(write, output.read_to_end(&mut code), limited.read_to_end(&mut said));
        if read? as u64 > MAX_CODE {
            // Killed, because it would continue to write to a pipe that is no longer read.
            child.start_kill()?;
        }
        Ok::<_, io::Error>((child.wait().await?, code, said))
    };
    let starved = |_| CompileError::Starved { wall, used: id.and_then(cpu_time) };
    let (status, code, said) =
        tokio::time::timeout(wall, talk).await.map_err(starved)?.map_err(not_run)?;
    if code.len() as u64 > MAX_CODE {
        Err(CompileError::TooMuch(MAX_CODE))
    } else if status.success() {
        Ok(code)
    } else {
        Err(CompileError::of(status, &String::from_utf8_lossy(&said), bounds))
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
