// A language model in ONNX Runtime, for every host in JavaScript: onnxruntime-node, and onnxruntime-web in a page.

import { toFloat32 } from "./float16.js";
import { ModelError } from "./model_files.js";

/** Session options for any export: what --op dequantizelinear stores packed is unpacked once, and not at every step. */
export const SESSION = { extra: { session: { disable_quant_qdq: "1" } } };

const PRESENT = /^present\./;
const ARRAYS = { float32: Float32Array, float16: Uint16Array, int8: Int8Array };

/**
 * Feeds a session and keeps what it carries from step to step: keys and values, and states of fixed size.
 *
 * The cache is made by the names, types and sizes that the model declares, so that one class runs every export,
 * whatever its cache holds. It lies outside of the session: to start anew, forget it.
 */
export class Decoder {
  #ort;
  #session;
  #past = new Map();
  #read = [];

  /**
   * @param {object} ort the module onnxruntime-node or onnxruntime-web.
   * @param {object} session an InferenceSession of an exported model.
   */
  constructor(ort, session) {
    this.#ort = ort;
    this.#session = session;
    this.start();
  }

  /** Tokens that the model has read. */
  get length() {
    return this.#read.length;
  }

  /** Forget all tokens. */
  start() {
    for (const tensor of this.#past.values()) release(tensor);
    this.#past.clear();
    this.#read = [];
    for (const { name, type, shape } of this.#session.inputMetadata) {
      if (!name.startsWith("past")) continue;
      // One sequence; of the other sizes only the number of tokens has a name, and that is none as yet.
      const sizes = shape.map((size, axis) => (typeof size === "number" ? size : axis === 0 ? 1 : 0));
      const values = new ARRAYS[type](sizes.reduce((product, size) => product * size, 1));
      this.#past.set(name, new this.#ort.Tensor(type, values, sizes));
    }
  }

  /**
   * Make ready to read a text of which a part may have been read.
   * @param {number[]} ids all tokens of the text.
   * @returns {number[]} those for `step`: what comes after the tokens read so far, or all, where the text differs.
   */
  continueWith(ids) {
    const goesOn = this.length < ids.length && this.#read.every((id, place) => id === ids[place]);
    if (!goesOn) this.start();
    return ids.slice(this.length);
  }

  /**
   * Read further tokens.
   * @param {number[]} ids at least one.
   * @returns {Promise<Float32Array>} [vocabulary] logits of the token after the last.
   * @throws {ModelError} for ids that the model does not have.
   */
  async step(ids) {
    this.#check(ids);
    const length = this.length + ids.length;
    const feeds = Object.fromEntries(this.#past);
    feeds.input_ids = this.#integers(ids);
    feeds.attention_mask = this.#integers(new Array(length).fill(1));
    if (this.#session.inputNames.includes("position_ids")) {
      feeds.position_ids = this.#integers(ids.map((_, place) => this.length + place));
    }
    const outputs = await this.#run(feeds);
    for (const [name, tensor] of Object.entries(outputs)) {
      if (PRESENT.test(name)) this.#keep(name, tensor);
    }
    this.#read.push(...ids);
    const { logits } = outputs;
    const vocabulary = logits.dims.at(-1);
    return toFloat32(logits.type, logits.data.subarray(logits.data.length - vocabulary));
  }

  async #run(feeds) {
    try {
      return await this.#session.run(feeds, this.#wanted());
    } catch (error) {
      const rows = [...this.#past.values()].some(({ type }) => type === "int8");
      if (!rows) throw error;
      const way = "ONNX Runtime 1.32 or newer reads an int8 cache without the library; use that, or --kv-cache fp16";
      throw new ModelError(`${way} (${error.message.split("\n")[0]})`, { cause: error });
    }
  }

  #check(ids) {
    const vocabulary = this.#session.outputMetadata.find(({ name }) => name === "logits")?.shape.at(-1);
    const stranger = ids.find((id) => id >= vocabulary);
    if (stranger !== undefined) throw new ModelError(`token ${stranger}: the model has tokens 0 to ${vocabulary - 1}`);
  }

  #wanted() {
    return this.#session.outputNames.filter((name) => name === "logits" || PRESENT.test(name));
  }

  #keep(name, tensor) {
    const keys = name.replace(PRESENT, "past_key_values.");
    const past = this.#past.has(keys) ? keys : name.replace(PRESENT, "past.");
    release(this.#past.get(past));
    this.#past.set(past, tensor);
  }

  #integers(values) {
    return new this.#ort.Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
  }
}

/** On a GPU nobody else lets go of a tensor. */
function release(tensor) {
  if (tensor?.location === "gpu-buffer") tensor.dispose();
}
