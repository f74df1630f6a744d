"use strict";
// Shows /api/overview every two seconds. No library, no build, nothing from elsewhere.

const LOOK = 2000, ITEMS = 10000, PATIENCE = 10000, LONGEST = 30000, POINTS = 450; // milliseconds, but for the last
const GOOD = 2, SLOW = 30; // seconds
const $ = (id) => document.getElementById(id);
const state = { history: [], overview: null, link: null, seen: 0, itemsSeen: 0, failures: 0, looking: false, timer: null };

// Words for figures

function ms(value) {
  if (value == null) return "–";
  if (value < 1000) return `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
  return time(value / 1000);
}
function time(seconds) {
  if (seconds == null) return "–";
  if (seconds < 120) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}
const count = (value) => (value ?? 0).toLocaleString("en");
const rate = (value) => (value < 10 ? value.toFixed(1) : Math.round(value).toLocaleString("en"));
const clock = (millis) => new Date(millis).toLocaleTimeString("en-GB");

// How bad it is

const lagOf = (link) => link.watermark_age == null ? null : Math.max(link.watermark_age, (link.last_heartbeat_ms ?? 0) / 1000);
function level(seconds) {
  if (seconds == null) return "unknown";
  return seconds < GOOD ? "good" : seconds < SLOW ? "slow" : "late";
}
const MARK = { good: "✓", slow: "!", late: "✕", unknown: "?", paused: "‖" };
const WORD = { good: "well", slow: "slow", late: "late", unknown: "not heard of", paused: "paused" };
const kindOf = (link) => link.paused_until ? "paused" : level(lagOf(link));

// Elements. What is the same stays as it is: focus and screen readers don't lose their place.

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value != null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}
function show(place, ...children) {
  const fresh = make("div", {}, ...children);
  if (place.innerHTML !== fresh.innerHTML) place.replaceChildren(...fresh.childNodes);
}
function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
function figures(place, entries) {
  show(place, ...entries.map(([name, value, alert]) =>
    make("div", { "data-alert": alert || null }, make("dt", {}, name), make("dd", {}, value))));
}

// The matrix

function matrix({ regions, links }) {
  const names = regions.map((region) => region.region);
  const table = $("matrix");
  if (table.dataset.names !== names.join()) {
    table.dataset.names = names.join();
    const head = make("tr", {}, make("th", { scope: "col" }, "from ↓\u00a0 to →"), ...names.map((name) => make("th", { scope: "col" }, name)));
    const rows = names.map((origin) => make("tr", {}, make("th", { scope: "row" }, origin), ...names.map((peer) => {
      if (origin === peer) return make("td", { class: "self", "aria-hidden": "true" }, "—");
      const button = make("button", { type: "button", "data-link": `${origin} ${peer}` }, make("b"), make("span", { "aria-hidden": "true" }), make("small", {}, make("span"), make("i")));
      button.addEventListener("click", () => choose(`${origin} ${peer}`));
      return make("td", {}, button);
    })));
    table.replaceChildren(table.caption, make("thead", {}, head), make("tbody", {}, ...rows));
    table.addEventListener("keydown", arrows);
  }
  for (const link of links) {
    const key = `${link.origin} ${link.peer}`, kind = kindOf(link);
    const button = table.querySelector(`[data-link="${key}"]`);
    const large = link.last_heartbeat_ms ?? link.lag?.p50_ms;
    button.dataset.level = kind;
    button.setAttribute("aria-pressed", state.link === key);
    button.setAttribute("aria-label", `${link.origin} to ${link.peer}: ${WORD[kind]}; heartbeat ${ms(link.last_heartbeat_ms)}, watermark age ${time(link.watermark_age)}, ${count(link.backlog)} records waiting`);
    const [b, mark, small] = button.children;
    write(b, kind === "unknown" ? "–" : kind === "paused" ? "paused" : ms(large));
    write(mark, MARK[kind]);
    write(small.firstChild, `age ${time(link.watermark_age)}`);
    write(small.lastChild, link.backlog ? ` · ${count(link.backlog)} waiting` : "");
  }
}
function arrows(event) {
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  const cell = event.target.closest("td");
  if (!step || !cell) return;
  const rows = [...$("matrix").tBodies[0].rows];
  let row = rows.indexOf(cell.parentElement), column = cell.cellIndex;
  for (let tries = 0; tries < rows.length; tries++) {
    row = (row + step[0] + rows.length) % rows.length;
    column = (column - 1 + step[1] + rows.length) % rows.length + 1;
    const button = rows[row].cells[column].querySelector("button");
    if (button) { button.focus(); event.preventDefault(); return; }
  }
}
function choose(key) {
  state.link = key;
  if (state.overview) { matrix(state.overview); over(); }
}

// Charts

function chart(id, lines, unit) {
  const svg = $(id), width = svg.clientWidth || 320, height = svg.clientHeight || 176;
  const left = 46, right = 8, top = 10, bottom = 20;
  const points = state.history;
  const values = points.map((point) => lines.map((line) => line.of(point)));
  const highest = Math.max(...values.flat().filter((value) => value != null), lines[0].least);
  const most = nice(highest);
  const first = points[0]?.millis ?? 0, last = Math.max(points.at(-1)?.millis ?? 1, first + 60000);
  const x = (millis) => left + (millis - first) / (last - first) * (width - left - right);
  const y = (value) => height - bottom - value / most * (height - top - bottom);
  const parts = [];
  for (const part of [0, 0.5, 1]) {
    parts.push(`<line class="grid" x1="${left}" x2="${width - right}" y1="${y(most * part)}" y2="${y(most * part)}"/>`,
      `<text x="${left - 6}" y="${y(most * part) + 4}" text-anchor="end">${part ? unit(most * part) : 0}</text>`);
  }
  parts.push(`<text x="${left}" y="${height - 5}">${first ? clock(first) : ""}</text>`,
    `<text x="${width - right}" y="${height - 5}" text-anchor="end">${first ? clock(last) : ""}</text>`);
  lines.forEach((line, i) => {
    let path = "", open = false, begin = 0, end = 0, area = "";
    points.forEach((point, at) => {
      const value = values[at][i];
      if (value == null) { open = false; return; }
      if (!path) begin = x(point.millis);
      path += `${open ? "L" : "M"}${x(point.millis).toFixed(1)} ${y(value).toFixed(1)}`;
      open = true;
      end = x(point.millis);
    });
    if (line.area && path && !path.slice(1).includes("M")) area = `<path class="area" d="${path}L${end} ${y(0)}L${begin} ${y(0)}Z"/>`;
    parts.push(`<g data-line="${line.name}">${area}<path d="${path}"/></g>`);
  });
  if (svg.at != null && points[svg.at]) {
    parts.push(`<line class="cross" x1="${x(points[svg.at].millis)}" x2="${x(points[svg.at].millis)}" y1="${top}" y2="${height - bottom}"/>`);
  }
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.innerHTML = parts.join("");
  const told = (at) => lines.map((line, i) => `${line.name} ${values[at]?.[i] == null ? "–" : unit(values[at][i])}`).join(", ");
  svg.setAttribute("aria-label", `${svg.dataset.name ??= svg.getAttribute("aria-label")}: now ${told(points.length - 1)}; highest ${unit(highest)}. Arrow keys read single moments.`);
  write(svg.nextElementSibling, svg.at != null && points[svg.at] ? `${clock(points[svg.at].millis)}: ${told(svg.at)}` : "");
  svg.redraw = () => chart(id, lines, unit);
  if (svg.listens) return;
  svg.listens = true;
  const read = (at) => { svg.at = Math.max(0, Math.min(state.history.length - 1, at)); svg.redraw(); };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), history = state.history;
    if (!history.length) return;
    const from = history[0].millis, to = Math.max(history.at(-1).millis, from + 60000);
    const millis = from + (event.clientX - box.left - left) / (box.width - left - right) * (to - from);
    const next = history.findIndex((point) => point.millis >= millis);
    read(next < 0 ? history.length - 1 : next);
  });
  const leave = () => { svg.at = null; svg.redraw(); };
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("blur", leave);
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: 15, PageDown: -15 }[event.key];
    if (!step) return;
    event.preventDefault();
    read((svg.at ?? state.history.length - 1) + step);
  });
}
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}
function over() {
  const [origin, peer] = state.link.split(" ");
  write($("link-name"), `${origin} → ${peer}`);
  const of = (point) => point.links.find((link) => link.origin === origin && link.peer === peer);
  const region = (point) => point.regions.find((at) => at.region === origin);
  chart("lag-chart", [
    { name: "p50", least: 10, of: (point) => of(point)?.p50_ms }, { name: "p99", of: (point) => of(point)?.p99_ms },
    { name: "heartbeat", of: (point) => of(point)?.heartbeat_ms }], ms);
  chart("age-chart", [{ name: "age", least: 1, area: true, of: (point) => of(point)?.watermark_age }], time);
  chart("rate-chart", [
    { name: "writes", least: 1, of: (point) => region(point)?.writes_per_second },
    { name: "replicated", of: (point) => region(point)?.replicated_per_second }], rate);
  const link = state.overview.links.find((at) => at.origin === origin && at.peer === peer);
  figures($("link-figures"), [
    ["Watermark age", time(link.watermark_age), level(link.watermark_age) === "late"], ["Heartbeat p50", ms(link.heartbeat?.p50_ms)],
    ["Heartbeat p99", ms(link.heartbeat?.p99_ms)], ["Apply lag p50", ms(link.lag?.p50_ms)], ["Apply lag p99", ms(link.lag?.p99_ms)],
    ["Waiting", `${count(link.backlog)} records`], ["Age seen by peer", time(link.arrival_age)]]);
}

// The rest

function verdict({ regions, links, verified }) {
  const silent = regions.filter((region) => !region.heard).map((region) => region.region);
  const paused = links.find((link) => link.paused_until), flowing = links.filter((link) => !link.paused_until);
  const lags = flowing.map(lagOf), worst = Math.max(0, ...lags.map((lag) => lag ?? Infinity));
  const slowest = flowing[lags.findIndex((lag) => (lag ?? Infinity) === worst)];
  const tables = regions.flatMap((region) => region.agents.flatMap((agent) => agent.tables));
  const troubled = tables.filter((table) => table.trouble), refused = tables.flatMap((table) => Object.keys(table.refused ?? {}).map((peer) => [peer, table.table]));
  let kind = level(Number.isFinite(worst) ? worst : null), text;
  if (silent.length) { kind = "late"; text = `No agent is heard of in ${silent.join(", ")}`; }
  else if (troubled.length) { kind = "late"; text = `${troubled[0].table} is not being replicated`; }
  else if (refused.length) { kind = "late"; text = `${refused[0][0]} refuses all writes to ${refused[0][1]}`; }
  else if (verified[0]?.items_differing) { kind = "late"; text = `${verified[0].table}: replicas differ`; }
  else if (paused && kind === "good") { kind = "paused"; text = `${paused.origin} → ${paused.peer} is paused until ${clock(paused.paused_until)}`; }
  else if (kind === "unknown") text = "Waiting for all regions to report";
  else if (kind === "good") text = `All ${regions.length} regions within ${time(worst)}`;
  else text = `${slowest.origin} → ${slowest.peer} is ${time(worst)} behind`;
  $("verdict").dataset.level = kind;
  write($("verdict"), `${MARK[kind]} ${text}`);
  document.title = `${MARK[kind]} Tradewind`;
}
function totals({ regions }) {
  const sum = (name) => regions.reduce((total, region) => total + (region.total[name] ?? 0), 0);
  const speed = (name) => regions.reduce((total, region) => total + region[name], 0);
  figures($("totals"), [
    ["Writes a second", rate(speed("writes_per_second"))], ["Replicated a second", rate(speed("replicated_per_second"))],
    ["Writes replicated", count(sum("replicated"))], ["Conflicts", count(sum("conflicts"))], ["Contended", count(sum("contended"))], ["Heals", count(sum("heals"))],
    ["Echoes held back", count(sum("echoes"))], ["Dead letters", count(sum("dead_letters")), sum("dead_letters") > 0],
    ["Throttled", count(sum("throttled"))], ["Retries", count(sum("retries"))], ["Gaps", count(sum("gaps")), sum("gaps") > 0],
    ["Unguarded", count(sum("unguarded")), sum("unguarded") > 0]]);
}
function comparisons({ verified }) {
  show($("verified"), ...verified.map((table) => make("li", { class: table.items_differing ? "trouble" : null },
    `${table.table}: verified ${time(table.seconds_ago)} ago: ${count(table.items_differing)} differing of ${count(table.items_compared)} items`)));
  if (!verified.length) show($("verified"), make("li", {}, "No table's replicas have been compared of late: ", make("code", {}, "tradewind verify"), " does."));
}
function cards({ regions }) {
  show($("regions"), ...regions.map((region) => {
    const last = region.agents[0];
    const kind = region.heard ? "good" : last ? "late" : "unknown";
    const told = region.heard ? `${MARK.good} ${region.agents.length} agent${region.agents.length > 1 ? "s" : ""}`
      : last ? `${MARK.late} silent for ${time(last.silent_seconds)}` : `${MARK.unknown} never heard of`;
    const numbers = make("dl", { class: "figures" });
    figures(numbers, [["Writes/s", rate(region.writes_per_second)], ["Stream delay p50", ms(region.stream_delay?.p50_ms)], ["Conflicts", count(region.total.conflicts)]]);
    const rows = region.agents.flatMap((agent) => agent.tables.map((table) => make("tr", {},
      make("td", {}, table.table, table.trouble ? make("div", { class: "trouble" }, table.trouble) : null,
        ...Object.entries(table.refused ?? {}).map(([peer, reason]) => make("div", { class: "trouble" }, `${peer} takes no writes, and all wait: ${reason}`)),
        table.marks ? make("div", { class: "trouble" }, "writes may be missing at peers: run tradewind verify") : null),
      make("td", {}, table.shards.join(", ") + (table.shard_count > table.shards.length ? ` and ${table.shard_count - table.shards.length} more` : "") || "none"),
      make("td", {}, make("code", { title: agent.agent }, agent.agent.slice(0, 6))),
      make("td", { class: "num" }, count(table.keys) + (table.keys_on_disk ? ` and ${count(table.keys_on_disk)} on disk` : "")))));
    const intercepted = region.agents.flatMap((agent) => Object.entries(agent.intercepted ?? {})).map(([place, { count: answers, seconds_ago, last }]) =>
      make("p", { class: "trouble" }, `${count(answers)} answers to an agent were not ${place}'s own, the last one ${time(seconds_ago)} ago: ${last}`));
    const more = region.agents.reduce((total, agent) => total + agent.more_tables, 0);
    return make("article", { class: "card" },
      make("h3", {}, region.region, make("span", { "data-level": kind }, told)), numbers, ...intercepted,
      rows.length ? make("div", { class: "scroll" }, make("table", { class: "grid-table" },
        make("thead", {}, make("tr", {}, ...["Table", "Shards", "Owner", "Keys held"].map((name, i) => make("th", { scope: "col", class: i === 3 ? "num" : null }, name)))),
        make("tbody", {}, ...rows))) : make("p", { class: "empty" }, "No table is known."),
      more ? make("p", { class: "empty" }, `and ${more} more tables`) : null);
  }));
}

