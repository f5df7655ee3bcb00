// The panel beside the picture: conclusion, findings, what was looked for, triage, and what came in.

import { h, meter } from "./dom.js";
import { bytes, DECISIONS, label, percent, plain, priority, QUESTIONS, standing } from "./words.js";

function finding(found, n, { onPoint, onPick }) {
  const measured = [
    `≥ ${percent(found.threshold)}`,
    found.sensitivity !== undefined && `sensitivity ${percent(found.sensitivity)}`,
    found.specificity !== undefined && `specificity ${percent(found.specificity)}`,
    !found.region && "no region",
  ].filter(Boolean).join(" · ");
  return h("li", {}, h("button", {
    type: "button", class: "found", "data-n": n, "aria-pressed": "false",
    on: { mouseenter: () => onPoint(n), mouseleave: () => onPoint(null), focus: () => onPoint(n), blur: () => onPoint(null), click: () => onPick(n) },
  },
  h("span", { class: `swatch colour-${n % 6}`, "aria-hidden": "true" }),
  h("span", { class: "label" }, label(found.label)),
  h("span", { class: "number" }, percent(found.probability)),
  meter(found.probability, found.threshold),
  h("small", { title: "The operating point, and what was measured there" }, measured),
  h("small", {}, [found.code.meaning !== found.label && found.code.meaning, `${found.code.scheme} ${found.code.value}`, `${found.model.name} ${found.model.version}`].filter(Boolean).join(" · "))));
}

function findings(record, listeners) {
  if (record.findings.length > 0) {
    return h("section", { "aria-label": "Findings" }, h("h2", {}, "Findings"),
      h("ul", { class: "findings" }, record.findings.map((found, n) => finding(found, n, listeners))));
  }
  return null;
}

// What was measured: evidence beside the findings, with the lines that it follows from in the picture.
function measurements(record) {
  if (!record.measurements?.length) return null;
  return h("section", { "aria-label": "Measured" }, h("h2", {}, "Measured"),
    h("ul", { class: "measured" }, record.measurements.map((own) => h("li", {},
      h("p", { class: "title" }, h("span", { class: "label" }, own.name), h("span", { class: "number" }, own.value === undefined ? "no value" : own.value.toFixed(2))),
      own.value === undefined ? h("p", {}, own.reason) : own.usual_up_to !== undefined && h("p", {},
        `${own.value > own.usual_up_to ? "Over" : "Within"} the ${own.usual_up_to.toFixed(2)} that is usual on adults' PA films. Measured from outlines, no finding by itself.`),
      (own.cautions ?? []).map((caution) => h("p", { class: "caution" }, caution)),
      own.lines.length > 0 && h("small", {}, own.lines.map((line) => `${line.name} ${Math.round(Math.hypot(line.original[1][0] - line.original[0][0], line.original[1][1] - line.original[0][1]))} px`).join(" · ")),
      h("small", {}, `${own.model.name} ${own.model.version}`)))));
}

function lookedFor(record) {
  const assessment = record.assessment;
  if (!assessment) return null;
  const below = assessment.scores.filter((score) => score.probability < score.threshold);
  if (below.length === 0) return assessment.reason ? h("p", { class: "faint" }, assessment.reason) : null;
  below.sort((a, b) => b.probability - a.probability);
  return h("details", { class: "below", open: record.findings.length === 0 },
    h("summary", {}, `Looked for, below the operating point (${below.length})`),
    h("ul", { class: "bars" }, below.map((score) => h("li", {},
      h("span", { class: "label" }, label(score.label)), meter(score.probability, score.threshold), h("span", { class: "number" }, percent(score.probability))))));
}

