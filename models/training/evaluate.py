"""Measures shipped model folders on test patients: every figure that a model card quotes comes from here.

Reads model.onnx, model.toml and prompts.json as the services do, and writes metrics.json beside them. Test patients
are those of splits.py that neither training nor calibration ever read.

Example: evaluate.py --data DIR --work /tmp/duet-train --models models --only generalist cxr-findings
"""

import argparse
import json
import math
import tomllib
from pathlib import Path

import numpy as np
import torch

import cache
import films as tables
import prompts
from augment import FITNESS, spoil
from figures import auroc, auroc_figure, calibration_error, clear_threshold, platt, share
from predict import Model, sigmoid, softmax

NEUTRAL = "a normal chest X-ray"
BEGIN, END = "<!-- figures: evaluate.py -->", "<!-- end of figures -->"
FRONTAL = ("chest-radiograph-frontal", "chest-radiograph-child")
CHEST = (*FRONTAL, "chest-radiograph-lateral")


def groups_of(films):
    """Patients as the bootstrap draws them."""
    return np.array([f"{film.dataset[:3]}/{film.patient or film.file}" for film in films])


def table(folder):
    return tomllib.loads((Path(folder) / "model.toml").read_text())


# ---- generalist ------------------------------------------------------------------------------------------------


class Generalist:
    """Embeds films and answers the questions from the manifest's prompts."""

    def __init__(self, folder, learnt=None):
        self.model = Model(Path(folder) / "model.onnx")
        vectors = json.loads((Path(folder) / "prompts.json").read_text())
        self.questions = {}
        for question in learnt or self.from_manifest(folder):
            answers = [key.split("/")[1] for key in vectors if key.startswith(question["id"] + "/")]
            matrix = np.array([vectors[f"{question['id']}/{answer}"] for answer in answers], np.float32)
            self.questions[question["id"]] = (answers, matrix, question["scale"], np.array(question["biases"]))

    @staticmethod
    def from_manifest(folder):
        for question in table(folder)["questions"]:
            biases = [answer["bias"] for answer in question["answers"]]
            yield {"id": question["id"], "scale": question["scale"], "biases": biases}

    def embed(self, pixels):
        return self.model.run(pixels)["embedding"]

    def answer(self, embedding):
        """question -> probabilities [N, answers]."""
        return {q: softmax(s * embedding @ m.T + b) for q, (_, m, s, b) in self.questions.items()}

    def scope(self, answered):
        names = self.questions["kind"][0]
        return answered["kind"][:, [i for i, name in enumerate(names) if name in prompts.IN_SCOPE]].sum(1)


def rows_where(films, test):
    return np.array([i for i, film in enumerate(films) if test(film)], int)


def decide(folder, learnt, films, pixels, bound=0.02, confidence=0.95):
    """Chooses scope_min, fitness_min and clear_below on validation patients."""
    generalist = Generalist(folder, learnt["questions"])
    val = rows_where(films, lambda f: f.part == "val" and f.kind in FRONTAL)
    answered = generalist.answer(generalist.embed(pixels[val]))
    chest = [films[i] for i in val]
    scope_min = float(min(0.5, np.quantile(generalist.scope(answered), 0.004)))
    fitness_min = float(min(0.5, np.quantile(answered["fitness"][:, 0], 0.02)))
    score = answered["abnormal"][:, 1]
    sick = np.array([film.abnormal == 1 for film in chest])
    child = np.array([film.kind == "chest-radiograph-child" for film in chest])
    # Adults and children must each keep the bound: the lower threshold holds.
    choices = []
    for group in (~child, child):
        threshold, misses = clear_threshold(score[sick & group], bound, confidence)
        choices.append((threshold, misses, int((sick & group).sum())))
    lowest = None if any(t is None for t, _, _ in choices) else min(choices)
    judged = [film for film in chest if not math.isnan(film.abnormal)]
    print(f"clear_below by group (adults, children): {choices}; scope {scope_min:.3f}, fitness {fitness_min:.3f}")
    return {
        "scope_min": scope_min, "fitness_min": fitness_min, "clear_below": lowest and lowest[0],
        "bound": bound, "confidence": confidence, "positives": lowest and lowest[2],
        "measured": lowest and lowest[1] / lowest[2], "n": len(judged), "films": judged,
        "sets": "nih-adult, nih-64px, openi frontal, jsrt, kermany-paediatric",
    }


