"""Runs a shipped ONNX file over cached films, exactly as the services do: one 8-bit grey picture at a time."""

import numpy as np
import onnxruntime

from augment import MEAN, STD


class Model:
    """An ONNX file with its output names."""

    def __init__(self, path, threads=1):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.names = [output.name for output in self.session.get_outputs()]

    def run(self, pixels, keep=None):
        """uint8 [N, H, W] to one array an output (those in `keep`, or all)."""
        keep = keep or self.names
        rows = {name: [] for name in keep}
        for picture in pixels:
            image = ((picture.astype(np.float32) / 255 - MEAN) / STD)[None, None]
            for name, value in zip(keep, self.session.run(keep, {"image": image})):
                rows[name].append(value[0])
        return {name: np.stack(values) for name, values in rows.items()}


def softmax(logits):
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))
