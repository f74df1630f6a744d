// A page in a real browser: nothing may go wrong on it, and it may ask nobody else for anything.

import { spawn } from "node:child_process";
import { mkdtempSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const PATIENCE = 60_000;

// Opens the URL, hands the means of looking at it to `body`, and ends the process with 1 where that throws.
export async function look(chromium, url, screenshots, body) {
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
    // As a person would type it.
    const token = process.env.TRADEWIND_TOKEN;
    if (token) await call("Network.setExtraHTTPHeaders", { headers: { Authorization: `Bearer ${token}` } });
    await call("Page.navigate", { url });
    await body({ call, see, eventually, must, picture, key, requests, problems });

    const elsewhere = requests.filter((request) => !request.startsWith(url) && !request.startsWith("data:") && !request.startsWith("about:"));
    if (elsewhere.length) throw new Error(`the page asks others: ${elsewhere}`);
    if (problems.length) throw new Error(`the browser complains: ${problems.join("\n")}`);
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
}
