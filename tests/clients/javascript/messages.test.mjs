// Whole messages of the stock client: several arguments in and out, bytes in acks, and what it
// sends when it connects.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { assertRejected, withClients } from "./client.mjs";
import { startHost } from "./host.mjs";

let host;
before(async () => (host = await startHost({ guests: ["parcel"] })));
after(() => host?.stop());

const TRANSPORTS = [["polling"], ["websocket"]];

/** Emits an event, and resolves to all arguments of its ack. */
const askAll = (client, event, ...args) => new Promise((resolve) => client.socket.emit(event, ...args, (...acked) => resolve(acked)));

/** What a stock client passes for bytes that it has received. */
const bytes = (...values) => Buffer.from(values);

for (const transports of TRANSPORTS) {
  test(`several arguments go in and out over ${transports}`, () =>
    withClients(
      host.url,
      1,
      async (client) => {
        const piece = { user_id: 7, name: "rook" };
        assert.deepEqual(await askAll(client, "move", piece, 3), [true, 4]);
        assert.deepEqual(await client.next("moved"), [piece, 3]);
        assert.deepEqual(await askAll(client, "split", "a b c"), ["a", "b", "c"]);
        assert.deepEqual(await askAll(client, "count", 1, [2, 3], "4"), [3]);
        assert.deepEqual(await askAll(client, "echo_all"), []);
        const rejected = await askAll(client, "move", piece);
        assert.equal(rejected.length, 1);
        assertRejected(rejected[0], { code: "invalid_payload", event: "move" });
      },
      { transports },
    ));

  test(`bytes come back in acks and events over ${transports}`, () =>
    withClients(
      host.url,
      1,
      async (client) => {
        const args = [bytes(1, 2), { deep: [bytes(3)] }, "text"];
        assert.deepEqual(await askAll(client, "echo_all", ...args), args);
        assert.deepEqual(await client.next("echoed"), args);
        const packed = await client.ask("pack", { sizes: [2, 1], named: [1, 0] });
        assert.deepEqual(packed, { label: "parcel", content: [bytes(7), bytes(7, 7)] });
        assertRejected(await client.ask("pack", { sizes: [1], named: [] }), { code: "plugin_failed", event: "pack" });
      },
      { transports },
    ));
}

test("a plugin sees what the client sends when it connects", async () => {
  const options = { auth: { device: "d7" }, query: { lang: "de", room: "a b" } };
  await withClients(
    host.url,
    1,
    async (client) => {
      const query = [["lang", "de"], ["room", "a b"]];
      assert.deepEqual(await client.ask("handshake"), { auth: { device: "d7" }, query });
    },
    options,
  );
});
