"""Trains one trunk for everything at once: image-text contrast, the four questions, and findings with masked loss.

- Contrast: each film against every caption of the training films (frozen sentence encoder), as a softmax whose
  logits carry the captions' log frequencies, so that the cosine learns association and not popularity. Equal
  captions are one entry, so no positive is ever a negative.
- Questions: cross-entropy of scale * cos(image, answer) + bias, where the answers are the prompts' embeddings.
- Findings: binary cross-entropy, masked where a set does not judge a label.

Weights are averaged (EMA); a checkpoint is written every epoch, and `--minutes` ends training on time with the
learning rate at zero. The first half runs at a smaller image size, which costs half as much.

Example: train.py --data DIR --work /tmp/duet-train --name joint --minutes 60 --seed 7
"""

import argparse
import copy
import math
import time
import tomllib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import cache
import films as tables
import prompts
import text
from augment import FITNESS, phantoms, training_batch
from network import Duet

# How often an epoch draws each set's training films, as a share of them.
DRAW = {
    "nih-adult": 1.0, "nih-64px": 1.0, "openi": 1.0, "tb-covid-adult": 0.45, "kermany-paediatric": 0.5, "jsrt": 1.0,
    "modality-64px": 0.45, "photos": 1.0,
}
# When a shipped generalist goes on learning, what it knows well already is only kept fresh.
DRAW_ON = DRAW | {"tb-covid-adult": 0.15, "kermany-paediatric": 0.2, "modality-64px": 0.25, "photos": 0.5}
DEFECT_NAMES = {
    "rotated-90": "a chest X-ray rotated by 90 degrees, lying on its side", "rotated-180": "a chest X-ray upside down",
    "inverted": "a chest X-ray with inverted grey scale", "blurred": "a blurred chest X-ray",
    "cropped": "a cropped chest X-ray, the lungs are cut off", "overexposed": "an overexposed chest X-ray",
    "blank": "a blank image",
}
MARKS = ["a drawing of body parts, not a chest", "a radiograph of another part of the body"]


class Captions:
    """All captions of the training films with their embeddings, and which of them fit each film."""

    def __init__(self, films, work):
        index = {}
        self.composed, self.spoken = [], []
        for film in films:
            use = film.part == "train"
            own = [index.setdefault(c, len(index)) for c in prompts.captions_of(film)] if use else []
            said = [index.setdefault(c, len(index)) for c in film.sentences] if use else []
            kind = film.kind if film.dataset != "photos" else "photograph"
            named = [index.setdefault(p, len(index)) for p in prompts.QUESTIONS["kind"][kind][1]]
            self.composed.append(own + (named if use else []))
            self.spoken.append(said)
        self.defect = {d: index.setdefault(c, len(index)) for d, c in DEFECT_NAMES.items()}
        self.marks = [index.setdefault(c, len(index)) for c in MARKS]
        self.names = list(index)
        store = Path(work) / "captions.npz"
        if store.exists() and list(np.load(store)["names"]) == self.names:
            vectors = np.load(store)["vectors"]
        else:
            vectors = text.embed(self.names)
            np.savez(store, names=np.array(self.names), vectors=vectors)
        self.vectors = torch.from_numpy(vectors)
        count = np.full(len(index), 0.5)
        for composed, spoken in zip(self.composed, self.spoken):
            for row, weight in self.weights(composed, spoken):
                count[row] += weight
        self.log_share = torch.from_numpy(np.log(count / count.sum())).float()

    @staticmethod
    def weights(composed, spoken):
        """A film's caption distribution: three quarters to the radiologist's words where there are any."""
        part = 0.25 if spoken else 1.0
        pairs = [(c, part / len(composed)) for c in composed]
        return pairs + [(s, 0.75 / len(spoken)) for s in spoken]

    def targets(self, rows, defects, drawn):
        """[N, captions]: what is true of each film of the batch; rows of `drawn` are phantoms."""
        wanted = torch.zeros(len(rows), len(self.names))
        for i, (row, defect) in enumerate(zip(rows, defects.tolist())):
            if drawn[i]:
                pairs = [(c, 0.5) for c in self.marks]
            elif FITNESS[defect] == "blank":
                pairs = [(self.defect["blank"], 1.0)]
            else:
                pairs = self.weights(self.composed[row], self.spoken[row])
                if defect:
                    pairs = [(c, w / 2) for c, w in pairs] + [(self.defect[FITNESS[defect]], 0.5)]
            for c, weight in pairs:
                wanted[i, c] += weight
        return wanted


