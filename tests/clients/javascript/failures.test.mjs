// The event of a handler that fails is answered and has no effects. The next event and other
// plugins are not affected.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { assertRejected, withClients } from "./client.mjs";
import { startHost } from "./host.mjs";

// All these failures belong to one address and one plugin. Other tests check the breaker.
const NO_BREAKER = { SOCKHOP_LIMITS__BREAKER_FAILURES: "1000000", SOCKHOP_LIMITS__BREAKER_CALLS: "1000000" };

let host;
before(async () => (host = await startHost({ guests: ["lab", "newcomer"], settings: NO_BREAKER })));
after(() => host?.stop());

for (const [event, what, expected] of [
  ["trap", "traps", { code: "plugin_failed" }],
  ["exit", "exits the process", { code: "plugin_failed" }],
  ["grow", "takes memory without end", { code: "plugin_failed" }],
  ["bad_reply", "replies against its schema", { code: "plugin_failed" }],
  ["spin", "never ends", { code: "timed_out" }],
  ["flood", "emits without end", { code: "too_large" }],
  ["refuse", "says no after it has emitted, joined and stored", { code: "refused", reason: "because" }],
]) {
  test(`the event of a handler that ${what} is answered ${expected.code} and has no effects`, () =>
    withClients(host.url, 2, async (client, watcher) => {
      await watcher.ask("enter", null);
      // A client of the previous test may not have left yet.
      while ((await watcher.ask("traces", null)).in_lab !== 1) await client.settled();
      assertRejected(await client.ask(event, null), { ...expected, event });
      // The same plugin, then another one.
      assert.deepEqual(await client.ask("traces", null), { stored: false, rooms: [], in_lab: 1 });
      await client.settled();
      await watcher.settled();
      assert.deepEqual([client.heard("noise"), watcher.heard("noise")], [[], []]);
    }));
}

test("an event whose handler limits the rate is answered rate_limited, with the time to retry", () =>
  withClients(host.url, 1, async (client) => {
    const { error } = await client.ask("hurry", null);
    assert.equal(error.code, "rate_limited");
    assert.ok(error.retry_after_ms > 0);
  }));

test("bytes reach a handler and come back unchanged", () =>
  withClients(host.url, 1, async (client) => {
    const bytes = Buffer.from([0, 1, 254, 255]);
    // The host parses a document with attachments and writes it again. Rounding would change
    // `weight`, which is a double.
    const weight = 9171.069142857143;
    assert.equal(await client.ask("parcel", { bytes, weight }), 4);
    const [parcel] = await client.next("parcel");
    assert.deepEqual(Buffer.from(parcel.bytes), bytes);
    assert.equal(parcel.weight, weight);
  }));

for (const event of ["for_users", "for_admins"]) {
  test(`an anonymous client that sends ${event} is answered unauthorized`, () =>
    withClients(host.url, 1, async (client) => {
      assertRejected(await client.ask(event, null), { code: "unauthorized", event });
    }));
}

test("more events than a mailbox holds are each answered, some with busy and the time to retry", () =>
  withClients(host.url, 1, async (client) => {
    const sleeping = client.ask("sleep", 300);
    const replies = await Promise.all(Array.from({ length: 5_000 }, (_, number) => client.ask("echo", number)));
    assert.equal(await sleeping, null);
    const busy = replies.filter((reply) => reply?.error);
    assert.ok(busy.length > 0 && busy.length < replies.length, `${busy.length} of ${replies.length} were busy`);
    for (const { error } of busy) {
      assert.equal(error.code, "busy");
      assert.ok(error.retry_after_ms > 0);
    }
    assert.ok(replies.every((reply, number) => reply?.error || reply === number));
  }));

test("a new plugin adds a room and an event, without any other change", () =>
  withClients(host.url, 2, async (subscriber, client) => {
    const subscribed = { status: "subscribed", event_type: "newcomers", room: "newcomers" };
    assert.deepEqual(await subscriber.ask("subscribe_event", { event_type: "newcomers" }), subscribed);
    assert.equal(await client.ask("tell", "hello"), null);
    assert.deepEqual(await subscriber.next("news"), ["hello"]);
  }));
