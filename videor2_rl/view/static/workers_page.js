// What the run's workers took in the last step, and what was left out.

import { get, h, number } from "./dom.js";
import { pill } from "./run_page.js";
import { follow } from "./live.js";

export async function workersPage(page, { run }) {
  const shown = h("div", {});
  const write = async () => {
    const [card, skipped] = await Promise.all([get(`/api/runs/${run}`), get(`/api/runs/${run}/skipped`)]);
    shown.replaceChildren(
      h("div", { class: "title" }, h("h1", {}, "Workers"), pill(card)),
      card.workers.length ? parts(card.workers) : h("p", {}, "No step has been logged yet."),
      h("h2", {}, `Skipped samples (${skipped.length})`),
      skipped.length ? left(skipped) : h("p", { class: "soft" }, "None."),
    );
  };
  await write();
  page.append(shown);
  return follow(run, write);
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
