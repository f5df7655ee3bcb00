// One case: its picture, what was found and why, and the ledger. Drawn anew when something changes; the picture's
// zoom and window stay.

import { h } from "./dom.js";
import { panel } from "./findings.js";
import { ledger } from "./ledger.js";
import { Viewer } from "./viewer.js";

export class CaseView {
  constructor(root, id) {
    this.id = id;
    this.base = `/review/cases/${encodeURIComponent(id)}`;
    this.viewer = new Viewer({ onPoint: (n) => this.point(n) });
    this.panel = h("aside", { class: "panel", "aria-label": "Findings and reasons", tabindex: "0" });
    this.ledger = h("div", { class: "below-viewer" });
    root.replaceChildren(h("article", { class: "case", "aria-label": `Case ${id}` }, this.viewer.element, this.panel, this.ledger));
    this.text = null;
  }

  async load() {
    let answer;
    try {
      answer = await fetch(this.base, { headers: { accept: "application/json" } });
    } catch {
      return; // the stream's status says that the server is away; it loads again when it is back
    }
    const text = await answer.text();
    if (text === this.text) return;
    this.text = text;
    const body = JSON.parse(text);
    if (!answer.ok) this.fail(body);
    else this.draw(body);
  }

  fail(problem) {
    this.viewer.show(this.base, null, "");
    this.panel.replaceChildren(h("h1", {}, problem.title), h("p", {}, problem.detail));
    this.ledger.replaceChildren();
  }

  // A finished Case, or how far it has come with the Case so far.
  draw(body) {
    const record = body.schema_version === undefined ? body.case : body;
    const letter = body.dead_letter;
    const summary = {
      state: body.state ?? "reported",
      outcome: record?.conclusion?.outcome,
      findings_total: record?.findings.length ?? 0,
    };
    const reason = letter ? "There is no picture: the file could not be processed."
      : record?.conclusion ? "There is no picture in this file." : "The picture is still to come.";
    this.viewer.show(this.base, record, reason);
    const focused = document.activeElement?.dataset?.n;
    this.panel.replaceChildren(...panel(summary, record, letter, {
      onPoint: (n) => this.point(n),
      onPick: (n) => this.pick(n),
    }));
    if (focused) this.panel.querySelector(`[data-n="${Number(focused)}"]`)?.focus();
    this.ledger.replaceChildren(ledger(record, letter));
    this.count = summary.findings_total;
    document.title = `${record?.triage?.kind_meaning ?? "Case"} · Duet`;
  }

  point(n) {
    this.viewer.point(n);
    for (const button of this.panel.querySelectorAll(".found")) button.classList.toggle("current", Number(button.dataset.n) === n);
  }

  pick(n) {
    this.viewer.pick(n);
    for (const button of this.panel.querySelectorAll(".found")) button.setAttribute("aria-pressed", String(Number(button.dataset.n) === this.viewer.picked));
  }

  nextFinding() {
    if (!this.count) return;
    const next = this.viewer.picked === null ? 0 : (this.viewer.picked + 1) % this.count;
    if (next !== this.viewer.picked) this.pick(next);
    this.panel.querySelector(`[data-n="${next}"]`)?.scrollIntoView({ block: "nearest" });
  }

  // Whether the key was one of the picture's.
  key(key) {
    const viewer = this.viewer;
    const actions = {
      a: () => viewer.toggle("annotated"), s: () => viewer.toggle("beside"), h: () => viewer.toggle("heat"), i: () => viewer.toggle("inverted"),
      f: () => this.nextFinding(), 0: () => viewer.reset(),
      "+": () => viewer.zoomBy(1.25), "=": () => viewer.zoomBy(1.25), "-": () => viewer.zoomBy(1 / 1.25),
      w: () => viewer.windowBy(-10, 0), W: () => viewer.windowBy(10, 0), l: () => viewer.windowBy(0, -5), L: () => viewer.windowBy(0, 5),
    };
    actions[key]?.();
    return Boolean(actions[key]);
  }
}
