// The stock client in pages of a real browser: which pages may connect, which headers they may
// send, and what the host notices when a tab is closed. Clients in Node.js have no origin and send
// no preflight requests.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, readFile, rename, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { delimiter, join, resolve } from "node:path";
import { after, before, test } from "node:test";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";

import { chromium } from "playwright-core";

import { isLibrary } from "./client.mjs";
import { startHost, after as wait } from "./host.mjs";

/** A host may have to compile the plugins on a busy machine. */
const LIMIT = { timeout: 180_000 };
/**
 * How long an answer or an expected event may take, in milliseconds. Long: only a failing test
 * waits for it.
 */
const ANSWER_MS = 30_000;
/**
 * How long the host may take to notice a closed tab, in milliseconds. Without the end of its
 * transport, the host would wait for the heartbeat: 45 seconds by default.
 */
const NOTICE_MS = 10_000;

/** Without animation frames, which a tab in the background may not have. */
const WAITING = { polling: 20, timeout: ANSWER_MS };

/** The browser makes no requests of its own. Without a sandbox, it also runs as root. */
const SWITCHES = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/** Pages without an origin of their own. Their requests have the origin "null". */
const NULL_ORIGIN = ["a sandboxed frame", "a file"];

let site, browser, context, host, configured;
before(async () => {
  site = await startSite();
  browser = await chromium.launch({ executablePath: browserPath(), args: SWITCHES });
  context = await browser.newContext();
  host = await startHost({ guests: ["chameleon"] });
  configured = await startHost({
    settings: {
      SOCKHOP_SERVER__ALLOWED_ORIGINS: JSON.stringify(["null", site.origin("app.localhost")]),
      SOCKHOP_SERVER__ALLOWED_HEADERS: JSON.stringify(["x-request-id"]),
    },
  });
});
after(async () => {
  await browser?.close();
  await Promise.all([site?.stop(), configured?.stop(), host?.stop()]);
});

for (const [how, transports] of [
  ["polling and an upgrade", ["polling", "websocket"]],
  ["polling only", ["polling"]],
  ["WebSocket only", ["websocket"]],
]) {
  test(`pages over ${how} are answered, and receive what another page has caused`, LIMIT, async (t) => {
    const [writer, reader] = [await open(t), await open(t)];
    for (const page of [writer, reader]) {
      assert.equal(await connect(page, host.url, { transports }), "connected");
      await page.waitForFunction((name) => window.socket.io.engine.transport.name === name, transports.at(-1), WAITING);
    }
    assert.equal((await ask(writer, "ping", { timestamp: 1 })).timestamp, 1);
    await ask(reader, "subscribe_event", { event_type: "memory_logs" });
    const record = await ask(writer, "memory_log_create", { user_id: 7, content: how });
    assert.deepEqual(await next(reader, "memory_log_created"), [record]);
  });
}

test("a record that is created over HTTP reaches two pages", LIMIT, async (t) => {
  const pages = [await open(t), await open(t)];
  for (const page of pages) {
    assert.equal(await connect(page, host.url), "connected");
    await ask(page, "subscribe_event", { event_type: "memory_logs" });
  }
  const headers = ["-H", "Content-Type: application/json"];
  const body = ["-d", JSON.stringify({ user_id: 7, content: "over HTTP" })];
  const show = ["-s", "-w", "\n%{http_code} %header{location}"];
  const { stdout } = await promisify(execFile)("curl", [...show, ...headers, ...body, `${host.url}/memory-logs`]);
  const [text, answer] = stdout.split("\n");
  const record = JSON.parse(text);
  assert.equal(answer, `201 /memory-logs/${record.id}`);
  for (const page of pages) assert.deepEqual(await next(page, "memory_log_created"), [record]);
});

test("a page uses routes from another origin, with every method", LIMIT, async (t) => {
  const page = await open(t);
  const request = (method, path, body) =>
    page.evaluate(
      async ([url, method, body]) => {
        const headers = body ? { "content-type": "application/json" } : {};
        const response = await fetch(url, { method, headers, body: body && JSON.stringify(body) });
        return [response.status, response.headers.get("location"), await response.json()];
      },
      [`${host.url}${path}`, method, body],
    );
  const [created, location, note] = await request("POST", "/mental-notes", { user_id: 7, content: "a" });
  assert.deepEqual([created, location], [201, `/mental-notes/${note.id}`]);
  assert.deepEqual((await request("PATCH", location, { content: "b" }))[2].content, "b");
  assert.deepEqual((await request("GET", location))[2].content, "b");
  assert.equal((await request("DELETE", location))[0], 200);
  assert.equal((await request("GET", location))[0], 404);
});

