"""Writes the table by which `duet eval` measures the cardiothoracic ratio, and tables of films that must get none.

True ratios come from the drawn masks of jsrt's test films, exactly as ship_anatomy.py takes them. With --spoilt a
folder of films is written as well that show no upright chest (turned, inverted, cut, other modalities, photographs):
`duet eval` says which share of each kind is given a ratio all the same.

Example: ctr_table.py --data DIR --out /tmp/ctr
         duet eval --model cxr-anatomy --images DIR/jsrt.tar --labels /tmp/ctr/jsrt.csv --out /tmp/ctr/figures
"""

import argparse
import csv
import io
import random
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

import films as tables
from ship_anatomy import ratio
from train_anatomy import load_masks

SPOILT = {
    "turned by a quarter": lambda film: film.transpose(Image.Transpose.ROTATE_90),
    "turned by a half": lambda film: film.transpose(Image.Transpose.ROTATE_180),
    "inverted": ImageOps.invert,
    "left third cut off": lambda film: film.crop((film.width * 3 // 10, 0, film.width, film.height)),
    "lower part cut off": lambda film: film.crop((0, 0, film.width, film.height * 6 // 10)),
}


def write(path, rows):
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    print(f"{path}: {len(rows)} rows")


def pictures(data, dataset, wanted):
    with tarfile.open(Path(data) / f"{dataset}.tar") as tar:
        for member in tar:
            if member.name in wanted:
                yield member.name, Image.open(io.BytesIO(tar.extractfile(member).read())).convert("L")


def spoilt(data, out, films, count):
    """Films of unseen patients that are spoilt, images that are no chest film; nobody knows a ratio of them."""
    draw = random.Random(7)
    folder, rows = out / "spoilt", []
    folder.mkdir(parents=True, exist_ok=True)

    def some(keep):
        names = sorted(film.file for film in films if keep(film))
        return set(draw.sample(names, min(count, len(names))))

    frontal = some(lambda f: f.dataset == "openi" and f.part == "test" and f.kind == "chest-radiograph-frontal")
    jobs = [("openi", frontal, kind, spoil) for kind, spoil in SPOILT.items()]
    jobs += [
        ("openi", some(lambda f: f.dataset == "openi" and f.kind == "chest-radiograph-lateral"), "lateral", None),
        ("photos", some(lambda f: f.dataset == "photos"), "photograph", None),
        ("modality-64px", some(lambda f: f.dataset == "modality-64px" and f.label != "CXR"), "other modality", None),
    ]
    for dataset, names, kind, spoil in jobs:
        for name, film in pictures(data, dataset, names):
            file = f"{kind.replace(' ', '-')}-{Path(name).stem}.png"
            (spoil(film) if spoil else film).save(folder / file)
            rows.append({"file": file, "ctr": "", "view": kind})
    write(out / "spoilt.csv", rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the .tar and .csv files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--spoilt", type=int, default=0, metavar="N", help="also write N images of each kind that must get no ratio")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    films = tables.load(arguments.data)
    drawn = [film for film in films if film.dataset == "jsrt"]
    masks = load_masks(arguments.data, drawn, 512) > 127
    write(arguments.out / "jsrt.csv", [
        {"file": film.file, "patient": film.patient, "ctr": f"{ratio(mask):.5f}"}
        for film, mask in zip(drawn, masks) if film.part == "test" and not np.isnan(ratio(mask))
    ])
    for name, sets in {"nih": ("nih-adult",), "openi": ("openi",)}.items():
        rows = [film for film in films if film.part == "test" and film.dataset in sets
                and film.kind == "chest-radiograph-frontal" and film.findings.get("Cardiomegaly") in (0.0, 1.0)]
        write(arguments.out / f"{name}.csv", [
            {"file": film.file, "patient": film.patient, "ctr": "", "view": film.view,
             "findings": "Cardiomegaly" if film.findings["Cardiomegaly"] else "No Finding"}
            for film in rows
        ])
    if arguments.spoilt:
        spoilt(arguments.data, arguments.out, films, arguments.spoilt)


if __name__ == "__main__":
    main()
