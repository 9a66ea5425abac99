// Text to tokens and back, as transformers does it.

import { ModelError } from "./model_files.js";

/** The tokenizer and the chat template of a model. */
export class TextCodec {
  #tokenizer;
  #Template;
  #template = null;
  #files;

  /**
   * @param {object} libraries
   * @param {Function} libraries.Tokenizer of @huggingface/tokenizers.
   * @param {Function} libraries.Template of @huggingface/jinja.
   * @param {import("./model_files.js").ModelFiles} files
   */
  constructor({ Tokenizer, Template }, files) {
    this.#tokenizer = new Tokenizer(files.tokenizer, files.tokenizerConfig);
    this.#Template = Template;
    this.#files = files;
  }

  /** Token ids of a plain text, with the special tokens that the tokenizer puts around it. */
  encode(text) {
    return this.#tokenizer.encode(text).ids;
  }

  /**
   * Token ids of a conversation, up to the place where the next answer begins.
   * @param {{role: string, content: string}[]} messages
   * @throws {ModelError} where the model has no chat template, or one that does not accept the messages.
   */
  encodeMessages(messages) {
    if (this.#files.template === null) {
      throw new ModelError("the model has no chat template, so it only continues texts; give it one with --prompt");
    }
    try {
      this.#template ??= new this.#Template(this.#files.template);
      const names = { ...specialTokens(this.#files.tokenizerConfig), messages, tools: null, documents: null };
      const text = this.#template.render({ ...names, add_generation_prompt: true });
      return this.#tokenizer.encode(text, { add_special_tokens: false }).ids;
    } catch (error) {
      throw new ModelError(`the chat template failed: ${error.message}`, { cause: error });
    }
  }

  /** The text of `ids`, special tokens left out. */
  decode(ids) {
    // The tokenizer has no text for no tokens.
    const options = { skip_special_tokens: true, clean_up_tokenization_spaces: false };
    return ids.length ? this.#tokenizer.decode(ids, options) : "";
  }
}

/**
 * Texts of tokens as they come, in pieces that need not be taken back: a character of several tokens waits for the last.
 * A call without a token, after the last, gives what still waits.
 *
 * @param {TextCodec} codec
 * @returns {(token?: number) => string}
 */
export function textStream(codec) {
  const ids = [];
  let given = 0;
  return (token) => {
    if (token !== undefined) ids.push(token);
    const text = codec.decode(ids);
    if (token !== undefined && text.endsWith("\uFFFD")) return "";
    const piece = text.slice(given);
    given = text.length;
    return piece;
  };
}

function specialTokens(config) {
  const named = Object.entries(config).filter(([key]) => key.endsWith("_token"));
  return Object.fromEntries(named.map(([key, value]) => [key, value?.content ?? value]));
}
