//! The parent of one compiler process: starts it, passes it a plugin, reads its output, and ends it
//! if it takes too long.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::child::{COMPILE_COMMAND, CompileBounds, MAX_SAID};
use super::error::CompileError;

/// Compiles `bytes` in a child process that runs `program`, to at most `max_code` bytes. Ends the
/// process after `wall`.
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
        let write = async {
            // Dropping `input` closes the pipe: the compiler reads until then. Write errors are
            // ignored: a compiler that died does not read, and its exit status says more.
            let _ = input.write_all(&bytes).await;
            drop(input);
        };
        let read = async {
            let read = (&mut output).take(max_code + 1).read_to_end(&mut code).await?;
            if read as u64 > max_code {
                // Killed, because it would continue to write to a pipe that is no longer read.
                child.start_kill()?;
            }
            Ok::<_, io::Error>(())
        };
        let listen = async {
            let _ = (&mut errors).take(MAX_SAID as u64).read_to_end(&mut said).await;
            // The rest is read as well: a compiler that waits for a reader would never end.
            let _ = tokio::io::copy(&mut errors, &mut tokio::io::sink()).await;
        };
        let (_, read, _) = tokio::join!(write, read, listen);
        read?;
        Ok::<_, io::Error>((child.wait().await?, code, said))
    };
    let starved = |_| CompileError::Starved { wall, used: id.and_then(cpu_time) };
    let (status, code, said) =
        tokio::time::timeout(wall, talk).await.map_err(starved)?.map_err(not_run)?;
    if code.len() as u64 > max_code {
        Err(CompileError::TooMuch(max_code))
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

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Compiles with a shell script as compiler, to at most 1 KiB.
    async fn run_script(script: &str) -> CompileError {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("compiler");
        std::fs::write(&program, format!("#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
        let bounds = CompileBounds { memory: 1 << 30, cpu: Duration::from_secs(60), niceness: 0 };
        run(&program, Vec::new(), bounds, Duration::from_secs(60), 1024).await.unwrap_err()
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
    async fn a_compiler_whose_code_has_no_end_is_ended() {
        let error = run_script("exec cat /dev/zero").await;
        assert!(matches!(error, CompileError::TooMuch(1024)), "{error}");
    }
}
