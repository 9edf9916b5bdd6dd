// Groups by step: filters, search, order, and a page more whenever the end comes into sight.

import { get, h, isTyping, link, number, say } from "./dom.js";
import { follow } from "./live.js";

const FIELDS = ["text", "sample", "first_step", "last_step", "reward_min", "reward_max", "where", "sort"];
const ORDERS = {
  newest: "Newest first",
  oldest: "Oldest first",
  reward_high: "Highest reward",
  reward_low: "Lowest reward",
  spread: "Most different rewards",
};

export async function rolloutsPage(page, { values, run, go }) {
  const [{ filters }, counts] = await Promise.all([get("/api/filters"), get(`/api/runs/${run}/filters`)]);
  const asked = Object.fromEntries(FIELDS.map((name) => [name, values.get(name) ?? ""]));
  asked.filter = values.getAll("filter");
  const apply = (change) => go(link("/rollouts", { run: run || null, ...asked, ...change }));

  const list = h("div", { class: "groups", role: "list" });
  const total = h("p", { class: "soft total" });
  const end = h("div", { class: "end" });
  const more = h("button", { type: "button", class: "more", hidden: true, onclick: () => load() }, "More groups");
  let cursor = null;
  let isLoading = false;
  const load = async () => {
    if (isLoading) return;
    isLoading = true;
    try {
      const found = await get(`/api/runs/${run}/groups`, { ...asked, after: cursor ?? "" });
      if (!cursor && found.total === 0) list.replaceChildren(h("p", { class: "empty" }, empty(asked, counts)));
      list.append(...found.rows.map((row) => groupRow(row, run, asked)));
      total.textContent = `${found.total} ${found.total === 1 ? "group" : "groups"}`;
      cursor = found.next?.join(",") ?? null;
      more.hidden = cursor === null;
    } finally {
      isLoading = false;
    }
  };
  await load();
  const watcher = new IntersectionObserver((seen) => {
    if (cursor && seen.some((one) => one.isIntersecting)) load();
  }, { rootMargin: "600px" });
  watcher.observe(end);

  const fresh = h("button", { type: "button", class: "fresh", hidden: true, onclick: () => apply({}) }, "");
  // The steps that were there when the page was made; whoever logs more of them, it says so.
  let known = null;
  const stop = follow(run, (state) => {
    known ??= state.rollouts;
    const since = state.rollouts - known;
    if (since <= 0) return;
    fresh.hidden = false;
    fresh.textContent = `${since} new ${since === 1 ? "step" : "steps"}: show`;
    say(fresh.textContent);
  });

  page.append(
    h("h1", {}, "Rollouts"),
    h("div", { class: "filters", role: "group", "aria-label": "Filters" }, filters.map((one) => filterChip(one, counts, asked, apply))),
    form(asked, apply),
    h("div", { class: "above" }, total, fresh),
    list,
    end,
    more,
  );
  const keys = (event) => {
    if (isTyping(event) || !["j", "k"].includes(event.key)) return;
    const rows = [...list.querySelectorAll("a.group")];
    const at = rows.indexOf(document.activeElement);
    rows[Math.max(0, Math.min(rows.length - 1, at + (event.key === "j" ? 1 : -1)))]?.focus();
  };
  document.addEventListener("keydown", keys);
  return () => {
    stop();
    watcher.disconnect();
    document.removeEventListener("keydown", keys);
  };
}

function empty(asked, counts) {
  return counts[""] ? "No group is like this. Take a filter away." : "No rollouts have been logged yet.";
}

function filterChip(one, counts, asked, apply) {
  const isOn = asked.filter.includes(one.name);
  const change = isOn ? asked.filter.filter((name) => name !== one.name) : [...asked.filter, one.name];
  const count = counts[one.name] ?? 0;
  return h(
    "button",
    { type: "button", class: "chip", "aria-pressed": String(isOn), title: one.about, onclick: () => apply({ filter: change }) },
    `${one.label} `,
    h("span", { class: "count" }, String(count)),
  );
}

function form(asked, apply) {
  const field = (name, label, attributes = {}) =>
    h("label", {}, h("span", {}, label), h("input", { name, value: asked[name], ...attributes }));
  const numeric = { inputmode: "decimal", size: 4, pattern: "-?[0-9]*\\.?[0-9]*" };
  const submit = (event) => {
    event?.preventDefault();
    const given = new FormData(element);
    apply(Object.fromEntries(FIELDS.map((name) => [name, String(given.get(name) ?? "").trim()])));
  };
  const element = h(
    "form",
    { class: "search card", onsubmit: submit },
    field("text", "Text", { type: "search", placeholder: "in responses, questions, ids" }),
    pair("Steps", ["first_step", "first step"], ["last_step", "last step"], asked, numeric),
    pair("Mean reward", ["reward_min", "least reward"], ["reward_max", "most reward"], asked, numeric),
    field("sample", "Sample", { placeholder: "its id" }),
    h(
      "label",
      {},
      h("span", {}, "Order"),
      h("select", { name: "sort", onchange: submit }, Object.entries(ORDERS).map(([name, label]) => h("option", { value: name, selected: asked.sort === name }, label))),
    ),
    field("where", "SQL condition", { placeholder: "num_right = 1 and reward_max > 2", class: "code" }),
    h("button", { type: "submit" }, "Search"),
  );
  return element;
}

function pair(title, from, to, asked, attributes) {
  const ends = [from, to].map(([name, label]) => h("input", { name, value: asked[name], "aria-label": label, ...attributes }));
  return h("div", { class: "pair", role: "group", "aria-label": title }, h("span", {}, title), ends);
}

function groupRow(row, run, asked) {
  const rewards = row.responses.map((one) => one.reward);
  const known = rewards.filter((one) => one !== null);
  const spread = known.length ? `${number(Math.min(...known), 2)} to ${number(Math.max(...known), 2)}` : "none";
  const address = link("/group", { run: run || null, step: row.step, group: row.group_id });
  return h(
    "div",
    { role: "listitem" },
    h(
      "a",
      { class: "group", href: address },
      h("span", { class: "step" }, h("span", { class: "soft" }, "step "), String(row.step)),
      h("span", { class: "what" }, h("b", {}, row.question ?? ""), h("span", { class: "soft" }, row.sample_id)),
      h("span", { class: "kind soft" }, row.kind),
      bars(row.responses),
      h(
        "span",
        { class: "figures" },
        h("b", {}, number(row.reward_mean, 2)),
        h("span", { class: "soft" }, spread === "none" ? "no reward" : `${spread} \u00b7 ${row.num_right} of ${row.num_responses} right`),
      ),
    ),
  );
}

// Each response's reward as a bar, the right ones filled; the highest of this group is the full height.
function bars(responses) {
  const most = Math.max(1e-9, ...responses.map((one) => Math.abs(one.reward ?? 0)));
  return h(
    "span",
    { class: "bars", "aria-hidden": "true" },
    responses.map((one) =>
      h("i", {
        class: one.reward === null ? "failed" : (one.accuracy ?? 0) >= 0.999 ? "right" : "wrong",
        style: { "--height": `${Math.max(6, (100 * Math.abs(one.reward ?? 0)) / most)}%` },
      }),
    ),
  );
}
