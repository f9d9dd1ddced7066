// A peer in the benchmark: the events of Sockhop's bundled plugins on the `socket.io` server, as a
// Node team with schemas would serve them.
//
//     node server.mjs [--port N] [--data DIR]
//
// Tuned as its own documentation advises, and no further: the default engine `ws` with its native
// add-on `bufferutil`, no compression of messages (the default), the first HTTP request of each
// connection let go to save memory, and payloads checked by validators that `ajv` compiles once
// from JSON Schemas. One process with one thread that runs JavaScript, as Node is.
//
// Node 20 has no SQLite of its own, so records live in a Map in memory, and `--data` is taken but
// unused. That favours Node: the other servers write each record to a file.

import { randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { parseArgs } from "node:util";

import { Ajv } from "ajv";
import { Server } from "socket.io";

const { values: options } = parseArgs({
  options: { port: { type: "string", default: "0" }, data: { type: "string" } },
});

const http = createServer();
const io = new Server(http);
// What no event reads need not stay in memory for as long as its connection does.
io.engine.on("connection", (connection) => {
  connection.request = null;
});

/** Rooms that clients may subscribe to, by event type. */
const ROOMS = new Set(["memory_logs", "mental_notes"]);

/** The record store: memory logs by id. */
const logs = new Map();

const ajv = new Ajv({ allowUnionTypes: true });
/** What serves each event, for a socket and the event's arguments. */
const events = new Map();

on("ping", { timestamp: { type: "number" } }, (socket, { timestamp }) => {
  const pong = { timestamp, server_time: now() };
  socket.emit("pong", pong);
  return pong;
});

on("subscribe_event", { event_type: { type: "string" } }, (socket, { event_type }) => {
  if (!ROOMS.has(event_type)) {
    const message = `there is no event type ${event_type}`;
    return { error: { code: "refused", reason: "unknown_event_type", message, event: "subscribe_event" } };
  }
  socket.join(event_type);
  return { status: "subscribed", event_type, room: event_type };
});

on(
  "memory_log_create",
  { user_id: { type: ["integer", "string"] }, content: { type: "string", minLength: 1, maxLength: 10_000 } },
  (_socket, { user_id, content }) => {
    const log = { id: logs.size + 1, user_id, content, created_at: now() };
    logs.set(log.id, log);
    io.to("memory_logs").to(`user_${user_id}`).emit("memory_log_created", log);
    return log;
  },
);

on("echo", { data: {} }, (_socket, { data }) => ({ data }));

io.on("connection", (socket) => {
  socket.emit("connected", { sid: socket.id, connection_id: randomUUID(), user_id: null, server_time: now() });
  for (const [event, serve] of events) socket.on(event, (...args) => serve(socket, args));
});

process.once("SIGTERM", () => io.close());

http.listen(Number(options.port), "127.0.0.1", () => {
  console.log(`listening on http://127.0.0.1:${http.address().port}`);
});

/**
 * Has `handle` serve `event` where its one argument is an object with these `properties`, all of
 * them required. What it returns answers the ack; an `error` is an event of that name where nobody
 * asked for one.
 */
function on(event, properties, handle) {
  const validate = ajv.compile({ type: "object", properties, required: Object.keys(properties) });
  events.set(event, (socket, args) => {
    const ack = typeof args.at(-1) === "function" ? args.pop() : undefined;
    const reply = args.length === 1 && validate(args[0]) ? handle(socket, args[0]) : { error: invalid(event, args, validate.errors) };
    if (ack) ack(reply);
    else if (reply.error) socket.emit("error", reply.error);
  });
}

function invalid(event, args, errors) {
  const message = args.length === 1 ? ajv.errorsText(errors, { dataVar: "" }) : `takes one argument, not ${args.length}`;
  return { code: "invalid_payload", message, event };
}

/** The time as the contract writes it: RFC 3339 in UTC, with milliseconds. */
function now() {
  return new Date().toISOString();
}
