// Runs the model away from the page, which stays quick whatever a step takes.

import { Conversation } from "../../node/lib/conversation.js";
import { generate, greedy, sampler } from "../../node/lib/generate.js";
import { ModelError } from "../../node/lib/model_files.js";
import { loadModel } from "./engine.js";
import { openedFolder, serverFolder } from "./folders.js";

let model = null;
let conversation = null;
let running = null;

const post = (type, content = {}) => self.postMessage({ type, ...content });

/** Messages are read between steps: a step of WebAssembly leaves no time for them. */
const channel = new MessageChannel();
function breath() {
  return new Promise((resolve) => {
    channel.port1.onmessage = resolve;
    channel.port2.postMessage(null);
  });
}

const TASKS = {
  async load({ url, files, device, threads, runtime, system }, signal) {
    const folder = files ? openedFolder(files) : serverFolder(url);
    const onProgress = (part) => post("progress", part);
    model = null; // what it held is free before the next one comes
    model = await loadModel(folder, { device, threads, runtime, onProgress, signal });
    conversation = new Conversation(model.decoder, model.codec, model.files, system);
    post("ready", { info: model.info });
  },

  async ask({ text, count, temperature }, signal) {
    for await (const piece of conversation.answer(text, { count, choose: sampler(temperature), signal })) {
      post("piece", { text: piece });
      await breath();
    }
    post("done", { stats: conversation.stats });
  },

  /** What tests compare: greedy tokens, whatever ends a text. */
  async greedy({ ids, count }) {
    const [made, times] = [[], [performance.now()]];
    model.decoder.start();
    for await (const token of generate(model.decoder, ids, { count, choose: greedy })) {
      made.push(token);
      times.push(performance.now());
    }
    const seconds = (times.at(-1) - times[1]) / 1000;
    conversation.reset();
    post("tokens", {
      ids: made,
      secondsToFirst: (times[1] - times[0]) / 1000,
      tokensPerSecond: (made.length - 1) / seconds,
    });
  },

  reset() {
    conversation?.reset();
    post("forgotten");
  },
};

self.onmessage = async ({ data: { type, ...content } }) => {
  if (type === "stop") return running?.abort();
  running = new AbortController();
  try {
    await TASKS[type](content, running.signal);
  } catch (error) {
    if (error.name === "AbortError") return post("stopped");
    const memory = /memory|bad_alloc|allocation/i.test(error.message);
    const way = memory ? "too little memory; close other tabs and load the page again" : "load the page again";
    post("failed", { message: error instanceof ModelError ? error.message : `${way} (${error.message})` });
  }
};
