// Rooms and ownership: what a user, an admin and a client without a token may join, see and change,
// by event and by HTTP. Each table has one column for each of CALLERS.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { io } from "socket.io-client";

import { assertProblem, assertRejected, connect, refusal, withClients } from "./client.mjs";
import { startHost } from "./host.mjs";
import { WITH_TOKENS, token } from "./tokens.mjs";

/** The callers, in the order of the columns. */
const CALLERS = [
  { name: "user 7", user: "7", token: token("7", 600) },
  { name: "user 8", user: "8", token: token("8", 600) },
  { name: "an admin", user: "1", token: token("1", 600, ["admin"]) },
  { name: "nobody", user: null, token: undefined },
];

const DONE = "done";
const FORBIDDEN = { code: "forbidden" };
const NOT_FOUND = { code: "refused", reason: "not_found" };
const UNKNOWN = { code: "refused", reason: "unknown_event_type" };

/** What comes of a subscription: the room that the caller is in then, or an error. */
const SUBSCRIPTIONS = {
  // event_type: user 7, user 8, an admin, nobody
  memory_logs: ["memory_logs", "memory_logs", "memory_logs", "memory_logs"],
  mental_notes: ["mental_notes", "mental_notes", "mental_notes", "mental_notes"],
  admin: [FORBIDDEN, FORBIDDEN, "admin", FORBIDDEN],
  user: ["user_7", "user_8", "user_1", FORBIDDEN],
  user_7: ["user_7", FORBIDDEN, FORBIDDEN, FORBIDDEN],
  user_8: [FORBIDDEN, "user_8", FORBIDDEN, FORBIDDEN],
  weather: [UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN],
};

/**
 * What comes of each operation on a record with this `user_id`. Ownership limits users: a client
 * without a token is none, so a host that lets it in lets it see and change all records.
 */
const OWNERSHIP = [
  // user_id, user 7, user 8, an admin, nobody
  [7, DONE, FORBIDDEN, DONE, DONE],
  ["7", DONE, FORBIDDEN, DONE, DONE],
  ["07", FORBIDDEN, FORBIDDEN, DONE, DONE],
  [8, FORBIDDEN, DONE, DONE, DONE],
  ["1", FORBIDDEN, FORBIDDEN, DONE, DONE],
];

/** The owners of the records that a list without `user_id` has, newest first. */
const LISTED = [
  ["7", 7], // user 7
  ["8", 8], // user 8
  ["8", "7", 8, 7], // an admin
  ["8", "7", 8, 7], // nobody
];

const OPERATIONS = ["create", "get", "update", "delete", "list"];

const PLUGINS = [
  { noun: "memory_log", room: "memory_logs", path: "/memory-logs" },
  { noun: "mental_note", room: "mental_notes", path: "/mental-notes" },
];

/** The request of each operation: method, what follows the path of the plugin, and body. */
const REQUESTS = {
  create: (data) => ["POST", "", data],
  get: ({ id }) => ["GET", `/${id}`],
  update: ({ id, ...changes }) => ["PATCH", `/${id}`, changes],
  delete: ({ id }) => ["DELETE", `/${id}`],
  list: (query) => ["GET", `?${new URLSearchParams(query)}`],
};

/**
 * The ways to ask for an operation. Each asserts that its outcome is `expected`, and returns the
 * reply, or undefined after a refusal.
 */
const WAYS = {
  async event({ noun }, caller, operation, data, expected) {
    const event = `${noun}_${operation}`;
    const reply = await caller.client.ask(event, data);
    if (expected !== DONE) return void assertRejected(reply, { ...expected, event });
    assert.equal(reply.error, undefined, JSON.stringify(reply));
    return reply;
  },
  async route({ path }, caller, operation, data, expected) {
    const [method, rest, body] = REQUESTS[operation](data);
    const response = await send(method, path + rest, caller.token, body);
    if (expected !== DONE) {
      const status = expected === FORBIDDEN ? 403 : 404;
      const problem = await assertProblem(response, status, expected.code);
      return void assert.equal(problem.reason, expected.reason);
    }
    const reply = await response.json();
    assert.equal(response.status, operation === "create" ? 201 : 200, JSON.stringify(reply));
    const location = operation === "create" ? `${path}/${reply.id}` : null;
    assert.equal(response.headers.get("location"), location);
    return reply;
  },
};

