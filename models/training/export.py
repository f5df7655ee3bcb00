"""Writes checkpoints as the ONNX files that ship, and proves that they compute what PyTorch does.

Batch normalisation is folded into the convolutions; shapes are fixed; operators are plain. The exported file must
agree with PyTorch within 1e-4 on random images, or nothing is written.
"""

import copy
import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

import films as tables
from augment import normalise
from network import Duet, EmbeddingExport, FindingsExport, fold

OPSET = 17


def restore(checkpoint, output_stride=None):
    """The averaged model of a checkpoint, in evaluation mode, and the checkpoint itself."""
    state = torch.load(checkpoint, weights_only=True)
    model = Duet(len(state["labels"]), output_stride=output_stride or state["output_stride"])
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
