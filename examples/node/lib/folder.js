// An export on disk, in onnxruntime-node.

import { existsSync, statSync } from "node:fs";
import { readFile } from "node:fs/promises";
import path from "node:path";

import { Template } from "@huggingface/jinja";
import { Tokenizer } from "@huggingface/tokenizers";
import ort from "onnxruntime-node";

import { Decoder, SESSION } from "./decoder.js";
import { loadError, ModelError, readModelFiles } from "./model_files.js";
import { TextCodec } from "./text.js";

/**
 * Load a model.
 *
 * @param {string} folder as the exporter wrote it; a file in it does as well.
 * @param {object} [options]
 * @param {number} [options.threads] of ONNX Runtime; 0: one for each core.
 * @returns {Promise<{decoder: Decoder, codec: TextCodec, files: import("./model_files.js").ModelFiles}>}
 * @throws {ModelError}
 */
export async function openFolder(folder, { threads = 0 } = {}) {
  if (!existsSync(folder)) throw new ModelError(`${folder}: no such folder; give one that python -m exporter wrote`);
  const place = statSync(folder).isFile() ? path.dirname(folder) : folder;
  const files = await readModelFiles((name) => textOf(path.join(place, name)), place);
  const model = path.join(place, files.model);
  if (!existsSync(model))
    throw new ModelError(`${model}: no such file, but genai_config.json names it; copy it as well`);
  return { decoder: new Decoder(ort, await session(model, threads)), codec: codecOf(files, place), files };
}

/** There is no way to register a custom-op library here: what runs is the function inside the model. */
async function session(model, threads) {
  try {
    return await ort.InferenceSession.create(model, { ...SESSION, ...(threads && { intraOpNumThreads: threads }) });
  } catch (error) {
    throw loadError(model, error);
  }
}

function codecOf(files, place) {
  try {
    return new TextCodec({ Tokenizer, Template }, files);
  } catch (error) {
    throw new ModelError(`${place}: tokenizer.json is not a tokenizer that this library reads (${error.message})`);
  }
}

async function textOf(file) {
  try {
    return await readFile(file, "utf8");
  } catch (error) {
    if (error.code === "ENOENT") return null;
    throw new ModelError(`${file}: cannot be read (${error.code})`, { cause: error });
  }
}
