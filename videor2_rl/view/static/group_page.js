// One group: the clip, what happens in it, and what each response says about it and was paid for.

import { Cinema } from "./cinema.js";
import { get, h, isTyping, link } from "./dom.js";
import { responseCard } from "./response.js";
import { largestGap, nats } from "./text.js";
import { Timeline } from "./timeline.js";

const KEYS = [
  ["Space", "play, pause"],
  ["\u2190 \u2192", "one picture back, on"],
  [", .", "the time cited before, after"],
  ["j k", "next response, the one before"],
  ["[ ]", "group before, group after"],
];

export async function groupPage(page, { values, run, go }) {
  const step = Number(values.get("step"));
  const id = Number(values.get("group"));
  const path = `/api/runs/${run}/groups/${step}/${id}`;
  const group = await get(path);
  const view = new GroupView(group, { run, go });
  page.append(view.element);
  view.cinema.frames(`${path}/frames`, group.frame_times_s);
  view.cinema.load(`${path}/clip`, group.clip, Number(values.get("t") ?? firstTime(group)));
  const number = Number(values.get("response") ?? best(group));
  view.choose(number, { scroll: values.has("response") });
  return () => view.close();
}

function firstTime(group) {
  return group.references[0]?.start_s ?? 0;
}

function best(group) {
  return order(group)[0]?.number ?? 0;
}

function order(group) {
  return [...group.responses].sort((one, two) => (two.reward ?? -Infinity) - (one.reward ?? -Infinity) || one.number - two.number);
}

class GroupView {
  constructor(group, { run, go }) {
    Object.assign(this, { group, run, go, colour: "claims", chosen: 0 });
    const events = group.references.map((event) => event.end_s);
    this.endS = Math.max(1, group.frame_times_s.at(-1) ?? 0, ...events) + 0.5;
    this.timeline = new Timeline(group, this.endS, { onTime: (second) => this.cinema.seek(second), onResponse: (number) => this.choose(number, { scroll: true }) });
    this.cinema = new Cinema({ onTime: (second) => this.timeline.at(second) });
    this.list = h("div", { class: "responses" });
    this.element = h("div", { class: "group-page" }, this.#head(), h("div", { class: "columns" }, this.#left(), h("section", { class: "right", "aria-label": "Responses" }, this.#colours(), this.list)));
    this.#write();
    this.keys = (event) => this.#key(event);
    document.addEventListener("keydown", this.keys);
  }

  #head() {
    const { group, run } = this;
    const beside = (one, words, sign) =>
      one ? h("a", { href: link("/group", { run: run || null, step: one.step, group: one.group_id }), "aria-label": words }, sign) : h("span", { class: "soft", "aria-hidden": "true" }, sign);
    return h(
      "div",
      { class: "group-head" },
      h("p", { class: "soft crumbs" }, h("a", { href: link("/rollouts", { run: run || null, first_step: group.step, last_step: group.step }) }, `step ${group.step}`), ` \u00b7 group ${group.group_id} \u00b7 `, h("a", { href: link("/rollouts", { run: run || null, sample: group.sample_id }) }, group.sample_id), ` \u00b7 ${group.clip}`, h("span", { class: "beside" }, beside(group.previous, "Group before", "\u2190"), beside(group.next, "Group after", "\u2192"))),
      h("h1", { class: "question" }, group.question),
      h("p", { class: "asked" }, "Expected ", h("b", {}, group.expected), h("span", { class: "badge" }, group.kind)),
    );
  }

  #left() {
    const fold = (title, ...inside) => h("details", {}, h("summary", {}, title), inside);
    return h(
      "section",
      { class: "left", "aria-label": "Clip" },
      this.cinema.element,
      h("h2", { class: "small" }, "What happens, and what each response claims"),
      this.timeline.element,
      h("ul", { class: "key" }, [["hit", "matches"], ["late", "wrong time"], ["miss", "matches nothing"], ["missed", "event nobody found"]].map(([kind, words]) => h("li", {}, h("span", { class: `mark ${kind}` }), words))),
      h("h2", { class: "small" }, "The frames that the model saw"),
      this.cinema.strip,
      fold("Keys", h("dl", { class: "keys" }, KEYS.map(([key, what]) => [h("dt", {}, key), h("dd", {}, what)]))),
      fold("The whole prompt", h("pre", {}, this.group.prompt)),
    );
  }

  #colours() {
    const options = [["claims", "claims"]];
    const tokens = this.group.responses.flatMap((one) => one.tokens);
    if (tokens.length) options.push(["surprise", "surprise of each token"], ["advantage", "advantage"]);
    if (tokens.some(([, , gap]) => gap !== null)) options.push(["gap", `gap to the learner, at most ${nats(largestGap(this.group.responses))}`]);
    if (tokens.some(([, , , entropy]) => entropy !== null)) options.push(["entropy", "entropy"]);
    const pick = ([name, words]) =>
      h("label", {}, h("input", { type: "radio", name: "colour", value: name, checked: name === this.colour, onchange: () => this.#recolour(name) }), words);
    return h("fieldset", { class: "colours" }, h("legend", {}, "Colour by"), options.map(pick));
  }

  #recolour(name) {
    this.colour = name;
    this.#write();
    this.choose(this.chosen);
  }

  #write() {
    const options = { onTime: (second) => this.cinema.seek(second), onChoose: (number) => this.choose(number), colour: this.colour };
    this.list.replaceChildren(...order(this.group).map((response) => responseCard(response, this.group, options)));
  }

  choose(number, { scroll = false } = {}) {
    if (!this.group.responses.some((one) => one.number === number)) return;
    this.chosen = number;
    this.timeline.choose(number);
    for (const card of this.list.children) card.classList.toggle("chosen", card.id === `response-${number}`);
    const card = document.getElementById(`response-${number}`) ?? this.list.querySelector(`#response-${number}`);
    if (scroll) card?.scrollIntoView({ block: "nearest" });
  }

  #key(event) {
    if (isTyping(event)) return;
    const onButton = /^(BUTTON|SUMMARY|A)$/.test(event.target.tagName);
    if (event.key === " " && !onButton) this.cinema.player?.toggle();
    else if (event.key === "ArrowLeft") this.cinema.player?.step(-1);
    else if (event.key === "ArrowRight") this.cinema.player?.step(1);
    else if (event.key === "," || event.key === ".") this.#cited(event.key === "." ? 1 : -1);
    else if (event.key === "j" || event.key === "k") this.#beside(event.key === "j" ? 1 : -1);
    else if (event.key === "[" || event.key === "]") this.#leave(event.key === "]" ? this.group.next : this.group.previous);
    else return;
    event.preventDefault();
  }

  #cited(by) {
    const response = this.group.responses[this.chosen];
    const times = [...new Set([...response.claims, ...this.group.references].map((one) => one.start_s))].sort((one, two) => one - two);
    const found = by > 0 ? times.find((time) => time > this.cinema.second + 1e-3) : times.findLast((time) => time < this.cinema.second - 1e-3);
    if (found !== undefined) this.cinema.seek(found);
  }

  #beside(by) {
    const numbers = order(this.group).map((one) => one.number);
    const place = numbers.indexOf(this.chosen) + by;
    if (numbers[place] !== undefined) this.choose(numbers[place], { scroll: true });
  }

  #leave(one) {
    if (one) this.go(link("/group", { run: this.run || null, step: one.step, group: one.group_id }));
  }

  close() {
    document.removeEventListener("keydown", this.keys);
    this.cinema.close();
  }
}
