// The stock client over TLS, with each transport. The certificate and its key are for tests only.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { after, before, test } from "node:test";

import { io } from "socket.io-client";

import { connect, refusal, withClients } from "./client.mjs";
import { startHost } from "./host.mjs";

const [certificate, key] = ["certificate", "key"].map((name) => new URL(`tls/${name}.pem`, import.meta.url).pathname);

let host;
let ca;
before(async () => {
  ca = await readFile(certificate, "utf8");
  const settings = { SOCKHOP_SERVER__TLS__CERTIFICATE_FILE: certificate, SOCKHOP_SERVER__TLS__KEY_FILE: key };
  host = await startHost({ settings, ca });
});
after(() => host?.stop());

test("the host says that it listens on https", () => assert.match(host.url, /^https:\/\/127\.0\.0\.1:\d+$/));

for (const transport of ["polling", "websocket"]) {
  test(`events, acks and large payloads work over ${transport} with TLS`, () =>
    withClients(
      host.url,
      2,
      async (sender, subscriber) => {
        await subscriber.ask("subscribe_event", { event_type: "memory_logs" });
        const content = transport.repeat(1000);
        const record = await sender.ask("memory_log_create", { user_id: 7, content });
        assert.equal(record.content, content);
        assert.deepEqual(await subscriber.next("memory_log_created"), [record]);
        for (const client of [sender, subscriber]) assert.equal(client.socket.io.engine.transport.name, transport);
      },
      { transports: [transport], ca },
    ));
}

test("a client that begins with polling is upgraded over TLS, and no event is lost", async () => {
  const client = await connect(host.url, { ca });
  try {
    const engine = client.socket.io.engine;
    const deadline = Date.now() + 30_000;
    let sent = 0;
    while (engine.transport.name !== "websocket" || sent < 20) {
      assert.ok(Date.now() < deadline, "the client was not upgraded in time");
      assert.equal((await client.ask("ping", { timestamp: sent })).timestamp, sent);
      sent += 1;
    }
    assert.equal(client.heard("pong").length, sent);
  } finally {
    client.close();
  }
});

test("a page of a local https server may connect", async () => {
  const options = { ca, transports: ["websocket"], forceNew: true, extraHeaders: { origin: "https://localhost:3000" } };
  await withClients(host.url, 1, (client) => client.settled(), options);
});

test("a client that does not trust the certificate is not connected", async () => {
  const socket = io(host.url, { autoConnect: false, forceNew: true, reconnection: false, transports: ["websocket"] });
  try {
    const refused = refusal(socket);
    socket.connect();
    await refused;
    assert.equal(socket.connected, false);
  } finally {
    socket.close();
  }
});
