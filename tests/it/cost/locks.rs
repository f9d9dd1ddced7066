//! Counts the locks that a process takes, by a breakpoint on each function that takes one.
//!
//! The process is one of the tests' own builds, which are not optimised: a function that takes a
//! lock is called, and not inlined. Only locks of Rust are counted: those of the standard library,
//! of `parking_lot`, and the semaphores below tokio's own locks. Those of the allocator are not:
//! allocations have a limit of their own.

use std::collections::BTreeMap;
use std::ffi::c_long;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::ptrace::{self, AddressType, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use object::{Object, ObjectSymbol, SymbolKind};

/// The functions that take a lock, each as a part of its path and the ends of its path.
const LOCKS: [(&str, &[&str]); 6] = [
    ("sync::poison::mutex::Mutex<", &[">::lock", ">::try_lock"]),
    ("sync::poison::rwlock::RwLock<", &[">::read", ">::write", ">::try_read", ">::try_write"]),
    ("lock_api::mutex::Mutex<", &[">::lock", ">::try_lock"]),
    ("lock_api::rwlock::RwLock<", &[">::read", ">::write", ">::try_read", ">::try_write"]),
    ("tokio::sync::batch_semaphore::Semaphore", &["::try_acquire"]),
    ("tokio::sync::batch_semaphore::Acquire", &["::poll"]),
];

/// The instruction that stops a thread.
const BREAKPOINT: c_long = 0xCC;

/// Follows a process and counts its locks.
pub(super) struct LockCounter {
    shared: Arc<Shared>,
    follower: Option<JoinHandle<()>>,
    /// Whether the program has tokio's clock for tests, which takes a lock for each look at it.
    pub(super) has_test_clock: bool,
}

#[derive(Default)]
struct Shared {
    by_name: Mutex<BTreeMap<String, u64>>,
    stops: AtomicBool,
}

impl LockCounter {
    /// Begins to follow the process `pid` of `program`. Returns `None` if this machine does not
    /// allow it.
    pub(super) fn attach(pid: u32, program: &Path) -> Option<Self> {
        let pid = Pid::from_raw(i32::try_from(pid).expect("a process id"));
        let names = functions(program, pid);
        let has_test_clock = names.values().any(|name| name.contains(TEST_CLOCK));
        let locks = names.values().filter(|name| takes_lock(name)).count();
        assert!(locks > 10, "only {locks} functions take locks: were they renamed?");
        let shared = Arc::<Shared>::default();
        let (begun, has_begun) = mpsc::channel();
        let of_thread = Arc::clone(&shared);
        // One thread makes all calls: the system accepts them only from the thread that follows.
        let follower = thread::spawn(move || match Follower::attach(pid, names, of_thread) {
            Ok(mut follower) => {
                begun.send(true).expect("a test that waits");
                follower.run();
            }
            Err(Errno::EPERM) => begun.send(false).expect("a test that waits"),
            Err(error) => panic!("the process can't be followed: {error}"),
        });
        let is_allowed = has_begun.recv().expect("a thread that follows");
        is_allowed.then(|| Self { shared, follower: Some(follower), has_test_clock })
    }

    /// How often each function has taken a lock until now.
    pub(super) fn by_name(&self) -> BTreeMap<String, u64> {
        self.shared.by_name.lock().expect("no panic under the lock").clone()
    }
}

/// Kills the process: it can't live without the thread that follows it.
impl Drop for LockCounter {
    fn drop(&mut self) {
        self.shared.stops.store(true, Ordering::SeqCst);
        if let Some(follower) = self.follower.take() {
            let ended = follower.join();
            assert!(ended.is_ok() || thread::panicking(), "the thread that follows has panicked");
        }
    }
}

/// Returns the functions of a process, by their addresses.
fn functions(program: &Path, pid: Pid) -> BTreeMap<u64, String> {
    let bytes = std::fs::read(program).expect("the program");
    let file = object::File::parse(bytes.as_slice()).expect("a program of this system");
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("its memory");
    // The program's first part is at the lowest address.
    let base = maps.split('-').next().and_then(|base| u64::from_str_radix(base, 16).ok());
    let base = base.expect("an address");
    let symbols = file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text);
    let symbols = symbols.filter(|symbol| symbol.size() > 0);
    symbols
        .filter_map(|symbol| {
            let name = format!("{:#}", rustc_demangle::demangle(symbol.name().ok()?));
            Some((base + symbol.address(), name))
        })
        .collect()
}

/// A function that tokio has only with its feature `test-util`.
const TEST_CLOCK: &str = "tokio::time::clock::Clock::can_auto_advance";

fn takes_lock(name: &str) -> bool {
    LOCKS
        .iter()
        .any(|(path, ends)| name.contains(path) && ends.iter().any(|end| name.ends_with(end)))
}

