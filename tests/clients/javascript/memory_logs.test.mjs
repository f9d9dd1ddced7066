// Plugin `memory_logs`: every subscriber receives each change of a record once and in order.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { TIME, assertDetail, assertRejected, withClients } from "./client.mjs";
import { startHost } from "./host.mjs";

let host;
before(async () => (host = await startHost()));
after(() => host?.stop());

const subscribe = (client) => client.ask("subscribe_event", { event_type: "memory_logs" });

test("a created record is the reply, with an id and a time, and no `updated_at` yet", () =>
  withClients(host.url, 1, async (client) => {
    const record = await client.ask("memory_log_create", { user_id: 7, content: "hello" });
    const { id, created_at, ...rest } = record;
    assert.deepEqual(rest, { user_id: 7, content: "hello" });
    assert.ok(Number.isSafeInteger(id) && id > 0, `id ${id}`);
    assert.match(created_at, TIME);
  }));

test("a user's id may be text and is not changed", () =>
  withClients(host.url, 1, async (client) => {
    for (const user_id of ["7", "ada", 7]) {
      assert.strictEqual((await client.ask("memory_log_create", { user_id, content: "x" })).user_id, user_id);
    }
  }));

test("every subscriber receives a change once, including its sender, and no other client does", () =>
  withClients(host.url, 3, async (sender, subscriber, outsider) => {
    await subscribe(sender);
    await subscribe(subscriber);
    const created = await sender.ask("memory_log_create", { user_id: 7, content: "first" });
    const updated = await sender.ask("memory_log_update", { id: created.id, content: "second" });
    const deleted = await sender.ask("memory_log_delete", { id: created.id });
    for (const client of [sender, subscriber]) {
      await client.settled();
      assert.deepEqual(client.heard("memory_log_created"), [[created]]);
      assert.deepEqual(client.heard("memory_log_updated"), [[updated]]);
      assert.deepEqual(client.heard("memory_log_deleted"), [[deleted]]);
    }
    await outsider.settled();
    assert.deepEqual(
      outsider.events().filter((event) => event.startsWith("memory_log")),
      [],
    );
  }));

test("a sender that is not subscribed does not receive its own change", () =>
  withClients(host.url, 1, async (sender) => {
    await sender.ask("memory_log_create", { user_id: 7, content: "quiet" });
    await sender.settled();
    assert.deepEqual(sender.heard("memory_log_created"), []);
  }));

test("an update changes the content, adds `updated_at` and leaves the rest", () =>
  withClients(host.url, 1, async (client) => {
    const created = await client.ask("memory_log_create", { user_id: "ada", content: "old" });
    const { updated_at, ...rest } = await client.ask("memory_log_update", { id: created.id, content: "new" });
    assert.match(updated_at, TIME);
    assert.ok(updated_at >= created.created_at, `${updated_at} before ${created.created_at}`);
    assert.deepEqual(rest, { ...created, content: "new" });
    const { items } = await client.ask("memory_log_list", { user_id: "ada" });
    assert.deepEqual(
      items.find((item) => item.id === created.id),
      { ...rest, updated_at },
    );
  }));

test("a deleted record does not exist any more", () =>
  withClients(host.url, 1, async (client) => {
    const { id } = await client.ask("memory_log_create", { user_id: "gone", content: "x" });
    assert.deepEqual(await client.ask("memory_log_delete", { id }), { id });
    assert.deepEqual(await client.ask("memory_log_list", { user_id: "gone" }), { items: [], next: null });
    assertRejected(await client.ask("memory_log_update", { id, content: "y" }), {
      code: "refused",
      reason: "not_found",
      event: "memory_log_update",
    });
    assertRejected(await client.ask("memory_log_delete", { id }), { code: "refused", reason: "not_found", event: "memory_log_delete" });
  }));

test("ids grow and are never used again", () =>
  withClients(host.url, 1, async (client) => {
    const first = await client.ask("memory_log_create", { user_id: 7, content: "a" });
    await client.ask("memory_log_delete", { id: first.id });
    const second = await client.ask("memory_log_create", { user_id: 7, content: "b" });
    assert.ok(second.id > first.id, `${second.id} after ${first.id}`);
  }));

test("a list is newest first and is read page by page", () =>
  withClients(host.url, 1, async (client) => {
    const created = [];
    for (const content of ["1", "2", "3", "4", "5"]) created.unshift(await client.ask("memory_log_create", { user_id: "pages", content }));
    await client.ask("memory_log_create", { user_id: "somebody else", content: "6" });

    const pages = [];
    for (let before; before !== null; ) {
      const page = await client.ask("memory_log_list", { user_id: "pages", limit: 2, ...(before === undefined ? {} : { before }) });
      pages.push(page.items);
      before = page.next;
    }
    assert.deepEqual(pages, [created.slice(0, 2), created.slice(2, 4), created.slice(4)]);
  }));

