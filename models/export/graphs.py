"""Networks as Duet takes them: one grey picture in, named outputs, plain operators, and proof that nothing changed."""

import copy
import hashlib
import warnings

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from torch import nn

# The newest operators that tract reads without a rewrite: LayerNormalization is one operator from 17 on.
OPSET = 17
# What an exported graph may differ by from the network that it was written from.
TOLERANCE = 1e-4


class ThreeChannels(nn.Module):
    """Grey of 0 to 1 [N, 1, H, W] to three equal channels, each normalised for itself; broadcasting repeats them.

    It stands in the graph, and is not folded into the first convolution: that pads with zeros after normalising, and
    a folded offset would be wrong along the borders.
    """

    def __init__(self, mean, std):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32)[None, :, None, None])
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32)[None, :, None, None])

    def forward(self, grey):
        return (grey - self.mean) / self.std


class Explained(nn.Module):
    """A network of features, global average and one linear layer as Duet's classifiers are: logits, and a map a label.

    A label's map is the features weighted by its row of the linear layer: its mean and the bias are the logit.
    """

    def __init__(self, features, weight, bias, prepare=None):
        super().__init__()
        self.prepare = prepare if prepare is not None else nn.Identity()
        self.features = features
        self.weight, self.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())

    def forward(self, image):
        features = F.relu(self.features(self.prepare(image)))
        cam = F.conv2d(features, self.weight[:, :, None, None])
        return cam.mean((2, 3)) + self.bias, cam


class Embedded(nn.Module):
    """An image tower as Duet's generalist is: a vector of length 1."""

    def __init__(self, tower, prepare):
        super().__init__()
        self.tower, self.prepare = tower, prepare

    def forward(self, image):
        embedding = self.tower(self.prepare(image))
        return embedding / (embedding * embedding).sum(-1, keepdim=True).sqrt()


def settle(network, shape, seed, scale=1.0):
    """Random weights as a trained network's: batch normalisation learns the statistics of noise that looks like films.

    Without it each layer of a random network multiplies what comes in, and its outputs have no scale to compare by.
    """
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    network.train()
    with torch.no_grad():
        for _ in range(2):
            coarse = torch.randn(4, *shape[:-2], 7, 7)
            network(F.interpolate(coarse, size=shape[-2:], mode="bilinear") * scale)
    return network.eval()


def write(module, path, outputs, size, low, high):
    """Writes `path` and gives its SHA-256; or stops, where ONNX Runtime does not compute what PyTorch does.

    The inputs of the check are smooth noise between `low` and `high`, the values of black and white.
    """
    module = copy.deepcopy(module).eval().float()
    part = path.with_name(path.name + ".part")
    example = torch.zeros(1, 1, size, size)
    # The fused attention of nn.MultiheadAttention is one operator of PyTorch's own, which ONNX does not have.
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module, example, part, input_names=["image"], output_names=outputs, opset_version=OPSET, dynamo=False,
            )
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    onnx.checker.check_model(str(part))
    session = onnxruntime.InferenceSession(part, providers=["CPUExecutionProvider"])
    worst = 0.0
    for image in pictures(size, low, high, range(3)):
        with torch.no_grad():
            wanted = module(image)
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        for theirs, ours in zip(wanted, session.run(outputs, {"image": image.numpy()})):
            worst = max(worst, float(np.abs(theirs.numpy() - ours).max()))
    if not worst < TOLERANCE:
        part.unlink()
        raise SystemExit(f"{path}: the ONNX graph differs from PyTorch by {worst:.2e}, more than {TOLERANCE:.0e}")
    part.replace(path)
    return digest(path), worst


def pictures(size, low, high, seeds):
    """Smooth noise from `low` to `high`, one picture a seed."""
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        noise = sum(
            F.interpolate(torch.rand(1, 1, cells, cells, generator=generator), size=(size, size), mode="bilinear")
            for cells in (3, 7, size // 4)
        )
        noise = (noise - noise.min()) / (noise.max() - noise.min())
        yield low + noise * (high - low)


def digest(path):
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            sha.update(chunk)
    return sha.hexdigest()
