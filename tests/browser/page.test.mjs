// A reader's click-through of the page in headless Chromium, against a running Duet (DUET_URL) that already has at
// least one case with findings. One more appears while the page is open: the file that DUET_FEED names, fed through
// the gateway at the same address, or else whatever comes by itself.
//
//   DUET_URL=http://127.0.0.1:8080 [DUET_FEED=film.png] [DUET_SCREENSHOTS=folder] npm test
//
// It fails on any error in the browser's console and on any request that leaves the origin.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";

const base = process.env.DUET_URL;
if (!base) throw new Error("DUET_URL is not set: give the address of a running Duet, for instance http://127.0.0.1:8080");
const origin = new URL(base).origin;
const WAIT = { timeout: Number(process.env.DUET_WAIT_MS ?? 60_000) };

const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
];

let browser;
let page;
const complaints = [];

before(async () => {
  const executablePath = process.env.DUET_CHROMIUM ?? "/usr/bin/chromium";
  browser = await chromium.launch({ executablePath, args: FLAGS });
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
  page = await context.newPage();
  page.on("console", (message) => message.type() === "error" && complaints.push(`console: ${message.text()}`));
  page.on("pageerror", (error) => complaints.push(`script: ${error}`));
  page.on("response", (answer) => answer.status() >= 500 && complaints.push(`${answer.status()} ${answer.url()}`));
  page.on("request", (request) => {
    const url = new URL(request.url());
    if (url.origin !== origin && url.protocol !== "data:") complaints.push(`left the origin: ${request.url()}`);
  });
  await page.goto(base);
});

after(async () => browser?.close());

async function picture(name) {
  const folder = process.env.DUET_SCREENSHOTS;
  if (folder) await page.screenshot({ path: join(folder, `${name}.png`) });
}

const number = async (name) => Number(await page.locator(".viewer").getAttribute(`data-${name}`));
const pressed = (option) => page.locator(`.toolbar [data-option="${option}"]`).getAttribute("aria-pressed");
const loaded = (selector) => page.waitForFunction((s) => document.querySelector(s)?.naturalWidth > 0, selector, WAIT);

test("the list fills and says what it is", async () => {
  await page.waitForSelector(".row", WAIT);
  assert.equal(await page.locator("header .notice").innerText(), "Research use only. Not for diagnosis.");
  assert.equal(await page.locator("#live").innerText(), "live");
  await loaded(".row img.thumb");
  await picture("list");
});

test("an image that is fed appears by itself", async () => {
  // Without a reload: what changes the page is the stream of changes.
  let loads = 0;
  page.on("load", () => (loads += 1));
  const there = new Set(await page.locator(".row").evaluateAll((rows) => rows.map((row) => row.dataset.id)));
  if (process.env.DUET_FEED) {
    const body = await readFile(process.env.DUET_FEED);
    const answer = await fetch(`${origin}/v1/images`, { method: "POST", headers: { "content-type": "application/octet-stream" }, body });
    assert.equal(answer.status, 202);
    const { id } = await answer.json();
    assert.ok(!there.has(id), "DUET_FEED must name a file that was not fed before");
    await page.waitForSelector(`.row[data-id="${id}"]`, WAIT);
    await page.waitForSelector(`.row[data-id="${id}"]:not(:has(.chip.way))`, WAIT);
  } else {
    await page.waitForFunction((ids) => [...document.querySelectorAll(".row")].some((row) => !ids.includes(row.dataset.id)), [...there], WAIT);
  }
  assert.equal(loads, 0);
});

test("a case with findings opens with the keyboard alone", async () => {
  await page.keyboard.press("2");
  await page.waitForSelector('[data-show="findings"][aria-pressed="true"]');
  await page.waitForSelector(".row.finding", WAIT);
  await page.keyboard.press("j");
  await page.keyboard.press("j");
  await page.keyboard.press("k");
  const id = await page.evaluate(() => document.activeElement.dataset.id);
  assert.match(id, /^c-[0-9a-f]{32}$/, "j and k move the focus to a row");
  await page.keyboard.press("Enter");
  await page.waitForURL(`${origin}/cases/${id}`);
  await loaded(".pane img.film");
  assert.ok((await page.locator(".found").count()) > 0);
  assert.match(await page.locator(".found .number").first().innerText(), /%/);
  await picture("case");
});

test("the annotation goes off and on, and the published picture stands beside", async () => {
  const contours = page.locator(".overlay .contour");
  if ((await contours.count()) > 0) {
    await page.keyboard.press("a");
    assert.equal(await pressed("annotated"), "false");
    assert.ok(!(await contours.first().isVisible()), "no contour while the annotation is off");
    await page.locator(".found").first().hover();
    await page.waitForSelector(".contour.current");
    assert.ok(await page.locator(".contour.current").first().isVisible(), "a finding that is pointed at shows its contour");
    await page.mouse.move(5, 5);
    await page.keyboard.press("a");
    assert.ok(await contours.first().isVisible());
  }
  await page.keyboard.press("s");
  await page.waitForFunction(() => document.querySelectorAll(".pane img.film")[1]?.naturalWidth > 0, null, WAIT);
  await picture("beside");
  await page.keyboard.press("s");
  assert.equal(await page.locator(".pane:visible").count(), 1);
});

