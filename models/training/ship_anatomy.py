"""Exports `cxr-anatomy`, measures it, and writes its folder: overlap, cardiothoracic ratio, and what the ratio tells.

The ratio is the widest extent of the heart over the widest extent of both lungs, taken from the masks' logits
enlarged four-fold (bilinear) and cut at zero, largest connected piece of each organ only.

Example: ship_anatomy.py --data DIR --work /tmp/duet-train --out models
"""

import argparse
import datetime
import hashlib
import json
import math
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import label as components

import cache
import export
import films as tables
from evaluate import groups_of, rows_where, table
from figures import auroc_figure, interval
from manifest import head
from predict import Model
from train_anatomy import ORGANS, load_masks, restore

SIZE = 128
LABELS = {
    "heart": ("Heart", "80891009"), "right_lung": ("Right lung", "3341006"), "left_lung": ("Left lung", "44029006"),
}


def enlarge(plane, size=512):
    return np.asarray(Image.fromarray(plane.astype(np.float32), mode="F").resize((size, size), Image.BILINEAR))


def largest(mask):
    """The largest connected piece."""
    pieces, count = components(mask)
    if count < 2:
        return mask
    return pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))


def extent(mask):
    columns = np.nonzero(mask.any(0))[0]
    return (columns[0], columns[-1] + 1) if len(columns) else None


def ratio(masks):
    """Cardiothoracic ratio of boolean masks in the order of ORGANS; nan where an organ is missing."""
    heart, right, left = (extent(largest(mask)) for mask in masks)
    if not (heart and right and left):
        return math.nan
    return (heart[1] - heart[0]) / (max(right[1], left[1]) - min(right[0], left[0]))


def predicted(model, pixels):
    """Boolean masks at 512 px, film by film."""
    for picture in pixels:
        planes = model.run(picture[None])["masks"][0]
        yield np.stack([enlarge(plane) > 0 for plane in planes])


def measure(folder, data, work):
    model = Model(Path(folder) / "model.onnx")
    everything = tables.load(data)
    pixels = cache.load(data, Path(work) / "cache", SIZE)
    mine = rows_where(everything, lambda f: f.dataset == "jsrt")
    films = [everything[i] for i in mine]
    drawn = load_masks(data, films, 512) > 127
    test = [i for i, film in enumerate(films) if film.part == "test"]
    overlaps, errors, ratios = [], [], []
    for i, masks in zip(test, predicted(model, pixels[mine][test])):
        both = (masks & drawn[i]).sum((1, 2))
        overlaps.append(2 * both / (masks.sum((1, 2)) + drawn[i].sum((1, 2))))
        ratios.append((ratio(masks), ratio(drawn[i])))
        errors.append(abs(ratios[-1][0] - ratios[-1][1]))
    errors, overlaps, people = np.array(errors), np.array(overlaps), np.arange(len(test))
    low, high = interval(lambda rows: float(np.nanmean(errors[rows])), people)
    metrics = {
        "films": len(test),
        "dice": {organ: round(float(overlaps[:, k].mean()), 4) for k, organ in enumerate(ORGANS)},
        "ctr_mae": {"value": round(float(np.nanmean(errors)), 4), "low": round(low, 4), "high": round(high, 4), "n": len(test)},
        "ctr_bias": round(float(np.nanmean([a - b for a, b in ratios])), 4),
        "ctr_missing": int(np.isnan(errors).sum()),
        "ctr_mae_of_the_training_mean": None,
    }
    train = [ratio(drawn[i]) for i, film in enumerate(films) if film.part == "train"]
    metrics["ctr_mae_of_the_training_mean"] = round(float(np.mean([abs(b - np.mean(train)) for _, b in ratios])), 4)
    # Other hospitals: does the measured ratio tell reported cardiomegaly? None of these films has masks.
    for name, datasets in {"nih": ("nih-adult", "nih-64px"), "openi": ("openi",)}.items():
        rows = rows_where(everything, lambda f: f.part == "test" and f.dataset in datasets and f.kind == "chest-radiograph-frontal"
                          and f.findings.get("Cardiomegaly") in (0.0, 1.0))
        values = np.array([ratio(masks) for masks in predicted(model, pixels[rows])])
        seen = [everything[i] for i in rows]
        truth = np.array([film.findings["Cardiomegaly"] for film in seen])
        known = ~np.isnan(values)
        metrics[f"cardiomegaly_by_ratio_{name}"] = {
            "auroc": auroc_figure(truth[known], values[known], groups_of(seen)[known]), "not_measurable": int((~known).sum()),
            "median_ratio_with": round(float(np.nanmedian(values[truth == 1])), 3),
            "median_ratio_without": round(float(np.nanmedian(values[truth == 0])), 3),
        }
    return metrics, films


