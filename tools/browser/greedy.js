#!/usr/bin/env node
// greedy.js MODEL_FOLDER --ids 1,2,3 --count 32: the greedy tokens that the page makes in Chromium, and what it takes.

import { parseArgs } from "node:util";

import { open, serve, tabUse } from "./browser.js";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    ids: { type: "string" },
    count: { type: "string", default: "32" },
    device: { type: "string", default: "wasm" },
    threads: { type: "string", default: "0" },
    "no-isolation": { type: "boolean", default: false },
  },
});
const server = await serve(positionals[0], ...(values["no-isolation"] ? ["--no-isolation"] : []));
const { browser, page } = await open({ gpu: values.device === "webgpu" });
try {
  await page.goto(server.url);
  await page.click("summary");
  await page.selectOption("#device", values.device);
  await page.fill("#threads", values.threads);
  const begin = performance.now();
  await page.click("#load");
  await page.waitForSelector("body[data-state=ready], #notice:not([hidden])", { timeout: 300_000 });
  if ((await page.getAttribute("body", "data-state")) !== "ready") {
    throw new Error(await page.textContent("#notice"));
  }
  const loadSeconds = (performance.now() - begin) / 1000;
  const facts = await page.locator("#facts li").allTextContents();
  const ids = values.ids.split(",").map(Number);
  const before = await tabUse(browser);
  const answer = await page.evaluate(
    ([ids, count]) => window.dualbinary.greedy(ids, count),
    [ids, Number(values.count)],
  );
  const after = await tabUse(browser);
  console.log(
    JSON.stringify({
      ids: answer.ids,
      facts,
      load_seconds: loadSeconds,
      first_token_seconds: answer.secondsToFirst,
      tokens_per_second: answer.tokensPerSecond,
      cpu_seconds: after.cpuSeconds - before.cpuSeconds,
      peak_bytes: after.peakBytes,
    }),
  );
} finally {
  await browser.close();
  server.close();
}