function triage(record) {
  const seen = record.triage;
  if (!seen) return null;
  const questions = Map.groupBy ? Map.groupBy(seen.scores, (score) => score.question) : group(seen.scores);
  const scores = [...questions].map(([question, answers]) => {
    const likely = [...answers].sort((a, b) => b.probability - a.probability).slice(0, 3);
    return [h("h3", {}, QUESTIONS[question] ?? plain(question)),
      h("ul", { class: "bars" }, likely.map((score) => h("li", {},
        h("span", { class: "label" }, plain(score.answer)),
        meter(score.probability, question === "abnormal" && score.answer === "abnormal" ? seen.clear_below : undefined),
        h("span", { class: "number" }, percent(score.probability)))))];
  });
  return h("section", { "aria-label": "Triage" },
    h("h2", {}, "Triage"),
    h("p", { class: "decision" }, DECISIONS[seen.decision] ?? plain(seen.decision), seen.audit && " (drawn for audit)", ` · ${plain(seen.priority)}`),
    h("ul", { class: "reasons" }, seen.reasons.map((reason) => h("li", {}, reason))),
    scores,
    h("p", { class: "faint" }, seen.clear_below === undefined ? "This model may clear nothing." : `May be cleared where abnormal is below ${percent(seen.clear_below)}.`, ` ${seen.model.name} ${seen.model.version}`));
}

function group(scores) {
  const groups = new Map();
  for (const score of scores) groups.set(score.question, [...(groups.get(score.question) ?? []), score]);
  return groups;
}

function source(record) {
  const { source: from, rendition } = record;
  const rows = [
    ["File", [from.format.toUpperCase(), bytes(from.bytes), from.width > 0 && `${from.width} × ${from.height}`, from.bits > 0 && `${from.bits} bit`, from.photometric].filter(Boolean).join(" · ")],
    ["View", [from.modality, from.body_part, from.view_position, from.laterality].filter(Boolean).join(" · ")],
    ["Patient", [from.patient?.sex, from.patient?.age_years !== undefined && `${from.patient.age_years}${from.patient.age_years >= 90 ? " or more" : ""} years`].filter(Boolean).join(" · ")],
    ["Rendition", rendition && [`${rendition.width} × ${rendition.height}`, grey(rendition.window), rendition.inverted && "polarity turned"].filter(Boolean).join(" · ")],
    ["Notes", (from.notes ?? []).join("; ")],
    ["Study", h("code", {}, String(record.study).slice(0, 18))],
    ["Case", h("code", {}, record.id)],
  ];
  return h("section", { "aria-label": "Image" }, h("h2", {}, "Image"),
    h("dl", { class: "facts" }, rows.filter(([, value]) => value).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])));
}

function grey(window) {
  if (window.method === "window") return `window ${window.width} at ${window.center}, from the file`;
  if (window.method === "percentiles") return `window from percentiles, ${Math.round(window.low)} to ${Math.round(window.high)}`;
  return { "voi-lut": "VOI LUT of the file", identity: "as it is" }[window.method] ?? plain(window.method);
}

function conclusion(summary, record) {
  const how = standing(summary);
  const soon = priority(record?.triage?.priority);
  return h("header", { class: `conclusion ${how.tone}` },
    h("p", { class: "chips" },
      h("span", { class: `chip ${how.tone}` }, h("span", { class: "mark", "aria-hidden": "true" }, how.mark), how.text),
      soon && h("span", { class: `chip ${soon.tone}` }, h("span", { class: "mark", "aria-hidden": "true" }, soon.mark), soon.text)),
    h("h1", {}, record?.triage?.kind_meaning ?? (summary.state === "dead_letter" ? "Could not be processed" : "Image")),
    record?.conclusion && h("p", {}, record.conclusion.summary));
}

function deadLetter(letter) {
  if (!letter) return null;
  return h("section", { "aria-label": "Dead letter" }, h("h2", {}, "Why it was not processed"),
    h("p", { class: "message" }, letter.message),
    h("dl", { class: "facts" }, [["Stage", letter.stage], ["Kind", plain(letter.class)], ["Tried", letter.attempts && `${letter.attempts} ×`], ["From", letter.topic && [letter.topic, letter.partition && `partition ${letter.partition}`, letter.offset && `offset ${letter.offset}`].filter(Boolean).join(", ")], ["Given up", letter.time]]
      .filter(([, value]) => value).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    h("p", { class: "faint" }, "The original bytes are in the topic duet.dead-letters. Nothing was looked for in this image."));
}

export function panel(summary, record, letter, listeners) {
  return [
    conclusion(summary, record),
    deadLetter(letter),
    record && [findings(record, listeners), measurements(record), lookedFor(record), triage(record), source(record)],
    h("p", { class: "notice small" }, record?.publication?.notice ?? "Research use only. Not for diagnosis."),
  ].flat().filter(Boolean);
}
