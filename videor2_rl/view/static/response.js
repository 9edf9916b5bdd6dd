// One response: what it earned and why, what it claims and when, and its text.

import { clock, h, number, signed } from "./dom.js";
import { colouredTokens, largestGap, markedText } from "./text.js";
import { outcomeOf } from "./timeline.js";

const SIGNS = { hit: "\u2713", miss: "\u2717", late: "\u2192" };
const WORDS = { hit: "matches", miss: "no match", late: "wrong time" };

export function responseCard(response, group, { onTime, onChoose, colour }) {
  const advantage = response.advantage;
  const sign = advantage === null || advantage === 0 ? "even" : advantage > 0 ? "up" : "down";
  const text = () => (colour === "claims" || !response.tokens.length ? markedText(response, onTime) : colouredTokens(response, colour, largestGap(group.responses)));
  return h(
    "article",
    { class: "card response", id: `response-${response.number}`, onclick: () => onChoose(response.number) },
    h(
      "header",
      {},
      h("h3", {}, `Response ${response.number + 1}`),
      h("span", { class: "reward" }, "reward ", h("b", {}, response.reward === null ? "none" : response.reward.toFixed(2))),
      h("span", { class: `advantage ${sign}` }, "advantage ", h("b", {}, signed(advantage))),
    ),
    sum(response),
    claimList(response.claims, group.references, onTime),
    text(),
    h("p", { class: "soft facts" }, facts(response)),
    judged(response),
  );
}

function sum(response) {
  const paying = response.terms.filter((term) => term.weight !== 0);
  const free = response.terms.filter((term) => term.weight === 0);
  return termTable([...paying, ...free], `Why response ${response.number + 1} earned what it earned`);
}

// Terms without a weight pay nothing, and nothing is said of it.
export function termTable(terms, caption) {
  const paid = (term) => (term.weight === 0 ? "unpaid" : term.weight === null ? "" : `\u00d7 ${number(term.weight, 2)} = ${number(term.paid ?? 0, 2)}`);
  return h(
    "table",
    { class: "terms" },
    h("caption", { class: "unseen" }, caption),
    h(
      "tbody",
      {},
      terms.map((term) =>
        h(
          "tr",
          { class: grade(term) },
          h("th", { scope: "row" }, term.label),
          h("td", { class: "value" }, term.verdict === "score" ? number(term.value, 2) : term.verdict === "failure" ? "failed" : "n/a"),
          term.weight !== undefined && h("td", { class: "paid" }, paid(term)),
          h("td", { class: "why" }, term.why),
        ),
      ),
    ),
  );
}

function grade(term) {
  if (term.verdict === "failure") return "failed";
  if (term.verdict !== "score") return "none";
  return term.value >= 0.999 ? "good" : term.value <= 0.001 ? "bad" : "middling";
}

// references: events that a claim may have matched; where there are none, a claim is neither right nor wrong.
export function claimList(claims, references, onTime) {
  if (!claims.length) return h("p", { class: "soft" }, "No timestamped claim.");
  return h(
    "ul",
    { class: "claims" },
    claims.map((claim) => {
      const kind = outcomeOf(claim);
      const matched = claim.reference === null ? null : references[claim.reference];
      const span = claim.end_s > claim.start_s ? `${clock(claim.start_s)}\u2013${clock(claim.end_s)}` : clock(claim.start_s);
      return h(
        "li",
        { class: references.length ? kind : "" },
        references.length ? h("span", { class: "sign", "aria-label": WORDS[kind], role: "img" }, SIGNS[kind]) : null,
        h("button", { type: "button", class: "time", onclick: () => onTime(claim.start_s) }, span),
        h("span", { class: "said" }, claim.text),
        h(
          "span",
          { class: "soft" },
          matched ? ["event at ", h("button", { type: "button", class: "time", onclick: () => onTime(matched.start_s) }, clock(matched.start_s))] : claim.note,
          claim.similarity === null || claim.similarity === undefined ? "" : ` \u00b7 similarity ${claim.similarity.toFixed(2)}`,
        ),
      );
    }),
  );
}

function facts(response) {
  const [[first], ...later] = response.policies;
  const spans = later.map(([version, token]) => `, from token ${token} policy ${version}`).join("");
  const end = { stop: "ended by itself", length: "cut at the token limit", abort: "aborted" }[response.finish_reason];
  return `${response.num_tokens} tokens, ${end ?? response.finish_reason} \u00b7 policy ${first}${spans}`;
}

function judged(response) {
  const replies = Object.entries(response.judge);
  if (!replies.length) return null;
  return h(
    "details",
    {},
    h("summary", {}, "The judge's words"),
    replies.map(([purpose, text]) => [h("h4", {}, purpose), h("pre", {}, text ?? "The call failed.")]),
  );
}
