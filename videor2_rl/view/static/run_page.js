// Curves of one run or of several over each other, what to look at, and what the run is.

import { Chart, runColour } from "./charts.js";
import { get, h, link, put } from "./dom.js";
import { follow } from "./live.js";

export async function runPage(page, { runs, values, go }) {
  const all = runs.map((run, place) => ({ ...run, place }));
  const wanted = values.get("runs");
  const shown = wanted ? all.filter((run) => wanted.split(",").includes(String(run.place))) : all;
  const first = shown[0] ?? all[0];
  const [card, curves] = await Promise.all([
    get(`/api/runs/${first.place}`),
    get("/api/curves", { places: shown.map((run) => run.place).join(",") }),
  ]);
  const names = [...new Set(curves.flatMap((curve) => [...Object.keys(curve.names), curve.spread].filter(Boolean)))];
  const series = new Map();
  const state = { smoothing: Number(values.get("smooth") ?? 0) };
  const openStep = (step) => go(link("/rollouts", { run: first.place || null, first_step: step, last_step: step }));
  const charts = curves.map((curve) => new Chart(curve, shown, { onStep: card.is_grpo ? openStep : null }));
  const draw = () => charts.forEach((chart) => chart.draw(series, state.smoothing));

  const load = async (run) => {
    const old = series.get(run.place);
    const after = old?.steps.at(-1) ?? 0;
    const more = await get(`/api/runs/${run.place}/series`, { name: names, after });
    series.set(run.place, old ? joined(old, more) : more);
  };
  await Promise.all(shown.map(load));

  const facts = h("div", {});
  const write = (one) => facts.replaceChildren(...overview(one, first.place));
  write(card);
  put(
    page,
    h("div", { class: "title" }, h("h1", {}, shown.length > 1 ? `${shown.length} runs` : card.name), pill(card)),
    shown.length === 1 ? h("p", { class: "soft path" }, card.folder) : null,
    all.length > 1 ? chooser(all, shown, go) : null,
    facts,
    controls(state, draw),
    ...sections(curves, charts),
    about(card, shown.length > 1),
  );
  requestAnimationFrame(draw);

  const onState = (run) => async (now) => {
    const last = series.get(run.place)?.steps.at(-1) ?? 0;
    // A run that went on from a checkpoint does its last steps again.
    if (now.step < last) series.delete(run.place);
    if (now.step !== last) {
      await load(run);
      draw();
    }
    if (run === first) write(await get(`/api/runs/${first.place}`));
  };
  const ends = shown.slice(0, 4).map((run) => follow(run.place, onState(run)));
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const recolour = () => {
    charts.forEach((chart) => (chart.key = null));
    draw();
  };
  dark.addEventListener("change", recolour);
  return () => {
    ends.forEach((end) => end());
    dark.removeEventListener("change", recolour);
    charts.forEach((chart) => chart.close());
  };
}

function joined(old, more) {
  const values = {};
  for (const name of Object.keys(more.values)) values[name] = [...(old.values[name] ?? []), ...more.values[name]];
  return { steps: [...old.steps, ...more.steps], values, evaluation: more.evaluation };
}

export function pill(card) {
  const of = card.num_steps ? ` of ${card.num_steps}` : "";
  return h("span", { class: `pill ${card.status}` }, card.status, h("span", { class: "soft" }, ` step ${card.steps}${of}`));
}

function overview(card, place) {
  return [
    h(
      "dl",
      { class: "tiles" },
      card.tiles.map((tile) =>
        h(
          "div",
          { class: "tile card" },
          h("dt", {}, tile.label),
          h("dd", {}, h("b", {}, tile.is.toFixed(2)), h("span", { class: "soft" }, ` from ${tile.was.toFixed(2)}`)),
        ),
      ),
    ),
    card.advice.length
      ? h(
          "section",
          { class: "card advice", "aria-labelledby": "look" },
          h("h2", { id: "look" }, "Worth a look"),
          h("ul", {}, card.advice.map((one) => h("li", { class: one.level }, advised(one, place)))),
        )
      : null,
  ].filter(Boolean);
}

function advised(one, place) {
  if (!one.filter) return one.text;
  return h("a", { href: link("/rollouts", { run: place || null, filter: one.filter, first_step: one.first_step }) }, one.text);
}

function chooser(all, shown, go) {
  const box = (run) => {
    const isOn = shown.some((one) => one.place === run.place);
    const change = () => {
      const places = all.filter((one) => (one.place === run.place) !== shown.some((two) => two.place === one.place));
      if (places.length) go(link("/", { runs: places.map((one) => one.place).join(",") }), { replace: true });
    };
    return h(
      "label",
      { class: "chip" },
      h("input", { type: "checkbox", checked: isOn, onchange: change }),
      h("span", { class: "swatch", style: { "--swatch": `var(${runColour(run)})` } }),
      run.name,
    );
  };
  return h("fieldset", { class: "chooser" }, h("legend", { class: "unseen" }, "Runs shown"), all.map(box));
}

function controls(state, draw) {
  const shown = h("output", {}, state.smoothing ? state.smoothing.toFixed(2) : "off");
  const slide = (event) => {
    state.smoothing = Number(event.target.value);
    shown.textContent = state.smoothing ? state.smoothing.toFixed(2) : "off";
    draw();
  };
  return h(
    "div",
    { class: "controls" },
    h(
      "label",
      {},
      "Smoothing ",
      h("input", { type: "range", min: 0, max: 0.95, step: 0.05, value: state.smoothing, oninput: slide }),
      shown,
    ),
    h("span", { class: "soft" }, "Drag to zoom, double-click to see all; a click opens the step's rollouts."),
  );
}

function sections(curves, charts) {
  const found = new Map();
  curves.forEach((curve, place) => {
    if (!found.has(curve.section)) found.set(curve.section, []);
    found.get(curve.section).push(charts[place].figure);
  });
  return [...found].map(([title, figures]) => h("section", {}, h("h2", {}, title), h("div", { class: "charts" }, figures)));
}

function about(card, isSeveral) {
  const table = (pairs) =>
    h("table", { class: "pairs" }, h("tbody", {}, pairs.map(([key, value]) => h("tr", {}, h("th", { scope: "row" }, key), h("td", {}, value)))));
  return h(
    "section",
    {},
    h("h2", {}, isSeveral ? `What ${card.name} is` : "What this run is"),
    isSeveral ? h("p", { class: "soft" }, "What differs between the runs stands under ", h("a", { href: "/compare" }, "Compare"), ".") : null,
    card.made_by.length ? h("details", { class: "card" }, h("summary", {}, "Command and versions"), table(card.made_by)) : null,
    h("details", { class: "card" }, h("summary", {}, `Configuration (${card.settings.length} values)`), table(card.settings)),
  );
}
