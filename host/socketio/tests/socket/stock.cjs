// Scenarios of the stock client: `node stock.cjs URL SCENARIO TRANSPORTS`. A scenario that fails
// ends with an error. It prints its progress for the test.
const assert = require("node:assert/strict");
const { once } = require("node:events");
const { Manager } = require("socket.io-client");

const [url, scenario, transports] = process.argv.slice(2);
const upgrades = transports.includes(",");

function manager(options = {}) {
  return new Manager(url, {
    transports: transports.split(","),
    reconnectionDelay: 20,
    reconnectionDelayMax: 50,
    ...options,
  });
}

function connect(namespace, auth, of = manager()) {
  const socket = of.socket(namespace, { auth });
  socket.on("connect_error", (error) => {
    if (!socket.refused) console.error(error.message);
  });
  return socket;
}

async function connected(socket) {
  if (!socket.connected) await once(socket, "connect");
  return socket;
}

async function upgraded(socket) {
  const engine = socket.io.engine;
  if (upgrades && engine.transport.name === "polling") {
    await new Promise((resolve) => engine.once("upgrade", resolve));
  }
}

async function echo(socket, ...args) {
  const received = new Promise((resolve) => socket.once("echo", (...back) => resolve(back)));
  socket.emit("echo", ...args);
  assert.deepEqual(await received, args);
}

// The server sees the end of the connection, or a close frame, or nothing at all.
function cut(engine, how) {
  const { ws } = engine.transport;
  if (!ws || how % 3 === 2) engine.transport.onClose();
  else if (how % 3 === 1) engine.close();
  else ws.terminate();
}

const scenarios = {
  async talk() {
    const socket = await connected(connect("/", {}));
    const asked = new Promise((resolve) => {
      socket.on("ask", (...args) => {
        args.pop()(args, "yes");
        resolve();
      });
    });
    console.log("connected");
    const blob = Buffer.from([0, 1, 2, 253, 254, 255]);
    const args = [1, "zwei \u{1f980} \u001e", { drei: [true, null] }, [blob, Buffer.alloc(70_000, 7)]];
    for (let round = 0; round < 2; round++) {
      await echo(socket);
      await echo(socket, ...args);
      assert.deepEqual(await socket.emitWithAck("answer", 1), 1);
      assert.deepEqual(await socket.emitWithAck("answer", blob), blob);
      const answers = Array.from({ length: 100 }, (_, i) => socket.emitWithAck("answer", i));
      assert.deepEqual(await Promise.all(answers), Array.from({ length: 100 }, (_, i) => i));
      await upgraded(socket);
    }
    await asked;
    socket.disconnect();
  },

  async leave() {
    const shared = manager();
    const main = await connected(connect("/", {}, shared));
    const socket = await connected(connect("/a", {}, shared));
    for (let round = 0; round < 20; round++) {
      for (let i = 0; i < 5; i++) socket.emit("echo", i);
      const before = socket.id;
      socket.disconnect();
      socket.connect();
      await connected(socket);
      assert.notEqual(socket.id, before);
      await echo(socket, round);
      await echo(main, round);
    }
    main.disconnect();
    socket.disconnect();
  },

  async away() {
    const socket = connect("/", {});
    await connected(socket);
    console.log("connected");
    const [cut] = await once(socket, "disconnect");
    assert.ok(["transport close", "transport error"].includes(cut), cut);
    console.log("disconnected");
    await once(socket, "connect");
    console.log("connected");
    const [reason] = await once(socket, "disconnect");
    assert.equal(reason, "io server disconnect");
    await new Promise((resolve) => setTimeout(resolve, 200));
    assert.equal(socket.active, false);
    console.log("stays away");
    socket.io._close();
  },

  async namespaces() {
    const shared = manager();
    const main = await connected(connect("/", {}, shared));
    const socket = await connected(connect("/a", {}, shared));
    await upgraded(main);
    const before = main.id;
    main.on("disconnect", (reason) => assert.equal(reason, "io client disconnect"));
    const left = once(socket, "disconnect");
    console.log("connected");
    assert.equal((await left)[0], "io server disconnect");
    await echo(main, 1);
    assert.equal(socket.active, false);
    socket.connect();
    await connected(socket);
    await echo(socket, 2);
    await echo(main, 3);
    assert.equal(main.id, before);
    socket.disconnect();
    main.disconnect();
  },

  async closed() {
    const shared = manager();
    const main = await connected(connect("/", {}, shared));
    const socket = await connected(connect("/a", {}, shared));
    await upgraded(main);
    const reasons = Promise.all([main, socket].map((one) => once(one, "disconnect")));
    console.log("connected");
    for (const [reason] of await reasons) assert.equal(reason, "io server disconnect");
    await new Promise((resolve) => setTimeout(resolve, 200));
    assert.equal(main.active || socket.active || main.connected || socket.connected, false);
  },

  async refused() {
    const shared = manager();
    const socket = connect("/a", { refuse: true }, shared);
    socket.refused = true;
    const [error] = await once(socket, "connect_error");
    assert.equal(error.message, "refused");
    assert.deepEqual(error.data, { code: 7 });
    socket.auth = { token: 1 };
    socket.connect();
    await connected(socket);
    const unknown = connect("/unknown", {}, shared);
    unknown.refused = true;
    const [invalid] = await once(unknown, "connect_error");
    assert.equal(invalid.message, "Invalid namespace");
    await echo(socket, 1);
    socket.disconnect();
  },

  async restart() {
    const socket = connect("/", {});
    await connected(socket);
    await upgraded(socket);
    console.log("connected");
    await once(socket, "disconnect");
    console.log("disconnected");
    await once(socket, "connect");
    await echo(socket, 1);
    console.log("connected");
    socket.disconnect();
  },

  // Is cut off again and again, and gets every number once and in order, unless it learns that it
  // was not recovered.
  async cut() {
    const socket = connect("/", {}, manager({ reconnectionDelay: 1, reconnectionDelayMax: 5 }));
    let [expected, recovered, restarts, cuts] = [null, 0, 0, 0];
    let received = () => {};
    socket.on("connect", () => {
      if (socket.recovered) {
        recovered++;
      } else {
        restarts++;
        expected = null;
      }
    });
    socket.on("number", (number) => {
      if (expected !== null) assert.equal(number, expected);
      expected = number + 1;
      received();
    });
    const numbers = async (count) => {
      for (let i = 0; i < count; i++) await new Promise((resolve) => (received = resolve));
    };
    const all = transports === "websocket" ? 200 : 50;
    for (; cuts < all; cuts++) {
      await numbers(1 + (cuts % 3));
      await upgraded(socket);
      const gone = once(socket, "disconnect");
      cut(socket.io.engine, cuts);
      await gone;
    }
    await numbers(10);
    assert.equal(recovered + restarts, cuts + 1);
    console.log(restarts > 1 ? "missed some" : "missed none");
    socket.disconnect();
  },

  async idle() {
    const socket = connect("/", {});
    await connected(socket);
    console.log("connected");
    let pings = 0;
    socket.io.on("ping", () => pings++);
    await new Promise((resolve) => setTimeout(resolve, 1500));
    assert.ok(socket.connected && pings >= 3, `${pings} pings`);
    socket.disconnect();
  },
};

scenarios[scenario]().catch((error) => {
  console.error(error);
  process.exit(1);
});
