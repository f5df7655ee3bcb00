"""Trains `cxr-findings` on adult films with masked labels; one run is a teacher's member, the plain or the taught student.

Every run ends by the clock with the learning rate at zero, and writes averaged weights after each epoch together with
its logits of validation films by source. `--leave-out` keeps a source from training: what the run then says of that
source is what another hospital would see. `--soft` adds a teacher's logits of every chest film as targets.

Example: train_findings.py --data DIR --work /tmp/duet-train --name plain --minutes 30 --seed 7
"""

import argparse
import copy
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import cache
import films as tables
from augment import normalise, training_batch
from figures import auroc
from findings_net import Findings
from train import average

SIZE = 176
# How often an epoch draws each set's frontal films. Radiologists' labels (openi) are drawn twice.
DRAW = {"nih-adult": 1.0, "nih-64px": 1.0, "openi": 2.0, "jsrt": 1.0, "tb-covid-adult": 0.2, "kermany-paediatric": 0.15}
# With a teacher, films without labels of their own teach too.
DRAW_SOFT = {"nih-adult": 1.0, "nih-64px": 0.8, "openi": 2.0, "jsrt": 2.0, "tb-covid-adult": 0.6, "kermany-paediatric": 0.1, "modality-64px": 0.5}


def chest(film):
    return film.kind in ("chest-radiograph-frontal", "chest-radiograph-child")


def mean_auroc(films, rows, logits, least=8):
    """AUROC by label over these rows, and their mean over labels with enough positives."""
    values = {}
    for column, label in enumerate(tables.LOGITS):
        truth = np.array([films[i].findings.get(label, math.nan) for i in rows])
        judged = ~np.isnan(truth)
        if least <= truth[judged].sum() < judged.sum():
            values[label] = auroc(truth[judged], logits[judged, column])
    own = [v for k, v in values.items() if k in tables.NIH]
    return (float(np.mean(own)) if own else math.nan), values


