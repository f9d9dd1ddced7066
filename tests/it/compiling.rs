//! Compilation of plugins in a separate process: its limits, what it delays, and which program it
//! runs.

#![cfg(unix)]

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use sockhop_tests::{
    HostProcess, PATIENCE, TestHost, binary, bundled_plugin, chameleon, directory_of, drop_in,
    eventually,
};

/// Creates a shell script that replaces the compiler. Its function `compile` runs the real compiler
/// with the current standard input.
fn compiler_script(dir: &Path, script: &str) -> PathBuf {
    let program = dir.join("compiler");
    let binary = binary();
    let script = format!(
        "#!/bin/sh\nPATH=/usr/bin:/bin\ncd {}\ncompile() {{ exec {} \"$@\"; }}\n{script}\n",
        dir.display(),
        binary.display()
    );
    std::fs::write(&program, script).expect("a program");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700))
        .expect("a program that runs");
    program
}

/// Creates a compiler that never finishes for plugins with `version=8`, and compiles all others.
fn patient_compiler(dir: &Path) -> PathBuf {
    let script = "file=$(mktemp ./XXXXXX)\ncat > $file\nif grep -q version=8 $file; then exec \
                  sleep 600; fi\ncompile \"$@\" < $file";
    compiler_script(dir, script)
}

/// A slow compilation delays only its own file.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_takes_long_to_compile_holds_up_no_other_and_no_operator() {
    let dir = tempfile::tempdir().expect("a directory");
    let host = TestHost::compiling_with(
        &[bundled_plugin("connection")],
        &patient_compiler(dir.path()),
        |_| {},
    )
    .await;
    for version in 1..3 {
        drop_in(host.plugins(), "chameleon.wasm", &chameleon(&format!("version={version}")));
        host.until("chameleon", |row| row["version"] == format!("{version}.0.0").as_str()).await;
    }
    drop_in(host.plugins(), "bomb.wasm", &chameleon("version=8 name=bomb claims=bomb"));
    host.until("bomb", |row| row["state"] == "loading").await;
    let (status, row) = host.http("/api/plugins/chameleon/rollback", Some(json!({}))).await;
    assert_eq!((status, &row["version"]), (200, &json!("1.0.0")));
    drop_in(host.plugins(), "chameleon.wasm", &chameleon("version=3"));
    host.until("chameleon", |row| row["version"] == "3.0.0").await;
    assert_eq!(host.row("bomb").await["state"], json!("loading"), "it is still at it");
    // When the file is replaced, its compilation is cancelled and the compiler's process is ended.
    drop_in(host.plugins(), "bomb.wasm", &chameleon("version=9 name=bomb claims=bomb"));
    host.until("bomb", |row| row["version"] == "9.0.0").await;
}

/// A new file may contain the same plugin, so a removal waits for it, but not for its whole
/// compilation.
#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_whose_file_is_gone_does_not_wait_for_all_that_is_compiled() {
    let dir = tempfile::tempdir().expect("a directory");
    let change = |config: &mut sockhop::config::Config| {
        config.plugins.empty_after_s = Duration::from_millis(100)
    };
    let host = TestHost::compiling_with(
        &[bundled_plugin("connection")],
        &patient_compiler(dir.path()),
        change,
    )
    .await;
    drop_in(host.plugins(), "chameleon.wasm", &chameleon("version=1"));
    host.until("chameleon", |row| row["state"] == "active").await;
    drop_in(host.plugins(), "bomb.wasm", &chameleon("version=8 name=bomb claims=bomb"));
    host.until("bomb", |row| row["state"] == "loading").await;
    std::fs::remove_file(host.plugins().join("chameleon.wasm")).expect("a file to remove");
    host.until("chameleon", serde_json::Value::is_null).await;
    assert_eq!(host.row("bomb").await["state"], json!("loading"), "it is still at it");
}

