#!/usr/bin/env node
// npm start -- MODEL_FOLDER: chat with an exported model in the terminal.

import readline from "node:readline/promises";
import { parseArgs } from "node:util";

import { Conversation } from "./lib/conversation.js";
import { openFolder } from "./lib/folder.js";
import { generate, sampler } from "./lib/generate.js";
import { ModelError } from "./lib/model_files.js";
import { textStream } from "./lib/text.js";

const USAGE = `usage: npm start -- MODEL_FOLDER [options]

Chat with a model that python -m exporter wrote. /reset forgets the conversation, /exit or Ctrl-D ends it, Ctrl-C ends
an answer.

  --system TEXT       a message ahead of the conversation
  --prompt TEXT       continue TEXT instead of chatting
  --ids 1,2,3         continue these token ids greedily, whatever ends a text, and print the new ids
  --count N           new tokens at most (default 256; of --ids 32)
  --temperature T     0 takes the likeliest token, 1 draws as the model says (default 0)
  --threads N         of ONNX Runtime (default: one for each core)
  --json              print one object: ids, text, and what it took in seconds, tokens a second and bytes
  --debug             show where an error comes from`;

const OPTIONS = {
  system: { type: "string" },
  prompt: { type: "string" },
  ids: { type: "string" },
  count: { type: "string" },
  temperature: { type: "string", default: "0" },
  threads: { type: "string", default: "0" },
  json: { type: "boolean", default: false },
  debug: { type: "boolean", default: false },
  help: { type: "boolean", short: "h", default: false },
};

function readArguments() {
  let parsed;
  try {
    parsed = parseArgs({ options: OPTIONS, allowPositionals: true });
  } catch (error) {
    throw new ModelError(`${error.message.split(". ")[0]}; --help lists the options`);
  }
  const { values, positionals } = parsed;
  if (values.help) return values;
  if (positionals.length !== 1)
    throw new ModelError(`one MODEL_FOLDER is expected, got ${positionals.length}; --help says more`);
  const { ids, prompt } = values;
  if (ids !== undefined && prompt !== undefined)
    throw new ModelError("--ids and --prompt are two ways to say one thing; give one");
  return {
    ...values,
    folder: positionals[0],
    ids: ids?.split(",").map((word) => whole("--ids", word, 0)),
    count: whole("--count", values.count ?? (ids ? "32" : "256"), 1),
    threads: whole("--threads", values.threads, 0),
    temperature: temperatureOf(values.temperature),
  };
}

function whole(option, word, least) {
  const number = Number(word);
  if (word.trim() === "" || !Number.isSafeInteger(number) || number < least) {
    throw new ModelError(`${option} takes whole numbers from ${least} up, got '${word}'`);
  }
  return number;
}

function temperatureOf(word) {
  const number = Number(word);
  if (word.trim() === "" || !(number >= 0 && number < Infinity)) {
    throw new ModelError(`--temperature takes a number from 0 up, got '${word}'`);
  }
  return number;
}

/** Continue a text or ids once, and say what it took. */
async function once({ decoder, codec, files }, args, loadSeconds) {
  const ids = args.ids ?? codec.encode(args.prompt);
  const room = files.context - ids.length;
  if (room < 1) {
    throw new ModelError(`the prompt has ${ids.length} tokens and the model takes ${files.context}; shorten it`);
  }
  const count = Math.min(args.count, room);
  const stop = args.ids ? new Set() : files.stop;
  const choose = sampler(args.ids ? 0 : args.temperature);
  const toText = textStream(codec);
  const made = [];
  const times = [performance.now()];
  for await (const token of generate(decoder, ids, { count, stop, choose })) {
    times.push(performance.now());
    made.push(token);
    if (!args.json && !args.ids) process.stdout.write(toText(token));
  }
  if (!args.json && !args.ids) process.stdout.write(toText()); // what waited for the rest of a character
  if (!args.json) return console.log(args.ids ? made.join(",") : "");
  const answerSeconds = (times.at(-1) - times[1]) / 1000;
  console.log(
    JSON.stringify({
      ids: made,
      text: codec.decode(made),
      load_seconds: loadSeconds,
      first_token_seconds: (times[1] - times[0]) / 1000,
      tokens_per_second: made.length > 1 ? (made.length - 1) / answerSeconds : null,
      peak_bytes: process.resourceUsage().maxRSS * 1024,
    }),
  );
}

/** Read questions until there are no more. */
async function chat(model, args, loadSeconds) {
  const conversation = new Conversation(model.decoder, model.codec, model.files, args.system);
  model.codec.encodeMessages([{ role: "user", content: "?" }]); // a model without a template is told of at once
  const terminal = readline.createInterface({ input: process.stdin, output: process.stdout });
  let running = null;
  terminal.on("SIGINT", () => (running ? running.abort() : terminal.close()));
  console.log(`loaded in ${loadSeconds.toFixed(1)} s; /reset, /exit, Ctrl-C ends an answer`);
  terminal.setPrompt("> ");
  terminal.prompt();
  for await (const line of terminal) {
    const text = line.trim();
    if (text === "/exit") break;
    if (text === "/reset") {
      conversation.reset();
      console.log("forgotten");
    } else if (text) {
      running = new AbortController();
      await say(conversation, text, { ...args, choose: sampler(args.temperature), signal: running.signal });
      running = null;
    }
    terminal.prompt();
  }
  terminal.close();
}

async function say(conversation, text, options) {
  try {
    for await (const piece of conversation.answer(text, options)) process.stdout.write(piece);
    const { tokens, secondsToFirst, tokensPerSecond, ended } = conversation.stats;
    const pace = tokensPerSecond === null ? "" : `, then ${tokensPerSecond.toFixed(1)} tokens/s`;
    console.log(`\n[${tokens} tokens, first after ${secondsToFirst.toFixed(2)} s${pace}; ${ended}]`);
  } catch (error) {
    if (!(error instanceof ModelError)) throw error;
    console.log(`error: ${error.message}`);
  }
}

async function main() {
  const args = readArguments();
  if (args.help) return console.log(USAGE);
  const begin = performance.now();
  const model = await openFolder(args.folder, args);
  const loadSeconds = (performance.now() - begin) / 1000;
  return args.ids || args.prompt !== undefined ? once(model, args, loadSeconds) : chat(model, args, loadSeconds);
}

try {
  await main();
} catch (error) {
  if (process.argv.includes("--debug")) throw error;
  console.error(`error: ${String(error.message).split("\n")[0]}`);
  process.exitCode = error instanceof ModelError ? 2 : 1;
}