def predict(model, pixels, size, mirrored=False):
    """Logits of cached films."""
    model.eval()
    found = []
    with torch.no_grad():
        for chunk in np.array_split(pixels, max(1, len(pixels) // 32)):
            images = torch.from_numpy(chunk)[:, None].float() / 255
            images = normalise(F.interpolate(images, size=(size, size), mode="bilinear", antialias=True))
            images = images.to(memory_format=torch.channels_last)
            logits = model.logits(images)
            if mirrored:
                logits = (logits + model.logits(images.flip(3))) / 2
            found.append(logits.numpy())
    return np.concatenate(found)


def slices(films, part, limit=None):
    """Rows of one part by source: what a figure is quoted for."""
    named = {
        "128": lambda f: f.source_px == 128, "64": lambda f: f.source_px == 64, "openi": lambda f: f.dataset == "openi",
    }
    for name, test in named.items():
        rows = np.array([i for i, f in enumerate(films) if f.kind == "chest-radiograph-frontal" and f.part in part and test(f)])
        yield name, rows[:limit]


def build(arguments, state=None):
    model = Findings(len(tables.LOGITS), arguments.variant, arguments.dropout)
    if state is not None:
        if state["folded"]:
            model.fold()
        model.load_state_dict(state["model"])
    elif arguments.shipped:
        model.load_shipped(arguments.shipped, [tables.LOGITS.index(label) for label in tables.NIH])
    else:
        model.trunk.load_imagenet()
    return model


def restore(path):
    """A checkpoint's averaged model, in evaluation mode, and the checkpoint."""
    state = torch.load(path, weights_only=False)
    model = Findings(len(tables.LOGITS), state["variant"], 0.0)
    if state["folded"]:
        model.fold()
    model.load_state_dict(state["model"])
    return model.eval(), state


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the .tar and .csv files")
    parser.add_argument("--work", type=Path, required=True, help="folder for the cache, checkpoints and logs")
    parser.add_argument("--name", required=True)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--leave-out", nargs="*", default=[], choices=tables.SETS, help="sets never trained on")
    parser.add_argument("--init", type=Path, help="checkpoint of this script to go on from")
    parser.add_argument("--shipped", type=Path, help="model folder whose folded trunk and heads to start from")
    parser.add_argument("--variant", default="lite0", choices=["lite0", "lite1", "lite2"])
    parser.add_argument("--soft", type=Path, help="npz of a teacher's logits by file")
    parser.add_argument("--soft-share", type=float, default=0.7)
    parser.add_argument("--small", type=int, default=128)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--small-share", type=float, default=0.5, help="share of the time at the small size")
    parser.add_argument("--freeze", type=int, default=3, help="blocks that do not learn, beside the stem")
    parser.add_argument("--thaw-share", type=float, default=0.0, help="share of the time with every layer learning")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=4e-4)
    parser.add_argument("--smooth", type=float, default=0.02, help="label smoothing of mined labels")
    parser.add_argument("--dropout", type=float, default=0.25)
    parser.add_argument("--decay", type=float, default=0.998)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    generator = torch.Generator().manual_seed(arguments.seed)
    random = np.random.default_rng(arguments.seed)

    films = tables.load(arguments.data)
    pixels = cache.load(arguments.data, arguments.work / "cache", SIZE)
    targets = torch.tensor([tables.target_row(film) for film in films])
    mined = torch.tensor([film.dataset.startswith("nih") for film in films])
    targets[mined] = targets[mined] * (1 - 2 * arguments.smooth) + arguments.smooth
    soft = None
    if arguments.soft:
        stored = np.load(arguments.soft)
        known = dict(zip(stored["files"].tolist(), stored["logits"]))
        soft = torch.tensor(np.stack([
            known.get(f"{f.dataset}/{f.file}", np.full(len(tables.LOGITS), np.nan, np.float32)) for f in films
        ]))
    draw = DRAW_SOFT if arguments.soft else DRAW
    by_set = {}
    for row, film in enumerate(films):
        taught = soft is not None and not soft[row].isnan().all()
        usable = taught or not targets[row].isnan().all()
        if film.part == "train" and chest(film) and usable and film.dataset in draw and film.dataset not in arguments.leave_out:
            by_set.setdefault(film.dataset, []).append(row)

    state = torch.load(arguments.init, weights_only=False) if arguments.init else None
    if state is not None:
        arguments.variant = state["variant"]
    model = build(arguments, state).to(memory_format=torch.channels_last)
    folded = not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.trunk.modules())
    mean = copy.deepcopy(model)
    heads = [p for n, p in model.named_parameters() if not n.startswith("trunk")]
    optimiser = torch.optim.AdamW(
        [{"params": list(model.trunk.parameters()), "top": arguments.rate}, {"params": heads, "top": arguments.rate * 2}],
        lr=arguments.rate, weight_decay=0.02, fused=True,
    )
    checks = list(slices(films, ("val",), 900))
    if "openi" in arguments.leave_out:
        checks[-1] = list(slices(films, ("train", "val", "test"), 900))[-1]
    print({k: int(len(v) * draw[k]) for k, v in by_set.items()}, "folded" if folded else "normalised", flush=True)

    start, epoch, seen, steps_done, frozen, done = time.time(), 0, 0, 0, False, 0.0
    while done < 1:
        model.train()
        if frozen:
            model.freeze(arguments.freeze)
        order = []
        for name, rows in by_set.items():
            share = draw[name]
            order += [random.permutation(rows) for _ in range(int(share))]
            order.append(random.permutation(rows)[: int(len(rows) * (share % 1))])
        order = random.permutation(np.concatenate(order))
        total, count = 0.0, 0
        for at in range(0, len(order) - arguments.batch + 1, arguments.batch):
            done = (time.time() - start) / (arguments.minutes * 60)
            if done >= 1:
                break
            if not frozen and done >= arguments.thaw_share and arguments.freeze:
                frozen = True
                model.freeze(arguments.freeze)
            for group in optimiser.param_groups:
                group["lr"] = group["top"] * min(1.0, (done + 1e-3) / 0.03) * 0.5 * (1 + np.cos(np.pi * done))
            rows = order[at: at + arguments.batch]
            size = arguments.small if done < arguments.small_share else arguments.size
            images = training_batch(pixels[rows], size, generator, torch.zeros(len(rows), dtype=torch.long))
            mirrored = torch.rand(len(rows), generator=generator) < 0.5
            images[mirrored] = images[mirrored].flip(3)
            averaged, attended, _ = model(images.to(memory_format=torch.channels_last))
            wanted, hard = targets[rows], targets[rows]
            if soft is not None:
                taught = soft[rows].sigmoid()
                share = arguments.soft_share
                wanted = torch.where(hard.isnan(), taught, torch.where(taught.isnan(), hard, share * taught + (1 - share) * hard))
            judged = ~wanted.isnan()
            loss = 0
            for logits in (averaged, attended, (averaged + attended) / 2):
                part = F.binary_cross_entropy_with_logits(logits, wanted.nan_to_num(), reduction="none")
                loss = loss + (part * judged).sum() / len(rows) / 3
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimiser.step()
            seen += len(rows)
            steps_done += 1
            average(mean, model, min(arguments.decay, 1 - 1 / (1 + steps_done)))
            total, count = total + float(loss.detach()), count + 1
            if steps_done % 50 == 0:
                print(f"{done:6.1%} epoch {epoch} size {size} films {seen}: {total / count:.3f} ({seen / (time.time() - start):.0f}/s)", flush=True)
        epoch += 1
        state = {
            "model": mean.state_dict(), "variant": arguments.variant, "folded": folded, "done": done, "size": arguments.size,
            "seed": arguments.seed, "leave_out": arguments.leave_out, "labels": tables.LOGITS, "films": seen,
        }
        path = arguments.work / f"{arguments.name}.pt"
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)
        if epoch % 2 == 0 or done >= 1:
            for name, rows in checks:
                value, labels = mean_auroc(films, rows, predict(mean, pixels[rows], size))
                shown = " ".join(f"{k[:6]} {v:.2f}" for k, v in labels.items())
                print(f"  {done:6.1%} {name}: {value:.4f}  {shown}", flush=True)
    print(f"done: {seen} films in {epoch} epochs, {time.time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
