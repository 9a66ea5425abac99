#!/usr/bin/env node
// wasm.js MODEL_FOLDER --ids 1,2,3 --count 32 [--threads N]: the page's WebAssembly in Node.js, for tests and measures.

import { readFile, stat } from "node:fs/promises";
import path from "node:path";
import { parseArgs } from "node:util";

import ort from "onnxruntime-web";

import { Decoder, SESSION } from "../node/lib/decoder.js";
import { generate } from "../node/lib/generate.js";
import { readModelFiles } from "../node/lib/model_files.js";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    ids: { type: "string" },
    count: { type: "string", default: "32" },
    threads: { type: "string", default: "1" },
  },
});
const [folder] = positionals;
const files = await readModelFiles((name) => readFile(path.join(folder, name), "utf8").catch(() => null), folder);
const place = path.dirname(path.join(folder, files.model));
const found = await Promise.all(files.data.map((name) => stat(path.join(place, name)).catch(() => null)));
const names = files.data.filter((_, index) => found[index]);

const begin = performance.now();
ort.env.wasm.numThreads = Number(values.threads);
const data = await Promise.all(
  names.map(async (name) => ({ path: name, data: await readFile(path.join(place, name)) })),
);
const graph = await readFile(path.join(folder, files.model));
const session = await ort.InferenceSession.create(graph, {
  ...SESSION,
  executionProviders: ["wasm"],
  externalData: data,
});
const times = [performance.now()];
const made = [];
const ids = values.ids.split(",").map(Number);
for await (const token of generate(new Decoder(ort, session), ids, { count: Number(values.count) })) {
  made.push(token);
  times.push(performance.now());
}
console.log(
  JSON.stringify({
    ids: made,
    load_seconds: (times[0] - begin) / 1000,
    first_token_seconds: (times[1] - times[0]) / 1000,
    tokens_per_second: made.length > 1 ? (1000 * (made.length - 1)) / (times.at(-1) - times[1]) : null,
    peak_bytes: process.resourceUsage().maxRSS * 1024,
  }),
);
process.exit(0); // threads of WebAssembly wait for more
