// Clients with tokens: who they are, and what happens when a token is missing, replaced or expires.

import assert from "node:assert/strict";
import { test } from "node:test";

import { io } from "socket.io-client";

import { connect, isLibrary, refusal } from "./client.mjs";
import { startHost } from "./host.mjs";
import { WITH_TOKENS, token } from "./tokens.mjs";

/** The transports of a stock client. */
const TRANSPORTS = [["polling"], ["websocket"], ["polling", "websocket"]];

test("a client is the user of its token, and without a valid one it is refused as `unauthorized`", async () => {
  const host = await startHost({ settings: WITH_TOKENS });
  try {
    for (const transports of TRANSPORTS) {
      const client = await connect(host.url, { transports, auth: { token: token("7", 600) } });
      assert.equal((await client.next("connected"))[0].user_id, "7");
      client.close();
      for (const auth of [undefined, {}, { token: "x" }, { token: 7 }, { token: token("7", -60) }]) {
        const socket = io(host.url, { forceNew: true, transports, auth });
        try {
          const error = await refusal(socket);
          assert.equal(error.message, "unauthorized");
          assert.equal(socket.active, false, "it does not try again by itself");
        } finally {
          // A socket that is left open would try again for ever, and the test would not end.
          socket.close();
        }
      }
    }
    const extraHeaders = { authorization: `Bearer ${token("8", 600)}` };
    const client = await connect(host.url, { transports: ["polling"], extraHeaders });
    assert.equal((await client.next("connected"))[0].user_id, "8");
    client.close();
  } finally {
    await host.stop();
  }
});

// The library ends a connection that polls by a packet after which clients do not return.
const RETURNING = TRANSPORTS.filter(([first, second]) => !isLibrary || (second ?? first) === "websocket");

test("a client whose token expires is told, and returns with a new one", async () => {
  const host = await startHost({ settings: WITH_TOKENS });
  const clients = [];
  try {
    for (const transports of RETURNING) {
      let seconds = 1;
      const auth = (done) => {
        done({ token: token("7", seconds) });
        seconds = 600;
      };
      clients.push(await connect(host.url, { transports, auth, reconnectionDelay: 100 }));
    }
    const before = [];
    for (const client of clients) {
      before.push((await client.next("connected"))[0].sid);
      assert.equal((await client.next("error"))[0].code, "unauthorized");
      const refused = await client.ask("ping", { timestamp: 1 });
      assert.equal(refused.error.code, "unauthorized");
    }
    for (const [index, client] of clients.entries()) {
      const [again] = await client.next("connected");
      assert.notEqual(again.sid, before[index], "another connection");
      assert.equal(again.user_id, "7");
      assert.equal((await client.ask("ping", { timestamp: 2 })).timestamp, 2);
    }
  } finally {
    for (const client of clients) client.close();
    await host.stop();
  }
});

test("a client that sends a new token in time keeps its connection", async () => {
  const host = await startHost({ settings: WITH_TOKENS });
  const client = await connect(host.url, { auth: { token: token("7", 1) }, reconnection: false });
  try {
    const { id } = client.socket;
    assert.equal((await client.ask("authenticate", { token: token("8", 600) })).error.code, "unauthorized");
    await client.next("error");
    const { expires_at: expires } = await client.ask("authenticate", { token: token("7", 600) });
    assert.ok(Math.abs(expires - Date.now() / 1000 - 600) < 60, `${expires}`);
    assert.equal((await client.ask("ping", { timestamp: 2 })).timestamp, 2);
    assert.equal(client.socket.id, id);
  } finally {
    client.close();
    await host.stop();
  }
});

test("with recovery, a client returns to its connection with a token of its user, and only then", async () => {
  const recovery = { SOCKHOP_SERVER__SOCKETIO: "builtin", SOCKHOP_SERVER__RECOVERY__SECONDS: "60" };
  const host = await startHost({ settings: { ...WITH_TOKENS, ...recovery } });
  let next = token("7", 600);
  const auth = (done) => done({ token: next });
  const client = await connect(host.url, { transports: ["websocket"], reconnectionDelay: 1, auth });
  try {
    const { socket } = client;
    const first = socket.id;
    assert.equal((await client.next("connected"))[0].user_id, "7");
    // A later token replaces the one of the connection.
    next = token("7", 700);
    await cut(socket);
    assert.deepEqual([socket.recovered, socket.id], [true, first]);
    next = token("8", 600);
    await cut(socket);
    assert.equal(socket.recovered, false);
    assert.notEqual(socket.id, first);
    assert.equal((await client.next("connected"))[0].user_id, "8");
    next = "x";
    const refused = new Promise((resolve) => socket.once("connect_error", resolve));
    socket.io.engine.close();
    assert.equal((await refused).message, "unauthorized");
  } finally {
    client.close();
    await host.stop();
  }
});

/** Cuts the client's transport, and waits until it is connected again. */
async function cut(socket) {
  const returned = new Promise((resolve) => socket.once("connect", resolve));
  socket.io.engine.close();
  await returned;
}

test("a client whose token is revoked returns by itself with a token of the same second", async () => {
  const host = await startHost({ settings: WITH_TOKENS });
  const auth = (done) => done({ token: token("7", 600) });
  const clients = [];
  try {
    const options = { reconnectionDelay: 1, reconnectionDelayMax: 5, auth };
    for (let i = 0; i < 20; i += 1) clients.push(await connect(host.url, options));
    for (const client of clients) await client.next("connected");
    const headers = { authorization: `Bearer ${host.key}` };
    const answer = await fetch(`${host.url}/api/users/7/revoke`, { method: "POST", headers });
    assert.equal((await answer.json()).connections, 20);
    for (const client of clients) assert.equal((await client.next("connected"))[0].user_id, "7");
  } finally {
    for (const client of clients) client.close();
    await host.stop();
  }
});
