// Connection state recovery, which only the host's own implementation of Socket.IO has.

import assert from "node:assert/strict";
import { test } from "node:test";

import { connect } from "./client.mjs";
import { startHost } from "./host.mjs";

const CUTS = 200;
/** Reconnects at once. By default, the stock client waits up to five seconds. */
const PROMPT = { transports: ["websocket"], reconnectionDelay: 1, reconnectionDelayMax: 5 };

/** A client that never returns fails its test. */
const LIMIT = { timeout: 120_000 };

const startRecovering = (seconds, settings = {}) =>
  startHost({ settings: { SOCKHOP_SERVER__SOCKETIO: "builtin", SOCKHOP_SERVER__RECOVERY__SECONDS: String(seconds), ...settings } });

/** Cuts the client's transport, and waits until it is connected again. */
async function cut({ socket }) {
  const returned = new Promise((resolve) => socket.once("connect", resolve));
  const lost = new Promise((resolve) => socket.once("disconnect", resolve));
  socket.io.engine.close();
  await lost;
  await returned;
}

test(`a client that is cut ${CUTS} times in a busy room receives what one that was never cut receives`, LIMIT, async () => {
  const host = await startRecovering(60);
  const clients = [];
  try {
    for (let i = 0; i < 3; i += 1) clients.push(await connect(host.url, PROMPT));
    const [writer, steady, unlucky] = clients;
    for (const client of [steady, unlucky]) await client.ask("subscribe_event", { event_type: "memory_logs" });
    const { id } = unlucky.socket;
    const written = [];
    let isOver = false;
    const write = async () => {
      while (!isOver) {
        const record = await writer.ask("memory_log_create", { user_id: 7, content: String(written.length) });
        written.push(record.id);
      }
    };
    const writing = write();
    for (let i = 0; i < CUTS; i += 1) {
      await cut(unlucky);
      assert.equal(unlucky.socket.recovered, true, `after cut ${i + 1}`);
      assert.equal(unlucky.socket.id, id);
    }
    isOver = true;
    await writing;
    for (const client of [steady, unlucky]) await client.settled();
    const heard = (client) => client.heard("memory_log_created").map(([record]) => record.id);
    assert.ok(written.length > CUTS, `only ${written.length} events`);
    assert.deepEqual(heard(steady), written);
    assert.deepEqual(heard(unlucky), written);
  } finally {
    for (const client of clients) client.close();
    await host.stop();
  }
});

test("all clients that are cut at once return, although no more connections are allowed", LIMIT, async () => {
  const host = await startRecovering(60, { SOCKHOP_LIMITS__CONNECTIONS: "3" });
  const clients = [];
  try {
    // Ends the connection that has asked whether the host is ready.
    await fetch(`${host.url}/healthz`, { headers: { connection: "close" } });
    for (let i = 0; i < 3; i += 1) clients.push(await connect(host.url, PROMPT));
    for (let round = 0; round < 5; round += 1) {
      await Promise.all(clients.map((client) => cut(client)));
      for (const { socket } of clients) assert.equal(socket.recovered, true, `round ${round + 1}`);
    }
  } finally {
    for (const client of clients) client.close();
    await host.stop();
  }
});

test("a client that returns too late has a new connection, and is in no room", LIMIT, async () => {
  const host = await startRecovering(1);
  let client;
  try {
    client = await connect(host.url, { ...PROMPT, reconnectionDelay: 4000, reconnectionDelayMax: 4000, randomizationFactor: 0 });
    await client.ask("subscribe_event", { event_type: "memory_logs" });
    const { id } = client.socket;
    await cut(client);
    assert.equal(client.socket.recovered, false);
    assert.notEqual(client.socket.id, id);
    await client.ask("memory_log_create", { user_id: 7, content: "alone" });
    await client.settled();
    assert.deepEqual(client.heard("memory_log_created"), []);
  } finally {
    client?.close();
    await host.stop();
  }
});