test("a page may send any header with its polls", LIMIT, async (t) => {
  const page = await open(t);
  const options = { transports: ["polling"], extraHeaders: { "x-tenant": "7" } };
  assert.equal(await connect(page, host.url, options), "connected");
  assert.equal((await ask(page, "ping", { timestamp: 1 })).timestamp, 1);
});

test("a page may send only the headers that the settings name, if they name any", LIMIT, async (t) => {
  const page = await open(t);
  const withHeader = (name) => connect(page, configured.url, { transports: ["polling"], extraHeaders: { [name]: "7" } });
  assert.equal(await withHeader("x-request-id"), "connected");
  assert.equal((await ask(page, "ping", { timestamp: 1 })).timestamp, 1);
  assert.equal(await withHeader("x-tenant"), "xhr poll error");
});

test("a page of an origin that is not allowed opens no session", LIMIT, async (t) => {
  const host = await startHost();
  t.after(() => host.stop());
  const strangers = [await open(t, site.origin("app.localhost")), ...(await Promise.all(NULL_ORIGIN.map((kind) => openNull(t, kind))))];
  for (const page of strangers) {
    assert.equal(await connect(page, host.url, { transports: ["polling"] }), "xhr poll error");
    assert.equal(await connect(page, host.url, { transports: ["websocket"] }), "websocket error");
  }
  assert.equal(await metric(host, "sockhop_sessions"), 0);
});

for (const transport of ["polling", "websocket"]) {
  test(`a page of a configured origin connects over ${transport}`, LIMIT, async (t) => {
    const page = await open(t, site.origin("app.localhost"));
    assert.equal(await connect(page, configured.url, { transports: [transport] }), "connected");
    assert.equal((await ask(page, "ping", { timestamp: 1 })).timestamp, 1);
  });

  for (const kind of NULL_ORIGIN) {
    test(`${kind} connects over ${transport} if the origin null is configured`, LIMIT, async (t) => {
      const page = await openNull(t, kind);
      assert.equal(await connect(page, configured.url, { transports: [transport] }), "connected");
      assert.equal((await ask(page, "ping", { timestamp: 1 })).timestamp, 1);
    });
  }

  test(`a closed tab over ${transport} is noticed before its heartbeat is due`, LIMIT, async (t) => {
    // The library does not notice the end of a poll: see the table in host/README.md.
    const settings = transport === "polling" ? { SOCKHOP_SERVER__SOCKETIO: "builtin" } : {};
    const host = await startHost({ settings });
    t.after(() => host.stop());
    const page = await open(t);
    assert.equal(await connect(page, host.url, { transports: [transport] }), "connected");
    await ask(page, "ping", { timestamp: 1 });
    for (const event of ["connected", "pong"]) await next(page, event);
    if (transport === "polling") await waitForPoll(page);
    assert.equal(await metric(host, "sockhop_connections"), 1);
    await page.close();
    await until("the host notices the closed tab", async () => (await metric(host, "sockhop_connections")) === 0, NOTICE_MS);
  });
}

test("a page keeps its connection while a plugin is replaced, and is served by the new version", LIMIT, async (t) => {
  const page = await open(t);
  assert.equal(await connect(page, host.url), "connected");
  const id = await page.evaluate(() => window.socket.id);
  assert.equal((await ask(page, "which", null)).version, "0");
  await replaceChameleon("1");
  await until("the new version serves", async () => (await ask(page, "which", null)).version === "1");
  assert.equal(await page.evaluate(() => window.socket.id), id);
  assert.equal(await page.evaluate(() => window.heard.filter(([event]) => event === "connected").length), 1);
});

/** The path of the browser's program. The client library does not search for it. */
function browserPath() {
  const program = process.env.SOCKHOP_BROWSER ?? "chromium";
  const path = process.env.PATH.split(delimiter).map((directory) => resolve(directory, program)).find(existsSync);
  if (!path) throw new Error(`there is no program ${program}; \`cargo xtask test\` says how to install it`);
  return path;
}

/**
 * A web server with one page, which loads the stock client from it. `/frame` has that page in a
 * sandboxed frame. `origin(name)` is the server's origin by another name of this machine.
 */
