// The stock client, with what every test asks of it.

import assert from "node:assert/strict";

import { io } from "socket.io-client";

/** How long an answer or an expected event may take, milliseconds: wide, since it is waited for only where something is wrong. */
const ANSWER_MS = 30_000;

/** How the contract writes times. */
export const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;
/** Ids of events, as rejections and `POST /api/emit` carry them. */
export const ULID = /^[0-7][0-9A-HJKMNP-TV-Z]{25}$/;

/**
 * A connected client. Listeners are there before it connects, so that nothing is missed:
 * - `ask(event, ...args)` emits and returns the ack's argument;
 * - `next(event)` returns the arguments of the next event of that name, which may have arrived before the call;
 * - `settled()` waits for all that the host had sent so far; `heard(event)` is then everything that arrived under that name.
 *
 * `settled` is a `ping`: an ack means that what the event caused is in the buffers of its receivers, so an event that another client's ack
 * promised stands before the answer to a `ping` sent after it.
 */
export async function connect(url, options = {}) {
  const socket = io(url, { autoConnect: false, forceNew: true, ...options });
  const arrived = [];
  const waiting = [];
  socket.onAny((event, ...args) => {
    arrived.push([event, ...args]);
    const index = waiting.findIndex((waiter) => waiter.event === event);
    if (index >= 0) waiting.splice(index, 1)[0].resolve(args);
  });

  const taken = new Map();
  const client = {
    socket,
    ask: (event, ...args) => within(socket.emitWithAck(event, ...args), `an ack of ${event}`),
    heard: (event) => arrived.filter(([name]) => name === event).map(([, ...args]) => args),
    events: () => arrived.map(([name]) => name),
    next: (event) => {
      const index = taken.get(event) ?? 0;
      taken.set(event, index + 1);
      const before = client.heard(event);
      if (index < before.length) return Promise.resolve(before[index]);
      return within(new Promise((resolve) => waiting.push({ event, resolve })), `an event ${event}`);
    },
    settled: () => client.ask("ping", { timestamp: 0 }),
    close: () => socket.close(),
  };

  const connected = new Promise((resolve, reject) => {
    socket.once("connect", resolve);
    socket.once("connect_error", reject);
  });
  socket.connect();
  await within(connected, "a connection");
  return client;
}

/** Runs `test` with clients that are closed afterwards, however it ends. */
export async function withClients(url, count, test, options) {
  const clients = [];
  try {
    for (let i = 0; i < count; i += 1) clients.push(await connect(url, options));
    return await test(...clients);
  } finally {
    for (const client of clients) client.close();
  }
}

/** Asserts that `reply` rejects with `expected` beside an id and a message for people; returns the error. */
export function assertRejected(reply, expected) {
  assert.ok(reply?.error, `expected an error, got ${JSON.stringify(reply)}`);
  assert.deepEqual(Object.keys(reply), ["error"]);
  assertError(reply.error, expected);
  return reply.error;
}

/** The same for the error object itself, which is also the argument of an `error` event. */
export function assertError(error, expected) {
  const { id, message, details, ...rest } = error;
  assert.match(id, ULID);
  assert.equal(typeof message, "string");
  assert.notEqual(message, "");
  if (details !== undefined) {
    for (const detail of details) {
      assert.deepEqual(Object.keys(detail).sort(), ["message", "path", "rule"]);
    }
  }
  assert.deepEqual(rest, expected);
}

/** Asserts that a schema's check named `path` with `rule`. */
export function assertDetail(error, path, rule) {
  const found = (error.details ?? []).map((detail) => [detail.path, detail.rule]);
  assert.ok(
    found.some(([at, by]) => at === path && by === rule),
    `expected ${rule} at ${path}, got ${JSON.stringify(error.details)}`,
  );
}

async function within(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} did not come within ${ANSWER_MS} ms`)), ANSWER_MS);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
