"""Writes a ready model folder for Duet from a package's model: graph, manifest, card.

    python models/export/export.py torchxrayvision --weights densenet121-res224-all --out ~/models/xrv-all

The graph is checked against PyTorch as it is written. Nothing is measured and no threshold is made up: what nobody has
calibrated says so in its manifest, and clears nothing.
"""

import argparse
import os
import sys
from pathlib import Path

import biomedclip
import chexnet
import open_clip_vit
import xray_vision

MODELS = {
    "torchxrayvision": (xray_vision, "TorchXRayVision DenseNet-121: up to 18 findings"),
    "chexnet": (chexnet, "CheXNet DenseNet-121: the 14 findings of NIH ChestX-ray14"),
    "open-clip": (open_clip_vit, "open_clip ViT-B/32: a generalist"),
    "biomedclip": (biomedclip, "BiomedCLIP: a generalist of biomedical figures"),
}


def parser():
    top = argparse.ArgumentParser(
        prog="export.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="`export.py MODEL --help` shows what a model needs, with examples.",
    )
    models = top.add_subparsers(dest="which", required=True, metavar="MODEL")
    for name, (module, words) in MODELS.items():
        own = models.add_parser(
            name, help=words, description=module.__doc__, epilog=module.EXAMPLE,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.arguments(own)
        own.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="the model's folder, whose name is the model's")
        own.add_argument("--random", type=int, metavar="SEED", help="random weights instead, for trying out; the manifest says so")
    return top


def main(arguments=None):
    top = parser()
    wanted = top.parse_args(arguments)
    if wanted.weights is None and wanted.random is None:
        top.error(f"{wanted.which}: --weights is missing: nothing is exported without weights (--random SEED tries it out)")
    if wanted.weights is not None and wanted.random is not None:
        top.error(f"{wanted.which}: --weights and --random exclude each other")
    if wanted.which == "chexnet" and wanted.weights is not None:
        wanted.weights = Path(wanted.weights)
    MODELS[wanted.which][0].run(wanted)


if __name__ == "__main__":
    # Random weights need no network, and a hub's client waits long for one.
    if "--random" in sys.argv:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
