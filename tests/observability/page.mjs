// node --experimental-websocket tests/observability/page.mjs CHROMIUM URL SCREENSHOTS
//
// Looks at the page of a running demo in a real browser: whether it shows what it should, in the light
// and in the dark, on a phone, by keyboard, and without a word to anyone else. Keeps screenshots.

import { spawn } from "node:child_process";
import { mkdtempSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const [chromium, url, screenshots] = process.argv.slice(2);
const PATIENCE = 60_000;
mkdirSync(screenshots, { recursive: true });
const profile = mkdtempSync(join(tmpdir(), "tradewind-page-"));
const browser = spawn(chromium, [
  "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
  "--disable-background-networking", "--disable-component-update", `--user-data-dir=${profile}`, "--remote-debugging-port=0", "about:blank",
], { stdio: ["ignore", "ignore", "pipe"] });

// The browser says where it listens.
const endpoint = await new Promise((resolve, reject) => {
  let said = "";
  browser.stderr.on("data", (data) => {
    said += data;
    const found = said.match(/DevTools listening on (ws:\S+)/);
    if (found) resolve(found[1]);
  });
  browser.on("exit", (code) => reject(new Error(`the browser ended with ${code}: ${said}`)));
  setTimeout(() => reject(new Error(`the browser did not start: ${said}`)), PATIENCE).unref();
});
const socket = new WebSocket(endpoint);
await new Promise((resolve, reject) => { socket.onopen = resolve; socket.onerror = reject; });
let last = 0, session;
const calls = new Map(), requests = [], problems = [];
socket.onmessage = ({ data }) => {
  const { id, method, params, result, error } = JSON.parse(data);
  if (id) {
    const { resolve, reject } = calls.get(id);
    error ? reject(new Error(`${error.message} ${error.data ?? ""}`)) : resolve(result);
  } else if (method === "Network.requestWillBeSent") requests.push(params.request.url);
  else if (method === "Runtime.exceptionThrown") problems.push(params.exceptionDetails.exception?.description ?? params.exceptionDetails.text);
  else if (method === "Log.entryAdded" && params.entry.level === "error") problems.push(`${params.entry.text} ${params.entry.url ?? ""}`);
};
const call = (method, params = {}) => new Promise((resolve, reject) => {
  calls.set(++last, { resolve, reject });
  socket.send(JSON.stringify({ id: last, method, params, sessionId: session }));
});
async function see(expression) {
  const { result, exceptionDetails } = await call("Runtime.evaluate", { expression, returnByValue: true });
  if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
  return result.value;
}
async function eventually(what, expression) {
  const deadline = Date.now() + PATIENCE;
  let seen;
  while (Date.now() < deadline) {
    seen = await see(expression);
    if (seen) return seen;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  throw new Error(`waited in vain for ${what}: ${expression} is ${JSON.stringify(seen)}`);
}
async function must(what, expression) {
  if (!await see(expression)) throw new Error(`${what}: ${expression} does not hold`);
}
async function picture(name, { width, height, dark = false, mobile = false, full = true }) {
  await call("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: mobile ? 2 : 1, mobile });
  await call("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }, { name: "prefers-reduced-motion", value: "reduce" }] });
  await see("document.activeElement.blur(); scrollTo(0, 0); dispatchEvent(new Event('resize'))");
  await must(`${name}: nothing sticks out to the side`, "document.documentElement.scrollWidth <= innerWidth");
  const { data } = await call("Page.captureScreenshot", { captureBeyondViewport: full });
  writeFileSync(join(screenshots, `${name}.png`), Buffer.from(data, "base64"));
}
const key = async (name) => {
  for (const type of ["keyDown", "keyUp"]) await call("Input.dispatchKeyEvent", { type, key: name, code: name });
};

try {
  const { targetId } = await call("Target.createTarget", { url: "about:blank" });
  ({ sessionId: session } = await call("Target.attachToTarget", { targetId, flatten: true }));
  for (const domain of ["Page", "Runtime", "Network", "Log"]) await call(`${domain}.enable`);
  await call("Page.navigate", { url });

  const cells = "[...document.querySelectorAll('#matrix button')]";
  await eventually("six cells that have been measured", `${cells}.length === 6 && ${cells}.every((cell) => cell.dataset.level !== 'unknown' && /\\d m?s/.test(cell.textContent))`);
  await eventually("a verdict", "document.querySelector('#verdict').dataset.level !== 'unknown'");
  for (const [id, line] of [["lag-chart", "p50"], ["lag-chart", "p99"], ["lag-chart", "heartbeat"], ["age-chart", "age"], ["rate-chart", "writes"]]) {
    await eventually(`a line of ${line}`, `document.querySelector('#${id} [data-line=${line}] path:not(.area)')?.getAttribute('d').includes('L')`);
  }
  await eventually("conflicts with both images", "document.querySelectorAll('#conflicts details').length > 0 && document.querySelector('#conflicts .lost dl, #conflicts .won dl') !== null");
  await eventually("owners of shards", "document.querySelectorAll('#regions tbody code').length >= 3");
  await must("cells are coloured", `${cells}.every((cell) => getComputedStyle(cell).backgroundColor !== 'rgba(0, 0, 0, 0)')`);
  const total = "[...document.querySelectorAll('#totals div')].map((entry) => entry.textContent).join(' ')";
  await must("totals", `/Writes replicated[\\d,]*[1-9]/.test(${total}) && /Heals/.test(${total}) && /Throttled/.test(${total})`);

  // It lives.
  const before = await see("document.querySelector('#updated').textContent");
  await eventually("a second look", `document.querySelector('#updated').textContent !== ${JSON.stringify(before)}`);

  // By keyboard: from cell to cell, and through the chart; what has the focus keeps it.
  await see(`${cells}[0].focus()`);
  await key("ArrowRight");
  await must("the arrow moves on", `document.activeElement === ${cells}[1]`);
  await see("document.activeElement.click()");
  await eventually("the other link", "document.querySelector('#matrix [aria-pressed=true]') === document.activeElement && document.querySelector('#link-name').textContent.includes('→')");
  await see("document.querySelector('#lag-chart').focus()");
  await key("ArrowLeft");
  await must("the chart tells a moment", "/p50/.test(document.querySelector('#lag-chart + .readout').textContent)");

  // For screen readers: everything that can be used has a name.
  await must("names", `${cells}.every((cell) => / to .*watermark age/.test(cell.getAttribute('aria-label')))`);
  await must("names of charts", "[...document.querySelectorAll('svg[role=img]')].every((chart) => /now/.test(chart.getAttribute('aria-label')))");
  const { nodes } = await call("Accessibility.getFullAXTree");
  const nameless = nodes.filter((node) => ["button", "link", "image"].includes(node.role?.value) && !node.ignored && !node.name?.value);
  if (nameless.length) throw new Error(`nameless for a screen reader: ${JSON.stringify(nameless.map((node) => node.role))}`);

  await see("document.querySelector('#conflicts details').open = true");
  await picture("light", { width: 1280, height: 900 });
  await picture("dark", { width: 1280, height: 900, dark: true });
  await picture("phone", { width: 390, height: 844, mobile: true });
  await picture("phone-dark", { width: 390, height: 844, mobile: true, dark: true, full: false });

  if (problems.length) throw new Error(`the browser complains: ${problems.join("\n")}`);

  // Nobody is asked while nobody looks.
  const hide = (hidden) => see(`Object.defineProperty(document, "hidden", { configurable: true, value: ${hidden} }); document.dispatchEvent(new Event("visibilitychange"))`);
  await hide(true);
  await eventually("an end of what is under way", "!state.looking");
  const asked = requests.length;
  await new Promise((resolve) => setTimeout(resolve, 5000));
  if (requests.length !== asked) throw new Error(`the page asks while it is hidden: ${requests.slice(asked)}`);
  await hide(false);
  await eventually("a look at once", `state.timer && !state.looking && Date.now() - state.seen < 2000`);
  if (requests.length === asked) throw new Error("the page does not ask when it is seen again");

  // An agent that is away: what is shown is told to be old, and it is asked ever less often.
  const offline = (offline) => call("Network.emulateNetworkConditions", { offline, latency: 0, downloadThroughput: -1, uploadThroughput: -1 });
  await offline(true);
  await eventually("a word that it is stale", "/Stale since \\d/.test(document.querySelector('#verdict').textContent) && document.querySelector('#verdict').dataset.level === 'unknown'");
  await eventually("longer pauses", "/next try in (8|16|30) s/.test(document.querySelector('#updated').textContent)");
  await picture("stale", { width: 1280, height: 900, full: false });
  await offline(false);
  await eventually("life", "/^live/.test(document.querySelector('#updated').textContent) && document.querySelector('#verdict').dataset.level !== 'unknown' && !document.body.matches('.stale')");

  const elsewhere = requests.filter((request) => !request.startsWith(url) && !request.startsWith("data:") && !request.startsWith("about:"));
  if (elsewhere.length) throw new Error(`the page asks others: ${elsewhere}`);
  console.log(`the page is well; screenshots are in ${screenshots}`);
} catch (error) {
  const shot = session && await call("Page.captureScreenshot", {}).catch(() => null);
  if (shot) writeFileSync(join(screenshots, "failed.png"), Buffer.from(shot.data, "base64"));
  console.error(`${error.stack}\n${problems.join("\n")}`);
  process.exitCode = 1;
} finally {
  browser.removeAllListeners("exit");
  const ended = new Promise((resolve) => browser.on("exit", resolve));
  session = undefined;
  // By itself, it waits for its children, which write to the profile.
  call("Browser.close").catch(() => browser.kill("SIGKILL"));
  await ended;
  socket.close();
  rmSync(profile, { recursive: true, force: true, maxRetries: 20, retryDelay: 200 });
}