test("what was measured is told, and its lines are drawn and go with the annotation", async () => {
  const told = page.locator(".measured li");
  const drawn = page.locator(".overlay .measure");
  if ((await told.count()) === 0) return; // a deployment without a model that measures
  assert.match(await told.first().innerText(), /^Cardiothoracic ratio\s*(0\.\d\d|no value)/);
  if ((await drawn.count()) === 0) return; // outlines that were not believed
  assert.deepEqual(await drawn.first().locator("text").allTextContents(), ["Heart", "Chest"]);
  assert.ok(await drawn.first().isVisible());
  await page.keyboard.press("a");
  assert.ok(!(await drawn.first().isVisible()));
  await page.keyboard.press("a");
});

test("zoom, pan, window and inversion", async () => {
  await page.keyboard.press("+");
  await page.keyboard.press("+");
  assert.ok((await number("zoom")) > 1.5);
  const film = page.locator(".pane img.film").first();
  const box = await page.locator(".panes").boundingBox();
  const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
  const place = () => film.evaluate((image) => image.style.transform);
  const before = await place();
  await page.mouse.move(x, y);
  await page.mouse.down();
  await page.mouse.move(x + 40, y + 30, { steps: 4 });
  await page.mouse.up();
  assert.notEqual(await place(), before, "a drag moves the picture");
  await page.mouse.wheel(0, -300);
  assert.ok((await number("zoom")) > 2);
  await page.mouse.down({ button: "right" });
  await page.mouse.move(x - 60, y, { steps: 4 });
  await page.mouse.up({ button: "right" });
  assert.doesNotMatch(await page.locator(".readout").innerText(), /W 255 /);
  await page.keyboard.press("i");
  assert.match(await page.locator(".readout").innerText(), /inverted/);
  const slope = await page.locator("#window feFuncR").getAttribute("slope");
  assert.ok(Number(slope) < -1, `the window turns and steepens the grey: ${slope}`);
  await picture("window");
  await page.keyboard.press("0");
  assert.equal(await number("zoom"), 1);
});

test("the ledger shows every stage's wait and work", async () => {
  const stages = await page.locator(".ledger tbody th").allInnerTexts();
  assert.deepEqual([stages[0], stages.at(-1)], ["Prepare", "Publish"]);
  const widths = await page.locator(".ledger .worked").evaluateAll((bars) => bars.map((bar) => bar.getBoundingClientRect().width));
  assert.equal(widths.length, stages.length);
  assert.ok(widths.every((width) => width > 0), String(widths));
});

test("markup in whatever a case says stays text", async () => {
  const evil = '<img src=x onerror="window.pwned=1"><b>bold</b><script>window.pwned=1</script>';
  const poison = (value) => {
    if (Array.isArray(value)) return value.map(poison);
    if (value === null || typeof value !== "object") return value;
    const poisoned = (key, old) => (["label", "text", "kind", "kind_meaning", "summary", "reasons", "notes", "notice", "answer", "name", "version"].includes(key) && old
      ? (Array.isArray(old) ? [evil] : typeof old === "string" ? evil : poison(old)) : poison(old));
    return Object.fromEntries(Object.entries(value).map(([key, old]) => [key, poisoned(key, old)]));
  };
  const other = await page.context().newPage();
  await other.route(/\/review\/cases(\?|\/c-[0-9a-f]+$)/, async (route) => {
    const answer = await route.fetch();
    await route.fulfill({ response: answer, json: poison(await answer.json()) });
  });
  for (const [url, place] of [[base, ".row .what strong"], [page.url(), ".reasons li"]]) {
    await other.goto(url);
    await other.waitForSelector(place, WAIT);
    const text = await other.locator("main").evaluate((main) => main.textContent);
    assert.ok(text.includes(evil), `the markup is shown as it is at ${url}`);
    const strays = await other.evaluate(() => document.querySelectorAll("main :is(b, script, iframe, img[src=x])").length);
    assert.deepEqual([strays, await other.evaluate(() => window.pwned)], [0, undefined]);
  }
  await other.close();
});

test("Escape leads back to the row, and help opens and closes", async () => {
  const id = page.url().split("/").at(-1);
  await page.keyboard.press("Escape");
  await page.waitForURL(`${origin}/`);
  assert.equal(await page.evaluate(() => document.activeElement?.dataset?.id), id);
  await page.keyboard.press("?");
  assert.ok(await page.locator("#help").isVisible());
  await page.keyboard.press("Escape");
  assert.ok(!(await page.locator("#help").isVisible()));
});

test("at 1024 by 768 nothing runs off the side", async () => {
  await page.setViewportSize({ width: 1024, height: 768 });
  await page.keyboard.press("1");
  await page.waitForSelector(".row");
  const wide = () => page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.ok((await wide()) <= 0);
  await picture("list-1024");
  await page.locator(".row:has(img.thumb)").first().click();
  await loaded(".pane img.film");
  assert.ok((await wide()) <= 0);
  assert.ok(await page.locator("header .notice").isVisible());
  await picture("case-1024");
});

test("the browser had nothing to complain of", () => assert.deepEqual(complaints, []));
