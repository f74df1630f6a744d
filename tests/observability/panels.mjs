// node tests/observability/panels.mjs PROMETHEUS DASHBOARD
//
// Evaluates every query of every panel of the Grafana dashboard, and every alert, on a real Prometheus that
// scrapes a running demo. Fails on a panel without data, and on an alert that can't be evaluated.

import { readFileSync } from "node:fs";

const [prometheus, dashboard] = process.argv.slice(2);
const PATIENCE = 90_000;

async function ask(path) {
  const answer = await fetch(`${prometheus}${path}`);
  const body = await answer.json();
  if (body.status !== "success") throw new Error(`${path}: ${body.error}`);
  return body.data;
}
/** Whether a query has data: at least one series, and numbers in it. */
async function hasData(expression) {
  const { result } = await ask(`/api/v1/query?query=${encodeURIComponent(expression)}`);
  return result.some(({ value }) => Number.isFinite(Number(value[1])));
}
/** As Grafana would fill it in. */
const filled = (expression) => expression.replaceAll(/\$(region|peer|table)/g, ".*").replaceAll("$__rate_interval", "20s");

const panels = JSON.parse(readFileSync(dashboard, "utf8")).panels.filter((panel) => panel.type !== "row");
const queries = panels.flatMap(({ title, targets }) => targets.map(({ expr }) => ({ title, expression: filled(expr) })));
if (await hasData("tradewind_that_there_is_not")) throw new Error("what has no data must be told from what has");
const deadline = Date.now() + PATIENCE;
let missing = queries;
while (missing.length && Date.now() < deadline) {
  const still = [];
  for (const query of missing) if (!await hasData(query.expression)) still.push(query);
  missing = still;
  if (missing.length) await new Promise((resolve) => setTimeout(resolve, 1000));
}
for (const { title, expression } of missing) console.error(`no data in the panel ${title}: ${expression}`);

const { groups } = await ask("/api/v1/rules");
const rules = groups.flatMap((group) => group.rules);
const broken = rules.filter((rule) => rule.health !== "ok");
for (const { name, health, lastError } of broken) console.error(`the alert ${name} is ${health}: ${lastError}`);
// Each metric that an alert names must be there, or the alert could never fire.
const named = new Set(rules.flatMap((rule) => rule.query.match(/tradewind_\w+/g)));
const unknown = [];
for (const metric of named) if (!(await ask(`/api/v1/series?match[]=${metric}`)).length) unknown.push(metric);
if (unknown.length) console.error(`alerts name what no agent tells: ${unknown}`);
if (missing.length || broken.length || unknown.length || !rules.length) process.exit(1);
console.log(`${panels.length} panels with ${queries.length} queries have data; ${rules.length} alerts are evaluated`);
