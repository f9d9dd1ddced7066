// Plugin `connection`: the greeting of a new client, and `ping`.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { TIME, connect, withClients } from "./client.mjs";
import { startHost } from "./host.mjs";

let host;
before(async () => (host = await startHost()));
after(() => host?.stop());

test("a new client is greeted with its own socket id, a public id and the time", () =>
  withClients(host.url, 1, async (client) => {
    const [greeting, ...more] = await client.next("connected");
    assert.deepEqual(more, []);
    assert.deepEqual(Object.keys(greeting).sort(), ["connection_id", "server_time", "sid", "user_id"]);
    assert.equal(greeting.sid, client.socket.id);
    assert.equal(greeting.user_id, null);
    assert.match(greeting.server_time, TIME);
    assert.equal(typeof greeting.connection_id, "string");
    assert.notEqual(greeting.connection_id, "");
    assert.notEqual(greeting.connection_id, greeting.sid);
  }));

test("the greeting goes only to the new client, with another public id each time", () =>
  withClients(host.url, 2, async (first, second) => {
    const [[mine], [theirs]] = [await first.next("connected"), await second.next("connected")];
    assert.notEqual(mine.connection_id, theirs.connection_id);
    await first.settled();
    assert.equal(first.heard("connected").length, 1);
  }));

test("the greeting comes before the answer to the first event", async () => {
  const client = await connect(host.url);
  try {
    await client.ask("ping", { timestamp: 1 });
    assert.equal(client.events()[0], "connected");
  } finally {
    client.close();
  }
});

test("a ping is answered by a pong and by an ack with the same object", () =>
  withClients(host.url, 1, async (client) => {
    const timestamp = Date.now();
    const reply = await client.ask("ping", { timestamp });
    assert.deepEqual(Object.keys(reply).sort(), ["server_time", "timestamp"]);
    assert.equal(reply.timestamp, timestamp);
    assert.match(reply.server_time, TIME);
    assert.deepEqual(await client.next("pong"), [reply]);
  }));

test("a timestamp may be any number and comes back unchanged", () =>
  withClients(host.url, 1, async (client) => {
    for (const timestamp of [0, -1, 1.5, 2 ** 53 - 1]) {
      assert.equal((await client.ask("ping", { timestamp })).timestamp, timestamp);
    }
  }));

test("times of a clock come back with all digits", () =>
  withClients(host.url, 1, async (client) => {
    const readings = Array.from({ length: 200 }, (_, index) => performance.now() * (1 + index / 7));
    const replies = await Promise.all(readings.map((timestamp) => client.ask("ping", { timestamp })));
    assert.deepEqual(
      replies.map(({ timestamp }) => timestamp),
      readings,
    );
  }));

test("a pong goes only to the sender", () =>
  withClients(host.url, 2, async (sender, other) => {
    await sender.ask("ping", { timestamp: 77 });
    await other.settled();
    assert.deepEqual(
      other.heard("pong").map(([pong]) => pong.timestamp),
      [0],
    );
  }));

test("a ping without an ack is answered only by its pong", () =>
  withClients(host.url, 1, async (client) => {
    client.socket.emit("ping", { timestamp: 5 });
    const [pong] = await client.next("pong");
    assert.equal(pong.timestamp, 5);
  }));

test("events of one connection are answered in the order in which they were sent", () =>
  withClients(host.url, 1, async (client) => {
    const sent = Array.from({ length: 100 }, (_, timestamp) => timestamp);
    const acked = [];
    await Promise.all(sent.map((timestamp) => client.ask("ping", { timestamp }).then((reply) => acked.push(reply.timestamp))));
    assert.deepEqual(acked, sent);
    assert.deepEqual(
      client.heard("pong").map(([pong]) => pong.timestamp),
      sent,
    );
  }));