// Feeds: over the agents of a region, which share its shards.

function feedsOf(region) {
  const feeds = new Map();
  for (const agent of region.agents) for (const table of agent.tables) for (const [name, told] of Object.entries(table.feeds ?? {})) {
    const sum = feeds.get(name) ?? { name, table: table.table, region, age: 0, backlog: 0, rate: 0, blocked: 0, parked: 0, paused: null };
    feeds.set(name, sum);
    sum.age = Math.max(sum.age, told.age);
    sum.paused = Math.max(sum.paused, told.paused_until ?? 0) || null;
    sum.backlog += told.backlog;
    sum.rate += told.delivered_per_second;
    sum.blocked += told.blocked;
    sum.parked += told.parked;
  }
  return [...feeds.values()];
}
function feeds({ regions }) {
  const all = regions.flatMap(feedsOf).sort((a, b) => a.name.localeCompare(b.name));
  $("feeds-section").hidden = !all.length;
  show($("feeds").tBodies[0], ...all.map((feed) => {
    const kind = !feed.region.heard ? "unknown" : feed.paused ? "paused" : level(feed.age);
    const word = kind === "paused" ? `paused until ${clock(feed.paused)}` : WORD[kind];
    const figure = (text, alert) => make("td", { class: alert ? "num trouble" : "num" }, text);
    return make("tr", {}, make("th", { scope: "row" }, feed.name), make("td", {}, feed.table), make("td", {}, feed.region.region),
      make("td", {}, make("span", { class: "chip", "data-level": kind }, `${MARK[kind]} ${word}`)), figure(time(feed.age)), figure(count(feed.backlog)),
      figure(rate(feed.rate)), figure(count(feed.blocked), feed.blocked), figure(count(feed.parked), feed.parked));
  }));
}

