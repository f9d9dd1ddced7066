// The same promises hold for each transport.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { assertRejected, connect, withClients } from "./client.mjs";
import { startHost } from "./host.mjs";

let host;
before(async () => (host = await startHost()));
after(() => host?.stop());

for (const transport of ["polling", "websocket"]) {
  test(`everything works over ${transport} only`, () =>
    withClients(
      host.url,
      2,
      async (sender, subscriber) => {
        await subscriber.ask("subscribe_event", { event_type: "memory_logs" });
        const record = await sender.ask("memory_log_create", { user_id: 7, content: transport });
        assert.deepEqual(await subscriber.next("memory_log_created"), [record]);
        assertRejected(await sender.ask("no_such_event"), { code: "unknown_event", event: "no_such_event" });
        const large = { timestamp: 1, padding: "x".repeat(200 * 1024) };
        assertRejected(await sender.ask("ping", large), { code: "too_large", event: "ping" });
        await subscriber.settled();
        assert.equal(subscriber.heard("memory_log_created").length, 1);
        for (const client of [sender, subscriber]) assert.equal(client.socket.io.engine.transport.name, transport);
      },
      { transports: [transport] },
    ));
}

test("a client that begins with polling is upgraded, and no event is lost", async () => {
  const client = await connect(host.url);
  try {
    const engine = client.socket.io.engine;
    const upgraded =
      engine.transport.name === "websocket" ? Promise.resolve() : new Promise((resolve) => engine.once("upgrade", resolve));
    // Events before, during and after the upgrade.
    let upgradeIsDone = false;
    void upgraded.then(() => (upgradeIsDone = true));
    const deadline = Date.now() + 30_000;
    const sent = [];
    const replies = [];
    while (!upgradeIsDone || sent.length < 20) {
      assert.ok(Date.now() < deadline, "the client was not upgraded in time");
      sent.push(sent.length);
      const reply = client.ask("ping", { timestamp: sent.length - 1 });
      replies.push(reply);
      await reply;
    }
    assert.deepEqual(
      (await Promise.all(replies)).map((reply) => reply.timestamp),
      sent,
    );
    assert.deepEqual(
      client.heard("pong").map(([pong]) => pong.timestamp),
      sent,
    );
    assert.equal(engine.transport.name, "websocket");
    assert.equal(client.heard("connected").length, 1);
  } finally {
    client.close();
  }
});

test("clients of both transports share rooms", async () => {
  const polling = await connect(host.url, { transports: ["polling"] });
  const websocket = await connect(host.url, { transports: ["websocket"] });
  try {
    for (const client of [polling, websocket]) await client.ask("subscribe_event", { event_type: "mental_notes" });
    const note = await polling.ask("mental_note_create", { user_id: 7, content: "both" });
    for (const client of [polling, websocket]) assert.deepEqual(await client.next("mental_note_created"), [note]);
  } finally {
    polling.close();
    websocket.close();
  }
});
