// What happens when: a lane for the reference events, one for each response's claims, and the cursor over all of them.

import { clock, h } from "./dom.js";

export const OUTCOME = { matched: "hit", late: "late", other: "miss" };

export function outcomeOf(claim) {
  if (claim.reference !== null) return "hit";
  return claim.shift_s ? "late" : "miss";
}

export class Timeline {
  constructor(group, endS, { onTime, onResponse }) {
    this.endS = endS;
    this.cursor = h("div", { class: "cursor", "aria-hidden": "true" });
    const responses = group.responses.map((response) => this.#lane(response, onTime, onResponse));
    const references = h(
      "div",
      { class: "track" },
      group.references.map((event, place) =>
        this.#mark(event, {
          kind: group.found_by[place] ? "hit" : "missed",
          label: `Event ${clock(event.start_s)}: ${event.text} Found by ${group.found_by[place]} of ${group.responses.length} responses.`,
          onTime,
        }),
      ),
    );
    this.lanes = responses;
    this.element = h(
      "div",
      { class: "timeline" },
      h("div", { class: "lane events" }, h("span", { class: "lane-name" }, "Events"), references),
      responses,
      this.#scale(),
      h("div", { class: "over" }, this.cursor),
    );
    this.element.addEventListener("click", (event) => {
      const track = event.target.closest(".track");
      if (!track || event.target.closest("button")) return;
      const { left, width } = track.getBoundingClientRect();
      onTime((this.endS * (event.clientX - left)) / width);
    });
  }

  #lane(response, onTime, onResponse) {
    const track = h(
      "div",
      { class: "track" },
      response.claims.map((claim) => {
        const kind = outcomeOf(claim);
        const said = claim.reference === null ? claim.note || "matches no event" : "matches an event";
        return this.#mark(claim, { kind, label: `Response ${response.number + 1}, ${clock(claim.start_s)}: ${claim.text} ${said}.`, onTime });
      }),
    );
    const name = h("button", { type: "button", class: "lane-name", onclick: () => onResponse(response.number) }, `${response.number + 1}`);
    name.append(h("span", { class: "soft" }, response.reward === null ? " none" : ` ${response.reward.toFixed(2)}`));
    name.setAttribute("aria-label", `Response ${response.number + 1}, reward ${response.reward === null ? "none" : response.reward.toFixed(2)}`);
    return h("div", { class: "lane" }, name, track);
  }

  #mark(event, { kind, label, onTime }) {
    const left = this.#place(event.start_s);
    const width = Math.max(0, this.#place(event.end_s) - left);
    const mark = h("button", {
      type: "button",
      class: `mark ${kind}`,
      title: label,
      "aria-label": label,
      style: { "--left": `${left}%`, "--width": `${width}%` },
      onclick: () => onTime(event.start_s),
    });
    if (kind !== "late") return mark;
    // From the claim back to the event that it tells of.
    const meant = this.#place(event.start_s - event.shift_s);
    const tail = h("span", {
      class: "tail",
      "aria-hidden": "true",
      style: { "--left": `${Math.min(meant, left)}%`, "--width": `${Math.abs(left - meant)}%` },
    });
    return [tail, mark];
  }

  #scale() {
    const steps = [0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600];
    const step = steps.find((one) => this.endS / one <= 6) ?? 1800;
    const ticks = [];
    for (let second = 0; second <= this.endS + 1e-9; second += step) ticks.push(second);
    return h(
      "div",
      { class: "lane scale", "aria-hidden": "true" },
      h("span", { class: "lane-name" }),
      h("div", { class: "track" }, ticks.map((second) => h("span", { style: { "--left": `${this.#place(second)}%` } }, clock(second)))),
    );
  }

  #place(second) {
    return (100 * Math.max(0, Math.min(second, this.endS))) / this.endS;
  }

  at(second) {
    this.cursor.style.setProperty("--left", `${this.#place(second)}%`);
  }

  choose(number) {
    this.lanes.forEach((lane, place) => lane.classList.toggle("chosen", place === number));
  }
}
