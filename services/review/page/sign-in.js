// The way in, where the server asks for a token. It goes there once, and comes back as a cookie that no script reads.

import { h } from "./dom.js";

const SESSION = "/review/session";
const SIGNED_IN = "duet-signed-in";

export class SignIn {
  constructor(dialog, button, onDone) {
    this.dialog = dialog;
    this.button = button;
    this.onDone = onDone;
    this.token = h("input", { type: "password", name: "token", required: true, autocomplete: "current-password", spellcheck: "false", "aria-describedby": "sign-in-why" });
    this.why = h("p", { id: "sign-in-why", role: "status" }, "This server shows cases to those who have a token.");
    dialog.replaceChildren(
      h("h2", { id: "sign-in-title" }, "Sign in"),
      h("form", { on: { submit: (event) => this.submit(event) } },
        h("label", {}, "Token ", this.token), h("button", { class: "quiet" }, "Sign in")),
      this.why,
    );
    // Esc would leave an empty page that nothing explains.
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    button.addEventListener("click", () => this.leave());
    button.hidden = !localStorage.getItem(SIGNED_IN);
  }

  get isOpen() {
    return this.dialog.open;
  }

  ask() {
    localStorage.removeItem(SIGNED_IN);
    this.button.hidden = true;
    if (!this.dialog.open) this.dialog.showModal();
  }

  async submit(event) {
    event.preventDefault();
    let answer;
    try {
      answer = await fetch(SESSION, { method: "POST", headers: { authorization: `Bearer ${this.token.value.trim()}` } });
    } catch {
      this.why.textContent = "The server does not answer.";
      return;
    }
    if (!answer.ok) {
      this.why.textContent = (await answer.json()).detail;
      return;
    }
    this.token.value = "";
    localStorage.setItem(SIGNED_IN, "yes");
    this.button.hidden = false;
    this.dialog.close();
    this.onDone();
  }

  async leave() {
    await fetch(SESSION, { method: "DELETE" });
    localStorage.removeItem(SIGNED_IN);
    // What is on the page is not to stay on it.
    location.reload();
  }
}
