//! The lock that allows one host for each data directory. Commands that only read share it: no host
//! starts meanwhile.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::files::create_private_dir;

use super::StartError;

/// The lock on a data directory. It is a POSIX `fcntl` lock, which belongs to the process. A
/// `flock` lock belongs to the open file. A compiler process that a killed host had just begun to
/// start would share it, so the lock would outlive the host for a moment.
#[derive(Debug)]
pub struct DataLock {
    file: Option<File>,
    dir: PathBuf,
}

/// The directories of this process's hosts. An `fcntl` lock does not exclude its own process, and
/// closing any descriptor of the file releases the lock.
static HELD: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn held() -> MutexGuard<'static, Vec<PathBuf>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DataLock {
    /// Creates the directory if it is missing, and takes the lock.
    pub(super) fn take(dir: &Path) -> Result<Self, StartError> {
        let wrong = |source| StartError::Data { dir: dir.to_owned(), source };
        let in_use =
            |pid: &str| StartError::DataInUse { dir: dir.to_owned(), pid: pid.trim().to_owned() };
        // An existing directory keeps its mode, because others may use it too. Secret files in it
        // have their own mode.
        create_private_dir(dir).map_err(wrong)?;
        let canonical = dir.canonicalize().map_err(wrong)?;
        let mut held = held();
        if held.contains(&canonical) {
            return Err(in_use(&std::process::id().to_string()));
        }
        let mut options = File::options();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(dir.join("host.lock"))
            .map_err(wrong)?;
        match lock_exclusively(&file) {
            Ok(()) => {
                file.set_len(0)
                    .and_then(|()| file.rewind())
                    .and_then(|()| writeln!(file, "{}", std::process::id()))
                    .map_err(wrong)?;
                held.push(canonical.clone());
                Ok(Self { file: Some(file), dir: canonical })
            }
            Err(Errno::AGAIN | Errno::ACCESS) => {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                Err(in_use(&pid))
            }
            Err(error) => Err(wrong(error.into())),
        }
    }

    /// Takes the lock together with others that only read, and writes nothing: the directory can be
    /// on a file system that is read-only. Returns `None` if no host has ever used the directory.
    pub(super) fn share(dir: &Path) -> Result<Option<Self>, StartError> {
        let wrong = |source| StartError::Data { dir: dir.to_owned(), source };
        let canonical = dir.canonicalize().map_err(wrong)?;
        let mut held = held();
        let in_use = |pid: &str| {
            let pid = pid.trim().to_owned();
            Err(StartError::DataInUse { dir: dir.to_owned(), pid })
        };
        if held.contains(&canonical) {
            return in_use(&std::process::id().to_string());
        }
        let mut file = match File::open(dir.join("host.lock")) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(wrong(error)),
        };
        match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => {
                held.push(canonical.clone());
                Ok(Some(Self { file: Some(file), dir: canonical }))
            }
            Err(Errno::AGAIN | Errno::ACCESS) => {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                in_use(&pid)
            }
            Err(error) => Err(wrong(error.into())),
        }
    }
}

/// How long a host waits at its start for commands that share the lock.
const READERS: Duration = Duration::from_secs(10);

/// Takes the lock for this process alone. Fails at once if a host has it. Waits for commands that
/// only read: a supervisor that restarts the host need not know of them.
fn lock_exclusively(file: &File) -> Result<(), Errno> {
    let until = Instant::now() + READERS;
    loop {
        let taken = rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingLockExclusive);
        if !matches!(taken, Err(Errno::AGAIN | Errno::ACCESS)) || Instant::now() >= until {
            return taken;
        }
        // Only if all others share it.
        rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingLockShared)?;
        // Another host that waits as well must not take this one for a command.
        rustix::fs::fcntl_lock(file, FlockOperation::Unlock)?;
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Drop for DataLock {
    fn drop(&mut self) {
        let mut held = held();
        // The file is closed before another caller in this process can open it.
        self.file = None;
        held.retain(|dir| *dir != self.dir);
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_lock_that_is_shared_writes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(DataLock::share(dir.path()).unwrap().is_none(), "nothing is created");
        let host = DataLock::take(dir.path()).unwrap();
        assert!(matches!(DataLock::share(dir.path()), Err(StartError::DataInUse { .. })));
        drop(host);
        let file = dir.path().join("host.lock");
        let before = std::fs::read(&file).unwrap();
        let shared = DataLock::share(dir.path()).unwrap().unwrap();
        // What a file system that is read-only would refuse.
        assert!(shared.file.as_ref().unwrap().set_len(0).is_err());
        drop(shared);
        assert_eq!(std::fs::read(&file).unwrap(), before);
    }

    #[test]
    fn a_lock_ends_with_its_host_though_another_process_has_inherited_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let lock = DataLock::take(dir.path()).unwrap();
        assert!(
            matches!(DataLock::take(dir.path()), Err(StartError::DataInUse { .. })),
            "also within one process"
        );
        // A child process has such a descriptor between its fork and its exec.
        let inherited = Stdio::from(lock.file.as_ref().unwrap().try_clone().unwrap());
        let mut child = Command::new("sleep").arg("60").stdin(inherited).spawn().unwrap();
        drop(lock);
        let again = DataLock::take(dir.path());
        child.kill().unwrap();
        child.wait().unwrap();
        again.unwrap();
    }
}
