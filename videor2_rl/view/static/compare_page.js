// Runs against the first, in the paper's table form, and every setting that differs.

import { get, h } from "./dom.js";

export async function comparePage(page, { runs }) {
  if (runs.length < 2) {
    page.append(h("h1", {}, "Compare"), h("p", {}, "Start the viewer with several runs, or with the folder of a sweep."));
    return;
  }
  page.append(h("h1", {}, "Compare"));
  const found = await get("/api/compare");
  page.append(
    h("section", { class: "card" }, grid(withoutSettings(found.grid))),
    h("ul", { class: "soft notes" }, found.notes.map((note) => h("li", {}, note))),
    h("h2", {}, "What differs"),
    found.differences.rows.length
      ? h("section", { class: "card" }, grid(found.differences))
      : h("p", {}, "Nothing: the runs have one configuration."),
  );
}

// What differs has a table of its own below.
function withoutSettings(found) {
  const kept = (_, place) => place === 0 || place > found.num_settings;
  return { ...found, header: found.header.filter(kept), rows: found.rows.map((row) => row.filter(kept)) };
}

function grid(found) {
  const cell = (value, place) => {
    const inside = [value.mean || "n/a", value.interval ? h("small", {}, value.interval) : null];
    return place === 0 ? h("th", { scope: "row" }, inside) : h("td", { class: value.note }, inside);
  };
  return h(
    "div",
    { class: "scroll", tabindex: 0, role: "group", "aria-label": found.caption || "Settings" },
    h(
      "table",
      { class: "numbers" },
      found.caption ? h("caption", {}, found.caption) : null,
      h("thead", {}, h("tr", {}, found.header.map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, found.rows.map((row) => h("tr", {}, row.map(cell)))),
    ),
  );
}
