// Clients with tokens: who they are, and what happens when a token is missing, replaced or expires.

import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { test } from "node:test";

import { io } from "socket.io-client";

import { connect } from "./client.mjs";
import { startHost } from "./host.mjs";

const SECRET = "a secret that has more than thirty-two bytes";

const SETTINGS = {
  SOCKHOP_AUTH__MODE: "jwt",
  SOCKHOP_AUTH__GRACE_MS: "2000",
  SOCKHOP_AUTH__KEYS: `[{algorithm="HS256",secret="${SECRET}"}]`,
};

/** The transports of a stock client. */
const TRANSPORTS = [["polling"], ["websocket"], ["polling", "websocket"]];

/** A token of `sub` that expires after `seconds`. */
function token(sub, seconds, roles = []) {
  const encoded = (part) => Buffer.from(JSON.stringify(part)).toString("base64url");
  const now = Math.floor(Date.now() / 1000);
  const signed = `${encoded({ alg: "HS256", typ: "JWT" })}.${encoded({ sub, roles, iat: now, exp: now + seconds })}`;
  return `${signed}.${createHmac("sha256", SECRET).update(signed).digest("base64url")}`;
}

test("a client is the user of its token, and without a valid one it is refused as `unauthorized`", async () => {
  const host = await startHost({ settings: SETTINGS });
  try {
    for (const transports of TRANSPORTS) {
      const client = await connect(host.url, { transports, auth: { token: token("7", 600) } });
      assert.equal((await client.next("connected"))[0].user_id, "7");
      client.close();
      for (const auth of [undefined, {}, { token: "x" }, { token: 7 }, { token: token("7", -60) }]) {
        const socket = io(host.url, { forceNew: true, transports, auth });
        const error = await new Promise((resolve) => socket.once("connect_error", resolve));
        assert.equal(error.message, "unauthorized");
        assert.equal(socket.active, false, "it does not try again by itself");
        socket.close();
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

test("a client whose token expires is told, and returns with a new one", async () => {
  const host = await startHost({ settings: SETTINGS });
  const clients = [];
  try {
    for (const transports of TRANSPORTS) {
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
  const host = await startHost({ settings: SETTINGS });
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
