#!/usr/bin/env node
// visit.js MODEL_FOLDER: uses the page as a person does, and prints what was seen, for tests/e2e/test_web.py.

import { open, serve } from "./browser.js";

const WAIT = { timeout: 180_000 };
const folder = process.argv[2];
const seen = {};
const servers = [];
const { browser, page } = await open({ haste: true });
const problems = [];

async function start(...words) {
  const server = await serve(...words);
  servers.push(server);
  await page.goto(server.url);
  return server;
}

const notice = () => page.waitForSelector("#notice:not([hidden])", WAIT).then((element) => element.textContent());
const state = (name) => page.waitForSelector(`body[data-state=${name}]`, WAIT);
const turns = (kind) => page.locator(`.turn.${kind}`).allTextContents();

async function load() {
  await page.click("#load");
  await state("ready");
}

async function ask(text) {
  await page.fill("#question", text);
  await page.press("#question", "Enter");
  await state("ready");
}

try {
  page.on("pageerror", (error) => problems.push(error.message));

  await start(folder);
  seen.isolated = await page.evaluate(() => self.crossOriginIsolated);
  seen.unnamed = await page.evaluate(() => {
    const named = (element) =>
      element.labels?.length || element.textContent.trim() || element.ariaLabel || element.title;
    return [...document.querySelectorAll("input, select, textarea, button")]
      .filter((each) => !named(each))
      .map(({ id }) => id);
  });
  await page.click("summary");
  await page.fill("#threads", "2");
  await load();
  seen.facts = await page.locator("#facts li").allTextContents();
  await page.fill("#count", "5");
  await ask("Hi");
  await ask("And?");
  seen.answers = await turns("answer");
  seen.questions = await turns("question");
  seen.stats = await page.textContent("#stats");
  await page.click("#reset");
  await page.waitForFunction(() => !document.querySelector(".turn"));
  await ask("Hi");
  seen.again = await turns("answer");

  // An answer that is stopped leaves the page ready, and so does a question that has no room.
  await page.click("#reset");
  await page.fill("#count", "2048");
  await page.fill("#temperature", "2");
  await page.fill("#question", "Hi");
  await page.press("#question", "Enter");
  await page.press("body", "Escape");
  await state("ready");
  seen.stopped = await page.textContent("#stats");
  await ask("x".repeat(500));
  seen.full = await notice();

  // The same folder, opened from disk.
  await page.setInputFiles("#folder", folder);
  await page.waitForFunction(() => document.body.dataset.state !== "ready");
  await state("ready");
  await page.fill("#count", "5");
  await page.fill("#temperature", "0");
  await ask("Hi");
  seen.opened = await turns("answer");

  // A download that is cancelled, one that is too large, and one that ends early.
  const data = "**/*.data";
  await page.reload();
  await page.route(data, (route) => (route.request().method() === "HEAD" ? route.continue() : null));
  await page.click("#load");
  await state("loading");
  await page.click("#cancel-load");
  seen.cancelled = await notice();
  await page.unroute(data);
  await page.route(data, (route) => route.fulfill({ headers: { "content-length": "3000000000" } }));
  await page.click("#load");
  seen.large = await notice();
  await page.unroute(data);
  const HEAD = { status: 200, body: Buffer.alloc(100) };
  await page.route(data, (route) => (route.request().method() === "HEAD" ? route.continue() : route.fulfill(HEAD)));
  await page.click("#load");
  await state("empty");
  await page.waitForFunction(
    () => /file of weights|cut short|ended after/.test(document.querySelector("#notice").textContent),
    null,
    WAIT,
  );
  seen.short = await notice();
  await page.unroute(data);

  await start(folder, "--no-isolation");
  await load();
  seen.alone = await page.locator("#facts li").allTextContents();

  await start();
  await page.click("#load");
  seen.nothing = await notice();

  await page.addInitScript(() => (WebAssembly.validate = () => false));
  await page.reload();
  seen.old = await notice();
  console.log(JSON.stringify({ ...seen, problems }));
} finally {
  await browser.close();
  for (const server of servers) server.close();
}
