#!/usr/bin/env node
// npm start -- [MODEL_FOLDER]: the page at localhost, with the model at model/.
//
// Its two headers make a page cross-origin isolated, and only such a page may use threads. Any server that sends them
// will do; without them the page runs with one thread.

import { createReadStream, existsSync } from "node:fs";
import { stat } from "node:fs/promises";
import http from "node:http";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const ISOLATION = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};
const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".mjs": "text/javascript; charset=utf-8",
  ".json": "application/json",
  ".wasm": "application/wasm",
};
const here = path.dirname(fileURLToPath(import.meta.url));

/** The file that a request is for, or null: outside of the page and of the model's folder there is none. */
async function fileFor(url, roots) {
  const name = decodeURIComponent(new URL(url, "http://localhost").pathname).slice(1) || "index.html";
  const [root, rest] = name.startsWith("model/") ? [roots.model, name.slice(6)] : [roots.page, name];
  const file = root && path.resolve(root, rest);
  if (!file?.startsWith(path.resolve(root) + path.sep)) return null;
  const found = await stat(file).catch(() => null);
  return found?.isFile() ? { file, size: found.size } : null;
}

async function answer(request, response, roots, headers) {
  let found = null;
  try {
    found = await fileFor(request.url, roots);
  } catch {
    // No name of a file.
  }
  if (!found || !["GET", "HEAD"].includes(request.method)) {
    response.writeHead(found ? 405 : 404, { ...headers, "Content-Type": "text/plain" }).end();
    return;
  }
  const type = TYPES[path.extname(found.file)] ?? "application/octet-stream";
  response.writeHead(200, {
    ...headers,
    "Content-Type": type,
    "Content-Length": found.size,
    "Cache-Control": "no-cache",
  });
  if (request.method === "HEAD") response.end();
  else
    createReadStream(found.file)
      .on("error", () => response.destroy())
      .pipe(response);
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    port: { type: "string", default: "8080" }, // 0: any that is free
    page: { type: "string", default: path.join(here, "dist") },
    "no-isolation": { type: "boolean", default: false },
  },
});
const roots = { page: values.page, model: positionals[0] };
for (const root of Object.values(roots)) {
  if (root && !existsSync(root)) {
    console.error(`error: ${root}: no such folder; npm run build makes the page, python -m exporter a model`);
    process.exit(2);
  }
}
const headers = values["no-isolation"] ? {} : ISOLATION;
const server = http.createServer((request, response) => answer(request, response, roots, headers));
server.on("error", (error) => {
  console.error(`error: port ${values.port}: ${error.code}; choose another with --port`);
  process.exit(2);
});
server.listen(Number(values.port), "127.0.0.1", () => console.log(`http://localhost:${server.address().port}/`));
