// The page: which view is on, which keys do what, and the stream of changes that keeps both up to date.

import { CaseView } from "./case.js";
import { h } from "./dom.js";
import { fillHelp } from "./help.js";
import { List } from "./list.js";
import { live } from "./live.js";
import { SignIn } from "./sign-in.js";
import { SHOWS } from "./words.js";

const LOADED = 300;
const main = document.querySelector("#main");
const help = document.querySelector("#help");
const shows = document.querySelector("#shows");
const status = document.querySelector("#live");

const list = new List(document.createElement("div"));
const listRoot = list.items.closest(".list");
let cases = new Map();
let counts = null;
let show = "all";
let open = null;
let last = null;
let asked = 0;
let waiting = null;

// The list

async function reload() {
  const mine = ++asked;
  try {
    const answer = await fetch(`/review/cases?limit=${LOADED}&show=${show}`);
    if (answer.status === 401) return signIn.ask();
    if (!answer.ok) throw new Error(`the list answered ${answer.status}`);
    const body = await answer.json();
    if (mine !== asked) return; // asked again since
    cases = new Map(body.cases.map((summary) => [summary.id, summary]));
    counts = body.counts;
    draw();
  } catch {
    setStatus("away");
  }
  open?.load();
}

function change(batch) {
  counts = batch.counts;
  if (batch.cases.some((summary) => summary.id === open?.id)) open.load();
  if (show === "all") for (const summary of batch.cases) cases.set(summary.id, summary);
  // What belongs to the other choices the server knows; it is asked a few times a second at most.
  else waiting ??= setTimeout(() => ((waiting = null), reload()), 300);
  draw();
}

function draw() {
  const newest = [...cases.values()].sort((a, b) => b.received_at.localeCompare(a.received_at) || a.id.localeCompare(b.id));
  for (const gone of newest.splice(LOADED)) cases.delete(gone.id);
  list.show(newest, counts?.show[show] ?? newest.length, show === "all");
  for (const button of shows.children) {
    button.setAttribute("aria-pressed", String(button.dataset.show === show));
    button.lastElementChild.textContent = String(counts?.show[button.dataset.show] ?? "");
  }
}

shows.append(...SHOWS.map(([name, text], n) =>
  h("button", { type: "button", "data-show": name, title: `${text} (${n + 1})`, on: { click: () => choose(name) } },
    text, h("span", { class: "tally" }))));

function choose(name) {
  show = name;
  cases = new Map();
  if (open) go("/");
  draw();
  reload();
}

// The views

function route() {
  const [, place, id] = location.pathname.split("/");
  if (place === "cases" && id) {
    open = new CaseView(main, decodeURIComponent(id));
    last = open.id;
    open.load();
    return;
  }
  open = null;
  document.title = "Duet";
  main.replaceChildren(listRoot);
  if (last) list.focus(last);
}

function go(path, replace = false) {
  if (replace) history.replaceState(null, "", path);
  else history.pushState(null, "", path);
  route();
}

addEventListener("popstate", route);
document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[data-link]");
  if (!link || event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  go(link.getAttribute("href"));
});

// The keys

function listKey(key) {
  if (key === "j" || key === "ArrowDown") return list.move(1), true;
  if (key === "k" || key === "ArrowUp") return list.move(-1), true;
  if (key === "u") return list.turn(), true;
  return false;
}

function caseKey(key) {
  if (key === "Escape") return go("/"), true;
  const step = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 }[key];
  if (step) {
    const next = list.beside(open.id, step);
    if (next) go(`/cases/${next}`, true);
    return true;
  }
  return open.key(key);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || help.open || signIn.isOpen) return;
  const chosen = SHOWS[Number(event.key) - 1];
  let done = true;
  if (event.key === "?") help.showModal();
  else if (chosen) choose(chosen[0]);
  else done = open ? caseKey(event.key) : listKey(event.key);
  if (done) event.preventDefault();
});

function setStatus(state) {
  status.dataset.state = state;
  status.textContent = { live: "live", away: "no connection" }[state];
}

fillHelp(help);
document.querySelector("#help-button").addEventListener("click", () => help.showModal());
const signIn = new SignIn(document.querySelector("#sign-in"), document.querySelector("#sign-out"), () => (listen(), reload()));
draw();
route();
// A refused stream does not say why; the list does.
const listen = live({ mayOpen: () => !signIn.isOpen, onReload: reload, onCases: change, onStatus: setStatus, onRefused: reload });
