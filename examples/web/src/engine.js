// A model in onnxruntime-web: which device it gets, and its session.

import { Template } from "@huggingface/jinja";
import { Tokenizer } from "@huggingface/tokenizers";

import { Decoder, SESSION } from "../../node/lib/decoder.js";
import { loadError, ModelError, readModelFiles } from "../../node/lib/model_files.js";
import { TextCodec } from "../../node/lib/text.js";

/** Bytes of weights beyond which WebAssembly, with its 4 GiB, has no room for them and for what it makes of them. */
const MOST_BYTES = 1.8e9;

/**
 * @typedef {object} Model
 * @property {Decoder} decoder
 * @property {TextCodec} codec
 * @property {import("../../node/lib/model_files.js").ModelFiles} files
 * @property {{device: string, threads: number, bytes: number, seconds: number, note: string | null}} info
 */

/**
 * Load a model.
 *
 * @param {import("./folders.js").Folder} folder
 * @param {object} options
 * @param {"auto" | "wasm" | "webgpu"} options.device auto: WebGPU where the browser has an adapter.
 * @param {number} options.threads of WebAssembly; 0: one for each core, up to 8.
 * @param {string} options.runtime address of the runtime's own files.
 * @param {(part: {what: string, loaded: number, total: number}) => void} options.onProgress
 * @param {AbortSignal} options.signal ends the download.
 * @returns {Promise<Model>}
 * @throws {ModelError}
 */
export async function loadModel(folder, { device, threads, runtime, onProgress, signal }) {
  const begin = performance.now();
  onProgress({ what: "Reading the configuration", loaded: 0, total: 0 });
  const files = await readModelFiles(folder.text, folder.place);
  const codec = codecOf(files, folder.place);
  const { graph, data, bytes } = await download(folder, files, onProgress, signal);
  onProgress({ what: "Preparing the model", loaded: bytes, total: bytes });
  const parts = { graph, data, caches: files.caches };
  const { ort, session, info } = await create(folder.place, parts, { device, threads, runtime });
  const seconds = (performance.now() - begin) / 1000;
  return { decoder: new Decoder(ort, session), codec, files, info: { ...info, bytes, seconds } };
}

/** All files of the graph and its weights. */
async function download(folder, files, onProgress, signal) {
  const place = files.model
    .split("/")
    .slice(0, -1)
    .map((part) => `${part}/`)
    .join("");
  const names = [];
  for (const base of files.data) {
    for (let part = 0; ; part++) {
      const name = part ? `${base}_${part}` : base;
      const size = await folder.size(place + name);
      if (size === null) break;
      names.push({ name, size });
      if (!base.endsWith("_data")) break; // only the layout of transformers.js has parts
    }
  }
  const own = await folder.size(files.model);
  if (own === null) throw new ModelError(`${folder.place}: no ${files.model}; put the whole folder there`);
  const total = names.reduce((sum, { size }) => sum + size, own);
  if (total > MOST_BYTES) {
    const size = (total / 1e9).toFixed(1);
    throw new ModelError(
      `${size} GB are too much for a page, which has 4 GB in all; export fewer bits or a smaller model`,
    );
  }
  let loaded = 0;
  const onBytes = (count) => onProgress({ what: "Loading the model", loaded: (loaded += count), total });
  const graph = await folder.bytes(files.model, onBytes, signal);
  const data = [];
  for (const { name } of names) data.push({ path: name, data: await folder.bytes(place + name, onBytes, signal) });
  return { graph, data, bytes: total };
}

async function create(place, parts, { device, threads, runtime }) {
  const wanted = device === "auto" ? ((await hasAdapter()) ? "webgpu" : "wasm") : device;
  try {
    return await createOn(wanted, parts, threads, runtime);
  } catch (error) {
    if (device !== "auto" || wanted === "wasm") throw loadError(place, error);
    const run = await createOn("wasm", parts, threads, runtime).catch((second) => {
      throw loadError(place, second);
    });
    run.info.note = `WebGPU did not take the model (${String(error.message).split("\n")[0]})`;
    return run;
  }
}

async function createOn(device, { graph, data, caches }, threads, runtime) {
  const ort = await (device === "webgpu" ? import("onnxruntime-web/webgpu") : import("onnxruntime-web/wasm"));
  const used = self.crossOriginIsolated ? threads || Math.min(navigator.hardwareConcurrency || 1, 8) : 1;
  ort.env.wasm.numThreads = used;
  ort.env.wasm.wasmPaths = runtime;
  ort.env.logLevel = "error";
  const options = { ...SESSION, executionProviders: [device], externalData: data };
  if (device === "webgpu" && caches.length) {
    // Keys and values stay where the next step reads them.
    options.preferredOutputLocation = Object.fromEntries(caches.map((name) => [name, "gpu-buffer"]));
  }
  const session = await ort.InferenceSession.create(graph, options);
  return { ort, session, info: { device, threads: used, note: null } };
}

async function hasAdapter() {
  return Boolean(await navigator.gpu?.requestAdapter().catch(() => null));
}

function codecOf(files, place) {
  try {
    return new TextCodec({ Tokenizer, Template }, files);
  } catch (error) {
    throw new ModelError(`${place}: tokenizer.json is not a tokenizer that this page reads (${error.message})`);
  }
}
