#!/usr/bin/env node
// npm start -- MODEL_FOLDER [QUESTION]: the text-generation pipeline of transformers.js on a folder that was written by
// python -m exporter SOURCE MODEL_FOLDER/model.onnx --layout-for transformersjs.

import { existsSync } from "node:fs";
import path from "node:path";
import { parseArgs } from "node:util";

import { AutoModelForCausalLM, env, LogLevel, pipeline, Tensor, TextStreamer } from "@huggingface/transformers";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    ids: { type: "string" }, // continue these token ids greedily instead, whatever ends a text
    count: { type: "string", default: "64" },
    json: { type: "boolean", default: false },
  },
});
const [folder, question = "What is the capital of France?"] = positionals;
if (!folder || !existsSync(path.join(folder, "onnx"))) {
  console.error("error: no folder with onnx/ in it; export one with --layout-for transformersjs");
  process.exit(2);
}

// The folder, and nothing from elsewhere.
env.allowRemoteModels = false;
env.localModelPath = path.dirname(path.resolve(folder));
env.logLevel = LogLevel.ERROR;
const name = path.basename(path.resolve(folder));

// Only for exports with --op dequantizelinear, whose weights are then unpacked once and not at every step.
const OPTIONS = { session_options: { extra: { session: { disable_quant_qdq: "1" } } } };

const begin = performance.now();
if (values.ids) {
  const model = await AutoModelForCausalLM.from_pretrained(name, OPTIONS);
  const started = performance.now();
  const ids = values.ids.split(",").map(BigInt);
  const ones = new BigInt64Array(ids.length).fill(1n);
  const times = []; // of the prompt, then of each token
  const output = await model.generate({
    inputs: new Tensor("int64", BigInt64Array.from(ids), [1, ids.length]),
    attention_mask: new Tensor("int64", ones, [1, ids.length]),
    max_new_tokens: Number(values.count),
    do_sample: false,
    eos_token_id: null,
    streamer: { put: () => times.push(performance.now()), end: () => {} },
  });
  const made = Array.from(output.data.slice(ids.length), Number);
  const measures = {
    load_seconds: (started - begin) / 1000,
    first_token_seconds: (times[1] - started) / 1000,
    tokens_per_second: made.length > 1 ? (1000 * (made.length - 1)) / (times.at(-1) - times[1]) : null,
    peak_bytes: process.resourceUsage().maxRSS * 1024,
  };
  console.log(values.json ? JSON.stringify({ ids: made, ...measures }) : made.join(","));
} else {
  const generator = await pipeline("text-generation", name, OPTIONS);
  const streamer = new TextStreamer(generator.tokenizer, { skip_prompt: true });
  const options = { max_new_tokens: Number(values.count), do_sample: false, streamer };
  await generator([{ role: "user", content: question }], options);
  console.log();
}
