// What a person sees: loading, the conversation, and what is wrong in words. The model is in worker.js.

const get = (id) => document.getElementById(id);
const [notice, log, stats, composer] = ["notice", "log", "stats", "composer"].map(get);
const MEGABYTE = 1e6;
const GIGABYTE = 2 ** 30;
// A module that uses a vector of 128 bits: all that a browser needs for this runtime, and old ones lack.
const VECTORS = [
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11,
];

/** What the browser lacks, or null. */
function missing() {
  if (typeof WebAssembly !== "object") return "WebAssembly";
  if (!WebAssembly.validate(new Uint8Array(VECTORS))) return "WebAssembly with vectors (SIMD)";
  if (typeof BigInt64Array !== "function") return "integers of 64 bits";
  return null;
}

let worker = null;
let waiting = null; // the answer that is written
let tests = null; // resolves what `window.dualbinary` was asked

function show(state) {
  get("loader").hidden = state === "loading";
  get("progress").hidden = state !== "loading";
  log.hidden = composer.hidden = !["ready", "answering"].includes(state);
  get("send").hidden = state === "answering";
  get("stop").hidden = state !== "answering";
  get("reset").disabled = state === "answering";
  get("load").className = state === "ready" || state === "answering" ? "" : "primary";
  document.body.dataset.state = state;
}

function warn(message) {
  notice.textContent = message ?? "";
  notice.hidden = !message;
}

function begin() {
  worker?.terminate(); // with all memory of the model before
  worker = new Worker("worker.js", { type: "module" });
  worker.onmessage = ({ data: { type, ...content } }) => ON[type](content);
  worker.onerror = (event) => ON.failed({ message: `the page's worker failed: ${event.message ?? "it did not load"}` });
}

function load(source) {
  warn(null);
  begin();
  log.replaceChildren();
  get("facts").replaceChildren();
  stats.textContent = "";
  show("loading");
  const chosen = { device: get("device").value, threads: Number(get("threads").value), system: get("system").value };
  worker.postMessage({ type: "load", runtime: new URL("runtime/", location.href).href, ...chosen, ...source });
}

const ON = {
  progress({ what, loaded, total }) {
    const bar = get("bar");
    if (total) bar.value = loaded / total;
    else bar.removeAttribute("value");
    const bytes = total ? `: ${(loaded / MEGABYTE).toFixed(1)} of ${(total / MEGABYTE).toFixed(1)} MB` : "";
    get("progress-text").textContent = what + bytes;
    // What a device has, in whole GiB and no more than 8, is all that a page may know.
    if (total > (navigator.deviceMemory ?? 8) * GIGABYTE * 0.2) {
      warn("This device may have too little memory for the model; other tabs can be closed meanwhile.");
    }
  },
  ready({ info }) {
    const one = info.threads === 1;
    const why = self.crossOriginIsolated ? "" : ", as the server does not isolate the page";
    const threads = `WebAssembly, ${info.threads} thread${one ? "" : "s"}${one ? why : ""}`;
    const facts = [info.device === "webgpu" ? "WebGPU" : threads, `${(info.bytes / MEGABYTE).toFixed(1)} MB`];
    setFacts([...facts, `loaded in ${info.seconds.toFixed(1)} s`]);
    warn(info.note);
    show("ready");
    get("question").focus();
    measureMemory();
  },
  piece({ text }) {
    waiting.textContent += text;
    log.scrollTop = log.scrollHeight;
  },
  done({ stats: { tokens, secondsToFirst, tokensPerSecond, ended } }) {
    const pace = tokensPerSecond === null ? "" : ` · ${tokensPerSecond.toFixed(1)} tokens/s`;
    const end = { stop: "", length: " · cut at the number of tokens", cancelled: " · stopped" }[ended];
    stats.textContent = `${tokens} tokens · first after ${secondsToFirst.toFixed(2)} s${pace}${end}`;
    finish();
  },
  tokens(answer) {
    tests?.resolve(answer);
  },
  forgotten() {
    log.replaceChildren();
    stats.textContent = "";
  },
  stopped() {
    worker.terminate();
    show("empty");
    warn("Loading was cancelled.");
  },
  failed({ message }) {
    warn(`${message[0].toUpperCase()}${message.slice(1)}.`);
    tests?.reject(new Error(message));
    if (document.body.dataset.state === "answering") finish();
    else show("empty");
  },
};

function finish() {
  waiting?.classList.remove("waiting");
  if (waiting?.textContent === "") waiting.remove();
  waiting = null;
  show("ready");
  get("question").focus();
}

function setFacts(texts) {
  const items = texts.map((text) => Object.assign(document.createElement("li"), { textContent: text }));
  get("facts").replaceChildren(...items);
}

/** Where the browser tells, which takes it some seconds. */
async function measureMemory() {
  const measured = await performance.measureUserAgentSpecificMemory?.().catch(() => null);
  if (!measured) return;
  const item = document.createElement("li");
  item.textContent = `${Math.round(measured.bytes / MEGABYTE)} MB of memory`;
  get("facts").append(item);
}

function turn(kind, text) {
  const element = Object.assign(document.createElement("div"), { className: `turn ${kind}`, textContent: text });
  log.append(element);
  log.scrollTop = log.scrollHeight;
  return element;
}

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = get("question").value.trim();
  if (!text || document.body.dataset.state !== "ready") return;
  get("question").value = "";
  warn(null);
  turn("question", text);
  waiting = turn("answer waiting", "");
  show("answering");
  const [count, temperature] = [Number(get("count").value), Number(get("temperature").value)];
  worker.postMessage({ type: "ask", text, count, temperature });
});

get("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  composer.requestSubmit();
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && document.body.dataset.state === "answering") worker.postMessage({ type: "stop" });
});

get("stop").addEventListener("click", () => worker.postMessage({ type: "stop" }));
get("reset").addEventListener("click", () => worker.postMessage({ type: "reset" }));
// A download ends; what the runtime makes of it does not, so the worker goes with it.
get("cancel-load").addEventListener("click", () => ON.stopped());
get("load").addEventListener("click", () => {
  const folder = new URLSearchParams(location.search).get("model") ?? "model/";
  load({ url: new URL(folder.endsWith("/") ? folder : `${folder}/`, location.href).href });
});
get("folder").addEventListener("change", ({ target }) => {
  const files = Array.from(target.files, (file) => ({ path: file.webkitRelativePath, file }));
  if (files.length) load({ files });
  target.value = "";
});

/** For tests: greedy tokens of the loaded model, whatever ends a text. */
window.dualbinary = {
  greedy: (ids, count) =>
    new Promise((resolve, reject) => {
      tests = { resolve, reject };
      worker.postMessage({ type: "greedy", ids, count });
    }),
};

const lack = missing();
if (lack) {
  warn(`This browser lacks ${lack}. Chrome 113, Firefox 115, Safari 16.4 and newer have it.`);
  get("loader").hidden = true;
} else show("empty");
