// One clip, one question: the clip comes in, the answer streams out, and its times lead the clip there.

import { Cinema } from "/static/cinema.js";
import { failed, get, h, say, send } from "/static/dom.js";
import { claimList, termTable } from "/static/response.js";
import { markedText } from "/static/text.js";

const ENDS = { stop: "ended by itself", length: "cut at the token limit", abort: "aborted" };

// The events of a stream, as they come.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part.slice("data: ".length));
  }
}

class Chat {
  constructor(about) {
    Object.assign(this, { about, clip: null, subtitles: null, asking: null });
    this.cinema = new Cinema();
    this.clipPlace = h("div", { class: "card place" }, h("p", {}, "No clip yet."));
    this.problem = h("div", {});
    this.answer = h("section", { class: "card reply", "aria-label": "Answer", hidden: true });
    this.question = h("textarea", { name: "question", rows: 3, required: true });
    this.options = h("textarea", { name: "options", rows: 3 });
    this.path = h("input", { type: "text", name: "path" });
    this.submit = h("button", { type: "submit", disabled: true }, "Ask");
    this.element = h("div", { class: "columns" }, this.#left(), this.#right());
  }

  #left() {
    return h(
      "section",
      { class: "left", "aria-label": "Clip" },
      this.clipPlace,
      h("h2", { class: "small" }, "The frames that the model saw"),
      this.cinema.strip,
      (this.promptPlace = h("div", {})),
    );
  }

  #right() {
    const { about } = this;
    const limits = `Frames a second: ${about.fps}, at most ${about.max_frames}; ${about.max_prompt_tokens} tokens of clip and question, ${about.max_response_tokens} of answer; ${about.temperature ? `temperature ${about.temperature}` : "the likeliest token each time"}.`;
    const file = (label, accept, put) =>
      h("label", {}, h("span", {}, label), h("input", { type: "file", accept, onchange: (event) => event.target.files.length && this.#trying(() => put(event.target.files[0])) }));
    const form = h(
      "form",
      { class: "card ask", onsubmit: (event) => { event.preventDefault(); this.#trying(() => this.#ask()); } },
      file("Clip", "video/*,.mkv", (one) => this.#take("PUT", `/api/clips?name=${encodeURIComponent(one.name)}`, one)),
      about.names_paths && h("div", { class: "named" }, h("label", {}, h("span", {}, "or its path below a media folder"), this.path), h("button", { type: "button", onclick: () => this.#trying(() => this.#take("POST", "/api/clips", { path: this.path.value })) }, "Open")),
      about.subtitles && file("Subtitles, if there are any", ".srt,.vtt,.ass,.ssa", (one) => this.#takeSubtitles(one)),
      h("label", {}, h("span", {}, "Question"), this.question),
      h("label", {}, h("span", {}, "Options, one a line; leave it empty for a free answer"), this.options),
      this.submit,
      h("p", { class: "soft note" }, limits),
      this.problem,
    );
    return h("section", { class: "right", "aria-label": "Question and answer" }, form, this.answer);
  }

  async #trying(what) {
    this.problem.replaceChildren();
    try {
      await what();
    } catch (error) {
      if (error.name !== "AbortError") this.problem.replaceChildren(failed(error));
    }
  }

  async #take(method, path, body) {
    const found = await (await send(method, path, body)).json();
    this.clip = found;
    this.submit.disabled = false;
    this.clipPlace.replaceWith(this.cinema.element);
    this.cinema.frames("", []);
    this.answer.hidden = true;
    this.promptPlace.replaceChildren();
    await this.cinema.load(`/api/clips/${found.clip}`, found.name, 0);
    say(`${found.name} is there`);
  }

  async #takeSubtitles(file) {
    this.subtitles = null;
    this.subtitles = (await (await send("PUT", `/api/subtitles?name=${encodeURIComponent(file.name)}`, file)).json()).subtitles;
  }

  async #ask() {
    this.asking?.abort();
    const asking = (this.asking = new AbortController());
    const question = { clip: this.clip.clip, text: this.question.value, options: this.options.value.split("\n"), subtitles: this.subtitles };
    this.submit.disabled = true;
    try {
      const asked = await (await send("POST", "/api/questions", question)).json();
      const path = `/api/questions/${asked.question}`;
      this.cinema.frames(`${path}/frames`, asked.frame_times_s);
      this.cinema.seek(this.cinema.second);
      this.promptPlace.replaceChildren(h("details", {}, h("summary", {}, `The whole prompt: ${asked.num_tokens} tokens`), h("pre", {}, asked.prompt)));
      await this.#show(path, asking);
    } finally {
      this.submit.disabled = false;
    }
  }

  async #show(path, asking) {
    const onTime = (second) => this.cinema.seek(second);
    const text = h("div", {});
    const below = h("div", {});
    const stop = h("button", { type: "button", class: "stop", onclick: () => asking.abort() }, "Stop");
    this.answer.replaceChildren(h("header", {}, h("h2", { class: "small" }, "Answer"), stop), text, below);
    this.answer.hidden = false;
    let whole = "";
    try {
      const response = await send("POST", `${path}/answer`, {}, { signal: asking.signal });
      for await (const event of events(response)) {
        if (event.error) throw new Error(event.error);
        if (event.reading) {
          below.append(...this.#reading(event, onTime));
          say("The answer is there.");
        } else {
          whole += event.text;
          text.replaceChildren(markedText({ text: whole, claims: [] }, onTime));
        }
      }
    } finally {
      stop.remove();
    }
  }

  #reading({ reading, num_tokens, finish_reason }, onTime) {
    const reader = reading.reader === "judge" ? "the judge" : "rules";
    const judged = Object.entries(reading.judge);
    return [
      termTable(reading.terms, `How ${reader} read the answer`),
      h("h3", {}, "What it says happens when"),
      claimList(reading.claims.map((claim) => ({ ...claim, reference: null, note: "" })), [], onTime),
      judged.length ? h("details", {}, h("summary", {}, "The judge's words"), judged.map(([, said]) => h("pre", {}, said ?? "The call failed."))) : "",
      h("p", { class: "soft facts" }, `${num_tokens} tokens, ${ENDS[finish_reason] ?? finish_reason} \u00b7 TAC read by ${reader}`),
    ];
  }
}

const content = document.getElementById("content");
try {
  const about = await get("/api/chat");
  document.title = `${about.name} \u00b7 Video-R2 RL`;
  document.getElementById("top").replaceChildren(
    h("a", { class: "brand", href: "/" }, h("img", { src: "/static/icon.svg", alt: "", width: 22, height: 22 }), "Video-R2 RL"),
    h("span", { class: "name" }, about.name),
  );
  content.replaceChildren(h("h1", {}, "Ask about a clip"), new Chat(about).element);
} catch (error) {
  content.replaceChildren(failed(error));
}
