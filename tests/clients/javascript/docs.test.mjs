// The client that docs/clients.md shows runs as it stands there.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { withClients } from "./client.mjs";
import { after, startHost } from "./host.mjs";

const ADDRESS = "http://127.0.0.1:4000";
const ANSWER_MS = 30_000;

test("the client of the documents creates a record, subscribes and is told of others", { timeout: 180_000 }, async (t) => {
  const host = await startHost();
  t.after(() => host.stop());
  const page = await readFile(new URL("../../../docs/clients.md", import.meta.url), "utf8");
  const [, code] = /```js\n([\s\S]*?)```/.exec(page);
  assert.ok(code.includes(ADDRESS), code);

  // Here its import finds the stock client.
  const cwd = fileURLToPath(new URL(".", import.meta.url));
  const child = spawn(process.execPath, ["--input-type=module"], { cwd, stdio: ["pipe", "pipe", "inherit"] });
  t.after(() => child.kill());
  let output = "";
  child.stdout.setEncoding("utf8").on("data", (text) => (output += text));
  child.stdin.end(`${code.replace(ADDRESS, host.url)}\nconsole.log("replied", reply.content);`);

  const shows = async (text, meanwhile = async () => {}) => {
    for (const deadline = Date.now() + ANSWER_MS; !output.includes(text); await after(20)) {
      assert.ok(child.exitCode === null && Date.now() < deadline, `it never shows ${text}:\n${output}`);
      await meanwhile();
    }
  };
  await shows("replied hello");
  // Its subscription may come after the first of these.
  await withClients(host.url, 1, (other) =>
    shows("from another", () => other.ask("memory_log_create", { user_id: 7, content: "from another" })));
  assert.match(output, /^created \{/m);
});