async function startSite() {
  const script = await readFile(new URL("node_modules/socket.io-client/dist/socket.io.min.js", import.meta.url));
  const server = createServer((request, response) => {
    const [type, body] = contents[request.url] ?? [];
    response.writeHead(body ? 200 : 404, type && { "content-type": type }).end(body);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const origin = (name) => `http://${name}:${server.address().port}`;
  const page = `<!doctype html><script src="${origin("127.0.0.1")}/socket.io.js"></script>`;
  const contents = {
    "/": ["text/html", page],
    "/frame": ["text/html", '<!doctype html><iframe sandbox="allow-scripts" src="/"></iframe>'],
    "/socket.io.js": ["text/javascript", script],
  };
  const stop = () => {
    server.closeAllConnections();
    return new Promise((resolve) => server.close(resolve));
  };
  return { origin, page, stop };
}

/** A tab at `url`, which is closed with the test. By default, its origin is a local one. */
async function open(t, url = site.origin("127.0.0.1")) {
  const page = await context.newPage();
  t.after(() => page.close());
  await page.goto(url);
  return page;
}

/** A page without an origin of its own, in a tab that is closed with the test. */
async function openNull(t, kind) {
  if (kind === "a sandboxed frame") {
    const page = await open(t, `${site.origin("127.0.0.1")}/frame`);
    return page.mainFrame().childFrames()[0];
  }
  const directory = await mkdtemp(join(tmpdir(), "sockhop-page-"));
  t.after(() => rm(directory, { recursive: true, force: true }));
  await writeFile(join(directory, "page.html"), site.page);
  return open(t, pathToFileURL(join(directory, "page.html")).href);
}

/**
 * Connects a page or a frame with the stock client. Returns "connected", or why it is not. A
 * connection that is lost stays lost, so that its test fails.
 */
async function connect(page, url, options = {}) {
  const result = await connectOnce(page, url, options);
  // See `refusal` in client.mjs.
  const mayTryAgain = isLibrary && options.transports?.length !== 1 && result === "xhr poll error";
  return mayTryAgain ? connectOnce(page, url, options) : result;
}

function connectOnce(page, url, options) {
  return page.evaluate(
    ([url, options]) =>
      new Promise((resolve) => {
        window.heard = [];
        window.socket = window.io(url, { forceNew: true, reconnection: false, ...options });
        window.socket.onAny((...event) => window.heard.push(event));
        window.socket.once("connect", () => resolve("connected"));
        window.socket.once("connect_error", (error) => resolve(error.message));
      }),
    [url, options],
  );
}

/** Emits from a page and returns the ack's argument. */
function ask(page, event, data) {
  return page.evaluate(([event, data, ms]) => window.socket.timeout(ms).emitWithAck(event, data), [event, data, ANSWER_MS]);
}

/** Waits until a page has received an event of this name, and returns its arguments. */
async function next(page, event) {
  const find = (event) => window.heard.find(([name]) => name === event)?.slice(1);
  return (await page.waitForFunction(find, event, WAITING)).jsonValue();
}

/**
 * Waits until the host holds a poll of this page, to which nothing more is sent. When a poll is
 * answered, the client sends the next one at once. So the poll is older than this event, and the
 * event ends no poll, because it has no answer.
 */
async function waitForPoll(page) {
  const event = "unsubscribe_event";
  const received = page.waitForResponse((response) => response.request().postData()?.includes(event), { timeout: ANSWER_MS });
  await page.evaluate((event) => void window.socket.emit(event, { event_type: "memory_logs" }), event);
  assert.equal((await received).status(), 200);
}

async function metric(host, name) {
  const response = await fetch(`${host.url}/metrics`, { headers: { authorization: `Bearer ${host.key}` } });
  const [, value] = new RegExp(`^${name} (\\d+)$`, "m").exec(await response.text());
  return Number(value);
}

/** Replaces the file of the plugin `chameleon` in one step by a file that has this version. */
async function replaceChameleon(version) {
  const file = join(host.plugins, "chameleon.wasm");
  const bytes = await readFile(file);
  bytes.write(version, bytes.indexOf("<<version=") + "<<version=".length);
  await writeFile(join(host.plugins, ".chameleon.wasm"), bytes);
  await rename(join(host.plugins, ".chameleon.wasm"), file);
}

async function until(what, isSo, ms = ANSWER_MS) {
  for (const deadline = Date.now() + ms; !(await isSo()); await wait(20)) {
    assert.ok(Date.now() < deadline, `not within ${ms} ms: ${what}`);
  }
}
