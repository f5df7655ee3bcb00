"""Makes the tiny graphs and golden numbers that the tests of duet-inference read. Needs numpy, onnx, onnxruntime, pillow.

    python3 make.py            # writes beside itself
"""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

HERE = Path(__file__).parent
SIDE, CELLS, MEAN, STD = 16, 4, 0.5, 0.25
RANDOM = np.random.default_rng(11)


def save(name, nodes, constants, outputs, side=SIDE):
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, side, side])
    outs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in outputs]
    weights = [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, name, [image], outs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    (HERE / f"{name}.onnx").write_bytes(model.SerializeToString())


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs, outputs, **attributes)


def main():
    weights = {"w": RANDOM.normal(size=(2, 1, 4, 4)) * 0.3, "b": [0.2, -0.4]}
    cam = node("Conv", ["image", "w"], ["cam"], strides=[4, 4])
    mean = node("ReduceMean", ["cam"], ["mean"], axes=[2, 3], keepdims=0)
    both = [("logits", [1, 2]), ("cam", [1, 2, CELLS, CELLS])]
    save("classifier", [cam, mean, node("Add", ["mean", "b"], ["logits"])], weights, both)

    # The labels' maps in the other order.
    swapped = [node("Conv", ["image", "w"], ["own"], strides=[4, 4]),
               node("ReduceMean", ["own"], ["mean"], axes=[2, 3], keepdims=0),
               node("Add", ["mean", "b"], ["logits"]),
               node("Conv", ["image", "v"], ["cam"], strides=[4, 4])]
    save("swapped-maps", swapped, {**weights, "v": weights["w"][::-1]}, both)

    # The root of a negative number.
    nan = [cam, mean, node("Sub", ["mean", "hundred"], ["low"]), node("Sqrt", ["low"], ["logits"])]
    save("not-a-number", nan, {"w": weights["w"], "hundred": [100.0, 100.0]}, both)

    flat = node("Flatten", ["image"], ["flat"])
    tower = {"t": RANDOM.normal(size=(SIDE * SIDE, 4)) * 0.1}
    save("generalist", [flat, node("MatMul", ["flat", "t"], ["embedding"])], tower, [("embedding", [1, 4])])

    masks = node("Conv", ["image", "m"], ["masks"], pads=[1, 1, 1, 1])
    save("segmentation", [masks], {"m": RANDOM.normal(size=(2, 1, 3, 3))}, [("masks", [1, 2, SIDE, SIDE])])

    ys, xs = np.mgrid[0:37, 0:53]
    grey = ((ys * 5 + xs * 3 + (xs * ys) % 29 * 4) % 256).astype(np.uint8)
    picture = Image.fromarray(grey)
    picture.save(HERE / "picture.png")
    squashed = np.asarray(picture.resize((SIDE, SIDE), Image.BILINEAR), np.float32)
    plane = ((squashed / 255 - MEAN) / STD)[None, None]
    golden = {"input": [round(float(v), 6) for v in plane.ravel()]}
    for name, outputs in [("classifier", ["logits", "cam"]), ("generalist", ["embedding"])]:
        session = onnxruntime.InferenceSession(HERE / f"{name}.onnx", providers=["CPUExecutionProvider"])
        for output, values in zip(outputs, session.run(outputs, {"image": plane.astype(np.float32)})):
            golden[output] = [round(float(v), 6) for v in values.ravel()]
    (HERE / "golden.json").write_text(json.dumps(golden) + "\n")

    text()


PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "lung", "heart", "##s", "large"]


def text():
    """An encoder of texts whose sizes are letters, as exporters leave them, and what it makes of one text."""
    ins = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "sequence"]) for n in ("input_ids", "attention_mask")]
    shape = ["batch", "sequence", 4]
    table = np.random.default_rng(12).normal(size=(len(PIECES), 4)).astype(np.float32)
    nodes = [
        node("Gather", ["table", "input_ids"], ["own"]), node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["mask", "last"], ["wide"]), node("Mul", ["own", "wide"], ["tokens"]),
    ]
    graph = helper.make_graph(
        nodes, "text", ins, [helper.make_tensor_value_info("tokens", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([2], np.int64), "last")],
        value_info=[helper.make_tensor_value_info("own", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    (HERE / "text.onnx").write_bytes(model.SerializeToString())
    (HERE / "text-vocabulary.txt").write_text("\n".join(PIECES) + "\n")
    ids = np.array([[2, 7, 4, 6, 3]])  # large lungs
    session = onnxruntime.InferenceSession(HERE / "text.onnx", providers=["CPUExecutionProvider"])
    vector = session.run(["tokens"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0][0].mean(0)
    vector /= np.linalg.norm(vector)
    golden = {"text": "Large LUNGS", "vector": [round(float(v), 6) for v in vector]}
    (HERE / "text.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
