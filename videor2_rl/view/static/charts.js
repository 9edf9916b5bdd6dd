// Curves by step: several runs over each other, exact values under the cursor, which all charts of a page share.

import { h, number } from "./dom.js";

const DASHES = [[], [6, 4], [2, 3], [8, 3, 2, 3]];
const HEIGHT = 190;

export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// The stages of a demo have one colour everywhere, in the report too.
export function runColour(run) {
  const stage = ["base", "sft", "grpo"].find((name) => run.name.split("/").at(-1) === name);
  return stage ? `--stage-${stage}` : `--series-${(run.place % 8) + 1}`;
}

// Each value mixed with those before it; gaps stay gaps.
export function smoothed(values, weight) {
  let mean = null;
  return values.map((value) => {
    if (value === null || value === undefined) return null;
    mean = mean === null ? value : weight * mean + (1 - weight) * value;
    return mean;
  });
}

export class Chart {
  constructor(curve, runs, { onStep } = {}) {
    this.curve = curve;
    this.runs = runs;
    this.onStep = onStep;
    this.legend = h("ul", { class: "legend" });
    this.plotted = h("div", { class: "plot" });
    this.figure = h(
      "figure",
      { class: "card chart" },
      h("figcaption", {}, h("h3", {}, curve.title), h("p", { class: "soft" }, curve.caption)),
      this.plotted,
      this.legend,
    );
    this.lines = this.#lines();
    this.observer = new ResizeObserver(() => this.#resize());
    this.observer.observe(this.plotted);
  }

  // One line for each metric of each run: the colour tells runs apart where there are several, else metrics.
  #lines() {
    const names = Object.entries(this.curve.names);
    return this.runs.flatMap((run) =>
      names.map(([name, label], metric) => ({
        run,
        name,
        label: this.runs.length === 1 ? label : names.length === 1 ? run.name : `${run.name} \u00b7 ${label}`,
        colour: this.runs.length === 1 ? `--series-${(metric % 8) + 1}` : runColour(run),
        dash: this.runs.length === 1 ? [] : DASHES[metric % DASHES.length],
      })),
    );
  }

  // series: of each run, `{steps, values}` as the server gives it; smoothing: 0 (none) to 1.
  draw(series, smoothing) {
    const found = this.lines
      .map((line) => ({ ...line, ...columns(series.get(line.run.place), line.name) }))
      .filter((line) => line.values.some((value) => value !== null));
    if (!found.length) {
      this.figure.hidden = true;
      return;
    }
    this.figure.hidden = false;
    this.shown = found;
    const band = this.#band(series);
    const tables = found.map((line) => [line.steps, line.values, ...(smoothing ? [smoothed(line.values, smoothing)] : [])]);
    const data = uPlot.join([...tables, ...band.tables]);
    this.raw = [];
    let at = 1;
    for (const table of tables) {
      this.raw.push(at);
      at += table.length - 1;
    }
    const key = `${found.map((line) => line.label)}|${smoothing > 0}|${band.tables.length}`;
    if (this.plot && this.key === key) {
      this.plot.setData(data);
    } else {
      this.plot?.destroy();
      this.key = key;
      this.plot = new uPlot(this.#options(found, smoothing, band, at), data, this.plotted);
    }
    this.#write(null);
    this.#describe();
  }

  #band(series) {
    if (this.curve.spread === null || this.runs.length > 1) return { tables: [] };
    const [name] = Object.keys(this.curve.names);
    const one = series.get(this.runs[0].place);
    const mean = columns(one, name);
    const spread = columns(one, this.curve.spread);
    const edge = (sign) => mean.values.map((value, i) => (value === null || spread.values[i] === null ? null : value + sign * (spread.values[i] ?? 0)));
    return { tables: [[mean.steps, edge(1), edge(-1)]] };
  }