class Reports:
    """Whole reports (the mean of their sentences) of the training studies: which one belongs to a film."""

    def __init__(self, films, captions):
        mean, self.row = {}, {}
        for i, film in enumerate(films):
            if captions.spoken[i]:
                vector = captions.vectors[captions.spoken[i]].mean(0)
                mean.setdefault(film.patient, vector / vector.norm())
                self.row[i] = list(mean).index(film.patient)
        self.vectors = torch.stack(list(mean.values())) if mean else torch.zeros(0, 384)
        self.middle = None

    def loss(self, rows, embedding, clean):
        """Softmax over all reports for the clean films of the batch that have one; equal reports share the target."""
        chosen = [k for k, row in enumerate(rows.tolist()) if row in self.row and clean[k]]
        if len(chosen) < 2:
            return embedding.sum() * 0
        mine = embedding[chosen]
        now = mine.detach().mean(0)
        self.middle = now if self.middle is None else self.middle * 0.95 + now * 0.05
        own = self.vectors[[self.row[int(rows[k])] for k in chosen]]
        wanted = ((own @ self.vectors.T - 1) / 0.05).softmax(1)
        scores = 25 * (mine - self.middle) @ self.vectors.T
        return -(wanted * scores.log_softmax(1)).sum(1).mean()


class Questions(torch.nn.Module):
    """Answers as fixed text vectors; what is learnt is one scale a question and one bias an answer."""

    def __init__(self):
        super().__init__()
        self.names = list(prompts.QUESTIONS)
        for name, vectors in text.embed_answers(prompts.QUESTIONS).items():
            self.register_buffer(f"answers_{name}", torch.from_numpy(vectors).float())
        self.log_scale = torch.nn.ParameterDict({q: torch.nn.Parameter(torch.tensor(3.4)) for q in self.names})
        self.bias = torch.nn.ParameterDict(
            {q: torch.nn.Parameter(torch.zeros(len(prompts.QUESTIONS[q]))) for q in self.names}
        )
        self.caption_scale = torch.nn.Parameter(torch.tensor(2.7))

    def logits(self, embedding, question):
        answers = getattr(self, f"answers_{question}")
        return self.log_scale[question].exp() * embedding @ answers.T + self.bias[question]


class Batches:
    """Draws epochs, spoils some films, replaces a few by phantoms, and knows every target."""

    def __init__(self, films, pixels, seed, defect_share, phantom_share, adults_only=False, draw=None):
        self.draw = draw or DRAW
        self.films, self.pixels = films, pixels
        self.generator = torch.Generator().manual_seed(seed)
        self.random = np.random.default_rng(seed)
        self.findings = torch.tensor([tables.target_row(film) for film in films])
        self.kind = torch.tensor([prompts.kind_target(film) for film in films])
        self.abnormal = torch.tensor([prompts.abnormal_target(film) for film in films])
        self.urgency = torch.tensor([prompts.urgency_target(film) for film in films])
        self.chest = torch.tensor([film.kind.startswith("chest") for film in films])
        self.defect_share, self.phantom_share = defect_share, phantom_share
        self.by_set = {}
        for row, film in enumerate(films):
            judged = any(film.findings.get(label) in (0.0, 1.0) for label in tables.NIH)
            if film.part == "train" and (judged or not adults_only):
                self.by_set.setdefault(film.dataset, []).append(row)
        self.per_epoch = sum(int(len(rows) * self.draw[name]) for name, rows in self.by_set.items())

    def epoch(self, batch):
        rows = [self.random.permutation(rows)[: int(len(rows) * self.draw[name])] for name, rows in self.by_set.items()]
        rows = self.random.permutation(np.concatenate(rows))
        for start in range(0, len(rows) - batch + 1, batch):
            yield rows[start: start + batch]

    def make(self, rows, size):
        n = len(rows)
        at = torch.from_numpy(rows)
        spoiled = self.chest[at] & (torch.rand(n, generator=self.generator) < self.defect_share)
        which = torch.randint(1, len(FITNESS), (n,), generator=self.generator)
        # Blank films teach little each: one in three of those drawn.
        blank = FITNESS.index("blank")
        which = torch.where((which == blank) & (torch.rand(n, generator=self.generator) < 0.6), 4, which)
        defects = torch.where(spoiled, which, torch.zeros_like(which))
        drawn = ~spoiled & (torch.rand(n, generator=self.generator) < self.phantom_share)
        pixels = self.pixels[rows]
        if drawn.any():
            textures = torch.from_numpy(pixels[drawn.numpy()])[:, None].float() / 255
            made = phantoms(len(textures), pixels.shape[-1], self.generator, textures)
            pixels[drawn.numpy()] = (made[:, 0] * 255).byte().numpy()
        images = training_batch(pixels, size, self.generator, defects)
        nothing = defects == blank
        # A film with a severe defect still says what it is, but nothing about disease.
        silent = drawn | ((defects > 0) & (which != FITNESS.index("inverted"))) & (defects > 0)
        kind = self.kind[at].clone()
        kind[drawn] = list(prompts.QUESTIONS["kind"]).index("other-radiograph")
        kind[nothing] = list(prompts.QUESTIONS["kind"]).index("not-an-image-of-a-body")
        fitness = torch.where(self.chest[at] & ~drawn, defects, torch.full_like(defects, -1))
        abnormal = torch.where(silent, torch.full_like(kind, -1), self.abnormal[at])
        urgency = torch.where(silent, torch.full_like(kind, -1), self.urgency[at])
        findings = self.findings[at].clone()
        findings[silent] = torch.nan
        questions = {"kind": kind, "fitness": fitness, "abnormal": abnormal, "urgency": urgency}
        return images, findings, questions, defects, drawn, silent


