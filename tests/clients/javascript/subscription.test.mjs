// Plugin `subscription`: which clients may join which room.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { assertRejected, withClients } from "./client.mjs";
import { startHost } from "./host.mjs";

let host;
before(async () => (host = await startHost()));
after(() => host?.stop());

for (const event_type of ["memory_logs", "mental_notes"]) {
  test(`any client may subscribe to ${event_type} and unsubscribe again`, () =>
    withClients(host.url, 1, async (client) => {
      assert.deepEqual(await client.ask("subscribe_event", { event_type }), { status: "subscribed", event_type, room: event_type });
      assert.deepEqual(await client.ask("unsubscribe_event", { event_type }), { status: "unsubscribed", event_type, room: event_type });
    }));
}

test("subscribing twice changes nothing", () =>
  withClients(host.url, 1, async (client) => {
    const replies = [
      await client.ask("subscribe_event", { event_type: "memory_logs" }),
      await client.ask("subscribe_event", { event_type: "memory_logs" }),
    ];
    assert.deepEqual(replies[1], replies[0]);
    const record = await client.ask("memory_log_create", { user_id: 1, content: "once" });
    await client.settled();
    assert.deepEqual(client.heard("memory_log_created"), [[record]]);
  }));

test("unsubscribing ends the broadcasts, and doing it twice changes nothing", () =>
  withClients(host.url, 2, async (sender, listener) => {
    await listener.ask("subscribe_event", { event_type: "memory_logs" });
    const heard = await sender.ask("memory_log_create", { user_id: 1, content: "heard" });
    for (let i = 0; i < 2; i += 1) {
      assert.deepEqual(await listener.ask("unsubscribe_event", { event_type: "memory_logs" }), {
        status: "unsubscribed",
        event_type: "memory_logs",
        room: "memory_logs",
      });
    }
    await sender.ask("memory_log_create", { user_id: 1, content: "unheard" });
    await listener.settled();
    assert.deepEqual(listener.heard("memory_log_created"), [[heard]]);
  }));

test("a subscription holds for one room and one connection", () =>
  withClients(host.url, 2, async (listener, other) => {
    await listener.ask("subscribe_event", { event_type: "mental_notes" });
    await other.ask("memory_log_create", { user_id: 1, content: "elsewhere" });
    await other.ask("mental_note_create", { user_id: 1, content: "here" });
    await listener.settled();
    await other.settled();
    assert.deepEqual(
      [listener.heard("memory_log_created").length, listener.heard("mental_note_created").length, other.heard("mental_note_created").length],
      [0, 1, 0],
    );
  }));

test("a client that subscribes at once after connecting misses no later event", () =>
  withClients(host.url, 1, async (client) => {
    // It does not wait between the two: the effects of the first event are visible to the second.
    client.socket.emit("subscribe_event", { event_type: "memory_logs" });
    const record = await client.ask("memory_log_create", { user_id: 1, content: "pipelined" });
    assert.deepEqual(await client.next("memory_log_created"), [record]);
  }));

test("an unknown event type is refused with a reason of its own", () =>
  withClients(host.url, 1, async (client) => {
    assertRejected(await client.ask("subscribe_event", { event_type: "weather" }), {
      code: "refused",
      reason: "unknown_event_type",
      event: "subscribe_event",
    });
  }));

for (const event_type of ["admin", "user"]) {
  test(`an anonymous client may not subscribe to ${event_type}`, () =>
    withClients(host.url, 1, async (client) => {
      assertRejected(await client.ask("subscribe_event", { event_type }), { code: "forbidden", event: "subscribe_event" });
    }));
}

test("a client can't subscribe to another user's room by its name", () =>
  withClients(host.url, 1, async (client) => {
    const reply = await client.ask("subscribe_event", { event_type: "user_7" });
    assert.ok(reply.error, JSON.stringify(reply));
    await client.ask("memory_log_create", { user_id: 7, content: "private" });
    await client.settled();
    assert.deepEqual(client.heard("memory_log_created"), []);
  }));

test("a subscription in the listener of `connect` is made again for a new connection", () =>
  withClients(host.url, 1, async (client) => {
    const subscribed = [];
    const subscribe = async () => subscribed.push(await client.ask("subscribe_event", { event_type: "memory_logs" }));
    await subscribe();
    client.socket.on("connect", subscribe);
    const before = client.socket.id;

    client.socket.io.engine.close();
    await client.next("connected");
    const [second] = await client.next("connected");
    assert.notEqual(second.sid, before);
    // The subscription was sent before this event, on the same connection.
    const record = await client.ask("memory_log_create", { user_id: 1, content: "after the gap" });
    assert.deepEqual(await client.next("memory_log_created"), [record]);
    assert.equal(subscribed.length, 2);
  }));
