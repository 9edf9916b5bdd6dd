// Which page is shown, and the head above all of them.

import { failed, get, h, link, say } from "./dom.js";
import { comparePage } from "./compare_page.js";
import { groupPage } from "./group_page.js";
import { rolloutsPage } from "./rollouts_page.js";
import { runPage } from "./run_page.js";
import { workersPage } from "./workers_page.js";

const PAGES = { "/": runPage, "/rollouts": rolloutsPage, "/group": groupPage, "/compare": comparePage, "/workers": workersPage };
const content = document.getElementById("content");
let leave = () => {};
let turn = 0;

export function go(address, { replace = false } = {}) {
  history[replace ? "replaceState" : "pushState"](null, "", address);
  show();
}

async function show() {
  leave();
  leave = () => {};
  const mine = ++turn;
  const values = new URLSearchParams(location.search);
  const page = PAGES[location.pathname] ?? runPage;
  try {
    const runs = await get("/api/runs");
    if (mine !== turn) return;
    head(runs, values);
    const place = { runs, values, go, run: Math.min(Number(values.get("run") ?? 0) || 0, runs.length - 1) };
    const shown = h("div", { class: "page" });
    const left = await page(shown, place);
    if (mine !== turn) {
      left?.();
      return;
    }
    leave = left ?? leave;
    content.replaceChildren(shown);
    window.scrollTo(0, 0);
  } catch (error) {
    if (mine === turn) content.replaceChildren(failed(error));
  }
}

function head(runs, values) {
  const run = Number(values.get("run") ?? 0) || 0;
  const here = location.pathname === "/group" ? "/rollouts" : location.pathname;
  const item = (path, label, query = {}) =>
    h("a", { href: link(path, query), "aria-current": here === path ? "page" : null }, label);
  const chosen = runs[Math.min(run, runs.length - 1)];
  const picker =
    runs.length > 1 && here !== "/" && here !== "/compare"
      ? h(
          "label",
          { class: "picker" },
          h("span", { class: "unseen" }, "Run"),
          h(
            "select",
            { onchange: (event) => go(link(here, { run: event.target.value })) },
            runs.map((one, place) => h("option", { value: place, selected: place === run }, one.name)),
          ),
        )
      : h("span", { class: "name" }, runs.length > 1 ? `${runs.length} runs` : chosen.name);
  document.getElementById("top").replaceChildren(
    h("a", { class: "brand", href: "/" }, h("img", { src: "/static/icon.svg", alt: "", width: 22, height: 22 }), "Video-R2 RL"),
    picker,
    h(
      "nav",
      { "aria-label": "Pages" },
      item("/", runs.length > 1 ? "Runs" : "Run"),
      item("/rollouts", "Rollouts", { run: run || null }),
      runs.length > 1 && item("/compare", "Compare"),
      item("/workers", "Workers", { run: run || null }),
    ),
  );
  document.title = `${chosen.name} \u00b7 Video-R2 RL`;
}

document.addEventListener("click", (event) => {
  const anchor = event.target.closest("a");
  if (!anchor || anchor.origin !== location.origin || anchor.hash || anchor.hasAttribute("download")) return;
  if (event.button !== 0 || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  go(anchor.href);
  say("");
});
window.addEventListener("popstate", show);
show();