/** An event that the business system of this test may emit to each room. */
const MARKER = "memory_log_deleted";
const ROOMS = ["admin", "memory_logs", "mental_notes", "user_1", "user_2", "user_7", "user_8"];

let host;
before(async () => {
  const settings = { ...WITH_TOKENS, SOCKHOP_AUTH__ANONYMOUS: "true" };
  const configuration = `[[events]]\nevent = "${MARKER}"\nrooms = ["admin", "mental_notes"]\n`;
  host = await startHost({ settings, configuration });
});
after(() => host?.stop());

for (const [event_type, outcomes] of Object.entries(SUBSCRIPTIONS)) {
  test(`subscribing to ${event_type} and leaving it, twice each, as every caller`, async () => {
    for (const [column, { name, user, token }] of CALLERS.entries()) {
      const outcome = outcomes[column];
      const isRefused = typeof outcome !== "string";
      const room = isRefused ? event_type : outcome;
      // Leaving a room needs no right. But nobody has no room that `user` could mean.
      const mayLeave = event_type !== "user" || user !== null;
      const own = user === null ? [] : [`user_${user}`];

      const check = async (client) => {
        assert.deepEqual(await roomsOf(client), own, "before subscribe_event");
        for (let i = 0; i < 2; i += 1) {
          const reply = await client.ask("subscribe_event", { event_type });
          if (isRefused) assertRejected(reply, { ...outcome, event: "subscribe_event" });
          else assert.deepEqual(reply, { status: "subscribed", event_type, room });
          // In the order of ROOMS.
          const joined = isRefused || own.includes(room) ? own : [room, ...own];
          assert.deepEqual(await roomsOf(client), joined, "after subscribe_event");
        }
        for (let i = 0; i < 2; i += 1) {
          const reply = await client.ask("unsubscribe_event", { event_type });
          if (mayLeave) assert.deepEqual(reply, { status: "unsubscribed", event_type, room });
          else assertRejected(reply, { ...FORBIDDEN, event: "unsubscribe_event" });
          const left = own.includes(room) ? [] : own;
          assert.deepEqual(await roomsOf(client), left, "after unsubscribe_event");
        }
      };
      await cell(name, () => withClients(host.url, 1, check, { auth: { token } }));
    }
  });
}

for (const plugin of PLUGINS) {
  const { noun, room } = plugin;

  for (const [way, ask] of Object.entries(WAYS)) {
    for (const [user_id, ...outcomes] of OWNERSHIP) {
      const owner = JSON.stringify(user_id);

      test(`a ${noun} with the user_id ${owner}, by ${way}, as every caller`, () =>
        withCallers(async (callers, add) => {
          const [, , admin] = callers;
          // It is in two of the rooms of the records of user 7, and receives each event once.
          const everything = await add(CALLERS[0]);
          await everything.client.ask("subscribe_event", { event_type: room });

          for (const operation of OPERATIONS) {
            for (const [column, expected] of outcomes.entries()) {
              const caller = callers[column];
              await cell(`${operation} as ${caller.name}`, async () => {
                const record = await create(plugin, admin, user_id, "before");
                const data = {
                  create: { user_id, content: "after" },
                  get: { id: record.id },
                  update: { id: record.id, content: "after" },
                  delete: { id: record.id },
                  list: { user_id },
                }[operation];
                const reply = await ask(plugin, caller, operation, data, expected);

                const { emitted, stored } = effects(noun, operation, record, reply);
                const { items } = await admin.client.ask(`${noun}_list`, { user_id });
                assert.deepEqual(since(record, items), stored, "what is stored");
                const news = [[`${noun}_created`, record], ...emitted];
                assert.deepEqual(await everything.news(), news, `what arrives in ${room}`);
                for (const { name, user, news: arrived } of callers) {
                  const own = user === `${user_id}` ? news : [];
                  assert.deepEqual(await arrived(), own, `what reaches ${name}`);
                }
              });
            }
          }
        }));
    }

    test(`a list of each ${noun}, by ${way}, has the records that the caller may see`, () =>
      withCallers(async (callers) => {
        const [, , admin] = callers;
        const made = [];
        for (const user_id of [7, 8, "7", "8"]) {
          made.unshift(await create(plugin, admin, user_id, "x"));
        }
        for (const [column, owners] of LISTED.entries()) {
          const { items } = await ask(plugin, callers[column], "list", {}, DONE);
          const visible = made.filter(({ user_id }) => owners.includes(user_id));
          assert.deepEqual(since(made.at(-1), items), visible, callers[column].name);
          assert.deepEqual(visible.map(({ user_id }) => user_id), owners);
        }
      }));

    test(`a ${noun} that does not exist is not found, by ${way}, whoever asks`, () =>
      withCallers(async (callers) => {
        const [, , admin] = callers;
        const { id: deleted } = await create(plugin, admin, 7, "x");
        await WAYS.event(plugin, admin, "delete", { id: deleted }, DONE);
        for (const { news } of callers) await news();
        for (const id of [deleted, 0, 2 ** 52]) {
          for (const caller of callers) {
            await cell(`${id} as ${caller.name}`, async () => {
              await ask(plugin, caller, "get", { id }, NOT_FOUND);
              await ask(plugin, caller, "update", { id, content: "x" }, NOT_FOUND);
              await ask(plugin, caller, "delete", { id }, NOT_FOUND);
            });
          }
        }
        for (const { news } of callers) assert.deepEqual(await news(), []);
      }));
  }
}