  #options(found, smoothing, band, bandAt) {
    const series = [{}];
    for (const line of found) {
      const stroke = colour(line.colour);
      const points = { show: line.steps.length < 2 };
      series.push({ stroke, width: smoothing ? 1 : 2, dash: line.dash, alpha: smoothing ? 0.3 : 1, points, spanGaps: false });
      if (smoothing) series.push({ stroke, width: 2, dash: line.dash, points, spanGaps: false });
    }
    const bands = [];
    if (band.tables.length) {
      series.push({ stroke: "transparent", points: { show: false } }, { stroke: "transparent", points: { show: false } });
      bands.push({ series: [bandAt, bandAt + 1], fill: `${colour("--series-1")}26` });
    }
    const soft = colour("--soft");
    const grid = { stroke: colour("--line"), width: 1 };
    const font = "12px system-ui, sans-serif";
    const axis = { stroke: soft, font, grid, ticks: { show: false } };
    const [low, high] = this.curve.limits ?? [null, null];
    const range = this.curve.limits ? { range: [low, high] } : { range: aroundFlat };
    return {
      width: this.plotted.clientWidth || 400,
      height: HEIGHT,
      padding: [10, 10, 0, 0],
      legend: { show: false },
      cursor: { sync: { key: "steps" }, drag: { x: true, y: false }, points: { size: 7 } },
      scales: { x: { time: false }, y: this.curve.is_log ? { distr: 3 } : range },
      axes: [
        { ...axis, size: 34, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000] },
        { ...axis, size: 50, values: (_, ticks) => ticks.map((value) => (value === null ? "" : number(value))) },
      ],
      series,
      bands,
      hooks: {
        setCursor: [(plot) => this.#write(plot.cursor.idx)],
        draw: [(plot) => this.#limit(plot)],
        ready: [(plot) => plot.over.addEventListener("click", () => this.#clicked(plot))],
      },
    };
  }

  #limit(plot) {
    if (this.curve.limit === null) return;
    const y = plot.valToPos(this.curve.limit, "y", true);
    const { left, top, width, height } = plot.bbox;
    if (y < top || y > top + height) return;
    const context = plot.ctx;
    context.save();
    context.strokeStyle = colour("--ink");
    context.setLineDash([6, 4]);
    context.beginPath();
    context.moveTo(left, y);
    context.lineTo(left + width, y);
    context.stroke();
    context.restore();
  }

  // A drag zooms; only a click without one leads to the step's rollouts.
  #clicked(plot) {
    const index = plot.cursor.idx;
    if (plot.select.width === 0 && index !== null && this.onStep) this.onStep(plot.data[0][index]);
  }

  // The values under the cursor, or the last ones.
  #write(index) {
    const data = this.plot?.data;
    if (!data) return;
    const at = (column) => (index === null || index === undefined ? lastOf(column) : column[index]);
    const step = index === null || index === undefined ? data[0].at(-1) : data[0][index];
    this.legend.replaceChildren(
      h("li", { class: "soft" }, `step ${step}`),
      ...this.shown.map((line, place) =>
        h(
          "li",
          {},
          h("span", { class: "swatch", style: { "--swatch": `var(${line.colour})` } }),
          `${line.label} `,
          h("b", {}, number(at(data[this.raw[place]]), 4)),
        ),
      ),
    );
  }

  #describe() {
    const last = this.shown.map((line) => `${line.label} ${number(lastOf(line.values), 4)}`).join(", ");
    this.plotted.setAttribute("role", "img");
    this.plotted.setAttribute("aria-label", `${this.curve.title} by step. Last: ${last}.`);
  }

  #resize() {
    const width = this.plotted.clientWidth;
    if (this.plot && width && width !== this.plot.width) this.plot.setSize({ width, height: HEIGHT });
  }

  close() {
    this.observer.disconnect();
    this.plot?.destroy();
  }
}

// Where every value is 0 the library would draw an axis up to 100.
function aroundFlat(plot, low, high) {
  if (low === 0 && high === 0) return [0, 1];
  return uPlot.rangeNum(low, high, 0.1, true);
}

function columns(series, name) {
  if (!series) return { steps: [], values: [] };
  const part = name.startsWith("evaluation/") ? series.evaluation : series;
  return { steps: part.steps, values: part.values[name] ?? part.steps.map(() => null) };
}

function lastOf(values) {
  for (let place = values.length - 1; place >= 0; place--) if (values[place] !== null && values[place] !== undefined) return values[place];
  return null;
}
