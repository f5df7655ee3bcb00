// The picture: zoom, pan and window on one or two panes that move together, with contours drawn over the rendition.

import { h, svg } from "./dom.js";
import { label, percent } from "./words.js";

const CLOSEST = 16;
// The published picture has the film at its top left, with this long side, and a panel beside it.
const PUBLISHED_SIDE = 1024;
const OWN_WINDOW = { width: 255, level: 127.5 };
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

export class Viewer {
  constructor({ onPoint }) {
    this.onPoint = onPoint;
    this.options = { annotated: true, beside: false, inverted: false, heat: false };
    this.pointed = null;
    this.picked = null;
    this.readout = h("span", { class: "readout", role: "status" });
    this.buttons = new Map();
    this.bar = h("div", { class: "toolbar", role: "toolbar", "aria-label": "Picture" },
      h("a", { class: "back", href: "/", "data-link": true, title: "Back to the list (Esc)" }, "‹ Worklist"),
      this.button("annotated", "Annotation", "a"), this.button("beside", "Side by side", "s"), this.button("heat", "Heat map", "h"), this.button("inverted", "Invert", "i"),
      this.step("−", "Zoom out (-)", () => this.zoomBy(1 / 1.25)), this.step("+", "Zoom in (+)", () => this.zoomBy(1.25)), this.step("Fit", "Fit, own window (0)", () => this.reset()), this.readout);
    this.left = this.pane("De-identified rendition");
    this.right = this.pane("As published");
    this.panes = h("div", { class: "panes" }, this.left.element, this.right.element);
    this.nothing = h("p", { class: "empty", hidden: true });
    this.element = h("section", { class: "viewer", "aria-label": "Picture" }, this.bar, this.panes, this.nothing);
    this.listen();
    this.reset();
  }

  button(option, text, key) {
    const button = h("button", { type: "button", title: `${text} (${key})`, "aria-keyshortcuts": key, "data-option": option, on: { click: () => this.toggle(option) } }, text);
    this.buttons.set(option, button);
    return button;
  }

  step(text, title, action) {
    return h("button", { type: "button", title, "aria-label": title, on: { click: action } }, text);
  }

  pane(caption) {
    const image = h("img", { alt: "", draggable: "false", class: "film" });
    const heat = h("img", { alt: "", draggable: "false", class: "heat", hidden: true });
    const overlay = svg("svg", { class: "overlay", "aria-hidden": "true" });
    const element = h("figure", { class: "pane" }, image, heat, overlay, h("figcaption", {}, caption));
    image.addEventListener("load", () => this.layout());
    return { element, image, heat, overlay };
  }

  // `base` is the case's path under /review/cases; `record` what is known of it so far.
  show(base, record, reason) {
    const rendition = record?.rendition;
    this.base = base;
    this.record = record;
    this.nothing.hidden = Boolean(rendition);
    this.nothing.textContent = reason;
    this.panes.hidden = !rendition;
    this.bar.classList.toggle("bare", !rendition);
    if (!rendition) return;
    const annotated = record.publication?.annotated;
    this.source(this.left.image, `${base}/rendition.png?v=${rendition.blob.sha256}`, "De-identified rendition of the film");
    this.source(this.right.image, annotated && `${base}/annotated.png?v=${annotated.sha256}`, "The film with its findings drawn in, as published");
    this.buttons.get("beside").disabled = !annotated;
    this.buttons.get("heat").disabled = !record.findings.some((finding) => finding.region);
    this.buttons.get("annotated").disabled = !record.findings.some((finding) => finding.region) && !record.measurements?.some((own) => own.lines.length > 0);
    this.drawContours();
    this.refresh();
  }

  source(image, url, alt) {
    image.alt = alt;
    if (!url) image.removeAttribute("src");
    else if (image.getAttribute("src") !== url) image.src = url;
  }

  drawContours() {
    const { rendition, findings } = this.record;
    const overlay = this.left.overlay;
    const place = labelPlaces(rendition);
    overlay.setAttribute("viewBox", `0 0 ${rendition.width} ${rendition.height}`);
    overlay.replaceChildren(...this.measured(), ...findings.flatMap((finding, n) => {
      if (!finding.region) return [];
      const ring = (points) => `M${points.map(([x, y]) => `${Number(x)} ${Number(y)}`).join("L")}Z`;
      const text = `${label(finding.label)} ${percent(finding.probability)}`;
      const at = place(finding.region.rendition_box, text);
      return [svg("g", { class: `contour colour-${n % 6}`, "data-n": n },
        finding.region.rendition_contours.filter((points) => points.length > 2).map((points) => svg("path", { d: ring(points) })),
        svg("text", at, text))];
    }));
  }

