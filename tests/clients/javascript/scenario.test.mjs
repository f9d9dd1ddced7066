// A scenario has the same outcome on a real host with the stock client as in `sockhop test`.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";

import { connect } from "./client.mjs";
import { startHost } from "./host.mjs";

/** JSON is YAML, so this is a scenario as it is. */
const scenario = {
  clients: { ada: {}, bob: {} },
  steps: [
    { send: { client: "ada", event: "subscribe_event", data: { event_type: "memory_logs" } }, ack: { status: "subscribed", event_type: "memory_logs", room: "memory_logs" } },
    {
      send: { client: "bob", event: "memory_log_create", data: { user_id: 7, content: "grüße \u2028" } },
      ack: { id: 1, user_id: 7, content: "grüße \u2028", created_at: "$any" },
      receives: { ada: [{ event: "memory_log_created", data: { id: 1, user_id: 7, content: "grüße \u2028", created_at: "$any" } }] },
    },
    { send: { client: "bob", event: "memory_log_create", data: { user_id: 7, content: "" } }, error: { code: "invalid_payload", origin: "host", retry: "never" } },
    { send: { client: "bob", event: "memory_log_get", data: { id: 9 } }, error: { code: "refused", reason: "not_found", origin: "handler" } },
    { send: { client: "bob", event: "nonsense" }, error: { code: "unknown_event", event: "nonsense" } },
    { send: { client: "bob", event: "subscribe_event", data: { event_type: "admin" } }, error: { code: "forbidden" } },
    { send: { client: "ada", event: "enter" }, ack: null },
    { send: { client: "bob", event: "spread", data: "everyone" }, receives: { ada: [{ event: "gossip", data: "everyone" }], bob: [{ event: "gossip", data: "everyone" }] } },
    { send: { client: "ada", event: "burst", data: 2 }, receives: { ada: [{ event: "noise", data: 0 }, { event: "noise", data: 1 }] } },
    { send: { client: "ada", event: "trap" }, error: { code: "plugin_failed" } },
    { send: { client: "ada", event: "echo", data: { big: 1e300, deep: [[[null, false, ""]]] } }, ack: { big: 1e300, deep: [[[null, false, ""]]] } },
    { send: { client: "bob", event: "memory_log_list", data: {} }, ack: { items: [{ id: 1, user_id: 7, content: "grüße \u2028", created_at: "$any" }], next: null } },
  ],
};

/** `actual` with `"$any"` where `expected` has it. */
function masked(expected, actual) {
  if (expected === "$any") return actual === undefined ? actual : "$any";
  if (actual === null || typeof actual !== "object" || expected === null || typeof expected !== "object") return actual;
  if (Array.isArray(actual)) return actual.map((element, index) => masked(expected[index], element));
  return Object.fromEntries(Object.entries(actual).map(([name, value]) => [name, masked(expected[name], value)]));
}

test("a scenario has the same outcome for virtual clients and for stock clients", async () => {
  const host = await startHost({ guests: ["lab"] });
  const directory = await mkdtemp(join(tmpdir(), "sockhop-scenario-"));
  const clients = {};
  try {
    for (const name of Object.keys(scenario.clients)) {
      const client = (clients[name] = await connect(host.url));
      client.arrived = [];
      // What the plugin `connection` sends is no part of the scenario.
      client.socket.onAny((event, data) => event === "pong" || event === "connected" || client.arrived.push({ event, data }));
      await client.settled();
    }
    for (const { send, ack, error, receives = {} } of scenario.steps) {
      const args = "data" in send ? [send.data] : [];
      const answer = await clients[send.client].ask(send.event, ...args);
      if (error) {
        const members = Object.fromEntries(Object.keys(error).map((name) => [name, answer.error?.[name]]));
        assert.deepEqual(members, error, JSON.stringify(answer));
      } else if (ack !== undefined) {
        assert.deepEqual(masked(ack, answer), ack);
      } else {
        assert.equal(answer?.error, undefined);
      }
      for (const [name, client] of Object.entries(clients)) {
        await client.settled();
        const expected = receives[name] ?? [];
        assert.deepEqual(masked(expected, client.arrived.splice(0)), expected, `${name} after ${send.event}`);
      }
    }

    const file = join(directory, "scenario.json");
    await writeFile(file, JSON.stringify(scenario));
    const plugins = ["memory_logs", "subscription"].map((name) => join(process.env.SOCKHOP_PLUGINS_DIR, `${name}.wasm`));
    plugins.push(join(process.env.SOCKHOP_GUESTS_DIR, "lab.wasm"));
    const { stdout } = await promisify(execFile)(process.env.SOCKHOP_BIN, ["test", ...plugins, file], { cwd: directory });
    assert.match(stdout, /1 scenario: 1 passed, 0 failed/);
  } finally {
    for (const client of Object.values(clients)) client.close();
    await host.stop();
    await rm(directory, { recursive: true, force: true });
  }
});
