// What the settings of the Socket.IO layer do to a stock client.

import assert from "node:assert/strict";
import { test } from "node:test";

import { connect } from "./client.mjs";
import { startHost } from "./host.mjs";

const LIMIT = { timeout: 60_000 };

/** Runs `act` with the URL of a host that has these settings. */
async function withHost(settings, act) {
  const host = await startHost({ settings });
  try {
    await act(host.url);
  } finally {
    await host.stop();
  }
}

for (const [allowed, other] of [
  ["websocket", "polling"],
  ["polling", "websocket"],
]) {
  test(`where ${allowed} is the only transport, a client that wants ${other} is told so, and one of ${allowed} is served`, LIMIT, () =>
    withHost({ SOCKHOP_SERVER__TRANSPORTS: `["${allowed}"]` }, async (url) => {
      await assert.rejects(connect(url, { transports: [other], reconnection: false }), /error/);
      const client = await connect(url, { transports: [allowed] });
      try {
        assert.equal((await client.ask("ping", { timestamp: 1 })).timestamp, 1);
        assert.equal(client.socket.io.engine.transport.name, allowed);
      } finally {
        client.close();
      }
    }));
}

test("a client that may not upgrade stays with polling, and is served", LIMIT, () =>
  withHost({ SOCKHOP_SERVER__SOCKETIO: "builtin", SOCKHOP_SERVER__UPGRADE: "false" }, async (url) => {
    const client = await connect(url);
    try {
      for (let asked = 0; asked < 20; asked += 1) await client.settled();
      assert.equal(client.socket.io.engine.transport.name, "polling");
    } finally {
      client.close();
    }
  }));

const PINGS = { SOCKHOP_SERVER__PING_INTERVAL_MS: "200", SOCKHOP_SERVER__PING_TIMEOUT_MS: "2000" };

for (const transport of ["polling", "websocket"]) {
  test(`a client over ${transport} is pinged as often as is set, and stays`, LIMIT, () =>
    withHost(PINGS, async (url) => {
      const client = await connect(url, { transports: [transport] });
      try {
        await new Promise((resolve) => {
          let pings = 0;
          client.socket.io.on("ping", () => (pings += 1) === 5 && resolve());
        });
        assert.equal((await client.ask("ping", { timestamp: 1 })).timestamp, 1);
        assert.equal(client.heard("connected").length, 1);
      } finally {
        client.close();
      }
    }));
}

test("a client that answers no ping is gone when the time is over that is set", LIMIT, () =>
  withHost(PINGS, async (url) => {
    const session = `${url}/socket.io/?EIO=4&transport=polling`;
    const open = JSON.parse((await (await fetch(session)).text()).slice(1));
    assert.deepEqual([open.pingInterval, open.pingTimeout], [200, 2000]);
    const began = Date.now();
    // The host answers 400, or closes the connection of a request that waits.
    const polls = () => fetch(`${session}&sid=${open.sid}`).then(({ status }) => status === 200, () => false);
    while (await polls());
    const seconds = (Date.now() - began) / 1000;
    assert.ok(seconds > 1 && seconds < 20, `${seconds} s`);
  }));
