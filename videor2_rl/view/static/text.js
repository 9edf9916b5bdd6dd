// A response's text with what matters in it marked: blocks, times that lead to the clip, and claims by their outcome.

import { h } from "./dom.js";
import { outcomeOf } from "./timeline.js";

const TIME = /(?<![\d:.])(?:(\d{1,2}):)?(\d{1,3}):(\d{2}(?:\.\d+)?)(?![\d:])/g;

export function secondsOf(match) {
  const [, hours, minutes, seconds] = match;
  return Number(hours ?? 0) * 3600 + Number(minutes) * 60 + Number(seconds);
}

export function markedText(response, onTime) {
  const parts = [];
  for (const [block, text] of blocksOf(response.text)) {
    parts.push(h("span", { class: `block ${block}` }, block === "tag" ? text : claimed(text, response.claims, onTime)));
  }
  return h("div", { class: "text" }, parts);
}

// [kind, text] of each part: think, answer, tag, or what stands outside of both.
export function blocksOf(text) {
  const parts = [];
  let kind = "outside";
  for (const part of text.split(/(<\/?(?:think|answer)>)/)) {
    const tag = /^<(\/?)(think|answer)>$/.exec(part);
    if (tag) {
      kind = tag[1] ? "outside" : tag[2];
      parts.push(["tag", part]);
    } else if (part) {
      parts.push([kind, part]);
    }
  }
  return parts;
}

function claimed(text, claims, onTime) {
  const found = [];
  for (const claim of claims) {
    const start = claim.quote ? text.indexOf(claim.quote) : -1;
    const end = start + (claim.quote?.length ?? 0);
    if (start >= 0 && !found.some((one) => start < one.end && end > one.start)) found.push({ start, end, claim });
  }
  found.sort((one, two) => one.start - two.start);
  const parts = [];
  let at = 0;
  for (const { start, end, claim } of found) {
    parts.push(timed(text.slice(at, start), onTime));
    parts.push(h("span", { class: `claim ${outcomeOf(claim)}`, title: claim.note || "matches an event" }, timed(text.slice(start, end), onTime)));
    at = end;
  }
  parts.push(timed(text.slice(at), onTime));
  return parts;
}

export function timed(text, onTime) {
  const parts = [];
  let at = 0;
  for (const match of text.matchAll(TIME)) {
    const second = secondsOf(match);
    parts.push(text.slice(at, match.index));
    parts.push(h("button", { type: "button", class: "time", onclick: () => onTime(second) }, match[0]));
    at = match.index + match[0].length;
  }
  parts.push(text.slice(at));
  return parts;
}

// Each token on a ground whose strength is what it is coloured by: one of the kinds below.
// most: the largest gap in the group: where engine and learner agree all gaps are tiny, and which is largest still tells.
export function colouredTokens(response, by, most) {
  const advantage = response.advantage ?? 0;
  const kinds = {
    surprise: ({ logProb }) => ["surprise", -logProb / 5],
    advantage: () => [advantage >= 0 ? "raised" : "lowered", Math.abs(advantage) / 2],
    gap: ({ gap }) => [gap >= 0 ? "raised" : "lowered", gap === null ? 0 : Math.abs(gap) / (most || 1)],
    entropy: ({ entropy }) => ["surprise", (entropy ?? 0) / 2],
  };
  const token = ([text, logProb, gap, entropy]) => {
    const [kind, strength] = logProb === null ? ["", 0] : kinds[by]({ logProb, gap, entropy });
    return h("span", { class: kind, title: words(logProb, gap, entropy), style: { "--strength": `${Math.round(100 * Math.min(1, strength))}%` } }, text);
  };
  return h("div", { class: "text tokens" }, response.tokens.map(token));
}

// Rounding is some millionths of a nat, another policy tenths.
export function nats(value) {
  return value > 0 && value < 0.001 ? value.toExponential(1) : value.toPrecision(2);
}

export function largestGap(responses) {
  return Math.max(0, ...responses.flatMap((one) => one.tokens.map(([, , gap]) => Math.abs(gap ?? 0))));
}

function words(logProb, gap, entropy) {
  if (logProb === null) return "no log-prob";
  const parts = [`log-prob ${logProb.toFixed(3)}, probability ${Math.exp(logProb).toPrecision(3)}`];
  if (gap !== null) parts.push(`the learner's ${gap >= 0 ? "+" : "\u2212"}${nats(Math.abs(gap))}`);
  if (entropy !== null) parts.push(`entropy ${entropy.toFixed(3)}`);
  return parts.join("; ");
}