test("each connection of a user receives its records, and once with several subscriptions", () =>
  withCallers(async ([plain, , admin], add) => {
    const subscribed = await add(CALLERS[0]);
    for (const event_type of ["user", "user_7", "memory_logs", "memory_logs", "mental_notes"]) {
      await subscribed.client.ask("subscribe_event", { event_type });
    }
    const expected = [];
    for (const plugin of PLUGINS) {
      const created = await create(plugin, admin, 7, "a");
      const { id } = created;
      const updated = await WAYS.event(plugin, admin, "update", { id, content: "b" }, DONE);
      const deleted = await WAYS.event(plugin, admin, "delete", { id }, DONE);
      expected.push([`${plugin.noun}_created`, created]);
      expected.push([`${plugin.noun}_updated`, updated]);
      expected.push([`${plugin.noun}_deleted`, deleted]);
    }
    assert.deepEqual(await plain.news(), expected);
    assert.deepEqual(await subscribed.news(), expected);
    assert.deepEqual(await admin.news(), []);
  }));

test("an admin that gets a token without the role leaves `admin`, and is a user like others", () =>
  withCallers(async ([seven], add) => {
    const [withRole, withoutRole] = [token("2", 600, ["admin"]), token("2", 600)];
    const former = await add({ name: "a former admin", user: "2", token: withRole });
    const subscribe = (event_type) => former.client.ask("subscribe_event", { event_type });
    const rooms = ["memory_logs", "mental_notes", "user_2"];
    for (const event_type of ["admin", "memory_logs", "mental_notes"]) await subscribe(event_type);
    assert.deepEqual(await roomsOf(former.client), ["admin", ...rooms]);

    former.token = withoutRole;
    const { expires_at } = await former.client.ask("authenticate", { token: former.token });
    assert.ok(expires_at > Date.now() / 1000, `${expires_at}`);
    assert.deepEqual(await roomsOf(former.client), rooms);
    assertRejected(await subscribe("admin"), { ...FORBIDDEN, event: "subscribe_event" });
    for (const plugin of PLUGINS) {
      const { id } = await create(plugin, seven, 7, "x");
      for (const ask of Object.values(WAYS)) {
        await ask(plugin, former, "create", { user_id: 7, content: "x" }, FORBIDDEN);
        await ask(plugin, former, "get", { id }, FORBIDDEN);
        await ask(plugin, former, "update", { id, content: "x" }, FORBIDDEN);
        await ask(plugin, former, "delete", { id }, FORBIDDEN);
        await ask(plugin, former, "list", { user_id: 7 }, FORBIDDEN);
        assert.deepEqual((await ask(plugin, former, "list", {}, DONE)).items, []);
      }
    }

    // The role alone does not bring it back into the room.
    former.token = withRole;
    await former.client.ask("authenticate", { token: former.token });
    assert.deepEqual(await roomsOf(former.client), rooms);
    assert.equal((await subscribe("admin")).status, "subscribed");
    assert.deepEqual(await roomsOf(former.client), ["admin", ...rooms]);
    for (const plugin of PLUGINS) {
      for (const ask of Object.values(WAYS)) {
        await ask(plugin, former, "list", { user_id: 7 }, DONE);
      }
    }
  }));

