// Steps of a person on the page, in a real Chromium: JSON on the standard input, JSON on the standard output.
//
//   {"modules": folder of node_modules, "chromium": file, "profile": folder, "width": 1300, "height": 900, "steps": [...]}
//
// Each step is [what, ...arguments], see below; the answer holds what each of them gave, what the page wrote to its
// console, and the requests that it made.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';

const task = JSON.parse(readFileSync(0, 'utf8'));
const { chromium } = createRequire(path.join(task.modules, 'index.js'))('playwright-core');
const flags =
  'no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update disable-sync';
const context = await chromium.launchPersistentContext(task.profile, {
  executablePath: task.chromium,
  headless: true,
  args: flags.split(' ').map((flag) => `--${flag}`),
  viewport: { width: task.width ?? 1300, height: task.height ?? 900 },
  colorScheme: task.scheme ?? 'light',
  hasTouch: Boolean(task.touch),
});
const page = context.pages()[0] ?? (await context.newPage());
const answer = { results: [], console: [], requests: [] };
page.setDefaultTimeout(240_000); // fifty cells on a busy machine
page.on('console', (message) => answer.console.push(`${message.type()}: ${message.text()}`));
page.on('pageerror', (error) => answer.console.push(`pageerror: ${error.message}`));
context.on('request', (request) => answer.requests.push([request.method(), request.url()]));

const steps = {
  goto: (url) => page.goto(url).then((reply) => reply?.status() ?? null),
  ready: () => page.waitForSelector('html[data-ready=true]').then(() => true),
  choose: (files, selector = '#files') => page.locator(selector).setInputFiles(files),
  judged: async () => {
    await page.waitForFunction(() => document.getElementById('results').ariaBusy === 'false');
    return page.textContent('#status');
  },
  click: (selector) => page.click(selector),
  tap: (selector, x, y) => page.locator(selector).click({ position: { x, y } }),
  fill: (selector, value) => page.fill(selector, String(value)),
  select: (selector, value) => page.selectOption(selector, value),
  press: (key, times = 1) => Array.from({ length: times }).reduce((last) => last.then(() => page.keyboard.press(key)), Promise.resolve()),
  text: (selector) => page.locator(selector).allInnerTexts(),
  evaluate: (code) => page.evaluate(code),
  wait: async (code) => {
    // Not waitForFunction: the page allows no code that is made of text.
    for (const end = Date.now() + 240_000; Date.now() < end; await page.waitForTimeout(50)) if (await page.evaluate(code)) return true;
    throw new Error(`Waited in vain for ${code}`);
  },
  snapshot: (selector = 'body') => page.locator(selector).ariaSnapshot(),
  screenshot: (file, fullPage = true) => page.screenshot({ path: file, fullPage }).then(() => file),
  download: async (selector) => {
    const [download] = await Promise.all([page.waitForEvent('download'), page.click(selector)]);
    return { name: download.suggestedFilename(), text: readFileSync(await download.path(), 'utf8') };
  },
  drop: (selector, names) => page.evaluate(([at, files]) => {
    const transfer = new DataTransfer();
    for (const { name, type, base64 } of files) {
      transfer.items.add(new File([Uint8Array.from(atob(base64), (char) => char.charCodeAt(0))], name, { type }));
    }
    document.querySelector(at).dispatchEvent(new DragEvent('drop', { bubbles: true, cancelable: true, dataTransfer: transfer }));
  }, [selector, names]),
};

try {
  for (const [what, ...given] of task.steps) answer.results.push((await steps[what](...given)) ?? null);
} catch (error) {
  answer.error = String(error);
  if (task.picture) await page.screenshot({ path: task.picture, fullPage: true }).catch(() => {});
} finally {
  await context.close();
}
process.stdout.write(JSON.stringify(answer));
