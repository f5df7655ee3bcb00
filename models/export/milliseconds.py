"""Milliseconds an image and megabytes of the exported architectures, on tract and on ONNX Runtime in the same run.

    python models/export/milliseconds.py --milliseconds target/release/examples/milliseconds

The weights are random: speed does not depend on them. One thread each; the runs of the two take turns.
"""

import argparse
import os
import re
import subprocess
import tempfile
import time
import tomllib
from pathlib import Path

import numpy as np
import onnxruntime

import export


def on_runtime(path, size, runs):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).random((1, 1, size, size), dtype=np.float32)
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        session.run(None, {"image": image})
        times.append((time.perf_counter() - start) * 1e3)
    return times


def on_tract(tool, models, size, runs):
    run = subprocess.run([tool, models, str(runs), str(size)], capture_output=True, text=True, check=True)
    [best, median] = re.search(r"best ([\d.]+) ms, median ([\d.]+) ms", run.stdout).groups()
    return float(best), float(median)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--milliseconds", type=Path, required=True, help="the built example of duet-inference")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3, help="turns that each takes")
    parser.add_argument("--vocabulary", type=Path, help="for BiomedCLIP: any vocab.txt")
    wanted = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for which in export.MODELS:
        with tempfile.TemporaryDirectory() as models:
            out = Path(models) / which
            arguments = [which, "--random", "1", "--out", str(out)]
            if which == "biomedclip":
                words = wanted.vocabulary or Path(models) / "vocab.txt"
                if not wanted.vocabulary:
                    words.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
                arguments += ["--vocabulary", str(words)]
            export.main(arguments)
            manifest = tomllib.loads((out / "model.toml").read_text())
            size = manifest["input"]["width"]
            tract, runtime = [], []
            for _ in range(wanted.rounds):
                tract.append(on_tract(wanted.milliseconds, models, size, wanted.runs))
                runtime += on_runtime(out / "model.onnx", size, wanted.runs)
            print(
                f"| {which} | {(out / 'model.onnx').stat().st_size / 1e6:.1f} MB | tract best {min(t[0] for t in tract):.0f} ms, "
                f"median {np.median([t[1] for t in tract]):.0f} ms | ONNX Runtime best {min(runtime):.0f} ms, median {np.median(runtime):.0f} ms |",
                flush=True,
            )


if __name__ == "__main__":
    main()
