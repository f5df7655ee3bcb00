// The stream of changes. A hidden page lets go of it: browsers allow few connections to one server.

export function live({ mayOpen, onReload, onCases, onStatus, onRefused }) {
  let source = null;

  function open() {
    if (source || document.hidden || !mayOpen()) return;
    source = new EventSource("/review/events");
    source.addEventListener("open", () => onStatus("live"));
    source.addEventListener("reload", () => onReload());
    source.addEventListener("cases", (event) => onCases(JSON.parse(event.data)));
    source.addEventListener("error", () => {
      onStatus("away");
      // The browser tries again by itself, unless the answer was a refusal.
      if (source.readyState === EventSource.CLOSED) {
        source = null;
        onRefused();
        setTimeout(open, 5000);
      }
    });
  }

  function close() {
    source?.close();
    source = null;
  }

  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  addEventListener("pagehide", close);
  addEventListener("pageshow", open);
  open();
  return open;
}
