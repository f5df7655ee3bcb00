"""Writes checkpoints as the ONNX files that ship, and proves that they compute what PyTorch does.

Batch normalisation is folded into the convolutions; shapes are fixed; operators are plain. The exported file must
agree with PyTorch within 1e-4 on random images, or nothing is written.
"""

import copy
import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnxruntime
import torch

import films as tables
from augment import normalise
from findings_net import FindingsGraph, HeartShare
from network import Duet, EmbeddingExport, FindingsExport, fold
from predict import Model

OPSET = 17


def restore(checkpoint, output_stride=None):
    """The averaged model of a checkpoint, in evaluation mode, and the checkpoint itself."""
    state = torch.load(checkpoint, weights_only=True)
    model = Duet(len(state["labels"]), output_stride=output_stride or state["output_stride"])
    if state.get("folded"):
        fold(model.trunk.eval())
    model.load_state_dict(state["model"])
    return model.eval(), state


def write(module, path, outputs, size):
    """Exports, checks against onnxruntime, and gives the file's SHA-256."""
    reference = copy.deepcopy(module).eval()
    folded = fold(copy.deepcopy(module)).eval().to(memory_format=torch.contiguous_format)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.onnx.export(
        folded, torch.zeros(1, 1, size, size), part, input_names=["image"], output_names=outputs,
        opset_version=OPSET, dynamo=False,
    )
    onnx.checker.check_model(onnx.load(part))
    session = onnxruntime.InferenceSession(part, providers=["CPUExecutionProvider"])
    worst = 0.0
    for seed in range(4):
        image = torch.randn(1, 1, size, size, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            wanted = reference(image)
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        for ours, theirs in zip(wanted, session.run(outputs, {"image": image.numpy()})):
            worst = max(worst, float(np.abs(ours.numpy() - theirs).max()))
    if worst >= 1e-4:
        raise SystemExit(f"{path}: ONNX differs from PyTorch by {worst:.2e}")
    part.replace(path)
    kinds = sorted({node.op_type for node in onnx.load(path).graph.node})
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, within {worst:.1e} of PyTorch, operators {' '.join(kinds)}")
    return digest(path)


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def pick(model, labels):
    """A linear head of the named labels alone."""
    rows = [tables.LOGITS.index(label) for label in labels]
    linear = torch.nn.Linear(model.findings.in_features, len(rows))
    linear.weight.data = model.findings.weight.data[rows].clone()
    linear.bias.data = model.findings.bias.data[rows].clone()
    return linear


def embedding(model, path, size):
    return write(EmbeddingExport(model), path, ["embedding"], size)


def findings(model, labels, path, size, normal):
    """`normal`: uint8 pixels of normal validation films, whose average map is taken off each map."""
    shipped = FindingsExport(model.trunk, pick(model, labels)).eval()
    shipped.learn_usual(normalise(torch.from_numpy(normal)[:, None].float() / 255))
    return write(shipped, path, ["logits", "cam"], size)


def graph(members, labels, path, size, normal, anatomy=None, val=None, truth=None, mirrored=True):
    """Networks of train_findings.py as one graph, each on the picture and its mirror image.

    With the folder of the segmentation model, cardiomegaly's logit is blended with the heart's share by logistic
    regression on the validation films `val`. Gives the file's digest and the logits of `val`.
    """
    rows = [tables.LOGITS.index(label) for label in labels]
    for member in members:
        fold(member.eval())
    share = HeartShare(anatomy, size).eval() if anatomy else None
    column = labels.index("Cardiomegaly")
    shipped = FindingsGraph(members, rows, size, mirrored, share, column, labels.index("Hernia")).eval()
    round_weights(shipped)
    images = lambda pixels: normalise(torch.from_numpy(pixels)[:, None].float() / 255)  # noqa: E731
    logits = None
    if val is not None:
        raw = Path(path).with_name("raw.onnx")
        write(Raw(shipped, share), raw, ["logits", "share"], size)
        found = Model(raw).run(val)
        raw.unlink()
        logits = found["logits"]
    if val is not None and share:
        judged = ~np.isnan(truth["Cardiomegaly"])
        pair = np.stack([logits[judged, column], found["share"][judged, 0], np.ones(judged.sum())], 1)
        keep, weigh, lift = logistic(pair, truth["Cardiomegaly"][judged])
        print(f"cardiomegaly: {keep:.3f} * logit + {weigh:.3f} * log heart share + {lift:.3f}")
        shipped.blend(keep, weigh, lift)
        logits[:, column] = keep * logits[:, column] + weigh * found["share"][:, 0] + lift
    shipped.learn_usual(images(normal))
    write(shipped, path, ["logits", "cam"], size)
    return store_half(path), logits


LARGE = 1024


def round_weights(module):
    """Large weights become what float16 can hold, so that storing them as such changes nothing."""
    with torch.no_grad():
        for weight in module.parameters():
            if weight.numel() >= LARGE:
                weight.copy_(weight.half().float())


def store_half(path):
    """Stores large weights as float16 with a cast to float32 each, which engines fold at load; gives the new digest."""
    model = onnx.load(path)
    casts = []
    for weight in list(model.graph.initializer):
        values = onnx.numpy_helper.to_array(weight)
        half = values.astype(np.float16) if values.dtype == np.float32 and values.size >= LARGE else None
        if half is not None and np.array_equal(half.astype(np.float32), values):
            model.graph.initializer.remove(weight)
            model.graph.initializer.append(onnx.numpy_helper.from_array(half, f"{weight.name}_half"))
            casts.append(onnx.helper.make_node("Cast", [f"{weight.name}_half"], [weight.name], to=onnx.TensorProto.FLOAT))
    for cast in reversed(casts):
        model.graph.node.insert(0, cast)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    print(f"{path}: {Path(path).stat().st_size / 1e6:.1f} MB with {len(casts)} weights as float16")
    return digest(path)


class Raw(torch.nn.Module):
    """Logits before the blend, and the heart's share: what the blend is fitted on."""

    def __init__(self, shipped, share):
        super().__init__()
        self.shipped, self.share = shipped, share

    def forward(self, image):
        logits = self.shipped.raw(image)[0]
        return logits, self.share(image)[0] if self.share else logits[:, :1]


def logistic(inputs, truth):
    """Weights of a logistic regression, by minimising its loss with a trace of shrinkage."""
    from scipy.optimize import minimize

    def loss(weights):
        z = inputs @ weights
        return np.logaddexp(0, z).sum() - (truth * z).sum() + 0.1 * (weights[:-1] ** 2).sum()

    return (float(w) for w in minimize(loss, np.zeros(inputs.shape[1])).x)
