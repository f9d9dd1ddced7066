// A host that gets SIGTERM and is started again: its clients return by themselves.

import assert from "node:assert/strict";
import { test } from "node:test";

import { connect } from "./client.mjs";
import { startHost } from "./host.mjs";

test("every client returns by itself to a host that was restarted, and is served", async () => {
  const host = await startHost({ settings: { SOCKHOP_LIMITS__SHUTDOWN_UNREADY_MS: "1" } });
  const clients = [];
  try {
    for (const transports of [["polling"], ["websocket"], ["polling", "websocket"]]) {
      const options = { transports, reconnectionDelay: 100, reconnectionDelayMax: 200 };
      clients.push(await connect(host.url, options));
    }
    for (const client of clients) await client.next("connected");
    await host.restart({ samePort: true });
    for (const client of clients) {
      const name = client.socket.io.opts.transports.join();
      const [greeting] = await client.next("connected");
      assert.equal(greeting.sid, client.socket.id, name);
      assert.equal((await client.ask("ping", { timestamp: 2 })).timestamp, 2, name);
    }
  } finally {
    for (const client of clients) client.close();
    await host.stop();
  }
});
