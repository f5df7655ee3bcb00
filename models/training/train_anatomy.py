"""Trains `cxr-anatomy`: outlines of the heart and of each lung, from 247 films with drawn masks (JSRT).

The encoder is the first two thirds of the jointly trained trunk, which has seen films of every set; the decoder is
small. One hospital's masks must serve films of others, so tone, noise, borders and aspect are augmented as for the
classifiers. The export gives mask logits at the input's size; the cardiothoracic ratio is measured from them.

Example: train_anatomy.py --data DIR --work /tmp/duet-train --init /tmp/duet-train/joint.pt --minutes 8
"""

import argparse
import io
import tarfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import cache
import films as tables
from augment import MEAN, STD, coarsen, cover, focus, tone
from network import Trunk, convolution

ORGANS = ["heart", "right_lung", "left_lung"]
LEVELS = {0: 16, 2: 24, 4: 40, 10: 112}  # blocks after which features are kept, and their channels (strides 2, 4, 8, 16)


class Anatomy(nn.Module):
    """Encoder with four levels, decoder with skips; learnt two-fold upsampling, so that every operator is plain."""

    def __init__(self):
        super().__init__()
        trunk = Trunk()
        self.stem, self.blocks = trunk.stem, trunk.blocks[: max(LEVELS) + 1]
        widths = [96, 64, 40, 24]
        channels = list(LEVELS.values())[::-1]
        self.bottom = convolution(channels[0], widths[0], 1)
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in zip(widths, widths[1:]))
        self.join = nn.ModuleList(
            convolution(b + skip, b, 3) for b, skip in zip(widths[1:], channels[1:])
        )
        self.last = nn.ConvTranspose2d(widths[-1], 16, 2, 2)
        self.smooth = convolution(16, 16, 3)
        self.out = nn.Conv2d(16, len(ORGANS), 1)

    def forward(self, image):
        kept, x = [], self.stem(image)
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in LEVELS:
                kept.append(x)
        x = self.bottom(kept.pop())
        for up, join in zip(self.up, self.join):
            x = join(torch.cat([up(x), kept.pop()], 1))
        return self.out(self.smooth(self.last(x)))


def load_masks(data, films, size):
    """uint8 [N, organs, size, size], 0 or 255 with soft edges from resampling."""
    rows = {Path(film.file).stem: i for i, film in enumerate(films)}
    masks = np.zeros((len(films), len(ORGANS), size, size), np.uint8)
    with tarfile.open(Path(data) / "jsrt.tar") as tar:
        for member in tar:
            for organ, name in enumerate(ORGANS):
                if member.name.startswith("masks/") and member.name.endswith(f"_{name}.png"):
                    stem = Path(member.name).stem.removesuffix(f"_{name}")
                    image = Image.open(io.BytesIO(tar.extractfile(member).read())).convert("L")
                    image = image.point(lambda v: 255 if v else 0)
                    masks[rows[stem], organ] = np.asarray(image.resize((size, size), Image.BILINEAR))
    return masks


def warp(images, masks, size, generator):
    """One random zoom, shift, rotation, aspect and shear for a film and its masks."""
    n = len(images)
    draw = lambda spread: (torch.rand(n, generator=generator) * 2 - 1) * spread  # noqa: E731
    zoom, aspect, angle = torch.exp(draw(0.2)), torch.exp(draw(0.18)), draw(0.2)
    matrix = torch.stack([
        torch.stack([zoom * aspect * angle.cos(), -zoom * angle.sin() + draw(0.06), draw(0.14)], 1),
        torch.stack([zoom * angle.sin(), zoom / aspect * angle.cos(), draw(0.14)], 1),
    ], 1)
    grid = F.affine_grid(matrix, (n, 1, size, size), align_corners=False)
    return [F.grid_sample(x, grid, padding_mode="zeros", align_corners=False) for x in (images, masks)]


def loss_of(logits, masks):
    """Cross-entropy by pixel plus soft Dice by organ."""
    inside = logits.sigmoid()
    overlap = 2 * (inside * masks).sum((2, 3)) + 1
    dice = 1 - overlap / (inside.sum((2, 3)) + masks.sum((2, 3)) + 1)
    return F.binary_cross_entropy_with_logits(logits, masks) + 0.5 * dice.mean()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--init", type=Path, required=True, help="checkpoint of train.py whose trunk to start from")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=2e-3)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(2)
    generator = torch.Generator().manual_seed(arguments.seed)
    random = np.random.default_rng(arguments.seed)

    films = tables.load(arguments.data, set(tables.SETS) - {"jsrt"})
    pixels = cache.load(arguments.data, arguments.work / "cache", 144, set(tables.SETS) - {"jsrt"})
    masks = load_masks(arguments.data, films, 144)
    train = [i for i, film in enumerate(films) if film.part == "train"]
    model = Anatomy()
    state = torch.load(arguments.init, weights_only=True)["model"]
    wanted = {k: state[f"trunk.{k}"] for k in model.state_dict() if f"trunk.{k}" in state}
    model.load_state_dict(wanted, strict=False)
    model = model.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), lr=arguments.rate, weight_decay=0.02)
    start, epoch, done = time.time(), 0, 0.0
    while done < 1:
        model.train()
        # The encoder keeps the statistics that it learnt from all sets: one hospital's would not carry over.
        model.stem.eval(), model.blocks.eval()
        for module in [model.stem, *model.blocks[:3]]:
            module.requires_grad_(False)
        total, steps = 0.0, 0
        order = random.permutation(np.repeat(train, 4))
        for at in range(0, len(order) - arguments.batch + 1, arguments.batch):
            done = (time.time() - start) / (arguments.minutes * 60)
            if done >= 1:
                break
            for group in optimiser.param_groups:
                group["lr"] = arguments.rate * min(1, (done + 0.002) / 0.03) * 0.5 * (1 + np.cos(np.pi * done))
            rows = order[at: at + arguments.batch]
            images = torch.from_numpy(pixels[rows])[:, None].float() / 255
            wanted = torch.from_numpy(masks[rows]).float() / 255
            images, wanted = warp(images, wanted, 128, generator)
            images = focus(cover(tone(coarsen(images, generator), generator), generator), generator)
            loss = loss_of(model(((images - MEAN) / STD).to(memory_format=torch.channels_last)), wanted)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total, steps = total + float(loss.detach()), steps + 1
        epoch += 1
        print(f"{done:6.1%} epoch {epoch}: loss {total / max(steps, 1):.4f}", flush=True)
        torch.save({"anatomy": model.state_dict(), "seed": arguments.seed}, arguments.work / "anatomy.pt")


def restore(checkpoint):
    state = torch.load(checkpoint, weights_only=True)
    model = Anatomy()
    model.load_state_dict(state["anatomy"])
    return model.eval(), state


if __name__ == "__main__":
    main()
