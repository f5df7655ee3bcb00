// The list of cases: one row each, drawn anew only where something changed, so that focus and scrolling stay.

import { h, meter } from "./dom.js";
import { clock, duration, label, percent, priority, shortId, standing } from "./words.js";

const AT_MOST = 300;
const URGENCY = { emergency: 2, urgent: 1, routine: 0 };

function chip({ tone, mark, text }) {
  return h("span", { class: `chip ${tone}` }, h("span", { class: "mark", "aria-hidden": "true" }, mark), text);
}

function thumbnail(summary) {
  if (!summary.rendition) return h("span", { class: "thumb none", "aria-hidden": "true" }, "no picture");
  return h("img", { class: "thumb", src: `/review/thumbnails/${summary.id}.png`, alt: "", loading: "lazy", width: 76, height: 76 });
}

function findings(summary) {
  if (summary.findings.length === 0) return null;
  const bars = summary.findings.slice(0, 3).map((finding) =>
    h("li", {},
      h("span", { class: "label" }, label(finding.label)),
      meter(finding.probability, finding.threshold),
      h("span", { class: "number" }, percent(finding.probability))));
  const more = summary.findings_total - bars.length;
  return h("ul", { class: "bars" }, bars, more > 0 && h("li", { class: "more" }, `and ${more} more`));
}

function row(summary) {
  const how = standing(summary);
  const soon = priority(summary.priority);
  const words = summary.dead_letter ? summary.dead_letter.message : summary.text;
  const origin = [summary.modality, summary.format?.toUpperCase(), shortId(summary.id)].filter(Boolean).join(" · ");
  return h("a", { class: `row ${how.tone} ${soon?.tone ?? ""}`, href: `/cases/${summary.id}`, "data-link": true, "data-id": summary.id },
    thumbnail(summary),
    h("span", { class: "what" },
      h("strong", {}, summary.kind ?? (summary.dead_letter ? "Could not be processed" : "Image")),
      h("small", {}, origin)),
    h("span", { class: "chips" },
      chip(how),
      soon && chip(soon),
      summary.audit && chip({ tone: "outside", mark: "◇", text: "Audit" }),
      summary.reports > 1 && chip({ tone: "outside", mark: "×", text: `fed ${summary.reports} times` })),
    h("span", { class: "said" }, findings(summary) ?? h("span", { class: "words" }, words ?? "")),
    h("span", { class: "when" },
      h("time", { datetime: summary.received_at, title: summary.received_at }, clock(summary.received_at)),
      h("small", {}, summary.elapsed_ms === undefined ? "" : `in ${duration(summary.elapsed_ms)}`)));
}

export class List {
  constructor(root) {
    this.rows = new Map();
    this.order = "newest";
    this.summaries = [];
    this.sort = h("button", { type: "button", class: "quiet", id: "sort", on: { click: () => this.turn() } });
    this.count = h("p", { class: "count", role: "status" });
    this.items = h("div", { class: "rows", role: "list", "aria-label": "Cases" });
    this.empty = h("p", { class: "empty", hidden: true });
    root.replaceChildren(h("section", { class: "list", "aria-label": "Worklist" },
      h("div", { class: "listbar" }, h("h1", {}, "Worklist"), this.count, this.sort), this.items, this.empty));
  }

  turn() {
    this.order = this.order === "newest" ? "urgent" : "newest";
    this.draw();
  }

  // `summaries` as the server ordered them: newest first.
  show(summaries, total, isAll) {
    this.summaries = summaries;
    this.total = total;
    this.isAll = isAll;
    this.draw();
  }

  sorted() {
    if (this.order === "newest") return this.summaries;
    const weight = (summary) => 10 * (URGENCY[summary.priority] ?? 0) + (summary.findings_total > 0 ? 1 : 0);
    return [...this.summaries].sort((a, b) => weight(b) - weight(a));
  }

  draw() {
    const focused = document.activeElement?.closest?.(".row")?.dataset.id;
    const wanted = this.sorted().slice(0, AT_MOST);
    const kept = new Map();
    let place = this.items.firstElementChild;
    for (const summary of wanted) {
      const text = JSON.stringify(summary);
      let entry = this.rows.get(summary.id);
      if (entry?.text !== text) {
        const fresh = h("div", { role: "listitem" }, row(summary));
        if (entry && place === entry.node) place = fresh;
        entry?.node.replaceWith(fresh);
        entry = { node: fresh, text };
      }
      kept.set(summary.id, entry);
      if (entry.node === place) place = place.nextElementSibling;
      else this.items.insertBefore(entry.node, place);
    }
    for (const [id, entry] of this.rows) if (!kept.has(id)) entry.node.remove();
    this.rows = kept;
    if (focused && document.activeElement?.dataset?.id !== focused) this.focus(focused, true);
    const shown = wanted.length;
    this.count.textContent = shown < this.total ? `newest ${shown} of ${this.total}` : this.total === 1 ? "1 case" : `${this.total} cases`;
    this.sort.textContent = this.order === "newest" ? "Newest first" : "Most urgent first";
    this.sort.title = "Turn the order (u)";
    this.empty.hidden = shown > 0;
    this.empty.textContent = this.isAll
      ? "No cases yet. Feed one: duet send scan.dcm. It appears here by itself."
      : "No such case among those held here.";
  }

  focus(id, quietly = false) {
    const link = this.rows.get(id)?.node.firstElementChild;
    link?.focus({ preventScroll: quietly });
    if (!quietly) link?.scrollIntoView({ block: "nearest" });
  }

  // Moves the focus by `step` rows, from the first where none has it.
  move(step) {
    const ids = [...this.items.children].map((node) => node.firstElementChild.dataset.id);
    const at = ids.indexOf(document.activeElement?.closest?.(".row")?.dataset.id);
    const next = at < 0 ? 0 : Math.min(Math.max(at + step, 0), ids.length - 1);
    if (ids[next]) this.focus(ids[next]);
  }

  // The id before or after `id` in the order on screen.
  beside(id, step) {
    const ids = this.sorted().map((summary) => summary.id);
    const at = ids.indexOf(id);
    return at < 0 ? undefined : ids[at + step];
  }
}
