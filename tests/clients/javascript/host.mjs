// Starts the built host for one test file, and stops it.
//
// The environment has the paths, as `cargo xtask test` sets them: SOCKHOP_BIN, SOCKHOP_PLUGINS_DIR,
// SOCKHOP_COMPILED_DIR and, for the plugins that only tests load, SOCKHOP_GUESTS_DIR.

import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { cp, mkdir, mkdtemp, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { request } from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { stripVTControlCharacters } from "node:util";

/**
 * How long a host may take to start, in milliseconds. Long: it may have to compile its plugins on a
 * busy machine.
 */
const START_MS = 60_000;
/** How long a stopping host may take, in milliseconds. It promises 27 seconds. */
const STOP_MS = 30_000;

/**
 * A running host with the bundled plugins, these `guests`, these `settings` (named as in the
 * environment) and this `configuration` (the text of `sockhop.toml`): `url`, `key` (all scopes),
 * `plugins` (its plugin directory), `restart()` (the same data, another port) and `stop()`. Its
 * working directory is a temporary one, so that it reads no configuration of this machine. A host
 * with TLS is reached with the certificate `ca`.
 */
export async function startHost({ guests = [], settings = {}, configuration = "", ca } = {}) {
  const bin = fromEnvironment("SOCKHOP_BIN");
  const directory = await mkdtemp(join(tmpdir(), "sockhop-"));
  const [data, plugins] = [join(directory, "data"), join(directory, "plugins")];
  const host = { plugins };

  let listen = "127.0.0.1:0";
  const start = async () => {
    const running = await run(bin, ["serve", "--listen", listen, "--plugins", plugins, "--data", data], directory, settings, ca);
    Object.assign(host, { url: running.url, process: running });
    host.key = (await readFile(join(data, "key"), "utf8")).trim();
  };
  // With `samePort`, on the address that its clients know.
  host.restart = async ({ samePort = false } = {}) => {
    await host.process.stop();
    if (samePort) listen = new URL(host.url).host;
    await start();
  };
  host.stop = async () => {
    try {
      await host.process.stop();
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  };

  try {
    if (configuration) await writeFile(join(directory, "sockhop.toml"), configuration);
    await cp(fromEnvironment("SOCKHOP_PLUGINS_DIR"), plugins, { recursive: true });
    for (const guest of guests) {
      await cp(join(fromEnvironment("SOCKHOP_GUESTS_DIR"), `${guest}.wasm`), join(plugins, `${guest}.wasm`));
    }
    await lendCompiled(plugins, data);
    await start();
  } catch (error) {
    await rm(directory, { recursive: true, force: true });
    throw error;
  }
  return host;
}

/**
 * Copies the code of the plugins that hosts of earlier tests have compiled to a host that has not
 * started. SOCKHOP_COMPILED_DIR has it; without it, the host compiles.
 */
async function lendCompiled(plugins, data) {
  const compiled = process.env.SOCKHOP_COMPILED_DIR;
  if (!compiled) return;
  const entries = await readdir(compiled).catch(() => []);
  await mkdir(join(data, "cache"), { recursive: true, mode: 0o700 });
  for (const plugin of await readdir(plugins)) {
    const digest = createHash("sha256").update(await readFile(join(plugins, plugin))).digest("hex");
    for (const entry of entries.filter((name) => name.startsWith(digest))) {
      await cp(join(compiled, entry), join(data, "cache", entry));
    }
  }
}

function fromEnvironment(name) {
  if (!process.env[name]) throw new Error(`${name} is not set; \`cargo xtask test\` sets it`);
  return process.env[name];
}

async function run(bin, args, cwd, settings, ca) {
  // Settings in the caller's environment must not affect the test.
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("SOCKHOP_")));
  // Each test runs with both implementations of Socket.IO.
  if (process.env.SOCKHOP_TEST_SOCKETIO) env.SOCKHOP_SERVER__SOCKETIO = process.env.SOCKHOP_TEST_SOCKETIO;
  Object.assign(env, settings);
  const child = spawn(bin, args, { cwd, env, stdio: ["ignore", "pipe", "pipe"] });
  // The host must not outlive a test file that ends early. Without these handlers, a signal would
  // end this process without its event `exit`.
  const killChild = () => child.kill("SIGKILL");
  process.once("exit", killChild);
  for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => process.exit(1));

  let output = "";
  const failed = (what) => new Error(`the host ${what}; its output:\n${output}`);
  const exited = new Promise((resolve) => {
    child.once("error", (error) => resolve(error.message));
    child.once("exit", (code, signal) => resolve(signal ?? code));
  });
  void exited.then(() => process.removeListener("exit", killChild));

  const listening = new Promise((resolve) => {
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8");
      stream.on("data", (text) => {
        output += stripVTControlCharacters(text);
        const line = /listening on (https?:\/\/[\w.:[\]]+)\s/.exec(output);
        if (line) resolve(line[1]);
      });
    }
  });

  try {
    const url = await Promise.race([
      listening,
      exited.then((how) => Promise.reject(failed(`ended with ${how} before it listened`))),
      after(START_MS).then(() => Promise.reject(failed("did not listen in time"))),
    ]);
    for (const deadline = Date.now() + START_MS; (await status(`${url}/readyz`, ca)) !== 200; await after(20)) {
      if (Date.now() > deadline) throw failed("did not become ready in time");
    }
    const stop = async () => {
      child.kill("SIGTERM");
      const how = await Promise.race([exited, after(STOP_MS).then(() => "nothing, it did not stop in time")]);
      killChild();
      if (how !== 0) throw failed(`answered SIGTERM with ${how}`);
    };
    return { url, stop };
  } catch (error) {
    killChild();
    throw error;
  }
}

/** The status of a GET request. `fetch` can't be given a certificate to trust. */
async function status(url, ca) {
  if (!url.startsWith("https:")) return (await fetch(url)).status;
  return new Promise((resolve, reject) => {
    const sent = request(url, { ca }, (response) => {
      response.resume();
      response.once("end", () => resolve(response.statusCode));
    });
    sent.once("error", reject);
    sent.end();
  });
}

/** A timer that does not keep the process alive. */
export function after(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms).unref());
}