  // Thin outlines, and each line with strokes at its ends and its name above its middle.
  measured() {
    const { rendition, measurements } = this.record;
    const end = 0.011 * Math.max(rendition.width, rendition.height);
    const path = (points) => points.map(([x, y]) => `${Number(x)} ${Number(y)}`).join("L");
    return (measurements ?? []).filter((own) => own.value !== undefined).map((own) => svg("g", { class: "measure" },
      own.areas.flatMap((area) => area.rendition_contours).filter((ring) => ring.length > 2).map((ring) => svg("path", { class: "outline", d: `M${path(ring)}Z` })),
      own.lines.map((line) => {
        const [[x1, y1], [x2, y2]] = line.rendition.map((point) => point.map(Number));
        const strokes = `M${x1} ${y1}L${x2} ${y2}M${x1} ${y1 - end}V${y1 + end}M${x2} ${y2 - end}V${y2 + end}`;
        return [svg("path", { class: "shade", d: strokes }), svg("path", { class: "line", d: strokes }),
          svg("text", { x: (x1 + x2) / 2, y: Math.min(y1, y2), "text-anchor": "middle" }, line.name)];
      })));
  }

  toggle(option) {
    if (this.buttons.get(option)?.disabled) return;
    this.options[option] = !this.options[option];
    this.refresh();
  }

  // The finding that the reader points at, and the one picked; either may be null.
  point(n) {
    this.pointed = n;
    this.refresh();
  }

  pick(n) {
    this.picked = this.picked === n ? null : n;
    this.refresh();
  }

  refresh() {
    const beside = this.options.beside && !this.buttons.get("beside").disabled;
    this.panes.classList.toggle("beside", beside);
    this.right.element.hidden = !beside;
    const current = this.pointed ?? this.picked;
    this.left.overlay.classList.toggle("plain", !this.options.annotated);
    for (const contour of this.left.overlay.querySelectorAll(".contour")) contour.classList.toggle("current", Number(contour.dataset.n) === current);
    this.left.overlay.classList.toggle("chosen", current !== null);
    this.showHeat(current);
    for (const [option, button] of this.buttons) button.setAttribute("aria-pressed", String(this.options[option]));
    this.layout();
  }

  showHeat(current) {
    const findings = this.record?.findings ?? [];
    const n = current ?? findings.findIndex((finding) => finding.region);
    const region = findings[n]?.region;
    const wanted = this.options.heat && region;
    this.left.heat.hidden = !wanted;
    if (wanted) this.source(this.left.heat, `${this.base}/heat/${n}.png?v=${region.heat_map.sha256}`, "");
  }

  reset() {
    this.view = { zoom: 1, x: 0.5, y: 0.5 };
    this.window = { ...OWN_WINDOW };
    this.options.inverted = false;
    this.refresh();
  }

  zoomBy(factor, at = null) {
    const before = this.view.zoom;
    this.view.zoom = clamp(before * factor, 1, CLOSEST);
    // What is under the pointer stays there.
    const kept = 1 - before / this.view.zoom;
    if (at) this.moveTo(this.view.x + (at.x - this.view.x) * kept, this.view.y + (at.y - this.view.y) * kept);
    else this.moveTo(this.view.x, this.view.y);
  }

  moveTo(x, y) {
    // At one the whole film is there; the closer, the further the centre may go.
    const room = 0.5 * (1 - 1 / this.view.zoom) + (this.view.zoom > 1 ? 0.15 : 0);
    this.view.x = clamp(x, 0.5 - room, 0.5 + room);
    this.view.y = clamp(y, 0.5 - room, 0.5 + room);
    this.layout();
  }

  windowBy(width, level) {
    this.window.width = clamp(this.window.width + width, 4, 510);
    this.window.level = clamp(this.window.level + level, 0, 255);
    this.layout();
  }

  layout() {
    for (const pane of [this.left, this.right]) this.place(pane);
    this.applyWindow();
    const { width, level } = this.window;
    this.readout.textContent = `${Math.round(100 * (this.left.scale ?? 1))} % · W ${Math.round(width)} L ${Math.round(level)}${this.options.inverted ? " · inverted" : ""}`;
    this.element.dataset.zoom = this.view.zoom.toFixed(2);
  }

