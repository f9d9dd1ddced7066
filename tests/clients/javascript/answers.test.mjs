// Every event gets exactly one answer, and a rejection has a stable code.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { assertDetail, assertError, assertRejected, withClients } from "./client.mjs";
import { startHost } from "./host.mjs";

let host;
before(async () => (host = await startHost()));
after(() => host?.stop());

const KIB = 1024;

test("a missing field is named with its place and its rule", () =>
  withClients(host.url, 1, async (client) => {
    const error = assertRejected(await client.ask("memory_log_create", { user_id: 7 }), {
      code: "invalid_payload",
      event: "memory_log_create",
    });
    assert.equal(error.message, "content: is required");
    assert.deepEqual(error.details, [{ path: "/content", rule: "required", message: "is required" }]);
  }));

test("a field of the wrong type is named with its place and its rule", () =>
  withClients(host.url, 1, async (client) => {
    const error = assertRejected(await client.ask("ping", { timestamp: "now" }), { code: "invalid_payload", event: "ping" });
    assertDetail(error, "/timestamp", "type");
  }));

test("a payload that is not an object is invalid, and so is a missing payload where one is required", () =>
  withClients(host.url, 1, async (client) => {
    for (const args of [[], [null], [7], ["text"], [[1]]]) {
      assertRejected(await client.ask("ping", ...args), { code: "invalid_payload", event: "ping" });
    }
  }));

test("more than one argument is invalid", () =>
  withClients(host.url, 1, async (client) => {
    assertRejected(await client.ask("ping", { timestamp: 1 }, { timestamp: 2 }), { code: "invalid_payload", event: "ping" });
    assert.deepEqual(client.heard("pong"), []);
  }));

test("a rejection does not repeat what the client sent", () =>
  withClients(host.url, 1, async (client) => {
    const { error } = await client.ask("memory_log_create", { user_id: 7, content: ["a secret"] });
    assert.doesNotMatch(JSON.stringify(error), /a secret/);
  }));

for (const [event, why] of [
  ["no_such_event", "that nobody handles"],
  ["$connect", "of the host's own names"],
  ["$disconnect", "of the host's own names"],
  ["memory_log_created", "that is only emitted"],
  ["e".repeat(65), "with too long a name"],
  ["", "without a name"],
]) {
  test(`an event ${why} is unknown: ${JSON.stringify(event.slice(0, 20))}`, () =>
    withClients(host.url, 1, async (client) => {
      const { event: _, ...error } = assertRejectedWithCode(await client.ask(event, {}), "unknown_event");
      assert.equal(error.details, undefined);
      await client.settled();
    }));
}

test("an unknown event is named in its rejection", () =>
  withClients(host.url, 1, async (client) => {
    assertRejected(await client.ask("no_such_event"), { code: "unknown_event", event: "no_such_event" });
  }));

test("a refusal of a handler carries its reason", () =>
  withClients(host.url, 1, async (client) => {
    assertRejected(await client.ask("memory_log_delete", { id: 2 ** 52 }), {
      code: "refused",
      reason: "not_found",
      event: "memory_log_delete",
    });
  }));

test("without an ack a rejection is an `error` event, only to the sender", () =>
  withClients(host.url, 2, async (sender, other) => {
    sender.socket.emit("memory_log_create", { user_id: 7 });
    const [error, ...more] = await sender.next("error");
    assert.deepEqual(more, []);
    assertError(error, { code: "invalid_payload", event: "memory_log_create" });
    assertDetail(error, "/content", "required");
    sender.socket.emit("no_such_event");
    assertError((await sender.next("error"))[0], { code: "unknown_event", event: "no_such_event" });
    await sender.settled();
    await other.settled();
    assert.deepEqual([sender.heard("error").length, other.heard("error").length], [2, 0]);
  }));

test("with an ack a rejection is not an `error` event", () =>
  withClients(host.url, 1, async (client) => {
    await client.ask("no_such_event");
    await client.settled();
    assert.deepEqual(client.heard("error"), []);
  }));

test("without an ack success is silent", () =>
  withClients(host.url, 1, async (client) => {
    await client.next("connected");
    client.socket.emit("subscribe_event", { event_type: "mental_notes" });
    client.socket.emit("memory_log_create", { user_id: 7, content: "silent" });
    await client.settled();
    assert.deepEqual(
      client.events().filter((event) => event !== "pong"),
      ["connected"],
    );
  }));

for (const [what, ...args] of [
  ["a message of 200 KiB", { timestamp: 1, padding: "x".repeat(200 * KIB) }],
  ["JSON nested 100 deep", { timestamp: 1, deep: JSON.parse("[".repeat(100) + "]".repeat(100)) }],
  ["five attachments", { timestamp: 1, attachments: Array.from({ length: 5 }, () => Buffer.from("x")) }],
]) {
  test(`${what} is too large, and the connection continues`, () =>
    withClients(host.url, 1, async (client) => {
      const before = client.socket.id;
      assertRejected(await client.ask("ping", ...args), { code: "too_large", event: "ping" });
      assert.equal((await client.ask("ping", { timestamp: 2 })).timestamp, 2);
      assert.equal(client.socket.id, before);
      assert.equal(client.heard("connected").length, 1);
    }));
}

test("a message just under the limit is not too large", () =>
  withClients(host.url, 1, async (client) => {
    assert.equal((await client.ask("ping", { timestamp: 3, padding: "x".repeat(120 * KIB) })).timestamp, 3);
  }));

test("rejected events in between do not change the order or the number of the answers", () =>
  withClients(host.url, 1, async (client) => {
    const answers = [];
    const wanted = Array.from({ length: 60 }, (_, i) => i);
    await Promise.all(
      wanted.map(async (i) => {
        const reply = await (i % 3 === 0 ? client.ask("no_such_event", i) : client.ask("ping", { timestamp: i }));
        answers.push([i, reply.error?.code ?? reply.timestamp]);
      }),
    );
    assert.deepEqual(
      answers,
      wanted.map((i) => [i, i % 3 === 0 ? "unknown_event" : i]),
    );
  }));

/** Like `assertRejected`, for names that a rejection need not repeat. */
function assertRejectedWithCode(reply, code) {
  assert.ok(reply?.error, `expected an error, got ${JSON.stringify(reply)}`);
  return assertRejected(reply, { code, event: reply.error.event });
}