test("a client with a wrong token is refused, and not taken for nobody", async () => {
  for (const wrong of [token("7", -60), `${token("7", 600)}x`, "x"]) {
    const socket = io(host.url, { forceNew: true, auth: { token: wrong } });
    try {
      assert.equal((await refusal(socket)).message, "unauthorized");
    } finally {
      socket.close();
    }
    for (const { path } of PLUGINS) {
      await assertProblem(await send("GET", path, wrong), 401, "unauthorized");
      const created = await send("POST", path, wrong, { user_id: 7, content: "x" });
      await assertProblem(created, 401, "unauthorized");
    }
  }
});

/** Creates a record by event, which must not be refused. */
function create(plugin, caller, user_id, content) {
  return WAYS.event(plugin, caller, "create", { user_id, content }, DONE);
}

/** The records from `first` on; `items` are newest first. */
function since(first, items) {
  return items.filter(({ id }) => id >= first.id);
}

/**
 * Asserts the `reply` to an operation on `record`, which is undefined after a refusal. Returns the
 * events that tell of the operation, and what is stored afterwards, newest first.
 */
function effects(noun, operation, record, reply) {
  if (reply === undefined) return { emitted: [], stored: [record] };
  const { id, created_at } = record;
  switch (operation) {
    case "create":
      assert.ok(reply.id > id, `${reply.id} after ${id}`);
      assert.deepEqual({ ...reply, id, created_at }, { ...record, content: "after" });
      return { emitted: [[`${noun}_created`, reply]], stored: [reply, record] };
    case "update":
      assert.deepEqual(reply, { ...record, content: "after", updated_at: reply.updated_at });
      return { emitted: [[`${noun}_updated`, reply]], stored: [reply] };
    case "delete":
      assert.deepEqual(reply, { id });
      return { emitted: [[`${noun}_deleted`, reply]], stored: [] };
    default:
      assert.deepEqual(operation === "get" ? [reply] : since(record, reply.items), [record]);
      return { emitted: [], stored: [record] };
  }
}

/**
 * Runs `test` with a connection of each of CALLERS, and with a function that adds one. `news` of a
 * connection returns the events about records that have arrived since it was last called.
 */
async function withCallers(test) {
  const clients = [];
  const add = async (caller) => {
    const client = await connect(host.url, { auth: { token: caller.token } });
    clients.push(client);
    const arrived = [];
    client.socket.onAny((event, data) => {
      if (PLUGINS.some(({ noun }) => event.startsWith(noun))) arrived.push([event, data]);
    });
    // The answer to a `ping` comes after all events that were sent before.
    const news = () => client.settled().then(() => arrived.splice(0));
    return { ...caller, client, news };
  };
  try {
    const callers = [];
    for (const caller of CALLERS) callers.push(await add(caller));
    return await test(callers, add);
  } finally {
    for (const client of clients) client.close();
  }
}

/** The rooms that `client` is in: it receives the MARKER of each of them, once. */
async function roomsOf(client) {
  const before = client.heard(MARKER).length;
  const markers = ROOMS.map((room, id) => ({ event: MARKER, data: { id }, room }));
  const response = await send("POST", "/api/emit", host.key, markers);
  assert.equal(response.status, 202, await response.text());
  await client.settled();
  return client.heard(MARKER).slice(before).map(([{ id }]) => ROOMS[id]);
}

/** Sends a request, with a token or a key. */
function send(method, path, bearer, body) {
  const headers = {};
  if (body) headers["content-type"] = "application/json";
  if (bearer) headers.authorization = `Bearer ${bearer}`;
  return fetch(host.url + path, { method, headers, body: body && JSON.stringify(body) });
}

/** Names the cell of a table in a failure of `check`. */
async function cell(name, check) {
  try {
    return await check();
  } catch (error) {
    throw new Error(name, { cause: error });
  }
}
