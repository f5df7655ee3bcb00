"""Unpacks the test patients' images and writes the tables that `duet eval` reads, so that anybody can repeat the figures.

Every table names images of test patients alone (`splits.py`), which no weight and no threshold ever saw:

    duet eval --model cxr-findings   --images OUT/images --labels OUT/findings.csv      --out OUT/findings
    duet eval --model cxr-findings   --images OUT/images --labels OUT/findings-128.csv  --out OUT/findings-128
    duet eval --model cxr-findings   --images OUT/images --labels OUT/findings-openi.csv --out OUT/findings-openi
    duet eval --model cxr-paediatric --images OUT/images --labels OUT/paediatric.csv    --out OUT/paediatric
    duet eval --model cxr-anatomy    --images OUT/images --labels OUT/anatomy.csv       --out OUT/anatomy
    duet eval --triage               --images OUT/images --labels OUT/scope.csv         --out OUT/scope
    duet eval --triage               --images OUT/images --labels OUT/abnormal.csv      --out OUT/abnormal

Example: test_tables.py --data DIR --out /tmp/duet-test
"""

import argparse
import csv
import math
import tarfile
from pathlib import Path

import films as tables
from ship_anatomy import ratio
from train_anatomy import load_masks


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    images = arguments.out / "images"
    images.mkdir(parents=True, exist_ok=True)
    films = tables.load(arguments.data)
    ages = {}
    for name in ("nih-adult", "nih-64px"):
        with open(arguments.data / f"{name}.csv", newline="") as source:
            ages |= {f"{name}/{row['file']}": row["age"] for row in csv.DictReader(source)}
    test = [film for film in films if film.part == "test"]
    own = lambda film: f"{film.dataset}--{Path(film.file).name}"  # noqa: E731
    for dataset in tables.SETS:
        wanted = {film.file: own(film) for film in test if film.dataset == dataset}
        with tarfile.open(arguments.data / f"{dataset}.tar") as tar:
            for member in tar:
                if member.name in wanted and not (images / wanted[member.name]).exists():
                    (images / wanted[member.name]).write_bytes(tar.extractfile(member).read())

    def write(name, header, rows):
        with open(arguments.out / name, "w", newline="") as target:
            writer = csv.writer(target)
            writer.writerow(header)
            writer.writerows(rows)
        print(f"{name}: {len(rows)} rows")

    def about(film):
        return [own(film), f"{film.dataset}-{film.patient or film.file}", ages.get(f"{film.dataset}/{film.file}", ""), film.view if film.view in ("AP", "PA") else ""]

    def found(film):
        """Present findings; what the set leaves open is marked uncertain."""
        present = [name for name in tables.NIH if film.findings.get(name) == 1]
        doubt = [f"u:{name}" for name in tables.NIH if math.isnan(film.findings.get(name, 0.0))]
        return "|".join(present + doubt) or "No Finding"

    adult = [f for f in test if f.kind == "chest-radiograph-frontal" and f.dataset in ("nih-adult", "nih-64px", "openi") and f.findings.get("Effusion") is not None]
    header = ["file", "patient", "age", "view", "findings"]
    for name, chosen in {
        "findings.csv": adult, "findings-128.csv": [f for f in adult if f.source_px == 128],
        "findings-openi.csv": [f for f in adult if f.dataset == "openi"],
    }.items():
        write(name, header, [about(f) + [found(f)] for f in chosen])
    child = [f for f in test if f.dataset == "kermany-paediatric"]
    write("paediatric.csv", header, [about(f) + ["Pneumonia" if f.abnormal else "Normal"] for f in child])
    write("scope.csv", ["file", "scope"], [[own(f), "chest" if f.kind.startswith("chest") else "other"] for f in test])
    judged = [f for f in adult if not math.isnan(f.abnormal)]
    words = {0.0: "Normal", 1.0: "Abnormal"}
    write("abnormal.csv", header, [about(f) + [words[f.abnormal]] for f in judged])
    mine = [f for f in films if f.dataset == "jsrt"]
    drawn = load_masks(arguments.data, mine, 512) > 127
    write("anatomy.csv", ["file", "ctr"], [[own(f), f"{ratio(m):.4f}"] for f, m in zip(mine, drawn) if f.part == "test"])


if __name__ == "__main__":
    main()