class Soft:
    """A teacher's probabilities of the films that it read, blended with the labels that a film has."""

    def __init__(self, films, path, share=0.6):
        self.share = share
        self.known = None
        if path:
            stored = np.load(path)
            found = dict(zip(stored["files"].tolist(), stored["logits"]))
            nothing = np.full(len(tables.LOGITS), np.nan, np.float32)
            self.known = torch.tensor(np.stack([found.get(f"{f.dataset}/{f.file}", nothing) for f in films])).sigmoid()

    def blend(self, rows, findings, silent):
        """Targets of findings: the label, the teacher's word where there is none, else both."""
        if self.known is None:
            return findings
        taught = self.known[rows].clone()
        taught[silent] = torch.nan
        both = self.share * taught + (1 - self.share) * findings
        return torch.where(findings.isnan(), taught, torch.where(taught.isnan(), findings, both))


def masked_bce(logits, targets):
    """Summed over the labels that a film's set judges, averaged over films."""
    judged = ~targets.isnan()
    loss = F.binary_cross_entropy_with_logits(logits, targets.nan_to_num(), reduction="none")
    return (loss * judged).sum() / len(logits)


def average(target, source, decay):
    """Moves the averaged weights towards the trained ones; statistics of normalisation are averaged alike."""
    with torch.no_grad():
        for a, b in zip(target.state_dict().values(), source.state_dict().values()):
            if a.dtype.is_floating_point:
                a.lerp_(b, 1 - decay)
            else:
                a.copy_(b)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the .tar and .csv files")
    parser.add_argument("--work", type=Path, required=True, help="folder for the cache, checkpoints and logs")
    parser.add_argument("--name", default="joint")
    parser.add_argument("--minutes", type=float, default=60, help="training ends on time, whatever the machine")
    parser.add_argument("--stop-at", type=float, default=1.0, help="end at this share of the schedule, for a next stage")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--leave-out", nargs="*", default=[], choices=tables.SETS, help="sets never read")
    parser.add_argument("--init", type=Path, help="checkpoint to start from, instead of ImageNet weights")
    parser.add_argument("--shipped", type=Path, help="shipped generalist's folder to go on from")
    parser.add_argument("--soft", type=Path, help="npz of a teacher's logits by file (teach.py)")
    parser.add_argument("--reports", type=float, default=0.5, help="weight of the contrast of whole reports")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--focus", choices=["all", "findings"], default="all", help="all losses, or adult findings alone")
    parser.add_argument("--output-stride", type=int, default=32, choices=[16, 32])
    parser.add_argument("--small", type=int, default=96, help="image size of the first phase")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--small-share", type=float, default=0.5, help="share of the time at the small size")
    parser.add_argument("--thaw-share", type=float, default=0.15, help="share of the time with every layer learning")
    parser.add_argument("--freeze", type=int, default=3, help="blocks that stop learning after that")
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--defects", type=float, default=0.15)
    parser.add_argument("--phantoms", type=float, default=0.025)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)

    films = tables.load(arguments.data, arguments.leave_out)
    pixels = cache.load(arguments.data, arguments.work / "cache", 144, arguments.leave_out)
    captions = Captions(films, arguments.work)
    batches = Batches(
        films, pixels, arguments.seed, arguments.defects, arguments.phantoms, arguments.focus == "findings",
        DRAW_ON if arguments.shipped else DRAW,
    )
    questions = Questions()
    model = Duet(len(tables.LOGITS), output_stride=arguments.output_stride)
    if arguments.init:
        state = torch.load(arguments.init, weights_only=True)
        model.load_state_dict(state["model"])
        questions.load_state_dict(state["questions"])
    elif arguments.shipped:
        model.load_shipped(arguments.shipped)
        learnt = tomllib.loads((arguments.shipped / "model.toml").read_text())["questions"]
        with torch.no_grad():
            for question in learnt:
                questions.log_scale[question["id"]].fill_(math.log(question["scale"]))
                questions.bias[question["id"]].copy_(torch.tensor([a["bias"] for a in question["answers"]]))
    else:
        model.trunk.load_imagenet()
    reports = Reports(films, captions)
    soft = Soft(films, arguments.soft)
    model = model.to(memory_format=torch.channels_last)
    both = torch.nn.ModuleDict({"model": model, "questions": questions})
    mean = copy.deepcopy(both)
    heads = [*model.project.parameters(), *model.findings.parameters(), *questions.parameters()]
    optimiser = torch.optim.AdamW(
        [{"params": list(model.trunk.parameters()), "top": arguments.rate},
         {"params": heads, "top": arguments.rate * (1 if arguments.init else 2)}],
        lr=arguments.rate, weight_decay=0.02, fused=True,
    )
    print(f"{batches.per_epoch} films an epoch, {len(captions.names)} captions", flush=True)

    start, epoch, seen, frozen = time.time(), 0, 0, False
    done = 0.0
    while done < arguments.stop_at:
        model.train()
        if frozen:
            model.trunk.freeze(arguments.freeze)
        sums, steps = np.zeros(6), 0
        for rows in batches.epoch(arguments.batch):
            done = (time.time() - start) / (arguments.minutes * 60)
            if done >= arguments.stop_at:
                break
            if not frozen and done > arguments.thaw_share:
                frozen = True
                model.trunk.freeze(arguments.freeze)
            for group in optimiser.param_groups:
                warm = min(1.0, (done + 1e-4) / 0.03)
                group["lr"] = group["top"] * warm * 0.5 * (1 + np.cos(np.pi * done))
            size = arguments.small if done < arguments.small_share else arguments.size
            images, findings, asked, defects, drawn, silent = batches.make(rows, size)
            findings = soft.blend(rows, findings, silent)
            embedding, logits = model(images.to(memory_format=torch.channels_last))
            losses = [masked_bce(logits, findings)]
            if arguments.focus != "findings":
                scores = questions.caption_scale.exp() * embedding @ captions.vectors.T + captions.log_share
                wanted = captions.targets(rows.tolist(), defects, drawn)
                losses.append(-(wanted * scores.log_softmax(1)).sum(1).mean())
                if arguments.reports:
                    losses[1] = losses[1] + arguments.reports * reports.loss(rows, embedding, defects == 0)
                # Normal or abnormal of frontal films: the findings' target, which a teacher may have softened.
                wanted = findings[:, tables.LOGITS.index("Abnormal")]
                told = questions.logits(embedding, "abnormal")
                judged = ~wanted.isnan() & (soft.known is not None)
                asked["abnormal"] = torch.where(judged, torch.full_like(asked["abnormal"], -1), asked["abnormal"])
                if judged.any():
                    part = F.binary_cross_entropy_with_logits((told[:, 1] - told[:, 0])[judged], wanted[judged])
                    losses[0] = losses[0] + 1.5 * part
                for name, weight in [("kind", 1), ("fitness", 1), ("abnormal", 1.5), ("urgency", 0.5)]:
                    answer = questions.logits(embedding, name)
                    if (asked[name] >= 0).any():
                        losses.append(weight * F.cross_entropy(answer, asked[name], ignore_index=-1))
                    else:
                        losses.append(answer.sum() * 0)
            loss = sum(weight * value for weight, value in zip([1.0, 0.5, 1.0, 1.0, 1.0, 1.0], losses))
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(both.parameters(), 5.0)
            optimiser.step()
            seen += 1
            average(mean, both, min(0.998, 1 - 1 / (1 + seen)))
            sums[: len(losses)] += [float(value.detach()) for value in losses]
            steps += 1
            if seen % 40 == 0:
                rate = seen * arguments.batch / (time.time() - start)
                shown = " ".join(f"{value / steps:.3f}" for value in sums)
                print(f"{done:6.1%} epoch {epoch} step {seen} size {size}: {shown} ({rate:.0f} films/s)", flush=True)
            if seen % 200 == 0:
                save(arguments, mean, films, done)
        epoch += 1
        save(arguments, mean, films, done)
    print(f"done: {seen * arguments.batch} films in {epoch} epochs, {time.time() - start:.0f} s", flush=True)


def save(arguments, mean, films, done):
    """Writes the averaged weights, replacing the last checkpoint only when the new one is whole."""
    state = {
        "model": mean["model"].state_dict(), "questions": mean["questions"].state_dict(), "done": done,
        "output_stride": arguments.output_stride, "seed": arguments.seed, "leave_out": arguments.leave_out,
        "labels": tables.LOGITS, "folded": not any(isinstance(m, torch.nn.BatchNorm2d) for m in mean["model"].modules()),
    }
    path = arguments.work / f"{arguments.name}.pt"
    torch.save(state, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


if __name__ == "__main__":
    main()
