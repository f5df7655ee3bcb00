"""A teacher's opinion of every chest film: the mean logit of several checkpoints on each film and its mirror image.

Films without labels of their own are read too: they then count as training data for the student.

Example: teach.py --data DIR --work /tmp/duet-train --members away plain --out /tmp/duet-train/soft.npz
"""

import argparse
from pathlib import Path

import numpy as np
import torch

import cache
import films as tables
from train_findings import DRAW_SOFT, SIZE, chest, mean_auroc, predict, restore, slices


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--members", nargs="+", required=True, help="names of checkpoints in the work folder, with @size to read at another size")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", nargs="*", default=["train", "val"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    films = tables.load(arguments.data)
    pixels = cache.load(arguments.data, arguments.work / "cache", SIZE)
    rows = np.array([i for i, f in enumerate(films) if chest(f) and f.part in arguments.parts and f.dataset in DRAW_SOFT])
    found = []
    for name in arguments.members:
        name, _, size = name.partition("@")
        model, state = restore(arguments.work / f"{name}.pt")
        found.append(predict(model.to(memory_format=torch.channels_last), pixels[rows], int(size or state["size"]), True))
        print(f"{name}: read {len(rows)} films", flush=True)
    place = {row: k for k, row in enumerate(rows)}
    for label, logits in [*zip(arguments.members, found), ("together", np.mean(found, 0))]:
        for name, own in slices(films, ("val",)):
            print(f"{label} {name}: {mean_auroc(films, own, logits[[place[i] for i in own]])[0]:.4f}", flush=True)
    logits = np.mean(found, 0).astype(np.float32)
    # Of children the teacher learnt children's labels alone.
    child = np.array([films[i].kind == "chest-radiograph-child" and films[i].dataset == "kermany-paediatric" for i in rows])
    logits[np.ix_(child, [label not in tables.CHILD for label in tables.LOGITS])] = np.nan
    names = np.array([f"{films[i].dataset}/{films[i].file}" for i in rows])
    np.savez(arguments.out, files=names, logits=logits)


if __name__ == "__main__":
    main()