def evaluate_generalist(folder, films, pixels):
    generalist = Generalist(folder)
    decision = table(folder)["decision"]
    test = rows_where(films, lambda f: f.part == "test")
    seen = [films[i] for i in test]
    embedding = generalist.embed(pixels[test])
    answered = generalist.answer(embedding)
    scope, names = generalist.scope(answered), generalist.questions["kind"][0]
    told = np.array(names)[answered["kind"].argmax(1)]
    kind = np.array([film.kind for film in seen])
    abnormal = np.array([film.abnormal for film in seen])
    score = answered["abnormal"][:, 1]
    people = groups_of(seen)
    chest, refused = np.isin(kind, CHEST), scope < decision["scope_min"]
    fit = answered["fitness"][:, 0] >= decision["fitness_min"]
    metrics = {"scope": {"chest_refused": share(int(refused[chest].sum()), int(chest.sum()))}}
    other = ~np.isin(kind, CHEST)
    metrics["scope"]["other_refused"] = share(int(refused[other].sum()), int(other.sum()))
    metrics["scope"]["refused_by_kind"] = {
        k: share(int(refused[kind == k].sum()), int((kind == k).sum())) for k in sorted(set(kind))
    }
    openi = np.array([film.dataset == "openi" for film in seen])
    lateral = kind == "chest-radiograph-lateral"
    right = np.where(lateral, told == "chest-radiograph-lateral", np.isin(told, FRONTAL))
    metrics["view"] = {"frontal_or_lateral_right": share(int(right[openi].sum()), int(openi.sum()))}
    child = kind == "chest-radiograph-child"
    metrics["view"]["child_told_as_child"] = share(int((told == "chest-radiograph-child")[child].sum()), int(child.sum()))
    frontal = kind == "chest-radiograph-frontal"
    metrics["view"]["adult_told_as_child"] = share(int((told == "chest-radiograph-child")[frontal].sum()), int(frontal.sum()))

    metrics["abnormal"] = {}
    dataset = np.array([film.dataset for film in seen])
    source = np.array([film.source_px for film in seen])
    for name, rows in {
        "adult frontal (nih, openi)": frontal & np.isin(dataset, ["nih-adult", "nih-64px", "openi"]),
        "nih, source 128 px": frontal & (source == 128), "nih, source 64 px": frontal & (source == 64),
        "nih, source 1024 px": frontal & (source == 1024), "openi frontal": frontal & openi,
        "openi lateral": lateral & openi, "jsrt": dataset == "jsrt", "kermany-paediatric": dataset == "kermany-paediatric",
    }.items():
        rows = rows & ~np.isnan(abnormal)
        truth = abnormal[rows]
        figure = {"auroc": auroc_figure(truth, score[rows], people[rows])}
        if "clear_below" in decision:
            cleared = (score < decision["clear_below"])[rows] & fit[rows] & ~refused[rows]
            figure["miss_rate"] = share(int(cleared[truth == 1].sum()), int((truth == 1).sum()))
            figure["normal_cleared"] = share(int(cleared[truth == 0].sum()), int((truth == 0).sum()))
        metrics["abnormal"][name] = figure
    metrics["fitness"] = fitness_figures(generalist, decision, pixels[test][chest])
    metrics["zero_shot"] = zero_shot(embedding, seen, frontal)
    metrics["retrieval"] = retrieval(embedding, seen, frontal & openi)
    return metrics


def fitness_figures(generalist, decision, pixels, count=200):
    """Defects drawn onto test films: told as unfit, and named rightly. Drawn, not collected: real ones vary more."""
    chosen = np.random.default_rng(7).choice(len(pixels), min(count, len(pixels)), replace=False)
    clean = torch.from_numpy(pixels[chosen])[:, None].float() / 255
    figures = {}
    for index, name in enumerate(FITNESS):
        generator = torch.Generator().manual_seed(7)
        spoiled = spoil(clean.clone(), generator, torch.full((len(chosen),), index))
        answers = generalist.answer(generalist.embed((spoiled[:, 0].numpy() * 255).round().astype(np.uint8)))["fitness"]
        unfit = answers[:, 0] < decision["fitness_min"]
        told = answers.argmax(1) if not index else answers[:, 1:].argmax(1) + 1
        figures[name] = {
            "told_unfit": share(int(unfit.sum()), len(chosen)),
            "named_rightly": share(int((told == index).sum()), len(chosen)),
        }
    return figures


def zero_shot(embedding, films, rows):
    """AUROC by finding from prompts alone: cosine with `a chest X-ray with ...` less that with the neutral prompt.

    The neutral prompt takes off what all chest prompts share. Nothing is learnt, no threshold is set. That the
    difference serves better than the cosine alone (validation: 0.75 against 0.62) was found on validation patients.
    """
    import text

    neutral = text.embed([NEUTRAL])[0]

    people = groups_of(films)
    figures = {}
    for label in tables.NIH:
        truth = np.array([film.findings.get(label, math.nan) for film in films])
        judged = rows & ~np.isnan(truth)
        vector = text.embed([f"a chest X-ray with {phrase}" for phrase in prompts.PHRASES[label]]).mean(0)
        figures[label] = auroc_figure(truth[judged], embedding[judged] @ (vector - neutral), people[judged])
    return {"labels": figures, "mean": round(float(np.nanmean([f["value"] for f in figures.values()])), 4)}