  place(pane) {
    const { naturalWidth: width, naturalHeight: height } = pane.image;
    const room = pane.element.getBoundingClientRect();
    if (width === 0 || room.width === 0) return;
    const film = this.filmIn(pane, width, height);
    // The whole picture where nothing is enlarged; the closer, the more it is the film that the two panes share.
    const own = pane === this.left ? 1 : clamp(this.view.zoom - 1, 0, 1);
    const whole = this.view.zoom * Math.min(room.width / width, room.height / height);
    const shared = pane === this.left ? whole : (this.left.film?.width ?? 0) / film.width;
    const scale = (1 - own) * whole + own * shared;
    pane.scale = scale;
    pane.size = { width: width * scale, height: height * scale };
    pane.film = { width: film.width * scale, height: film.height * scale };
    const middle = (all, part, at) => (1 - own) * 0.5 * all + own * at * part;
    const left = room.width / 2 - middle(pane.size.width, pane.film.width, this.view.x);
    const top = room.height / 2 - middle(pane.size.height, pane.film.height, this.view.y);
    for (const element of [pane.image, pane.heat, pane.overlay]) {
      element.style.width = `${pane.size.width}px`;
      element.style.height = `${pane.size.height}px`;
      element.style.transform = `translate(${left}px, ${top}px)`;
    }
    if (!this.record?.rendition) return;
    // Labels keep their size on screen, whatever the zoom.
    pane.overlay.style.fontSize = `${(14 * this.record.rendition.width) / pane.size.width}px`;
  }

  // How much of a pane's picture is film, in the picture's own pixels.
  filmIn(pane, width, height) {
    const rendition = this.record?.rendition;
    if (pane === this.left || !rendition) return { width, height };
    const enlarged = PUBLISHED_SIDE / Math.max(rendition.width, rendition.height);
    const film = { width: rendition.width * enlarged, height: rendition.height * enlarged };
    return film.width <= width + 1 && film.height <= height + 1 ? film : { width, height };
  }

  applyWindow() {
    const { width, level } = this.window;
    const slope = (255 / width) * (this.options.inverted ? -1 : 1);
    const intercept = 0.5 - slope * (level / 255);
    const isOwn = width === OWN_WINDOW.width && level === OWN_WINDOW.level && !this.options.inverted;
    for (const part of document.querySelectorAll("#window feFuncR, #window feFuncG, #window feFuncB")) {
      part.setAttribute("slope", slope);
      part.setAttribute("intercept", intercept);
    }
    this.left.image.classList.toggle("windowed", !isOwn);
  }

  listen() {
    new ResizeObserver(() => this.layout()).observe(this.panes);
    this.panes.addEventListener("contextmenu", (event) => event.preventDefault());
    this.panes.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomBy(Math.exp(-event.deltaY / 400), this.under(event));
    }, { passive: false });
    this.panes.addEventListener("dblclick", () => this.reset());
    this.panes.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 && event.button !== 2) return;
      this.drag = { windows: event.button === 2, x: event.clientX, y: event.clientY };
      this.panes.setPointerCapture(event.pointerId);
    });
    this.panes.addEventListener("pointermove", (event) => {
      if (!this.drag) return;
      const [x, y] = [event.clientX - this.drag.x, event.clientY - this.drag.y];
      Object.assign(this.drag, { x: event.clientX, y: event.clientY });
      const size = this.left.size;
      if (this.drag.windows) this.windowBy(x, y / 2);
      else if (size) this.moveTo(this.view.x - x / size.width, this.view.y - y / size.height);
    });
    for (const end of ["pointerup", "pointercancel"]) this.panes.addEventListener(end, () => (this.drag = null));
    this.left.overlay.addEventListener("pointerover", (event) => this.onPoint(numberOf(event)));
    this.left.overlay.addEventListener("pointerout", () => this.onPoint(null));
  }

  // Where in the film an event is, from 0 to 1 along each side.
  under(event) {
    const pane = event.target.closest?.(".pane") === this.right.element ? this.right : this.left;
    const room = pane.image.getBoundingClientRect();
    if (room.width === 0 || !pane.film) return null;
    return { x: (event.clientX - room.left) / pane.film.width, y: (event.clientY - room.top) / pane.film.height };
  }
}

// Where labels go: above their box, reaching inwards from the side that is nearer, below those that are there already.
function labelPlaces({ width: across, height: down }) {
  const line = 0.03 * Math.max(across, down);
  const taken = [];
  return ({ x, y, width }, text) => {
    const isRight = x + width / 2 > 0.6 * across;
    const long = 0.55 * line * text.length;
    const edge = Number(isRight ? x + width : x);
    const [from, to] = isRight ? [edge - long, edge] : [edge, edge + long];
    let top = Math.max(Number(y), line);
    while (top < down && taken.some((other) => Math.abs(other.top - top) < line && other.from < to && from < other.to)) top += line / 2;
    taken.push({ from, to, top });
    return { x: edge, y: top, "text-anchor": isRight ? "end" : "start" };
  };
}

function numberOf(event) {
  const n = event.target.closest?.("[data-n]")?.dataset.n;
  return n === undefined ? null : Number(n);
}