#[test]
fn a_start_tells_in_the_log_how_far_it_is() {
    let (plugins, data) =
        (directory_of(&[bundled_plugin("connection")]), tempfile::tempdir().expect("a directory"));
    for number in 0..4 {
        drop_in(
            plugins.path(),
            &format!("p{number}.wasm"),
            &chameleon(&format!("version=1 name=p{number} claims=p{number}")),
        );
    }
    drop_in(plugins.path(), "broken.wasm", b"no plugin");
    let log = data.path().join("log");
    let _host = HostProcess::start_logging(plugins.path(), data.path(), &log);
    let log = std::fs::read_to_string(log).expect("the log");
    let told: Vec<_> = log
        .lines()
        .filter(|line| line.contains("loading plugins") || line.contains("plugins loaded"))
        .collect();
    let (Some(first), Some(last)) = (told.first(), told.last()) else { panic!("{log}") };
    assert!(first.contains("loading plugins") && first.contains("loaded=0 total=6"), "{first}");
    assert!(
        last.contains("plugins loaded") && last.contains("loaded=6 total=6 failed=1"),
        "{last}"
    );
}

/// An upgrade replaces the program while the host runs, and an uninstall removes it.
#[cfg(target_os = "linux")]
#[test]
fn a_host_whose_program_is_removed_or_replaced_still_loads_new_plugins() {
    let installed = tempfile::tempdir().expect("a directory");
    let program = installed.path().join("sockhop");
    std::fs::copy(binary(), &program).expect("a copy of the command");
    let (plugins, data) =
        (directory_of(&[bundled_plugin("connection")]), tempfile::tempdir().expect("a directory"));
    let host = HostProcess::start_program(&program, plugins.path(), data.path());
    std::fs::remove_file(&program).expect("a program to remove");
    drop_in(plugins.path(), "removed.wasm", &chameleon("version=1 name=removed claims=removed"));
    host.until("removed", |row| row["state"] == "active");
    std::fs::write(&program, "another version").expect("a file in its place");
    drop_in(plugins.path(), "replaced.wasm", &chameleon("version=1 name=replaced claims=replaced"));
    host.until("replaced", |row| row["state"] == "active");
}

