// A conversation of several turns, each of which reads only what is new.

import { generate } from "./generate.js";
import { ModelError } from "./model_files.js";
import { textStream } from "./text.js";

/** Questions and answers, and what they took. */
export class Conversation {
  #decoder;
  #codec;
  #files;
  #messages;
  #system;
  /** What the last answer took; see `answer`. */
  stats = null;

  /**
   * @param {import("./decoder.js").Decoder} decoder
   * @param {import("./text.js").TextCodec} codec
   * @param {import("./model_files.js").ModelFiles} files
   * @param {string} [system] a message ahead of all others; where there is none, the template may bring its own.
   */
  constructor(decoder, codec, files, system) {
    this.#decoder = decoder;
    this.#codec = codec;
    this.#files = files;
    this.#system = system ? [{ role: "system", content: system }] : [];
    this.reset();
  }

  /** Forget all turns. */
  reset() {
    this.#messages = [...this.#system];
    this.#decoder.start();
  }

  /**
   * Answer `text`. What an aborted answer had said stays in the conversation.
   *
   * @param {string} text
   * @param {object} options
   * @param {number} options.count new tokens at most.
   * @param {(logits: Float32Array) => number} options.choose
   * @param {AbortSignal} [options.signal]
   * @yields {string} pieces of the answer; afterward `stats` has what it took: tokens, secondsToFirst, tokensPerSecond
   *   (after the first; null where there was but one) and `ended`: "stop", "length" or "cancelled".
   * @throws {ModelError} where the conversation no longer fits into the model.
   */
  async *answer(text, { count, choose, signal }) {
    const messages = [...this.#messages, { role: "user", content: text }];
    const ids = this.#codec.encodeMessages(messages);
    const room = this.#files.context - ids.length;
    if (room < 1) {
      throw new ModelError(
        `the conversation has ${ids.length} tokens and the model takes ${this.#files.context}; reset it`,
      );
    }
    const fresh = this.#decoder.continueWith(ids);
    const [begin, toText, limit] = [performance.now(), textStream(this.#codec), Math.min(count, room)];
    const made = [];
    let [first, last] = [null, null];
    try {
      for await (const token of generate(this.#decoder, fresh, {
        count: limit,
        stop: this.#files.stop,
        choose,
        signal,
      })) {
        last = performance.now();
        first ??= last;
        made.push(token);
        const piece = toText(token);
        if (piece) yield piece;
      }
      const rest = toText();
      if (rest) yield rest;
    } finally {
      // Also where whoever listens goes away.
      this.#messages = [...messages, { role: "assistant", content: this.#codec.decode(made) }];
      const seconds = (last - first) / 1000;
      this.stats = {
        tokens: made.length,
        secondsToFirst: ((first ?? performance.now()) - begin) / 1000,
        tokensPerSecond: made.length > 1 ? (made.length - 1) / seconds : null,
        ended: signal?.aborted ? "cancelled" : made.length === limit ? "length" : "stop",
      };
    }
  }
}
