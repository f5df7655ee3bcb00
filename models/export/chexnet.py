"""CheXNet: torchvision's DenseNet-121 with fourteen sigmoid outputs, from the published re-implementations' checkpoints."""

import re

import torch

import folder
import graphs
import weights

EXAMPLE = """examples:
  export.py chexnet --weights model.pth.tar --out ~/models/chexnet
      arnoweng/CheXNet's checkpoint, or zoogzog/chexnet's m-25012018-123527.pth.tar
"""
SIZE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LABELS = [
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
]


def arguments(parser):
    parser.add_argument("--weights", metavar="FILE", help="the checkpoint")
    parser.add_argument("--trust-pickle", action="store_true", help="read a file that holds more than tensors, which runs what it holds")


def architecture():
    """As the checkpoints have it, but for the sigmoid at its end: Duet takes logits."""
    from torchvision.models import densenet121

    network = densenet121(weights=None)
    network.classifier = torch.nn.Sequential(torch.nn.Linear(network.classifier.in_features, len(LABELS)))
    return network


def renamed(state):
    """The checkpoints' names as torchvision has them: they were written through DataParallel, by a module that keeps the
    network in `densenet121`, and partly by a torchvision in which a layer's parts were called `norm.1`."""
    names = {}
    for name, value in state.items():
        name = name.removeprefix("module.").removeprefix("densenet121.")
        names[re.sub(r"\b(norm|relu|conv)\.([12])\.", r"\1\2.", name)] = value
    return names


def network(wanted):
    if wanted.random is not None:
        torch.manual_seed(wanted.random)
        return graphs.settle(architecture(), (3, SIZE, SIZE), wanted.random)
    state = renamed(weights.state_of(weights.load(wanted.weights, wanted.trust_pickle)))
    return weights.fill(architecture(), state, wanted.weights)


def explained(model):
    linear = model.classifier[0]
    return graphs.Explained(model.features, linear.weight.data, linear.bias.data, graphs.ThreeChannels(MEAN, STD))


def run(wanted):
    model = network(wanted)
    out = folder.make(wanted.out)
    sha256, worst = graphs.write(explained(model), out / "model.onnx", ["logits", "cam"], SIZE, 0.0, 1.0)
    about = {
        "version": "1",
        "title": "CheXNet, DenseNet-121 on NIH ChestX-ray14",
        "source": f"a checkpoint of a re-implementation of CheXNet, {wanted.weights and wanted.weights.name}",
        "licence": "Research use only. The weights come under the terms of whoever you have them from; they saw NIH "
                   "ChestX-ray14 (free with citation) and ImageNet. Code of torchvision: BSD-3-Clause.",
        "what": "DenseNet-121 of torchvision with fourteen outputs, the labels of NIH ChestX-ray14 in its own order. The "
                "sigmoid at its end is left to Duet, which takes logits.",
        "uncalibrated": "A label's probability is the sigmoid of its output, which nobody has calibrated, and its authors give "
                        "no thresholds: no label has an operating point, so that no image goes to this model until "
                        "`models/export/calibrate.py` has fitted it to films of yours. `duet eval` measures it before "
                        "that as well. A map is raw: place alone decides much of it. The authors average ten crops of a film, "
                        "Duet looks once.",
        "citation": "Rajpurkar P. et al., CheXNet: radiologist-level pneumonia detection on chest X-rays with deep learning, "
                    "2017 · Wang X. et al., ChestX-ray8, CVPR 2017 · Huang G. et al., Densely connected convolutional "
                    "networks, CVPR 2017.",
    }
    if wanted.random is not None:
        about["title"] = folder.RANDOM + about["title"]
        about["source"] = f"random weights, seed {wanted.random}, in the architecture of CheXNet"
        about["licence"] = "Random weights, for trying out; code of torchvision: BSD-3-Clause."
    folder.write_classifier(out, about, sha256, SIZE, 0.0, 1.0, LABELS, {})
    folder.write_card(
        out, about,
        f"one grey channel, {SIZE} x {SIZE} px, the picture's middle square; the graph repeats it into three channels and "
        "normalises each by ImageNet's mean and deviation.",
        f"{len(LABELS)} logits, and a map of 7 x 7 cells for each.", worst,
    )
    folder.done(out, worst)
