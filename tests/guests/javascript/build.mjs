// Makes the component: node build.mjs WIT_DIRECTORY OUTPUT

import { readFile, writeFile } from "node:fs/promises";

import { componentize } from "componentize-qjs";

const [witPath, output] = process.argv.slice(2);
const jsSource = await readFile(new URL("caller.js", import.meta.url), "utf8");
// The world of plugins has no asynchronous functions.
const { component } = await componentize({ witPath, world: "plugin", jsSource, sync: true });
await writeFile(output, component);