def retrieval(embedding, films, rows, count=500):
    """Which of N test reports belongs to a film: recall at 1, 5, 10 beside chance. One frontal film a study."""
    import text

    first = {}
    for i in np.nonzero(rows)[0]:
        if films[i].sentences:
            first.setdefault(films[i].patient, i)
    chosen = sorted(first.values())[:count]
    reports = np.stack([text.embed(films[i].sentences).mean(0) for i in chosen])
    reports /= np.linalg.norm(reports, axis=1, keepdims=True)
    # Less the mean film's score, so that no report suits every film.
    scores = (embedding[chosen] - embedding[chosen].mean(0)) @ reports.T
    # Identical reports cannot be told apart: a tie with the right one counts as found half way through the tie.
    own = np.diag(scores)[:, None]
    rank = (scores > own + 1e-6).sum(1) + ((np.abs(scores - own) <= 1e-6).sum(1) - 1) / 2
    figures = {f"recall_at_{k}": share(int((rank < k).sum()), len(chosen)) for k in (1, 5, 10)}
    return {"reports": len(chosen), **figures, "chance_at_10": round(10 / len(chosen), 4)}


# ---- specialists -----------------------------------------------------------------------------------------------


def truth_of(films, label):
    return np.array([film.findings.get(label, math.nan) for film in films])


def rows_for(films, plan_sets, part):
    return rows_where(films, lambda f: f.part == part and f.dataset in plan_sets and f.kind in FRONTAL)


def operating_threshold(truth, probability, least_specificity=0.9):
    """Youden's point, but never less specific than the floor, since each film is read for many findings."""
    candidates = np.unique(np.quantile(probability, np.linspace(0.02, 0.995, 200)))
    gains = [(probability[truth == 1] >= t).mean() - (probability[truth == 0] >= t).mean() for t in candidates]
    best = candidates[int(np.argmax(gains))]
    return float(max(best, np.quantile(probability[truth == 0], least_specificity)))


def point_figures(truth, flagged):
    positives, negatives = int(truth.sum()), int((truth == 0).sum())
    return {
        "sensitivity": share(int(flagged[truth == 1].sum()), positives),
        "specificity": share(int((~flagged[truth == 0]).sum()), negatives),
        "positives": positives, "negatives": negatives,
    }


def calibrate(folder, plan, films, pixels, logits=None):
    """Platt scaling and operating points from validation patients (whose logits may be known already)."""
    rows = rows_for(films, plan["sets"], "val")
    seen = [films[i] for i in rows]
    if logits is None:
        logits = Model(Path(folder) / "model.onnx").run(pixels[rows], ["logits"])["logits"]
    chosen = {"n": len(rows), "films": seen, "labels": {}}
    for column, label in enumerate(plan["labels"]):
        truth = truth_of(seen, label)
        judged = ~np.isnan(truth)
        scale, bias = platt(logits[judged, column], truth[judged])
        probability = sigmoid(scale * logits[judged, column] + bias)
        threshold = operating_threshold(truth[judged], probability)
        chosen["labels"][label] = {
            "scale": scale, "bias": bias, "threshold": threshold,
            "ece": round(calibration_error(truth[judged], probability), 4),
            **point_figures(truth[judged], probability >= threshold),
        }
    return chosen


def evaluate_specialist(folder, films, pixels):
    import ship

    manifest = table(folder)
    plan = ship.SPECIALISTS[manifest["name"]]
    rows = rows_for(films, plan["sets"], "test")
    seen = [films[i] for i in rows]
    logits = Model(Path(folder) / "model.onnx").run(pixels[rows], ["logits"])["logits"]
    people = groups_of(seen)
    dataset = np.array([film.dataset for film in seen])
    source = np.array([film.source_px for film in seen])
    slices = {"all": np.ones(len(seen), bool)}
    if "nih-adult" in plan["sets"]:
        slices |= {
            "source 128 px": source == 128, "source 64 px": source == 64, "source 1024 px": source == 1024,
            "openi": dataset == "openi",
        }
    metrics = {"films": len(seen), "patients": len(set(people)), "labels": {}, "slices": {}}
    parts = {name: [] for name in slices}
    for column, (label, entry) in enumerate(zip(plan["labels"], manifest["labels"])):
        truth = truth_of(seen, label)
        probability = sigmoid(entry["platt"]["scale"] * logits[:, column] + entry["platt"]["bias"])
        judged = ~np.isnan(truth)
        figure = {
            "auroc": auroc_figure(truth[judged], probability[judged], people[judged]),
            "ece": round(calibration_error(truth[judged], probability[judged]), 4),
            **point_figures(truth[judged], probability[judged] >= entry["operating_point"]["threshold"]),
            "slices": {},
        }
        for name, inside in slices.items():
            here = judged & inside
            positives = int(truth[here].sum())
            if positives >= 5:
                value = auroc(truth[here], probability[here])
                figure["slices"][name] = {"auroc": round(value, 4), "positives": positives}
                if positives >= 15:
                    parts[name].append(value)
        metrics["labels"][label] = figure
    for name, values in parts.items():
        metrics["slices"][name] = {
            "mean_auroc": round(float(np.mean(values)), 4) if values else None, "labels_with_15_positives": len(values),
        }
    return metrics