function value(attribute) {
  if (attribute === undefined) return "";
  const [kind, content] = Object.entries(attribute)[0];
  return kind === "S" ? `"${content}"` : kind === "N" ? content : JSON.stringify(content);
}
function image(kind, title, item, other) {
  const box = make("div", { class: kind }, make("h4", {}, title));
  if (!item) { box.append(make("p", { class: "empty" }, other ? "deleted, or not known any more" : "not known")); return box; }
  box.append(make("dl", {}, ...Object.keys(item).sort().flatMap((name) => {
    const differs = other && value(item[name]) !== value(other[name]);
    return [make("dt", {}, name), make("dd", {}, make("span", { class: differs ? "differs" : null }, value(item[name])))];
  })));
  return box;
}
const opened = new Set();
function list(place, entries, none, entry) {
  if (entries.error) { show(place, make("p", { class: "empty" }, entries.error)); return; }
  const shown = make("div", {}, ...(entries.length ? entries.map(entry) : [make("p", { class: "empty" }, none)]));
  for (const details of shown.querySelectorAll("details")) details.open = opened.has(details.dataset.id);
  show(place, ...shown.childNodes);
}
document.addEventListener("toggle", ({ target }) => {
  if (target.dataset?.id) opened[target.open ? "add" : "delete"](target.dataset.id);
}, true);
const keyOf = (key) => (typeof key === "string" ? key : Object.values(key).map(value).join(" "));
const WITHHELD = "Items are shown where the agent takes a token: TRADEWIND_TOKEN.";
function items({ withheld, conflicts, letters, parked }) {
  list($("conflicts"), conflicts, "None recorded.", (conflict) => make("details", { "data-id": conflict.id },
    make("summary", {}, make("b", {}, keyOf(conflict.key)), make("small", {}, `${conflict.table}: ${conflict.region} lost to ${conflict.winner}, ${clock(conflict.seen_millis)}`)),
    withheld ? make("p", { class: "empty" }, WITHHELD) : make("div", { class: "images" },
      image("lost", `Lost: ${conflict.region}, ${clock(conflict.lost_millis)}`, conflict.lost_image, conflict.won_image),
      image("won", `Won: ${conflict.winner}, ${clock(conflict.won_millis)}`, conflict.won_image, conflict.lost_image)),
    make("p", { class: "note" }, make("code", {}, `tradewind conflicts restore ${conflict.id} --region ${conflict.region}`))));
  list($("letters"), letters, "None.", (letter) => make("details", { "data-id": letter.id },
    make("summary", {}, make("b", {}, keyOf(letter.key)), make("small", {}, `${letter.table}: ${letter.origin} → ${letter.peer}`)),
    make("p", {}, letter.reason), make("p", { class: "note" }, make("code", {}, `tradewind dead-letters replay ${letter.id}`))));
  list($("parked"), parked, "None.", (event) => make("details", { "data-id": event.id },
    make("summary", {}, make("b", {}, keyOf(event.key)), make("small", {}, `${event.feed}: ${event.region}/${event.table}, written ${clock(event.written_millis)}, rejected ${count(event.rejections)} times`)),
    make("p", {}, event.reason),
    withheld ? make("p", { class: "empty" }, WITHHELD) : make("pre", {}, event.event ? JSON.stringify(event.event, null, 2) : "part of it has expired"),
    make("p", { class: "note" }, make("code", {}, `tradewind feed replay ${event.feed} ${event.id}`), " or ", make("code", {}, `tradewind feed drop ${event.feed} ${event.id}`))));
}

