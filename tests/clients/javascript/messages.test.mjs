// Whole messages of the stock client: several arguments in and out, bytes in acks, and what it
// sends when it connects.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { assertRejected, withClients } from "./client.mjs";
import { startHost } from "./host.mjs";

let host;
/** The host of a plugin that asks its clients. */
let quiz;
before(async () => {
  host = await startHost({ guests: ["parcel"] });
  quiz = await startHost({ guests: ["quiz"] });
});
after(async () => {
  await host?.stop();
  await quiz?.stop();
});

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

/** A client that answers each question with `answer`, and emits `note` behind it. */
const answering = (client, answer) =>
  client.socket.on("question", (number, ack) => {
    ack(...answer(number));
    client.socket.emit("note", number);
  });

for (const transports of TRANSPORTS) {
  test(`the host asks for acks, which are handled in order, over ${transports}`, () =>
    withClients(
      quiz.url,
      1,
      async (client) => {
        answering(client, (number) => [number + 1]);
        const to = await client.ask("me");
        for (let number = 0; number < 200; number += 1) {
          client.socket.emit("ask", { to, number, timeout_ms: 30_000 });
          assert.deepEqual(await client.next("seen"), [`answer ${number}`]);
          assert.deepEqual(await client.next("seen"), [`note ${number}`]);
          const [outcome] = await client.next("outcome");
          assert.deepEqual(outcome, { number, what: number + 1, by: to, rooms: [] });
        }
      },
      { transports },
    ));

  test(`an answer has arguments and bytes, is checked, and may not come, over ${transports}`, () =>
    withClients(
      quiz.url,
      1,
      async (client) => {
        const to = await client.ask("me");
        client.socket.on("question", (number, ack) => {
          if (number === 1) ack("no number");
          if (number === 2) ack();
        });
        for (const [number, expected] of [[1, /invalid: must be an integer/], [2, /invalid: must be an integer/], [3, /^timeout$/]]) {
          await client.ask("ask", { to, number, timeout_ms: 500 });
          assert.match((await client.next("outcome"))[0].what, expected);
        }
        client.socket.on("picture", (picture, ack) => ack(picture, bytes(3), "text"));
        const before = (await client.ask("log")).length;
        await client.ask("ask_list", [to, 3]);
        await client.next("picture");
        await client.settled();
        const expected = [{ _placeholder: true, num: 0 }, { _placeholder: true, num: 1 }, "text"];
        const lines = await client.ask("log");
        assert.deepEqual(lines.slice(before), [{ context: 3, what: expected, attachments: [2, 1] }]);
      },
      { transports },
    ));

  test(`volatile emits come among the others in order over ${transports}`, () =>
    withClients(
      quiz.url,
      1,
      async (client) => {
        await client.ask("enter");
        await client.ask("draw", { from: 0, count: 100, bytes: 10, line_every: 7 });
        const heard = [...client.heard("line"), ...client.heard("cursor")].length;
        assert.equal(heard, 100);
        const names = client.events().filter((name) => name === "line" || name === "cursor");
        assert.deepEqual(names, Array.from({ length: 100 }, (_, number) => (number % 7 ? "cursor" : "line")));
      },
      { transports },
    ));
}