def evaluate(folder, films, pixels):
    """Metrics of one model folder on test patients."""
    if table(folder)["kind"] == "vision-language":
        return evaluate_generalist(folder, films, pixels)
    return evaluate_specialist(folder, films, pixels)


def summary(name, metrics):
    """The metrics as the Markdown tables of the model card."""
    span = lambda f: f"{f['value']:.3f} ({f['low']:.3f} to {f['high']:.3f})"  # noqa: E731
    lines = []
    if "scope" in metrics:
        lines += ["| kind of image | refused | n |", "|---|---|---|"]
        lines += [f"| {k} | {span(f)} | {f['n']} |" for k, f in metrics["scope"]["refused_by_kind"].items()]
        lines += ["", "| view | share | n |", "|---|---|---|"]
        lines += [f"| {k.replace('_', ' ')} | {span(f)} | {f['n']} |" for k, f in metrics["view"].items()]
        lines += ["", "| normal against abnormal | AUROC | n | abnormal cleared | normal cleared |", "|---|---|---|---|---|"]
        for k, f in metrics["abnormal"].items():
            cleared = [span(f[c]) if c in f else "none" for c in ("miss_rate", "normal_cleared")]
            lines.append(f"| {k} | {span(f['auroc'])} | {f['auroc']['n']} | {cleared[0]} | {cleared[1]} |")
        lines += ["", "| defect drawn onto test films | told unfit | named rightly |", "|---|---|---|"]
        for k, f in metrics["fitness"].items():
            lines.append(f"| {k} | {f['told_unfit']['value']:.3f} | {f['named_rightly']['value']:.3f} |")
        lines += ["", "| finding, from prompts alone | AUROC | positives |", "|---|---|---|"]
        lines += [f"| {k} | {span(f)} | {f['positives']} |" for k, f in metrics["zero_shot"]["labels"].items()]
        lines += [f"| mean | {metrics['zero_shot']['mean']:.3f} | |", ""]
        found = metrics["retrieval"]
        lines += [f"| a film's own report among {found['reports']} | share | chance |", "|---|---|---|"]
        lines += [f"| in the first {k} | {span(found[f'recall_at_{k}'])} | {k / found['reports']:.3f} |" for k in (1, 5, 10)]
    else:
        names = list(metrics["slices"])
        columns = ["finding", "AUROC (95 %)", "positives", "sensitivity", "specificity", "ECE", *names[1:]]
        lines += ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
        for label, f in metrics["labels"].items():
            cells = [
                label, span(f["auroc"]), str(f["positives"]), f"{f['sensitivity']['value']:.2f}",
                f"{f['specificity']['value']:.2f}", f"{f['ece']:.3f}",
                *(f"{f['slices'][n]['auroc']:.3f}" if n in f["slices"] else "" for n in names[1:]),
            ]
            lines.append("| " + " | ".join(cells) + " |")
        lines += ["", f"{metrics['films']} films of {metrics['patients']} patients."]
        if len(metrics["labels"]) > 1:
            lines += ["", "| films | mean AUROC | labels in it (15 positives or more) |", "|---|---|---|"]
            lines += [f"| {n} | {f['mean_auroc']:.3f} | {f['labels_with_15_positives']} |" for n, f in metrics["slices"].items()]
    return "\n".join(lines)


def write_card(folder, metrics):
    """Replaces what stands between the card's two markers by the tables of these metrics."""
    card = Path(folder) / "MODEL_CARD.md"
    before, rest = card.read_text().split(BEGIN)
    after = rest.split(END)[1]
    card.write_text(f"{before}{BEGIN}\n\n{summary(folder.name, metrics)}\n\n{END}{after}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder of the decoded cache")
    parser.add_argument("--models", type=Path, required=True, help="folder of the model folders; their cards get the tables")
    parser.add_argument("--only", nargs="*", default=["generalist", "cxr-findings"])
    arguments = parser.parse_args()
    films = tables.load(arguments.data)
    for name in arguments.only:
        folder = arguments.models / name
        pixels = cache.load(arguments.data, arguments.work / "cache", table(folder)["input"]["width"])
        metrics = evaluate(folder, films, pixels)
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
        write_card(folder, metrics)
        print(summary(name, metrics), flush=True)


if __name__ == "__main__":
    main()
