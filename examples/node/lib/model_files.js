// The small files of an export, from wherever they are read.

/** Something that a person can put right; the message says how. */
export class ModelError extends Error {}

/**
 * @typedef {object} ModelFiles
 * @property {string} model path of the .onnx file in the folder.
 * @property {string[]} data names that the file of its weights may have, in the same place.
 * @property {number} context tokens that the model takes.
 * @property {Set<number>} stop tokens that end an answer.
 * @property {string[]} caches outputs that hold keys and values, of models that carry nothing else from step to step.
 * @property {object} tokenizer content of tokenizer.json.
 * @property {object} tokenizerConfig content of tokenizer_config.json.
 * @property {string | null} template the chat template.
 */

/**
 * Read them.
 *
 * @param {(name: string) => Promise<string | null>} read the text of a file of the folder, null where there is none.
 * @param {string} place the folder, as messages name it.
 * @returns {Promise<ModelFiles>}
 * @throws {ModelError}
 */
export async function readModelFiles(read, place) {
  const json = async (name, needed) => {
    const text = await read(name);
    if (text === null && needed) {
      throw new ModelError(`${place}: no ${name}; give the folder that python -m exporter wrote, with all its files`);
    }
    try {
      return JSON.parse(text ?? "{}");
    } catch (error) {
      throw new ModelError(`${place}: ${name} is not JSON (${error.message}); export the model again`);
    }
  };
  const genai = await json("genai_config.json", true);
  const model = genai.model?.decoder?.filename;
  if (typeof model !== "string") {
    throw new ModelError(`${place}: genai_config.json names no model.decoder.filename; export the model again`);
  }
  const [tokenizer, tokenizerConfig] = [await json("tokenizer.json", true), await json("tokenizer_config.json", false)];
  const name = model.split("/").at(-1);
  return {
    model,
    data: [`${name}.data`, `${name}_data`],
    context: contextOf(genai, await json("config.json", false)),
    stop: new Set([genai.model.eos_token_id ?? []].flat()),
    caches: cachesOf(genai.model.decoder),
    tokenizer,
    tokenizerConfig,
    template: (await read("chat_template.jinja")) ?? defaultTemplate(tokenizerConfig.chat_template),
  };
}

/** LongRoPE turns keys anew where a sequence grows beyond its short factors; these hosts end there instead. */
function contextOf(genai, config) {
  const rope = config.rope_parameters ?? config.rope_scaling;
  const long = (rope?.rope_type ?? rope?.type) === "longrope";
  const short = rope?.original_max_position_embeddings ?? config.original_max_position_embeddings;
  return long && short ? Math.min(short, genai.model.context_length) : genai.model.context_length;
}

function cachesOf({ outputs = {}, num_hidden_layers: layers, layer_types: types }) {
  if (types) return []; // some layers have states in their place
  const patterns = [outputs.present_key_names, outputs.present_value_names].filter(Boolean);
  return Array.from({ length: layers }, (_, layer) => patterns.map((name) => name.replace("%d", layer))).flat();
}

function defaultTemplate(template) {
  if (!Array.isArray(template)) return template ?? null;
  return template.find(({ name }) => name === "default")?.template ?? null;
}

/**
 * What ONNX Runtime said when it did not load a model, with the way out where it is known.
 *
 * @param {string} place the model, as the message names it.
 * @param {unknown} error
 * @returns {ModelError}
 */
export function loadError(place, error) {
  const said = String(error?.message ?? error).split("\n")[0];
  const way = WAYS.find(([pattern]) => pattern.test(said))?.[1] ?? "export the model again, or report this message";
  return new ModelError(`${place}: ONNX Runtime did not load it: ${way} (${said})`, { cause: error });
}

const WAYS = [
  [
    /not a registered function/i,
    "it needs the custom-op library, which JavaScript cannot register; export it without --fallback none",
  ],
  [
    // WebAssembly's runtime says a mere number where it has no room for words.
    /bad_alloc|out of memory|OOM|allocation failed|failed to allocate|memory access out of bounds|^\d+$/i,
    "too little memory; close other programs or tabs, or export without --op dequantizelinear, or a smaller model",
  ],
  [
    /external data|ExternalData|cannot open|No such file|file_size|does not exist|out of bounds/i,
    "its file of weights is missing, cut short or of another export; copy the folder again, with all its files",
  ],
  [/protobuf|INVALID_PROTOBUF|parse/i, "the file is damaged; copy it again"],
];
