// A host that gets SIGTERM and is started again: its clients return by themselves.

import assert from "node:assert/strict";
import { test } from "node:test";

import { connect } from "./client.mjs";
import { startHost } from "./host.mjs";

/** Connects a client over each transport, and adds it to `clients`. */
async function connectAll(url, clients) {
  for (const transports of [["polling"], ["websocket"], ["polling", "websocket"]]) {
    clients.push(await connect(url, { transports, reconnectionDelay: 100, reconnectionDelayMax: 200 }));
  }
  for (const client of clients) await client.next("connected");
}

/** Waits until each client is greeted again and served. */
async function haveReturned(clients) {
  for (const client of clients) {
    const name = client.socket.io.opts.transports.join();
    const [greeting] = await client.next("connected");
    assert.equal(greeting.sid, client.socket.id, name);
    assert.equal((await client.ask("ping", { timestamp: 2 })).timestamp, 2, name);
  }
}

test("every client returns by itself to a host that was restarted, and is served", async () => {
  const host = await startHost({ settings: { SOCKHOP_LIMITS__SHUTDOWN_UNREADY_MS: "1" } });
  const clients = [];
  try {
    await connectAll(host.url, clients);
    await host.restart({ samePort: true });
    await haveReturned(clients);
  } finally {
    for (const client of clients) client.close();
    await host.stop();
  }
});

test("a stopping host answers what it has begun, and clients whose connections break return to the next one", async () => {
  const settings = { SOCKHOP_LIMITS__SHUTDOWN_UNREADY_MS: "1" };
  const host = await startHost({ guests: ["lab"], settings });
  const clients = [];
  try {
    await connectAll(host.url, clients);
    const waiting = await connect(host.url, { transports: ["polling"], reconnection: false });
    clients.push(waiting);
    const answer = waiting.ask("slow_note", 3_000);
    // Each question is counted as well.
    for (let asked = 0; (await clients[0].ask("began", null)) - asked !== 1; asked += 1);
    const { url } = host;
    const restarted = host.restart({ samePort: true });
    while ((await fetch(`${url}/socket.io/?EIO=4&transport=polling`)).status !== 503);
    for (const client of clients.slice(0, 3)) client.socket.io.engine.close();
    assert.equal(await answer, null, "a client that polls receives the answer");
    await restarted;
    await haveReturned(clients.slice(0, 3));
  } finally {
    for (const client of clients) client.close();
    await host.stop();
  }
});
