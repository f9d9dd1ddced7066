// The effects of the settings of the Socket.IO layer on a stock client.

import assert from "node:assert/strict";
import { test } from "node:test";

import { connect } from "./client.mjs";
import { startHost } from "./host.mjs";

/** A host may have to compile the plugins on a busy machine. */
const LIMIT = { timeout: 180_000 };

/**
 * A test with the URL of a host that has these settings. The host ends with the test, also if the
 * test times out.
 */
function withHost(settings, act) {
  return async (t) => {
    const host = await startHost({ settings });
    t.after(() => host.stop());
    await act(host.url);
  };
}

/** The packet that opens a session over polling. */
const open = async (url) => JSON.parse((await (await fetch(`${url}/socket.io/?EIO=4&transport=polling`)).text()).slice(1));

for (const [allowed, other] of [
  ["websocket", "polling"],
  ["polling", "websocket"],
]) {
  test(`if ${allowed} is the only transport, a client of ${other} gets an error, and one of ${allowed} is served`, LIMIT,
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

test("a client that may not upgrade stays with polling, and is served", LIMIT,
  withHost({ SOCKHOP_SERVER__SOCKETIO: "builtin", SOCKHOP_SERVER__UPGRADE: "false" }, async (url) => {
    assert.deepEqual((await open(url)).upgrades, []);
    const client = await connect(url);
    try {
      for (let asked = 0; asked < 20; asked += 1) await client.settled();
      assert.equal(client.socket.io.engine.transport.name, "polling");
    } finally {
      client.close();
    }
  }));

const pings = (timeout) => ({ SOCKHOP_SERVER__PING_INTERVAL_MS: "200", SOCKHOP_SERVER__PING_TIMEOUT_MS: String(timeout) });

for (const transport of ["polling", "websocket"]) {
  test(`a client over ${transport} is pinged at the configured interval, and stays connected`, LIMIT,
    withHost(pings(20_000), async (url) => {
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

test("a client that answers no ping is disconnected after the configured time", LIMIT,
  withHost(pings(2_000), async (url) => {
    const { sid, pingInterval, pingTimeout } = await open(url);
    assert.deepEqual([pingInterval, pingTimeout], [200, 2000]);
    const began = Date.now();
    // The host answers 400, or closes the connection of a request that waits.
    const polls = () => fetch(`${url}/socket.io/?EIO=4&transport=polling&sid=${sid}`).then(({ status }) => status === 200, () => false);
    while (Date.now() - began < 60_000 && (await polls()));
    const seconds = (Date.now() - began) / 1000;
    assert.ok(seconds > 1 && seconds < 60, `${seconds} s`);
  }));
