"""Fits an exported classifier to films of yours: calibrated probabilities and operating points, into its model.toml.

    python models/export/calibrate.py ~/models/chexnet --images films/ --labels films.csv --set "200 films of ward 3"

The table is that of `duet eval`: `file`, and `findings` (joined by |, `No Finding` for none, u: for uncertain) or `label`.
The films must be others than those that `duet eval` measures afterwards, and than those that the model was trained on.

For each label with enough films of either kind: Platt's scaling of its logit, and the threshold with the largest sum
of sensitivity and specificity among those that are at least 0.90 specific on these films. A label with too few films,
or whose output ranks them the wrong way round, is left without either, and is not looked for.
"""

import argparse
import csv
import datetime
import hashlib
import json
import math
import subprocess
import tomllib
from pathlib import Path

import numpy as np

SPECIFICITY = 0.90
NONE = {"", "nofinding", "nofindings", "normal"}
REPOSITORY = Path(__file__).resolve().parents[2]


def fold(name):
    """As `duet eval` compares names."""
    return "".join(c for c in name.lower() if c.isalnum())


def truths(rows):
    """For each row the folded names that are there, and those that nobody is sure of."""
    told = []
    for row in rows:
        cell = row.get("findings")
        names = cell.split("|") if cell is not None else [row["label"]]
        names = [name.strip() for name in names if fold(name) not in NONE]
        unsure = {fold(name[2:]) for name in names if name.startswith("u:")}
        told.append(({fold(name) for name in names if not name.startswith("u:")}, unsure))
    return told


def logits(run_model, folder, files):
    """What the services' own code makes of the films: one list of logits a film, in the order of the labels."""
    run = subprocess.run(
        [*run_model, folder, "-"], input="\n".join(map(str, files)), capture_output=True, text=True, check=False,
    )
    if run.returncode:
        raise SystemExit(run.stderr.strip())
    return np.array([[own["logit"] for own in json.loads(line)["labels"]] for line in run.stdout.splitlines()])


