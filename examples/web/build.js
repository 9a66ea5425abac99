// The page as files for any web server: dist/, of this folder or of the one that is named.

import { copyFile, mkdir, readdir } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

const here = path.dirname(fileURLToPath(import.meta.url));
const runtime = path.join(here, "node_modules", "onnxruntime-web", "dist");
// For one thread and many, and for WebGPU.
const RUNTIME_FILES = /^ort-wasm-simd-threaded(\.asyncify)?\.(wasm|mjs)$/;

const out = path.resolve(process.argv[2] ?? path.join(here, "dist"));
await mkdir(path.join(out, "runtime"), { recursive: true });
await build({
  entryPoints: [path.join(here, "src", "page.js"), path.join(here, "src", "worker.js")],
  outdir: out,
  bundle: true,
  splitting: true, // a browser without WebGPU fetches nothing of it
  format: "esm",
  target: ["chrome113", "firefox115", "safari16.4"],
  minify: true,
  sourcemap: true,
  // The parts that are shared with examples/node lie outside of this folder.
  nodePaths: [path.join(here, "node_modules")],
  conditions: ["onnxruntime-web-use-extern-wasm"],
  logLevel: "warning",
});
for (const name of ["index.html", "style.css"]) await copyFile(path.join(here, name), path.join(out, name));
for (const name of await readdir(runtime)) {
  if (RUNTIME_FILES.test(name)) await copyFile(path.join(runtime, name), path.join(out, "runtime", name));
}
console.log(`${out}: the page`);
