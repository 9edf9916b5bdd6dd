// One group: the clip, what happens in it, and what each response says about it and was paid for.

import { clock, failed, get, h, isTyping, link, say } from "./dom.js";
import { nearest, Player } from "./player.js";
import { responseCard } from "./response.js";
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
  const view = new GroupView(group, path, { run, go });
  page.append(view.element);
  view.load(Number(values.get("t") ?? firstTime(group)));
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
  constructor(group, path, { run, go }) {
    Object.assign(this, { group, path, run, go, colour: "claims", chosen: 0, second: 0 });
    const events = group.references.map((event) => event.end_s);
    this.endS = Math.max(1, group.frame_times_s.at(-1) ?? 0, ...events) + 0.5;
    this.timeline = new Timeline(group, this.endS, { onTime: (second) => this.seek(second), onResponse: (number) => this.choose(number, { scroll: true }) });
    this.screen = h("div", { class: "screen" }, h("p", { class: "soft wait" }, "Loading the clip\u2026"));
    this.clock = h("output", { class: "clock" }, "00:00");
    this.playing = h("button", { type: "button", class: "play", "aria-label": "Play", onclick: () => this.player?.toggle() }, "\u25b6");
    this.seen = h("figure", { class: "seen" });
    this.strip = h("ol", { class: "strip", tabindex: 0, "aria-label": "The frames that the model saw" });
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
      h("div", { class: "cinema" }, h("figure", { class: "clip" }, this.screen, h("figcaption", { class: "transport" }, this.playing, this.#stepper(-1, "One picture back", "\u2039"), this.#stepper(1, "One picture on", "\u203a"), this.clock)), this.seen),
      h("h2", { class: "small" }, "What happens, and what each response claims"),
      this.timeline.element,
      h("ul", { class: "key" }, [["hit", "matches"], ["late", "wrong time"], ["miss", "matches nothing"], ["missed", "event nobody found"]].map(([kind, words]) => h("li", {}, h("span", { class: `mark ${kind}` }), words))),
      h("h2", { class: "small" }, "The frames that the model saw"),
      this.strip,
      fold("Keys", h("dl", { class: "keys" }, KEYS.map(([key, what]) => [h("dt", {}, key), h("dd", {}, what)]))),
      fold("The whole prompt", h("pre", {}, this.group.prompt)),
    );
  }

  #stepper(by, label, sign) {
    return h("button", { type: "button", "aria-label": label, onclick: () => this.player?.step(by) }, sign);
  }

  #colours() {
    const options = [["claims", "claims"]];
    if (this.group.responses.some((one) => one.tokens.length)) options.push(["surprise", "surprise of each token"], ["advantage", "advantage"]);
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
    const options = { onTime: (second) => this.seek(second), onChoose: (number) => this.choose(number), colour: this.colour };
    this.list.replaceChildren(...order(this.group).map((response) => responseCard(response, this.group, options)));
  }

  async load(second) {
    this.#frames();
    try {
      const clip = await get(`${this.path}/clip`);
      const video = h("video", { src: `${this.path}/clip/file`, preload: "auto", playsinline: true, "aria-label": `Clip ${this.group.clip}` });
      video.muted = true;
      video.addEventListener("click", () => this.player.toggle());
      for (const [name, label, sign] of [["play", "Pause", "\u2016"], ["pause", "Play", "\u25b6"]]) {
        video.addEventListener(name, () => {
          this.playing.textContent = sign;
          this.playing.setAttribute("aria-label", label);
        });
      }
      video.addEventListener("error", () => this.screen.replaceChildren(failed(new Error("The browser cannot play this clip."))));
      this.player = new Player(video, clip.times_s, clip.offset_s, (now) => this.#at(now));
      this.screen.replaceChildren(video);
      video.addEventListener("loadedmetadata", () => this.player.seek(second), { once: true });
    } catch (error) {
      this.screen.replaceChildren(failed(error));
    }
    this.#at(second);
  }

  #frames() {
    const times = this.group.frame_times_s;
    this.pictures = times.map((time, place) =>
      h("li", {}, h("button", { type: "button", onclick: () => this.seek(time), "aria-label": `Frame ${place + 1} at ${clock(time)}` }, h("img", { src: `${this.path}/frames/${place}`, alt: "", loading: "lazy" }), h("span", {}, clock(time)))),
    );
    this.strip.replaceChildren(...this.pictures);
    if (!times.length) return;
    const first = this.pictures[0].querySelector("img");
    first.addEventListener("error", async () => {
      const answer = await fetch(`${this.path}/frames/0`);
      const detail = answer.ok ? "the frames cannot be shown" : (await answer.json()).detail;
      this.strip.replaceChildren(h("li", { class: "note" }, detail));
      this.seen.replaceChildren();
      this.pictures = [];
    }, { once: true });
    first.addEventListener("load", () => this.element.classList.toggle("tiny", Math.max(first.naturalWidth, first.naturalHeight) < 120), { once: true });
  }

  seek(second) {
    this.#at(second);
    this.player?.seek(second);
    say(`clip at ${clock(second)}`);
  }

  #at(second) {
    this.second = second;
    this.timeline.at(second);
    this.clock.textContent = clock(second);
    const times = this.group.frame_times_s;
    if (!times.length || !this.pictures?.length) return;
    const place = nearest(times, second);
    if (place === this.place) return;
    this.pictures[this.place]?.removeAttribute("aria-current");
    this.place = place;
    const shown = this.pictures[place];
    shown.setAttribute("aria-current", "true");
    this.strip.scrollTo({ left: shown.offsetLeft - this.strip.offsetLeft - (this.strip.clientWidth - shown.clientWidth) / 2 });
    this.seen.replaceChildren(
      h("div", { class: "screen" }, h("img", { src: `${this.path}/frames/${place}`, alt: `What the model saw at ${clock(times[place])}` })),
      h("figcaption", {}, "the model saw ", h("b", {}, clock(times[place])), h("span", { class: "soft" }, ` frame ${place + 1} of ${times.length}`)),
    );
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
    if (event.key === " " && !onButton) this.player?.toggle();
    else if (event.key === "ArrowLeft") this.player?.step(-1);
    else if (event.key === "ArrowRight") this.player?.step(1);
    else if (event.key === "," || event.key === ".") this.#cited(event.key === "." ? 1 : -1);
    else if (event.key === "j" || event.key === "k") this.#beside(event.key === "j" ? 1 : -1);
    else if (event.key === "[" || event.key === "]") this.#leave(event.key === "]" ? this.group.next : this.group.previous);
    else return;
    event.preventDefault();
  }

  #cited(by) {
    const response = this.group.responses[this.chosen];
    const times = [...new Set([...response.claims, ...this.group.references].map((one) => one.start_s))].sort((one, two) => one - two);
    const found = by > 0 ? times.find((time) => time > this.second + 1e-3) : times.findLast((time) => time < this.second - 1e-3);
    if (found !== undefined) this.seek(found);
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
    this.player?.video.removeAttribute("src");
  }
}
