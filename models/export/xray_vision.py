"""TorchXRayVision's DenseNet-121: eighteen outputs, of which a set of weights may leave some empty."""

import math
from importlib.metadata import version

import torch

import folder
import graphs
import weights

EXAMPLE = """examples:
  export.py torchxrayvision --weights densenet121-res224-all --out ~/models/xrv-all
      the package fetches the weights itself
  export.py torchxrayvision --weights nih-densenet121.pt --set densenet121-res224-nih --trust-pickle --out ~/models/xrv-nih
      a file that you have; --set says which of the package's sets it is, for the labels and their operating points
"""
SIZE = 224
# The package scales grey to [-1024, 1024]: (2 * grey / 255 - 1) * 1024.
MEAN, STD = 0.5, 1 / 2048
CITATION = (
    "Cohen J. P. et al., TorchXRayVision: a library of chest X-ray datasets and models, MIDL 2022 · Cohen J. P. et al., "
    "On the limits of cross-domain generalization in automated X-ray prediction, MIDL 2020 · Huang G. et al., Densely "
    "connected convolutional networks, CVPR 2017."
)
DATA = {
    "all": "NIH ChestX-ray14, PadChest, CheXpert, MIMIC-CXR, a set of Google's, Open-I and RSNA", "nih": "NIH ChestX-ray14",
    "pc": "PadChest", "chex": "CheXpert", "rsna": "RSNA Pneumonia Challenge", "mimic_nb": "MIMIC-CXR", "mimic_ch": "MIMIC-CXR",
}


def arguments(parser):
    parser.add_argument("--weights", metavar="NAME_OR_FILE", help="a set of the package's, which it fetches, or a file")
    parser.add_argument("--set", metavar="NAME", help="of a file: which set of the package's it is; default densenet121-res224-all")
    parser.add_argument("--trust-pickle", action="store_true", help="read a file that is a pickled module, which runs what it holds")


def sets():
    from torchxrayvision.models import model_urls

    return {name: own for name, own in model_urls.items() if name.startswith("densenet121")}


def network(wanted):
    """The network and the name of its set."""
    from torchxrayvision.models import DenseNet

    known = sets()
    name = wanted.weights if wanted.weights in known else wanted.set or "densenet121-res224-all"
    if name not in known:
        raise SystemExit(f"--set {name}: the package has no such set; it has {', '.join(known)}")
    if wanted.random is not None:
        torch.manual_seed(wanted.random)
        return graphs.settle(DenseNet(weights=None), (1, SIZE, SIZE), wanted.random, 512.0), name
    if wanted.weights in known:
        return DenseNet(weights=name).eval(), name
    state = weights.state_of(weights.load(wanted.weights, wanted.trust_pickle))
    return weights.fill(DenseNet(weights=None), state, wanted.weights, ignore={"op_threshs"}), name


def labels_of(name):
    """The set's labels with their outputs, and the operating points of those that have one. An empty label is an
    output that the set never trained: it is left out."""
    own = sets()[name]
    rows = [(row, label) for row, label in enumerate(own["labels"]) if label]
    whose = f"torchxrayvision {version('torchxrayvision')}, op_threshs of {name}"
    points = {
        label: (float(own["op_threshs"][row]), whose) for row, label in rows
        if "op_threshs" in own and not math.isnan(own["op_threshs"][row])
    }
    return rows, points


def explained(model, rows):
    picked = [row for row, _ in rows]
    return graphs.Explained(model.features, model.classifier.weight.data[picked], model.classifier.bias.data[picked])


def run(wanted):
    model, name = network(wanted)
    rows, points = labels_of(name)
    out = folder.make(wanted.out)
    sha256, worst = graphs.write(explained(model, rows), out / "model.onnx", ["logits", "cam"], SIZE, -1024.0, 1024.0)
    data = DATA[name.removeprefix("densenet121-res224-")]
    about = {
        "version": version("torchxrayvision"),
        "title": "TorchXRayVision DenseNet-121, " + name,
        "source": f"torchxrayvision {version('torchxrayvision')}, weights {name}",
        "licence": f"Research use only. Code of TorchXRayVision: Apache-2.0. The weights saw {data}, each under its own terms, "
                   "some without commercial use.",
        "what": f"DenseNet-121 of TorchXRayVision with the weights `{name}`, trained on {data}. The labels are those of "
                f"that set; of the network's eighteen outputs {18 - len(rows)} are empty in it and left out.",
        "uncalibrated": "A label's probability is the sigmoid of its output, which nobody has calibrated. Operating points "
                        "are the package's own (`op_threshs`), on that sigmoid; the package shows them as 0.5. Nobody says on "
                        "which images they were measured, so no sensitivity stands in `model.toml`. A map is raw: place alone "
                        "decides much of it.",
        "citation": CITATION,
    }
    if wanted.random is not None:
        about["title"] = folder.RANDOM + about["title"]
        about["source"] = f"random weights, seed {wanted.random}, in the architecture of torchxrayvision"
        about["licence"] = "Random weights, for trying out; code of TorchXRayVision: Apache-2.0."
    folder.write_classifier(out, about, sha256, SIZE, MEAN, STD, [label for _, label in rows], points)
    folder.write_card(
        out, about,
        f"one grey channel, {SIZE} x {SIZE} px, the picture's middle square as the package crops it, scaled to [-1024, 1024].",
        f"{len(rows)} logits, and a map of 7 x 7 cells for each.", worst,
    )
    folder.done(out, worst)
