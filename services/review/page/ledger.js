// The ledger of hops as a timeline: when each stage waited and worked, with what, at what cost.

import { h } from "./dom.js";
import { duration, STAGES } from "./words.js";

function times(hop) {
  const start = Date.parse(hop.started_at);
  return { queued: start - hop.queue_ms, start, end: start + hop.duration_ms };
}

function model(reference) {
  const digest = String(reference.sha256);
  return h("span", { class: "model", title: `${reference.name} ${reference.version}\nSHA-256 ${digest}` },
    `${reference.name} ${reference.version} `, h("code", {}, digest.slice(0, 8)));
}

export function ledger(record, letter) {
  const hops = record?.hops ?? [];
  const title = h("h2", {}, "Ledger");
  if (hops.length === 0) return h("section", { class: "ledger", "aria-label": "Ledger" }, title, h("p", { class: "faint" }, letter ? "No stage finished with it." : "No stage has finished with it yet."));
  const all = hops.map(times);
  const from = Math.min(Date.parse(record.received_at), ...all.map((time) => time.queued));
  const to = Math.max(...all.map((time) => time.end), record.publication ? Date.parse(record.publication.published_at) : 0);
  const span = Math.max(to - from, 0.001);
  const percent = (ms) => `${Math.min(Math.max((100 * ms) / span, 0), 100)}%`;
  const sum = (of) => hops.reduce((total, hop) => total + of(hop), 0);

  const rows = hops.map((hop, n) => {
    const { queued, start, end } = all[n];
    const stage = STAGES[hop.stage] ?? hop.stage;
    return h("tr", {},
      h("th", { scope: "row" }, stage),
      h("td", { class: "track" }, h("div", { class: "lane", role: "img", "aria-label": `${stage} waited ${duration(hop.queue_ms)} and took ${duration(hop.duration_ms)}` },
        h("span", { class: "waited", style: { left: percent(queued - from), width: percent(start - queued) } }),
        h("span", { class: "worked", style: { left: percent(start - from), width: percent(end - start) } }))),
      h("td", { class: "number" }, duration(hop.queue_ms)),
      h("td", { class: "number strong" }, duration(hop.duration_ms)),
      h("td", { class: "number" }, duration(1000 * hop.cpu_seconds)),
      h("td", { class: "number" }, `${hop.joules_estimated.toFixed(2)} J`),
      h("td", { class: "number" }, String(hop.batch)),
      h("td", { class: "models" }, (hop.models ?? []).map(model)));
  });
  const heading = (text, hint, kind = "number") => h("th", { scope: "col", class: kind, title: hint }, text);
  return h("section", { class: "ledger", "aria-label": "Ledger" },
    h("div", { class: "heading" }, title,
      h("p", { class: "faint" }, `${duration(span)} from entry to ${record.publication ? "report" : "now"} · ${duration(1000 * sum((hop) => hop.cpu_seconds))} of CPU · about ${sum((hop) => hop.joules_estimated).toFixed(2)} J`)),
    h("table", {},
      h("thead", {}, h("tr", {},
        heading("Stage", "", ""), heading("", "Waiting is hatched, work is solid", ""), heading("waited", "From the record's time stamp until the stage took it up"),
        heading("took", "A batch's records share its time"), heading("CPU", "CPU time spent on this image"),
        heading("energy", "Estimated: CPU seconds times the configured watts of a busy core"), heading("batch", "Records worked on together"), heading("models", "Name, version, and the digest of the weights", "models"))),
      h("tbody", {}, rows)));
}
