// The keys, in one table: what it shows is what the page listens to.

import { h } from "./dom.js";

const KEYS = [
  ["List", [["j k, ↓ ↑", "move"], ["Enter", "open"], ["1 – 6", "all, findings, flagged, cleared, not looked for, dead letters"], ["u", "newest first, most urgent first"]]],
  ["Case", [["Esc", "back to the list"], ["j k, ↓ ↑", "next, previous case"], ["f", "next finding"], ["h", "heat map of the finding"]]],
  ["Picture", [["a", "annotation on, off"], ["s", "side by side with the published picture"], ["+ −, wheel", "zoom"], ["drag", "move"], ["0", "fit, and the picture's own window"], ["w W", "window narrower, wider"], ["l L", "level lower, higher"], ["right-drag", "window and level"], ["i", "invert"]]],
];

export function fillHelp(dialog) {
  dialog.replaceChildren(
    h("h2", { id: "help-title" }, "Keys"),
    h("div", { class: "keys" }, KEYS.map(([title, keys]) =>
      h("section", {}, h("h3", {}, title), h("dl", {}, keys.map(([key, what]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)]))))),
    h("form", { method: "dialog" }, h("button", { class: "quiet" }, "Close")),
  );
}
