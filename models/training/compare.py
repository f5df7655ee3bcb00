"""Teacher, student trained plainly and student taught, side by side on test patients: AUROC, megabytes, milliseconds.

Writes compare.json beside the model and the table into its card. The teacher is the mean logit of its members. All are
read on the film and its mirror image, without the blend of cardiomegaly with the heart's share. Milliseconds are of the
exported graph on ONNX Runtime, one thread, best of 20.

Example: compare.py --data DIR --work /tmp/duet-train --models models --teacher plain away --student-plain plain2 --student taught
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch

import cache
import export
import films as tables
from evaluate import groups_of
from figures import auroc, interval
from predict import Model
from findings_net import Single
from train_findings import restore, slices

BEGIN, END = "<!-- distillation: compare.py -->", "<!-- end of distillation -->"


def mean_figure(films, rows, logits, least=15):
    """Mean AUROC over labels with at least `least` positives, with its interval by resampling patients."""
    truth = np.array([[films[i].findings.get(label, math.nan) for label in tables.NIH] for i in rows])
    columns = [k for k in range(len(tables.NIH)) if np.nansum(truth[:, k]) >= least]

    def statistic(chosen):
        values = []
        for k in columns:
            judged = chosen[~np.isnan(truth[chosen, k])]
            values.append(auroc(truth[judged, k], logits[judged, k]))
        return float(np.nanmean(values))

    low, high = interval(statistic, groups_of([films[i] for i in rows]), 100)
    return {"value": round(statistic(np.arange(len(rows))), 4), "low": round(low, 4), "high": round(high, 4), "n": len(rows), "labels": len(columns)}


def read(arguments, name, size, mirrored=True):
    """A checkpoint as an ONNX file of its own."""
    path = arguments.work / "compare" / f"{name}.onnx"
    member = restore(arguments.work / f"{name}.pt")[0]
    export.write(Single(member, size, mirrored), path, ["logits"], size)
    return path


def speed(path, size):
    model = Model(path)
    picture = np.zeros((1, size, size), np.uint8)
    times = []
    for _ in range(20):
        start = time.process_time()
        model.run(picture)
        times.append(time.process_time() - start)
    return round(min(times) * 1e3, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--teacher", nargs="+", required=True, help="names of checkpoints in the work folder")
    parser.add_argument("--student-plain", required=True)
    parser.add_argument("--student", required=True)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--away", help="checkpoint that never saw openi: measured on all of its frontal films")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    films = tables.load(arguments.data)
    pixels = cache.load(arguments.data, arguments.work / "cache", arguments.size)
    where = dict(slices(films, ("test",)))
    where["all"] = np.array([i for i, f in enumerate(films) if f.part == "test" and f.kind == "chest-radiograph-frontal" and f.dataset in ("nih-adult", "nih-64px", "openi")])
    place = {row: k for k, row in enumerate(where["all"])}
    known = {}
    table = {}
    for title, names in {"teacher": arguments.teacher, "student, plain": [arguments.student_plain], "student, taught": [arguments.student]}.items():
        size, cost = 0, 0.0
        for name in names:
            if name not in known:
                path = read(arguments, name, arguments.size)
                known[name] = Model(path).run(pixels[where["all"]])["logits"], speed(path, arguments.size), path.stat().st_size / 1e6
            cost, size = cost + known[name][1], size + known[name][2]
        logits = np.mean([known[name][0] for name in names], 0)[:, : len(tables.NIH)]
        table[title] = {
            "networks": names, "megabytes": round(size, 1), "milliseconds": round(cost, 1),
            **{name: mean_figure(films, rows, logits[[place[i] for i in rows]]) for name, rows in where.items()},
        }
        print(title, json.dumps(table[title]), flush=True)
    result = {"side_by_side": table}
    if arguments.away:
        small = cache.load(arguments.data, arguments.work / "cache", 128)
        rows = dict(slices(films, ("train", "val", "test")))["openi"]
        logits = Model(read(arguments, arguments.away, 128, False)).run(small[rows])["logits"]
        labels = {}
        for column, label in enumerate(tables.LOGITS):
            truth = np.array([films[i].findings.get(label, math.nan) for i in rows])
            judged = ~np.isnan(truth)
            if truth[judged].sum() >= 20 and truth[judged].sum() < judged.sum():
                labels[label] = {"auroc": round(auroc(truth[judged], logits[judged, column]), 4), "positives": int(truth[judged].sum())}
        result["openi_left_out"] = {"films": len(rows), "labels": labels, "mean": round(float(np.mean([v["auroc"] for v in labels.values()])), 4)}
        print(json.dumps(result["openi_left_out"]), flush=True)
    folder = arguments.models / "cxr-findings"
    (folder / "compare.json").write_text(json.dumps(result, indent=1) + "\n")
    span = lambda f: f"{f['value']:.3f} ({f['low']:.3f} to {f['high']:.3f})"  # noqa: E731
    columns = {"all": "all test films", "128": "source 128 px", "64": "source 64 px", "openi": "openi"}
    lines = ["| | " + " | ".join(columns.values()) + " | MB | ms |", "|---" * (len(columns) + 3) + "|"]
    for title, row in table.items():
        lines.append(f"| {title} | " + " | ".join(span(row[c]) for c in columns) + f" | {row['megabytes']} | {row['milliseconds']} |")
    card = folder / "MODEL_CARD.md"
    text = card.read_text()
    if BEGIN in text:
        before, rest = text.split(BEGIN)
        card.write_text(before + BEGIN + "\n\n" + "\n".join(lines) + "\n\n" + END + rest.split(END)[1])
    print("\n".join(lines))


if __name__ == "__main__":
    main()
