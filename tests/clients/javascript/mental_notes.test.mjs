// Plugin `mental_notes`: like memory logs, with fields that may be absent and may be cleared.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { TIME, assertDetail, assertRejected, withClients } from "./client.mjs";
import { startHost } from "./host.mjs";

let host;
before(async () => (host = await startHost()));
after(() => host?.stop());

/** An optional field without a value may be absent, `null` or (tags) empty. */
const isEmpty = (value) => value === undefined || value === null || (Array.isArray(value) && value.length === 0);

test("a note needs no title and no tags", () =>
  withClients(host.url, 1, async (client) => {
    const { id, created_at, title, tags, ...rest } = await client.ask("mental_note_create", { user_id: 7, content: "bare" });
    assert.deepEqual(rest, { user_id: 7, content: "bare" });
    assert.ok(Number.isSafeInteger(id) && id > 0, `id ${id}`);
    assert.match(created_at, TIME);
    assert.ok(isEmpty(title) && isEmpty(tags));
  }));

test("a note keeps its title and its tags", () =>
  withClients(host.url, 1, async (client) => {
    const wanted = { user_id: "ada", title: "T", content: "full", tags: ["a", "b"] };
    const { id, created_at, ...rest } = await client.ask("mental_note_create", wanted);
    assert.deepEqual(rest, wanted);
    assert.ok(id > 0 && TIME.test(created_at));
  }));

test("every subscriber receives a change once, including its sender, and no other client does", () =>
  withClients(host.url, 3, async (sender, subscriber, outsider) => {
    for (const client of [sender, subscriber]) await client.ask("subscribe_event", { event_type: "mental_notes" });
    const created = await sender.ask("mental_note_create", { user_id: 7, content: "first", tags: ["t"] });
    const updated = await sender.ask("mental_note_update", { id: created.id, content: "second" });
    const deleted = await sender.ask("mental_note_delete", { id: created.id });
    assert.deepEqual(deleted, { id: created.id });
    for (const client of [sender, subscriber]) {
      await client.settled();
      assert.deepEqual(client.heard("mental_note_created"), [[created]]);
      assert.deepEqual(client.heard("mental_note_updated"), [[updated]]);
      assert.deepEqual(client.heard("mental_note_deleted"), [[deleted]]);
    }
    await outsider.settled();
    assert.deepEqual(
      outsider.events().filter((event) => event.startsWith("mental_note")),
      [],
    );
  }));

test("a field that an update does not name stays as it is", () =>
  withClients(host.url, 1, async (client) => {
    const created = await client.ask("mental_note_create", { user_id: 7, title: "old", content: "text", tags: ["a"] });
    const { updated_at, ...rest } = await client.ask("mental_note_update", { id: created.id, title: "new" });
    assert.match(updated_at, TIME);
    assert.deepEqual(rest, { ...created, title: "new" });
  }));

test("null clears a title and tags, and nothing else", () =>
  withClients(host.url, 1, async (client) => {
    const created = await client.ask("mental_note_create", { user_id: 7, title: "T", content: "text", tags: ["a"] });
    const untitled = await client.ask("mental_note_update", { id: created.id, title: null });
    assert.ok(isEmpty(untitled.title), JSON.stringify(untitled));
    assert.deepEqual([untitled.content, untitled.tags], ["text", ["a"]]);
    const untagged = await client.ask("mental_note_update", { id: created.id, tags: null });
    assert.ok(isEmpty(untagged.title) && isEmpty(untagged.tags), JSON.stringify(untagged));
    assert.equal(untagged.content, "text");
  }));

test("a note that does not exist is refused as not found", () =>
  withClients(host.url, 1, async (client) => {
    for (const [event, data] of [
      ["mental_note_update", { id: 2 ** 52, content: "x" }],
      ["mental_note_delete", { id: 2 ** 52 }],
    ]) {
      assertRejected(await client.ask(event, data), { code: "refused", reason: "not_found", event });
    }
  }));

test("a list is newest first and is read page by page", () =>
  withClients(host.url, 1, async (client) => {
    const created = [];
    for (const content of ["1", "2", "3"]) created.unshift(await client.ask("mental_note_create", { user_id: "pages", content }));
    const first = await client.ask("mental_note_list", { user_id: "pages", limit: 2 });
    assert.deepEqual(first.items, created.slice(0, 2));
    const second = await client.ask("mental_note_list", { user_id: "pages", limit: 2, before: first.next });
    assert.deepEqual(second, { items: created.slice(2), next: null });
  }));

test("title, content and tags have their bounds", () =>
  withClients(host.url, 1, async (client) => {
    const note = { user_id: 7, content: "x" };
    const most = { ...note, title: "t".repeat(200), tags: Array.from({ length: 20 }, (_, i) => `${i}`) };
    const stored = await client.ask("mental_note_create", most);
    assert.deepEqual([stored.title, stored.tags], [most.title, most.tags]);
    for (const [change, path, rule] of [
      [{ title: "t".repeat(201) }, "/title", "maxLength"],
      [{ content: "" }, "/content", "minLength"],
      [{ content: "c".repeat(10_001) }, "/content", "maxLength"],
      [{ tags: Array.from({ length: 21 }, (_, i) => `${i}`) }, "/tags", "maxItems"],
    ]) {
      const reply = await client.ask("mental_note_create", { ...note, ...change });
      const error = assertRejected(reply, { code: "invalid_payload", event: "mental_note_create" });
      // An optional field's schema may wrap its bounds ("this, or null"). The path is the same.
      if (path === "/content") assertDetail(error, path, rule);
      else assert.ok(error.details.some((detail) => detail.path === path), JSON.stringify(error.details));
    }
  }));
