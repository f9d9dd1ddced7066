// The stock client, with functions for all tests.

import assert from "node:assert/strict";

import { io } from "socket.io-client";

/**
 * How long an answer or an expected event may take, in milliseconds. Long: only a failing test
 * waits for it.
 */
const ANSWER_MS = 30_000;

/** The format of times in the contract. */
export const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;
/** The format of event ids, in rejections and in answers to `POST /api/emit`. */
export const ULID = /^[0-7][0-9A-HJKMNP-TV-Z]{25}$/;

/**
 * A connected client. Listeners are added before it connects, so that no event is missed:
 * - `ask(event, ...args)` emits and returns the ack's argument;
 * - `next(event)` returns the arguments of the next event of that name, which may have arrived
 *   before the call;
 * - `settled()` waits for all events that the host has sent so far; `heard(event)` then returns all
 *   events of that name that have arrived.
 *
 * `settled` is a `ping`. An ack means that the effects of its event are in the buffers of their
 * receivers. So an event that another client's ack promised arrives before the answer to a later
 * `ping`.
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
    refusal(socket).then(reject);
  });
  socket.connect();
  await within(connected, "a connection");
  return client;
}

/** Whether the hosts of this run use the library socketioxide. */
export const isLibrary = process.env.SOCKHOP_TEST_SOCKETIO === "socketioxide";

/**
 * The error with which a host refuses `socket`. The library may end a session whose poll arrives at
 * the moment at which its upgrade begins; a client then tries again by itself, and so does a test.
 * See the table of differences in host/README.md.
 */
export function refusal(socket) {
  const transports = socket.io.opts.transports ?? ["polling", "websocket"];
  const mayTryAgain = isLibrary && transports.length > 1 && socket.io.reconnection();
  return new Promise((resolve) => {
    socket.on("connect_error", (error) => {
      if (!(mayTryAgain && socket.active)) resolve(error);
    });
  });
}

/** Runs `test` with clients, and closes them afterwards, also if it fails. */
export async function withClients(url, count, test, options) {
  const clients = [];
  try {
    for (let i = 0; i < count; i += 1) clients.push(await connect(url, options));
    return await test(...clients);
  } finally {
    for (const client of clients) client.close();
  }
}

/** Asserts that `reply` is a rejection with `expected`, an id and a message; returns the error. */
export function assertRejected(reply, expected) {
  assert.ok(reply?.error, `expected an error, got ${JSON.stringify(reply)}`);
  assert.deepEqual(Object.keys(reply), ["error"]);
  assertError(reply.error, expected);
  return reply.error;
}

/** The same for the error object, which is also the argument of an `error` event. */
export function assertError(error, expected) {
  const { id, message, details, retry, origin, ...rest } = error;
  assert.ok(["safe", "unsafe", "never"].includes(retry), `retry: ${retry}`);
  assert.ok(["host", "handler"].includes(origin), `origin: ${origin}`);
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

/** Asserts that the details name `path` with `rule`. */
export function assertDetail(error, path, rule) {
  const found = (error.details ?? []).map((detail) => [detail.path, detail.rule]);
  assert.ok(
    found.some(([at, by]) => at === path && by === rule),
    `expected ${rule} at ${path}, got ${JSON.stringify(error.details)}`,
  );
}

/** Asserts that `response` is a problem document; returns it. */
export async function assertProblem(response, status, code) {
  assert.equal(response.status, status);
  assert.match(response.headers.get("content-type") ?? "", /^application\/problem\+json\b/);
  const problem = await response.json();
  assert.deepEqual([problem.status, problem.code], [status, code]);
  assert.equal(typeof problem.title, "string");
  return problem;
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