def write_card(folder, metrics):
    """The figures as a table between the card's markers."""
    card = folder / "MODEL_CARD.md"
    begin, end = "<!-- figures -->", "<!-- end of figures -->"
    before, rest = card.read_text().split(begin)
    error = metrics["ctr_mae"]
    lines = ["| measured | value |", "|---|---|"]
    lines += [f"| overlap (Dice), {organ.replace('_', ' ')}, {metrics['films']} films | {v:.3f} |" for organ, v in metrics["dice"].items()]
    lines += [
        f"| cardiothoracic ratio, mean absolute error | {error['value']:.4f} ({error['low']:.4f} to {error['high']:.4f}), n = {error['n']} |",
        f"| the same, by always answering the training films' mean | {metrics['ctr_mae_of_the_training_mean']:.4f} |",
        f"| mean signed error | {metrics['ctr_bias']:+.4f} |",
    ]
    for name in ("nih", "openi"):
        found = metrics[f"cardiomegaly_by_ratio_{name}"]
        area = found["auroc"]
        lines.append(
            f"| reported cardiomegaly told by the ratio alone, {name} test films (no masks there) | AUROC {area['value']:.3f} "
            f"({area['low']:.3f} to {area['high']:.3f}), {area['positives']} of {area['n']}; median ratio "
            f"{found['median_ratio_with']:.2f} with, {found['median_ratio_without']:.2f} without; {found['not_measurable']} not measurable |"
        )
    card.write_text(before + begin + "\n\n" + "\n".join(lines) + "\n\n" + end + rest.split(end)[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="the repository's models folder")
    parser.add_argument("--version", default="1.0.0")
    arguments = parser.parse_args()
    folder = arguments.out / "cxr-anatomy"
    model, state = restore(arguments.work / "anatomy.pt")
    sha256 = export.write(model, folder / "model.onnx", ["masks"], SIZE)
    metrics, films = measure(folder, arguments.data, arguments.work)
    names = sorted(f"{film.dataset}/{film.file}" for film in films if film.part == "test")
    common = {
        "version": arguments.version, "sha256": sha256, "size": SIZE, "seed": state["seed"], "leave_out": [],
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }
    lines = head("cxr-anatomy", "segmentation", "Outlines of heart and lungs", common, "train_anatomy.py")
    lines += ["[outputs]", 'masks = "masks"', "", "[accepts]", 'kind = ["chest-radiograph-frontal"]', "min_age_years = 10", ""]
    lines += [
        "[calibration]", 'set = "jsrt, test films (nothing is calibrated: the ratio\'s error is measured on them)"',
        f'sha256 = "{hashlib.sha256(chr(10).join(names).encode()).hexdigest()}"', f"n = {len(names)}", f'date = "{common["date"]}"', "",
    ]
    for organ in ORGANS:
        name, code = LABELS[organ]
        lines += ["[[labels]]", f'name = "{name}"', f'code = {{ scheme = "SCT", value = "{code}", meaning = "{name}" }}', ""]
    (folder / "model.toml").write_text("\n".join(lines))
    table(folder)
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    write_card(folder, metrics)
    print(json.dumps(metrics, indent=1))


if __name__ == "__main__":
    main()
