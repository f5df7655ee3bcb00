"""Do activation maps point at the finding? Pointing game on radiologists' boxes, and deletion of the hottest region.

- Pointing: the map's hottest cell lies in the box (beside chance: the box's share of the picture). No box was
  trained on; films of training patients are counted apart from unseen ones.
- Deletion: putting what an average normal film shows there in place of the hottest fifth of the picture must lower the
  finding's logit more than doing so elsewhere (test films that have the finding). Blurring instead would draw haze into
  a lung, which is what many findings look like.

Example: check_maps.py --data DIR --work /tmp/duet-train --models models
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

import cache
import films as tables
from evaluate import rows_where, table
from figures import share
from predict import Model


def map_of(cam, size):
    return np.asarray(Image.fromarray(cam.astype(np.float32), mode="F").resize((size, size), Image.BILINEAR))


def pointing(model, labels, films, pixels, boxes):
    row = {film.file: i for i, film in enumerate(films) if film.dataset == "nih-adult"}
    hits = {"all": [], "unseen": []}
    for box in boxes:
        i = row[box["file"]]
        if box["finding"] not in labels:
            continue
        cam = map_of(model.run(pixels[i][None], ["cam"])["cam"][0][labels.index(box["finding"])], 128)
        at = np.unravel_index(int(cam.argmax()), cam.shape)
        y, x = (at[0] + 0.5) / 128, (at[1] + 0.5) / 128
        left, top, width, height = (float(box[k]) for k in ("x", "y", "width", "height"))
        hit = (left <= x <= left + width and top <= y <= top + height, width * height)
        hits["all"].append(hit)
        if films[i].part != "train":
            hits["unseen"].append(hit)
    return {
        name: {"hit": share(sum(h for h, _ in found), len(found)), "chance": round(float(np.mean([c for _, c in found])), 4)}
        for name, found in hits.items()
    }


def deletion(model, labels, films, pixels, count=150, area=0.2):
    random = np.random.default_rng(7)
    falls = {"hottest": [], "random": []}
    healthy = rows_where(films, lambda f: f.part == "val" and f.dataset == "nih-adult" and f.abnormal == 0)[:300]
    usual = pixels[healthy].astype(np.float32).mean(0)
    usual = (usual - usual.mean()) / usual.std()
    candidates = rows_where(films, lambda f: f.part == "test" and f.dataset == "nih-adult" and any(f.findings.get(n) == 1 for n in labels))
    for i in random.permutation(candidates)[:count]:
        column = next(k for k, name in enumerate(labels) if films[i].findings.get(name) == 1)
        picture = pixels[i]
        out = model.run(picture[None])
        cam = map_of(out["cam"][0][column], len(picture))
        normal = (usual * picture.std() + picture.mean()).clip(0, 255)
        hottest = cam >= np.quantile(cam, 1 - area)
        # The same shape elsewhere: rolled by a random shift.
        shift = random.integers(0, len(picture), 2)
        for name, region in {"hottest": hottest, "random": np.roll(hottest, shift, (0, 1))}.items():
            soft = gaussian_filter(region.astype(np.float32), 2)
            painted = (picture * (1 - soft) + normal * soft).round().astype(np.uint8)
            falls[name].append(float(out["logits"][0][column] - model.run(painted[None], ["logits"])["logits"][0][column]))
    better = np.array(falls["hottest"]) > np.array(falls["random"])
    return {
        "films": len(better), "mean_logit_fall": {k: round(float(np.mean(v)), 3) for k, v in falls.items()},
        "hottest_falls_more": share(int(better.sum()), len(better)),
    }


def write_card(folder, figures):
    """The figures as sentences between the card's markers."""
    card = folder / "MODEL_CARD.md"
    begin, end = "<!-- maps -->", "<!-- end of maps -->"
    before, rest = card.read_text().split(begin)
    lines = ["| boxes | hottest point inside | chance | n |", "|---|---|---|---|"]
    for name, found in figures["pointing"].items():
        hit = found["hit"]
        words = {"all": "all (the films of most were trained on, no box was)", "unseen": "of patients never trained on"}[name]
        lines.append(f"| {words} | {hit['value']:.2f} ({hit['low']:.2f} to {hit['high']:.2f}) | {found['chance']:.2f} | {hit['n']} |")
    fall = figures["deletion"]
    more = fall["hottest_falls_more"]
    lines += ["", f"Putting the average normal film in place of the hottest fifth of {fall['films']} test films changes the finding's logit by "
              f"{-fall['mean_logit_fall']['hottest']:+.2f} on average, a fifth elsewhere by {-fall['mean_logit_fall']['random']:+.2f}; "
              f"the hottest region counts for more in {more['value']:.0%} ({more['low']:.0%} to {more['high']:.0%})."]
    card.write_text(before + begin + "\n\n" + "\n".join(lines) + "\n\n" + end + rest.split(end)[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--only", default="cxr-findings")
    arguments = parser.parse_args()
    folder = arguments.models / arguments.only
    labels = [entry["name"] for entry in table(folder)["labels"]]
    films = tables.load(arguments.data)
    pixels = cache.load(arguments.data, arguments.work / "cache", table(folder)["input"]["width"])
    model = Model(folder / "model.onnx")
    with open(arguments.data / "nih-boxes.csv", newline="") as source:
        boxes = list(csv.DictReader(source))
    figures = {"pointing": pointing(model, labels, films, pixels, boxes), "deletion": deletion(model, labels, films, pixels)}
    (folder / "maps.json").write_text(json.dumps(figures, indent=1) + "\n")
    write_card(folder, figures)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