def platt(logit, present):
    """Scale and bias of `sigmoid(scale * logit + bias)` by Newton's method, with Platt's corrected targets."""
    positives, negatives = present.sum(), (~present).sum()
    target = np.where(present, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    centre, spread = logit.mean(), logit.std() or 1.0
    x = np.stack([(logit - centre) / spread, np.ones_like(logit)], 1)
    weights = np.array([0.0, math.log((positives + 1) / (negatives + 1))])
    for _ in range(100):
        p = 1 / (1 + np.exp(-x @ weights))
        gradient = x.T @ (p - target)
        step = np.linalg.solve((x.T * (p * (1 - p))) @ x + 1e-9 * np.eye(2), gradient)
        weights -= step
        if np.abs(step).max() < 1e-10:
            break
    scale = weights[0] / spread
    return scale, weights[1] - scale * centre


def youden(probability, present):
    """The threshold with the largest sum of sensitivity and specificity, of those that are specific enough."""
    best, chosen = -1.0, None
    for threshold in np.unique(probability[present]):
        specificity = (probability[~present] < threshold).mean()
        sensitivity = (probability[present] >= threshold).mean()
        if specificity >= SPECIFICITY and sensitivity + specificity > best:
            best, chosen = sensitivity + specificity, threshold
    return chosen


def fit(labels, told, values, least):
    """For each label (scale, bias, threshold), or words why it has none."""
    fitted = []
    for column, label in enumerate(labels):
        names = {fold(name) for name in [label["name"], *label["synonyms"]]}
        judged = [row for row, (there, unsure) in enumerate(told) if names & there or not names & unsure]
        present = np.array([bool(names & told[row][0]) for row in judged])
        positives, negatives = int(present.sum()), int((~present).sum())
        if min(positives, negatives) < least:
            fitted.append(f"{positives} films with it and {negatives} without: {least} of each are needed")
            continue
        logit = values[judged, column]
        scale, bias = platt(logit, present)
        threshold = youden(1 / (1 + np.exp(-(scale * logit + bias))), present)
        if scale <= 1e-6:
            fitted.append("its output ranks these films the wrong way round")
        elif threshold is None:
            fitted.append(f"no threshold is {SPECIFICITY} specific on these films")
        else:
            fitted.append((scale, bias, float(threshold)))
    return fitted


def rewrite(text, calibration, fitted):
    """The manifest with its calibration, and each label with what was fitted for it."""
    lines, label, remaining = [], -1, iter(fitted)
    for line in text.splitlines():
        if line == "[[labels]]":
            if label < 0:
                lines += calibration
            label += 1
            own = next(remaining)
        if line.startswith("operating_point"):
            continue
        lines.append(line)
        if line.startswith("code = ") and not isinstance(own, str):
            scale, bias, threshold = own
            lines += [
                f"platt = {{ scale = {scale:.6f}, bias = {bias:.6f} }}",
                f"operating_point = {{ threshold = {threshold:.6f} }}",
            ]
    lines = [line for line in lines if not line.startswith("#")]
    return "\n".join(["# Written by models/export/export.py, calibrated by models/export/calibrate.py.", *lines, ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the model's folder")
    parser.add_argument("--images", type=Path, required=True, help="the folder that the table's files are in")
    parser.add_argument("--labels", type=Path, required=True, metavar="CSV")
    parser.add_argument("--set", required=True, metavar="WORDS", help="what films these are, for the manifest")
    parser.add_argument("--least", type=int, default=30, help="films of either kind that a label needs (30)")
    parser.add_argument("--run-model", type=Path, help="the built example run_model; default: cargo run")
    wanted = parser.parse_args()
    file = wanted.folder / "model.toml"
    text = file.read_text(encoding="utf-8")
    manifest = tomllib.loads(text)
    if manifest["kind"] != "classifier":
        raise SystemExit(f"{file}: is a {manifest['kind']}: only a classifier is calibrated here")
    if "calibration" in manifest:
        raise SystemExit(f"{file}: is calibrated already, on {manifest['calibration']['set']}: export it anew first")
    with open(wanted.labels, newline="", encoding="utf-8-sig") as table:
        rows = list(csv.DictReader(table))
    if not rows or "file" not in rows[0] or not {"findings", "label"} & set(rows[0]):
        raise SystemExit(f"{wanted.labels}: needs the columns `file` and `findings` (or `label`), and a row for each film")
    run_model = [wanted.run_model] if wanted.run_model else [
        "cargo", "run", "--quiet", "--manifest-path", REPOSITORY / "Cargo.toml", "-p", "duet-inference", "--example", "run_model", "--",
    ]
    values = logits(run_model, wanted.folder, [(wanted.images / row["file"]).resolve() for row in rows])
    fitted = fit(manifest["labels"], truths(rows), values, wanted.least)
    if all(isinstance(own, str) for own in fitted):
        raise SystemExit(f"no label could be calibrated: {manifest['labels'][0]['name']}: {fitted[0]}")
    names = "\n".join(sorted(row["file"] for row in rows))
    calibration = [
        "[calibration]", f"set = {json.dumps(wanted.set, ensure_ascii=False)}",
        f'sha256 = "{hashlib.sha256(names.encode()).hexdigest()}"', f"n = {len(rows)}",
        f'date = "{datetime.datetime.now(datetime.timezone.utc).date().isoformat()}"', "",
    ]
    part = file.with_suffix(".part")
    part.write_text(rewrite(text, calibration, fitted), encoding="utf-8")
    part.replace(file)
    for label, own in zip(manifest["labels"], fitted):
        words = f"not looked for: {own}" if isinstance(own, str) else "scale {:.3f}, bias {:.3f}, finding from {:.3f} on".format(*own)
        print(f"{label['name']:28} {words}")
    print(f"{file}: calibrated on {len(rows)} films. Next: duet eval on other films")


if __name__ == "__main__":
    main()