/// Returns the compiled code of a plugin, made by the command itself.
fn precompiled(plugin: &[u8]) -> Vec<u8> {
    let mut command = Command::new(binary());
    command
        .args(["compile-plugin", "2147483648", "60000", "0"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().expect("a compiler");
    child.stdin.take().expect("its input").write_all(plugin).expect("a compiler that reads");
    let mut code = Vec::new();
    child
        .stdout
        .take()
        .expect("its output")
        .read_to_end(&mut code)
        .expect("a compiler that writes");
    assert!(child.wait().expect("its end").success());
    code
}

/// Simulates the first start of a host on a machine that is busy with other work.
#[tokio::test(flavor = "multi_thread")]
async fn a_compiler_that_gets_no_processor_for_longer_than_compile_ms_is_not_refused_for_it() {
    const CPU: Duration = Duration::from_millis(200);
    let dir = tempfile::tempdir().expect("a directory");
    let plugins = [bundled_plugin("connection")];
    std::fs::write(
        dir.path().join("code"),
        precompiled(&std::fs::read(&plugins[0]).expect("a plugin")),
    )
    .expect("a file");
    let compiler = compiler_script(
        dir.path(),
        "echo $$ > new && mv new stopped\nkill -STOP $$\nexec cat code",
    );
    let stopped = dir.path().join("stopped");
    let resume = async {
        let pid = eventually("a compiler that is stopped", async || {
            std::fs::read_to_string(&stopped).ok()
        })
        .await;
        // The tested condition: the compiler gets no processor for this time.
        tokio::time::sleep(CPU * 3).await;
        kill(Pid::from_raw(pid.trim().parse().expect("a process id")), Signal::SIGCONT)
            .expect("a process to resume");
    };
    let start =
        TestHost::compiling_with(&plugins, &compiler, |config| config.limits.compile_ms = CPU);
    let (host, ()) = tokio::join!(start, resume);
    assert_eq!(host.row("connection").await["state"], json!("active"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compile_that_passed_its_wall_limit_says_so_and_is_tried_again_soon() {
    let dir = tempfile::tempdir().expect("a directory");
    let plugin = chameleon("version=1");
    std::fs::write(dir.path().join("code"), precompiled(&plugin)).expect("a file");
    let compiler =
        compiler_script(dir.path(), "if [ -e is_idle ]; then exec cat code; fi\nexec sleep 600");
    let host = TestHost::compiling_with(&[], &compiler, |config| {
        config.limits.compile_wall_ms = Duration::from_secs(1)
    })
    .await;
    drop_in(host.plugins(), "chameleon.wasm", &plugin);
    let row = host.until("chameleon", |row| row["state"] == "failed").await;
    let reason = row["last_error"]["reason"].as_str().expect("a reason");
    assert!(
        reason.starts_with("was not compiled within 1000 ms (limits.compile_wall_ms)"),
        "{reason}"
    );
    std::fs::write(dir.path().join("is_idle"), "").expect("a file");
    host.until("chameleon", |row| row["state"] == "active").await;
}

#[test]
fn a_compiler_refuses_a_file_at_once_however_long_its_names_are() {
    let name = "n".repeat(90_000);
    let export = format!("(func (export \"{name}\"))");
    let file = wat::parse_str(format!("(component (core module {export} {export}))"))
        .expect("a component");
    let mut compiler = Command::new(binary())
        .args(["compile-plugin", "2000000000", "60000", "0"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        // A pipe that nobody reads.
        .stderr(Stdio::piped())
        .spawn()
        .expect("a compiler");
    compiler.stdin.take().expect("its input").write_all(&file).expect("a compiler that reads");
    let until = Instant::now() + PATIENCE;
    let status = loop {
        match compiler.try_wait().expect("a process to wait for") {
            Some(status) => break Some(status),
            None if Instant::now() > until => break None,
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let _ = compiler.kill();
    assert_eq!(status.and_then(|status| status.code()), Some(3));
    let mut said = String::new();
    compiler.stderr.take().expect("its messages").read_to_string(&mut said).expect("UTF-8");
    assert!(said.contains("duplicate export name `nnn"), "{said}");
}

/// While no plugin is served, a compiler can't disturb anything.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_compiler_yields_only_once_something_is_served() {
    let dir = tempfile::tempdir().expect("a directory");
    let compiler = compiler_script(dir.path(), "echo $4 $(nice) >> niceness\ncompile \"$@\"");
    let host = TestHost::compiling_with(&[bundled_plugin("connection")], &compiler, |_| {}).await;
    drop_in(host.plugins(), "chameleon.wasm", &chameleon("version=1"));
    host.until("chameleon", |row| row["state"] == "active").await;
    let own = Command::new("nice").output().expect("the program nice").stdout;
    let own: i32 = String::from_utf8_lossy(&own).trim().parse().expect("a number");
    let expected = format!("0 {own}\n10 {}\n", (own + 10).min(19));
    assert_eq!(
        std::fs::read_to_string(dir.path().join("niceness")).expect("what was noted"),
        expected
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_deploy_has_compiled_is_not_compiled_again_by_the_host() {
    let dir = tempfile::tempdir().expect("a directory");
    let host = TestHost::compiling_with(
        &[bundled_plugin("connection")],
        &patient_compiler(dir.path()),
        |_| {},
    )
    .await;
    let file = dir.path().join("chameleon.wasm");
    std::fs::write(&file, chameleon("version=8")).expect("a file");
    let mut deploy = Command::new(binary());
    deploy.arg("deploy").arg(&file).args(["--wait", "--url", &host.url]).env_remove("SOCKHOP_KEY");
    deploy.arg("--plugins").arg(host.plugins()).arg("--data").arg(host.data());
    let output = tokio::task::spawn_blocking(move || deploy.output().expect("the command runs"))
        .await
        .expect("its end");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(
        host.row("chameleon").await["version"],
        json!("8.0.0"),
        "though the host's own compiler never ends with it"
    );
}
