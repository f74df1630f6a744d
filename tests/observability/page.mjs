// node --experimental-websocket tests/observability/page.mjs CHROMIUM URL SCREENSHOTS
//
// Looks at the page of a running demo in a real browser: whether it shows what it should, in the light
// and in the dark, on a phone, by keyboard, and without a word to anyone else. Keeps screenshots.

import { look } from "./browser.mjs";

const [chromium, url, screenshots] = process.argv.slice(2);

await look(chromium, url, screenshots, async ({ call, see, eventually, must, picture, key, requests, problems }) => {
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

  // What must be seen to: a peer that refuses all writes, and something that answers in a region's place.
  await must("a table that is held, and answers that are not the region's", `(() => {
    const overview = structuredClone(state.overview);
    overview.regions[0].agents[0].tables[0].refused = { oregon: "ValidationException: no" };
    overview.regions[0].agents[0].intercepted = { oregon: { count: 7, seconds_ago: 3, last: "HTTP 502 to GetRecords" } };
    verdict(overview); cards(overview);
    const told = document.querySelector("#verdict").textContent + document.querySelector("#regions").textContent;
    verdict(state.overview); cards(state.overview);
    return told.includes("✕ oregon refuses all writes to") && told.includes("oregon takes no writes, and all wait: ValidationException: no")
      && told.includes("7 answers to an agent were not oregon's own, the last one 3.0 s ago: HTTP 502 to GetRecords");
  })()`);

  // Each feed in each region, and what its sink rejects, which can be opened.
  const fed = "[...document.querySelectorAll('#feeds tbody tr')]";
  await eventually("a feed in three regions, with its rate", `${fed}.length === 3 && ${fed}.every((row) => Number(row.cells[6].textContent) > 0 && / s$/.test(row.cells[4].textContent))`);
  await must("a feed that is paused, blocked and has parked events", `(() => {
    const overview = structuredClone(state.overview);
    const [told] = Object.values(overview.regions[0].agents[0].tables[0].feeds);
    Object.assign(told, { paused_until: Date.now() + 60000, blocked: 7, parked: 12 });
    feeds(overview);
    const row = ${fed}.find((row) => row.cells[2].textContent === overview.regions[0].region);
    const shown = [3, 7, 8].map((cell) => row.cells[cell].textContent).join();
    feeds(state.overview);
    return /^‖ paused until [\\d:]+,7,12$/.test(shown);
  })()`);
  await eventually("a list of parked events", "document.querySelector('#parked').textContent === 'None.'");
  const parked = "document.querySelector('#parked details')";
  const lists = "['conflicts', 'letters', 'parked']";
  await see(`window.listed = ${lists}.map((id) => $(id).innerHTML)`);
  const reject = (withheld) => see(`items({ withheld: ${withheld}, conflicts: [], letters: [], parked: [{ id: "3f0a", feed: "mail", table: "orders", region: "tokyo", key: { pk: { S: "17" } }, rejections: 11, reason: "the function failed", written_millis: 1800000000000, event: { eventName: "INSERT" } }] })`);
  await reject(false);
  await see(`${parked}.open = true`);
  await must("a parked event, whole, and the commands", `/"17"mail: tokyo.orders.*rejected 11 times.*the function failed.*"eventName": "INSERT".*feed replay mail 3f0a.*feed drop mail 3f0a/s.test(${parked}.textContent) && ${parked}.querySelector('pre').getBoundingClientRect().height > 20`);
  await picture("parked", { width: 1280, height: 900 });
  await reject(true);
  await must("nothing of an item without a token", `!/eventName/.test(${parked}.textContent) && /TRADEWIND_TOKEN/.test(${parked}.textContent)`);
  await see(`${lists}.forEach((id, i) => { $(id).innerHTML = window.listed[i]; })`);

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
  const told = problems.length;
  await offline(true);
  await eventually("a word that it is stale", "/Stale since \\d/.test(document.querySelector('#verdict').textContent) && document.querySelector('#verdict').dataset.level === 'unknown'");
  await eventually("longer pauses", "/next try in (8|16|30) s/.test(document.querySelector('#updated').textContent)");
  await picture("stale", { width: 1280, height: 900, full: false });
  await offline(false);
  await eventually("life", "/^live/.test(document.querySelector('#updated').textContent) && document.querySelector('#verdict').dataset.level !== 'unknown' && !document.body.matches('.stale')");
  // The browser has complained of the network, as it should.
  problems.splice(told);
});