test("a list without a user has the records of all users, 20 at a time", () =>
  withClients(host.url, 1, async (client) => {
    const created = [];
    for (let i = 0; i < 21; i += 1) created.unshift(await client.ask("memory_log_create", { user_id: i, content: "x" }));
    const { items, next } = await client.ask("memory_log_list", {});
    assert.deepEqual(items, created.slice(0, 20));
    assert.ok(Number.isSafeInteger(next));
    const everything = await client.ask("memory_log_list", { limit: 100 });
    assert.deepEqual(everything.items.slice(0, 21), created);
  }));

test("the limit of a list is 1 to 100", () =>
  withClients(host.url, 1, async (client) => {
    for (const [limit, rule] of [
      [0, "minimum"],
      [101, "maximum"],
    ]) {
      const reply = await client.ask("memory_log_list", { limit });
      assertDetail(assertRejected(reply, { code: "invalid_payload", event: "memory_log_list" }), "/limit", rule);
    }
  }));

test("content is 1 to 10,000 characters, whatever their size in bytes", () =>
  withClients(host.url, 1, async (client) => {
    const create = (content) => client.ask("memory_log_create", { user_id: 7, content });
    for (const content of ["x", "é".repeat(10_000)]) assert.equal((await create(content)).content, content);
    for (const [content, rule] of [
      ["", "minLength"],
      ["é".repeat(10_001), "maxLength"],
    ]) {
      assertDetail(assertRejected(await create(content), { code: "invalid_payload", event: "memory_log_create" }), "/content", rule);
    }
  }));

test("unknown fields are ignored", () =>
  withClients(host.url, 1, async (client) => {
    const record = await client.ask("memory_log_create", { user_id: 7, content: "x", colour: "red", id: 1, created_at: "then" });
    assert.deepEqual(Object.keys(record).sort(), ["content", "created_at", "id", "user_id"]);
    assert.match(record.created_at, TIME);
  }));

test("a rejected change is not stored, and no client receives it", () =>
  withClients(host.url, 2, async (sender, subscriber) => {
    await subscribe(subscriber);
    await sender.ask("memory_log_create", { user_id: "rejected", content: "" });
    await sender.ask("memory_log_update", { id: 2 ** 52, content: "x" });
    assert.deepEqual(await sender.ask("memory_log_list", { user_id: "rejected" }), { items: [], next: null });
    await subscriber.settled();
    assert.deepEqual(
      subscriber.events().filter((event) => event.startsWith("memory_log")),
      [],
    );
  }));

test("changes reach a subscriber in the order in which they were made", () =>
  withClients(host.url, 3, async (one, two, subscriber) => {
    await subscribe(subscriber);
    const { id } = await one.ask("memory_log_create", { user_id: 7, content: "0" });
    const updates = [];
    for (let i = 0; i < 20; i += 1) {
      updates.push(one.ask("memory_log_update", { id, content: `one ${i}` }), two.ask("memory_log_update", { id, content: `two ${i}` }));
    }
    const replies = await Promise.all(updates);
    await subscriber.settled();
    const heard = subscriber.heard("memory_log_updated").map(([record]) => record.content);
    assert.deepEqual([...heard].sort(), replies.map((record) => record.content).sort());
    for (const sender of ["one", "two"]) {
      assert.deepEqual(
        heard.filter((content) => content.startsWith(sender)),
        Array.from({ length: 20 }, (_, i) => `${sender} ${i}`),
      );
    }
    // The last received change equals the stored record.
    const { items } = await one.ask("memory_log_list", { limit: 100 });
    assert.equal(items.find((item) => item.id === id).content, heard.at(-1));
  }));

test("records and ids survive a restart of the host", async () => {
  const [kept, last] = await withClients(host.url, 1, async (client) => [
    await client.ask("memory_log_create", { user_id: "restart", content: "kept" }),
    await client.ask("memory_log_create", { user_id: "restart", content: "deleted" }).then(async (record) => {
      await client.ask("memory_log_delete", { id: record.id });
      return record.id;
    }),
  ]);
  await host.restart();
  await withClients(host.url, 1, async (client) => {
    assert.deepEqual(await client.ask("memory_log_list", { user_id: "restart" }), { items: [kept], next: null });
    const record = await client.ask("memory_log_create", { user_id: "restart", content: "new" });
    assert.ok(record.id > last, `${record.id} after ${last}`);
  });
});
