// What the page calls things, and how it writes numbers.

export const SHOWS = [
  ["all", "All"],
  ["findings", "Findings"],
  ["flagged", "Flagged"],
  ["cleared", "Cleared"],
  ["not_looked_for", "Not looked for"],
  ["dead_letters", "Dead letters"],
];

// How a case stands, at a glance: a class for its colour, a mark beside it for those who do not see colours.
export function standing(summary) {
  if (summary.state === "dead_letter") return { tone: "dead", mark: "✕", text: "Not processed" };
  const ends = {
    findings: { tone: "finding", mark: "●", text: summary.findings_total === 1 ? "1 finding" : `${summary.findings_total} findings` },
    no_finding: { tone: "clear", mark: "○", text: "No finding" },
    cleared: { tone: "clear", mark: "✓", text: "Cleared" },
    not_looked_for: { tone: "outside", mark: "–", text: "Not looked for" },
  };
  if (summary.outcome && ends[summary.outcome]) return ends[summary.outcome];
  const ways = {
    received: "Received",
    prepared: "Waits for triage",
    cleared: "Cleared, being reported",
    out_of_scope: "Out of scope, being reported",
    flagged: "Waits for a specialist",
    assessed: "Assessed, being reported",
  };
  return { tone: "way", mark: "…", text: ways[summary.state] ?? String(summary.state) };
}

export function priority(name) {
  if (name === "emergency") return { tone: "emergency", mark: "▲▲", text: "Emergency" };
  if (name === "urgent") return { tone: "urgent", mark: "▲", text: "Urgent" };
  return null;
}

export const DECISIONS = { flagged: "Flagged for a specialist", cleared: "Cleared", out_of_scope: "Out of scope" };
export const QUESTIONS = { kind: "What it is", fitness: "Fit to read", abnormal: "Looks abnormal", urgency: "How soon" };
export const STAGES = { prepare: "Prepare", triage: "Triage", specialist: "Specialist", publish: "Publish" };

// Answers are ids: hyphens are all that needs to go.
export const plain = (id) => String(id).replaceAll("-", " ").replaceAll("_", " ");

// Data sets write Pleural_Thickening; people do not.
export const label = (name) => String(name).replaceAll("_", " ");

export function percent(probability) {
  const value = 100 * probability;
  if (value > 0 && value < 1) return "<1 %";
  if (value < 100 && value > 99) return ">99 %";
  return `${Math.round(value)} %`;
}

export function duration(ms) {
  if (!Number.isFinite(ms)) return "";
  if (ms < 1) return "<1 ms";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`;
  if (ms < 3_600_000) return `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`;
  return `${(ms / 3_600_000).toFixed(1)} h`;
}

export function bytes(count) {
  if (count < 1024) return `${count} B`;
  if (count < 1024 * 1024) return `${Math.round(count / 1024)} KiB`;
  return `${(count / 1024 / 1024).toFixed(1)} MiB`;
}

const today = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const before = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

export function clock(text) {
  const time = new Date(text);
  if (Number.isNaN(time.getTime())) return "";
  return (time.toDateString() === new Date().toDateString() ? today : before).format(time);
}

export const shortId = (id) => String(id).slice(0, 10);
