// What a live run's workers do now, what all of them took in the last step, and what became of the prompts.

import { failed, get, h, number, put, say, send } from "./dom.js";
import { pill } from "./run_page.js";
import { follow } from "./live.js";

export async function workersPage(page, { run }) {
  const shown = h("div", {});
  const said = h("div", {});
  const write = async () => {
    const [card, skipped] = await Promise.all([get(`/api/runs/${run}`), get(`/api/runs/${run}/skipped`)]);
    shown.replaceChildren();
    put(
      shown,
      h("div", { class: "title" }, h("h1", {}, "Workers"), pill(card)),
      said,
      card.pools.length ? pools(card, { run, said }) : null,
      card.ledger ? ledger(card.ledger) : null,
      h("h2", {}, "The last step"),
      card.workers.length ? parts(card.workers) : h("p", {}, "No step has been logged yet."),
      h("h2", {}, `Skipped samples (${skipped.length})`),
      skipped.length ? left(skipped) : h("p", { class: "soft" }, "None."),
    );
  };
  await write();
  page.append(shown);
  return follow(run, write);
}

// The buttons are there only where the viewer was started with --control.
function pools(card, { run, said }) {
  const resize = async (pool, size) => {
    say(`${pool.name}: ${size} workers wanted`);
    said.replaceChildren(h("p", { class: "note" }, `${pool.name}: asking for ${size}\u2026`));
    try {
      const answer = await (await send("POST", `/api/runs/${run}/scale`, { sizes: { [pool.name]: size } })).json();
      said.replaceChildren(h("p", { class: "note" }, answer.said));
    } catch (error) {
      said.replaceChildren(failed(error));
    }
  };
  const button = (pool, by, sign, words) => {
    const size = pool.size + by;
    const isOut = size < 1 || (pool.most !== null && size > pool.most);
    return h("button", { type: "button", disabled: isOut, "aria-label": `${pool.name}: one worker ${words}`, onclick: () => resize(pool, size) }, sign);
  };
  return [
    h("h2", {}, "Now"),
    table(
      [
        ["Pool", (pool) => pool.name],
        ["Workers wanted", (pool) => [card.may_scale ? button(pool, -1, "\u2212", "fewer") : "", ` ${pool.size} `, card.may_scale ? button(pool, 1, "+", "more") : ""]],
        ["What each does", (pool) => Object.entries(pool.workers).map(([worker, word]) => h("span", { class: `worker ${word.replaceAll(" ", "-")}` }, `${worker} ${word}`))],
      ],
      card.pools,
    ),
  ];
}

function ledger(found) {
  const ended = (state) => Object.entries(found[state]).map(([reason, count]) => [`${state}: ${reason}`, count]);
  const flight = found.in_flight === null || found.in_flight === undefined ? [] : [["on their way at the end of the last step", found.in_flight]];
  const rows = [["trained", found.trained], ...ended("skipped"), ...ended("filtered"), ...flight];
  const issued = rows.reduce((sum, [, count]) => sum + count, 0);
  return [h("h2", {}, "Prompts"), table([["What became of them", (one) => one[0]], ["Prompts", (one) => String(one[1])]], [["issued", issued], ...rows])];
}

function parts(workers) {
  const share = (value) => (value === null ? "" : `${Math.round(100 * value)} %`);
  const mib = (value) => (value === null ? "" : number(value, 0));
  const columns = [
    ["Part", (one) => one.part],
    ["Memory of the largest process, MiB", (one) => mib(one.memory_mib)],
    ["GPU memory, MiB", (one) => mib(one.gpu_mib)],
    ["Idle in the last step", (one) => share(one.idle_frac)],
    ["Replaced so far", (one) => (one.replaced === null ? "" : String(one.replaced))],
  ].filter(([, text], place) => place === 0 || workers.some((one) => text(one)));
  return table(columns, workers);
}

function left(skipped) {
  return table(
    [
      ["Sample", (one) => one.sample_id],
      ["Reason", (one) => one.reason],
      ["Detail", (one) => one.detail],
    ],
    skipped,
  );
}

function table(columns, rows) {
  return h(
    "div",
    { class: "card scroll", tabindex: 0, role: "group", "aria-label": columns[0][0] },
    h(
      "table",
      { class: "numbers" },
      h("thead", {}, h("tr", {}, columns.map(([name]) => h("th", { scope: "col" }, name)))),
      h(
        "tbody",
        {},
        rows.map((row) =>
          h("tr", {}, columns.map(([, text], place) => h(place ? "td" : "th", place ? {} : { scope: "row" }, text(row)))),
        ),
      ),
    ),
  );
}
