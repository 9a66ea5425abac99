#!/usr/bin/env node
// picture.js MODEL_FOLDER OUT.png [QUESTION ...] [--dark]: asks the page, and takes a picture of the answers.

import { parseArgs } from "node:util";

import { open, serve } from "./browser.js";

const { values, positionals } = parseArgs({ allowPositionals: true, options: { dark: { type: "boolean" } } });
const [folder, out, ...questions] = positionals;
const view = {
  viewport: { width: 860, height: 640 },
  deviceScaleFactor: 1.5,
  colorScheme: values.dark ? "dark" : "light",
};
const server = await serve(folder);
const { browser, page } = await open({ page: view });
try {
  await page.goto(server.url);
  await page.click("#load");
  await page.waitForSelector("body[data-state=ready]", { timeout: 300_000 });
  for (const question of questions) {
    await page.fill("#question", question);
    await page.press("#question", "Enter");
    await page.waitForSelector("body[data-state=ready]", { timeout: 600_000 });
  }
  await page
    .locator("#facts li", { hasText: "of memory" })
    .waitFor({ timeout: 60_000 })
    .catch(() => {});
  await page.screenshot({ path: out, fullPage: true });
} finally {
  await browser.close();
  server.close();
}