fn at(address: u64) -> AddressType {
    std::ptr::without_provenance_mut(usize::try_from(address).expect("an address"))
}

/// The thread that follows a process.
struct Follower {
    process: Pid,
    threads: Vec<Pid>,
    /// The functions with breakpoints: the first words of their code.
    functions: BTreeMap<u64, c_long>,
    /// The names of all functions, by their addresses.
    callers: BTreeMap<u64, String>,
    shared: Arc<Shared>,
}

impl Follower {
    fn attach(
        process: Pid,
        names: BTreeMap<u64, String>,
        shared: Arc<Shared>,
    ) -> nix::Result<Self> {
        let mut threads = Vec::new();
        // Until all are stopped: a thread may begin or end meanwhile. A thread that is not followed
        // would end the process at the first breakpoint.
        loop {
            let entries = std::fs::read_dir(format!("/proc/{process}/task")).expect("its threads");
            let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
            let new: Vec<_> = ids.map(Pid::from_raw).filter(|id| !threads.contains(id)).collect();
            if new.is_empty() {
                break;
            }
            for thread in new {
                match ptrace::attach(thread) {
                    Err(Errno::ESRCH) => continue,
                    attached => attached?,
                }
                if let WaitStatus::Stopped(..) = waitpid(thread, Some(WaitPidFlag::__WALL))? {
                    ptrace::setoptions(thread, Options::PTRACE_O_TRACECLONE)?;
                    threads.push(thread);
                }
            }
        }
        let mut functions = BTreeMap::new();
        for (address, _) in names.iter().filter(|(_, name)| takes_lock(name)) {
            let word = ptrace::read(process, at(*address))?;
            ptrace::write(process, at(*address), (word & !0xFF) | BREAKPOINT)?;
            functions.insert(*address, word);
        }
        for thread in &threads {
            ptrace::cont(*thread, None)?;
        }
        Ok(Self { process, threads, functions, callers: names, shared })
    }

    /// Follows the process until it has ended.
    fn run(&mut self) {
        let mut is_killed = false;
        while !self.threads.is_empty() {
            if !is_killed && self.shared.stops.load(Ordering::SeqCst) {
                let _ = kill(self.process, Signal::SIGKILL);
                is_killed = true;
            }
            // Only these threads: other tests wait for processes of their own.
            let mut has_stopped = false;
            for thread in self.threads.clone() {
                let flags = WaitPidFlag::__WALL | WaitPidFlag::WNOHANG;
                match waitpid(thread, Some(flags)) {
                    Ok(WaitStatus::StillAlive) => continue,
                    Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(_) => {
                        self.threads.retain(|other| *other != thread);
                    }
                    Ok(status) => self.stopped(thread, status),
                }
                has_stopped = true;
            }
            if !has_stopped {
                thread::sleep(Duration::from_micros(20));
            }
        }
    }

    /// Lets a thread continue that has stopped. A thread that is killed meanwhile does not matter.
    fn stopped(&mut self, thread: Pid, status: WaitStatus) {
        let deliver = match status {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => {
                let _ = self.count_and_pass(thread);
                None
            }
            WaitStatus::PtraceEvent(..) => {
                let new = ptrace::getevent(thread).ok().and_then(|id| i32::try_from(id).ok());
                self.threads.extend(new.map(Pid::from_raw));
                None
            }
            WaitStatus::Stopped(_, Signal::SIGSTOP) => None,
            WaitStatus::Stopped(_, signal) => Some(signal),
            _ => None,
        };
        let _ = ptrace::cont(thread, deliver);
    }

    /// Counts a call, and executes the instruction that the breakpoint has replaced. Another thread
    /// that makes the same call at this moment is not counted; the tested host has one thread for
    /// its events.
    fn count_and_pass(&self, thread: Pid) -> nix::Result<()> {
        let mut registers = ptrace::getregs(thread)?;
        let address = registers.rip - 1;
        let Some(word) = self.functions.get(&address) else { return Ok(()) };
        // At its first instruction, a function finds the address of its caller on the stack.
        let caller = ptrace::read(thread, at(registers.rsp))?.cast_unsigned();
        let caller = self.callers.range(..caller).next_back().map(|(_, name)| name.clone());
        let mut by_name = self.shared.by_name.lock().expect("no panic under the lock");
        *by_name.entry(caller.unwrap_or_default()).or_default() += 1;
        drop(by_name);
        registers.rip = address;
        ptrace::setregs(thread, registers)?;
        ptrace::write(thread, at(address), *word)?;
        ptrace::step(thread, None)?;
        // A signal that came meanwhile is lost; the test sends none.
        waitpid(thread, Some(WaitPidFlag::__WALL))?;
        ptrace::write(thread, at(address), (word & !0xFF) | BREAKPOINT)
    }
}