// The pulse

async function get(path) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
  if (!answer.ok) throw new Error(`it answers ${answer.status}`);
  return answer.json();
}
function remember(overview) {
  state.history.push({
    millis: overview.millis,
    links: overview.links.map((link) => ({ origin: link.origin, peer: link.peer, p50_ms: link.lag?.p50_ms, p99_ms: link.lag?.p99_ms, heartbeat_ms: link.last_heartbeat_ms, watermark_age: link.watermark_age })),
    regions: overview.regions,
  });
  if (state.history.length > POINTS) state.history.shift();
}
async function look() {
  // What was missed meanwhile, the agent has kept.
  if (Date.now() - state.seen > 3 * LOOK) state.history = await get("api/history");
  const overview = await get("api/overview");
  remember(overview);
  state.overview = overview;
  state.link ??= overview.links.length ? `${overview.links[0].origin} ${overview.links[0].peer}` : null;
  verdict(overview); matrix(overview); totals(overview); comparisons(overview); feeds(overview); cards(overview);
  if (state.link) over();
  state.seen = Date.now();
  if (state.seen - state.itemsSeen >= ITEMS) {
    items(await get("api/items"));
    state.itemsSeen = state.seen;
  }
}
function alive() {
  document.body.classList.remove("stale");
  $("pulse").classList.remove("beat");
  void $("pulse").offsetWidth;
  $("pulse").classList.add("beat");
  write($("updated"), `live, ${clock(state.seen)}`);
}
/** What is shown is old: it must not look well. */
function stale(error, pause) {
  const why = error.message.startsWith("it answers") ? error.message : "it does not answer";
  document.body.classList.add("stale");
  $("verdict").dataset.level = "unknown";
  write($("verdict"), state.seen ? `${MARK.unknown} Stale since ${clock(state.seen)}` : `${MARK.unknown} No answer yet`);
  write($("updated"), `the agent: ${why}; next try in ${pause / 1000} s`);
  document.title = `${MARK.unknown} Tradewind`;
}
/** Looks every two seconds; never while nobody sees it, and ever less often while the agent is away. */
async function beat() {
  if (state.looking || document.hidden) return;
  state.looking = true;
  clearTimeout(state.timer);
  let pause = LOOK;
  try {
    await look();
    state.failures = 0;
    alive();
  } catch (error) {
    pause = Math.min(LOOK * 2 ** state.failures++, LONGEST);
    if (state.failures > 1 || !state.seen) stale(error, pause);
  }
  state.looking = false;
  state.timer = setTimeout(beat, pause);
}
addEventListener("resize", () => state.overview && state.link && over());
addEventListener("online", beat);
document.addEventListener("visibilitychange", beat);
beat();
