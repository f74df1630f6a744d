// node --experimental-websocket chaos/tests/page.mjs CHROMIUM GOOD BAD SCREENSHOTS
//
// Looks at two reports in a real browser: of runs that kept every promise, and of one that did not.
// Keeps screenshots.

import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { look } from "../../tests/observability/browser.mjs";

const [chromium, good, bad, screenshots] = process.argv.slice(2);
const url = (report) => pathToFileURL(resolve(report)).href;
const runs = "[...document.querySelectorAll('#runs section')]";

await look(chromium, url(good), join(screenshots, "good"), async ({ see, eventually, must, picture, key }) => {
  await eventually("a verdict", "document.querySelector('#verdict h2.good')?.textContent.startsWith('Nothing lost')");
  await must("a row for each run", `${runs}.length > 0 && document.querySelectorAll('#verdict tbody tr').length === ${runs}.length`);
  await must("links that lead somewhere", "[...document.querySelectorAll('#verdict tbody a')].every((link) => document.querySelector(link.getAttribute('href')))");
  await must("six lines of lag, drawn", `${runs}.every((run) => { const lines = [...run.querySelector('svg').querySelectorAll('path')]; return lines.length === 6 && lines.some((line) => line.getBBox().height > 20); })`);
  await must("throughput, heals and conflicts", `${runs}.every((run) => run.querySelectorAll('svg')[1].querySelectorAll('path').length === 4)`);
  await must("faults as bands", `${runs}[0].querySelector('svg rect').getBBox().width > 20`);
  await must("figures", `${runs}.every((run) => /heals/.test(run.textContent) && /0rollbacks seen by an application/.test(run.textContent) && /oldest value read/.test(run.textContent))`);
  await must("scenarios", `${runs}.every((run) => run.textContent.includes('name = '))`);
  await see(`${runs}[0].querySelector('svg').focus()`);
  for (let i = 0; i < 5; i++) await key("ArrowRight");
  await must("the chart tells a moment", `/1.25 s: .*→.*m?s/.test(${runs}[0].querySelector('.readout').textContent)`);
  await picture("light", { width: 1280, height: 900 });
  await picture("dark", { width: 1280, height: 900, dark: true });
  await picture("phone", { width: 390, height: 844, mobile: true });
});

await look(chromium, url(bad), join(screenshots, "bad"), async ({ see, eventually, must, picture }) => {
  await eventually("a verdict", "/^\\d+ of \\d+ runs? broke a promise/.test(document.querySelector('#verdict h2.bad')?.textContent)");
  await must("violations, with the history of their key", `/stream/.test(${runs}[0].querySelector('.violation pre').textContent)`);
  await see(`${runs}[0].querySelector('.violation').open = true`);
  await picture("light", { width: 1280, height: 900 });
});
