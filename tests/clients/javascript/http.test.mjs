// The HTTP interface for operators and business systems.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { ULID, assertDetail, assertProblem, withClients } from "./client.mjs";
import { startHost } from "./host.mjs";

let host;
before(async () => (host = await startHost()));
after(() => host?.stop());

const RECORD = { id: 1, user_id: 7, content: "from outside", created_at: "2026-01-31T09:30:00.000Z" };

const get = (path, key) => fetch(host.url + path, { headers: key ? { authorization: `Bearer ${key}` } : {} });

/** `POST /api/emit` with the host's own key. `body` may be text, to send invalid JSON. */
const emit = (body, key = host.key) =>
  fetch(`${host.url}/api/emit`, {
    method: "POST",
    headers: { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) },
    body: typeof body === "string" ? body : JSON.stringify(body),
  });

test("anyone can ask whether a host is alive and ready", async () => {
  assert.equal((await get("/healthz")).status, 200);
  assert.equal((await get("/readyz")).status, 200);
});

test("the contract lists every bundled event with its direction, its owner and its schemas", async () => {
  const response = await get("/api/events");
  assert.equal(response.status, 200);
  assert.match(response.headers.get("content-type") ?? "", /^application\/json\b/);
  const { events, rooms } = await response.json();

  const records = (plugin, noun) => [
    ...["create", "get", "update", "delete", "list"].map((verb) => ["in", `${noun}_${verb}`, plugin]),
    ...["created", "updated", "deleted"].map((verb) => ["out", `${noun}_${verb}`, plugin]),
  ];
  const expected = [
    ["out", "connected", "connection"],
    ["in", "ping", "connection"],
    ["out", "pong", "connection"],
    ["in", "subscribe_event", "subscription"],
    ["in", "unsubscribe_event", "subscription"],
    ...records("memory_logs", "memory_log"),
    ...records("mental_notes", "mental_note"),
  ];
  assert.deepEqual(events.map((entry) => [entry.direction, entry.event, entry.plugin].join(" ")).sort(), expected.map((e) => e.join(" ")).sort());
  for (const entry of events) {
    assert.equal(typeof entry.data, "object", `${entry.event} has a schema`);
    if (entry.direction === "in") assert.equal(typeof entry.reply, "object", `${entry.event} has a schema of its reply`);
  }
  const find = (event) => events.find((entry) => entry.event === event);
  assert.deepEqual(find("memory_log_create").data.required.sort(), ["content", "user_id"]);
  assert.deepEqual(find("memory_log_created").rooms.sort(), ["memory_logs", "user_{user_id}"]);

  assert.deepEqual(
    rooms.map(({ room, access, plugin }) => [room, access, plugin].join(" ")).sort(),
    ["admin role:admin subscription", "memory_logs anyone memory_logs", "mental_notes anyone mental_notes", "user_{user} owner subscription"],
  );
});

test("an operator sees the four active plugins", async () => {
  const response = await get("/api/plugins", host.key);
  assert.equal(response.status, 200);
  const plugins = await response.json();
  assert.deepEqual(
    plugins.map(({ name, state, last_error }) => [name, state, last_error]).sort(),
    ["connection", "memory_logs", "mental_notes", "subscription"].map((name) => [name, "active", null]),
  );
  for (const plugin of plugins) {
    assert.match(plugin.version, /^\d+\.\d+\.\d+/);
    assert.match(plugin.digest, /[0-9a-f]{64}$/);
    assert.ok(plugin.events.length > 0 && Number.isInteger(plugin.generation) && Number.isInteger(plugin.calls));
  }
});

test("without a valid key, the plugins are not listed", async () => {
  await assertProblem(await get("/api/plugins"), 401, "unauthorized");
  await assertProblem(await get("/api/plugins", "wrong"), 401, "unauthorized");
});

test("an event emitted over HTTP reaches only the subscribers of its room", () =>
  withClients(host.url, 2, async (subscriber, outsider) => {
    await subscriber.ask("subscribe_event", { event_type: "memory_logs" });
    const response = await emit({ event: "memory_log_created", data: RECORD, room: "memory_logs" });
    assert.equal(response.status, 202);
    const { id, ...rest } = await response.json();
    assert.match(id, ULID);
    assert.deepEqual(rest, { rooms: ["memory_logs"], receivers: 1 });
    assert.deepEqual(await subscriber.next("memory_log_created"), [RECORD]);
    await outsider.settled();
    assert.deepEqual(outsider.heard("memory_log_created"), []);
  }));

test("without a room an event goes to the targets of its declaration, to each receiver once", () =>
  withClients(host.url, 1, async (subscriber) => {
    await subscriber.ask("subscribe_event", { event_type: "memory_logs" });
    const response = await emit({ event: "memory_log_created", data: RECORD });
    assert.equal(response.status, 202);
    const { rooms, receivers } = await response.json();
    assert.deepEqual([rooms.sort(), receivers], [["memory_logs", "user_7"], 1]);
    await subscriber.settled();
    assert.deepEqual(subscriber.heard("memory_log_created"), [[RECORD]]);
  }));

test("several rooms count each receiver once", () =>
  withClients(host.url, 1, async (subscriber) => {
    await subscriber.ask("subscribe_event", { event_type: "memory_logs" });
    const response = await emit({ event: "memory_log_created", data: RECORD, rooms: ["user_7", "memory_logs"] });
    assert.equal(response.status, 202);
    assert.equal((await response.json()).receivers, 1);
    await subscriber.settled();
    assert.equal(subscriber.heard("memory_log_created").length, 1);
  }));

test("an empty room is not an error", async () => {
  const response = await emit({ event: "mental_note_deleted", data: { id: 1 }, room: "mental_notes" });
  assert.equal(response.status, 202);
  assert.equal((await response.json()).receivers, 0);
});

test("an emit without a key is refused", async () => {
  const body = { event: "memory_log_created", data: RECORD, room: "memory_logs" };
  await assertProblem(await emit(body, null), 401, "unauthorized");
  await assertProblem(await emit(body, "wrong"), 401, "unauthorized");
});

test("an event that no plugin declares is not found", async () => {
  const problem = await assertProblem(await emit({ event: "no_such_event", data: {}, room: "memory_logs" }), 404, "unknown_event");
  assert.equal(problem.event, "no_such_event");
});

test("data that violates the schema is refused with details, and reaches no client", () =>
  withClients(host.url, 1, async (subscriber) => {
    await subscriber.ask("subscribe_event", { event_type: "memory_logs" });
    const { content: _, ...data } = RECORD;
    const problem = await assertProblem(await emit({ event: "memory_log_created", data, room: "memory_logs" }), 422, "invalid_payload");
    assertDetail(problem, "/content", "required");
    await subscriber.settled();
    assert.deepEqual(subscriber.heard("memory_log_created"), []);
  }));

test("an event without declared targets needs a room", async () => {
  const data = { timestamp: 1, server_time: "2026-01-31T09:30:00.000Z" };
  await assertProblem(await emit({ event: "pong", data }), 422, "invalid_payload");
});

test("a body that is not JSON is a bad request", async () => {
  await assertProblem(await emit("{"), 400, "invalid_payload");
});

test("a body over the limit is too large", async () => {
  // Above the limit of a message, and small enough that it is sent before the answer arrives.
  const data = { ...RECORD, padding: "x".repeat(150 * 1024) };
  await assertProblem(await emit({ event: "memory_log_created", data, room: "memory_logs" }), 413, "too_large");
});
