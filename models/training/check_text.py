"""How near the text tower that is pulled (8-bit weights) is to the one that training used, and what that does to scores.

Vectors: of every default prompt against prompts.json, which text.py computed. Scores: of openi's test patients' frontal
films, with both towers' vectors of the prompts of evaluate_prompts.py.

Example: check_text.py --data DIR --models models        (after: duet models pull all-minilm-l6-v2)
"""

import argparse
import io
import json
import tarfile
import tomllib
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image
from tokenizers import BertWordPieceTokenizer

import films as tables
import text
from evaluate_prompts import PROMPTS, test_films
from figures import auroc
from predict import Model

NEUTRAL = "a normal chest X-ray"


class Tower:
    """The folder's graph and vocabulary on ONNX Runtime."""

    def __init__(self, folder):
        self.session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        self.tokenizer = BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=True)

    def embed(self, sentences):
        rows = []
        for sentence in sentences:
            ids = np.array([self.tokenizer.encode(sentence).ids], np.int64)
            inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
            mean = self.session.run(["last_hidden_state"], inputs)[0][0].mean(0)
            rows.append(mean / np.linalg.norm(mean))
        return np.stack(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    arguments = parser.parse_args()

    tower = Tower(arguments.models / text.MODEL)
    generalist = arguments.models / "generalist"
    manifest = tomllib.loads((generalist / "model.toml").read_text())
    stored = json.loads((generalist / "prompts.json").read_text())
    cosines = []
    for question in manifest["questions"]:
        for answer in question["answers"]:
            mean = tower.embed(answer["prompts"]).mean(0)
            cosines.append(float(mean @ stored[f"{question['id']}/{answer['id']}"] / np.linalg.norm(mean)))
    print(f"{len(cosines)} answers, cosine with prompts.json: {min(cosines):.5f} to {max(cosines):.5f}, mean {np.mean(cosines):.5f}")

    films = test_films(arguments.data)
    image, size, rows, vectors = Model(generalist / "model.onnx"), manifest["input"]["width"], [], []
    with tarfile.open(arguments.data / "openi.tar") as archive:
        for member in archive:
            film = films.get(Path(member.name).name)
            if film and member.isfile():
                picture = Image.open(io.BytesIO(archive.extractfile(member).read())).convert("L").resize((size, size), Image.BILINEAR)
                rows.append(film)
                vectors.append(image.run(np.asarray(picture)[None], ["embedding"])["embedding"][0])
    vectors = np.stack(vectors) / np.linalg.norm(vectors, axis=1, keepdims=True)
    for label, prompt in PROMPTS:
        scores = [vectors @ (pair[1] - pair[0]) for pair in (text.embed([NEUTRAL, prompt]), tower.embed([NEUTRAL, prompt]))]
        truth = np.array([film.findings[label] for film in rows])
        judged = ~np.isnan(truth)
        areas = [auroc(truth[judged], score[judged]) for score in scores]
        print(
            f"{prompt!r}, {len(rows)} films: scores {scores[1].min():.3f} to {scores[1].max():.3f}, changed by at most "
            f"{np.abs(scores[0] - scores[1]).max():.4f}; AUROC of {label.lower()} {areas[0]:.4f} by training's tower, {areas[1]:.4f} by the pulled one"
        )


if __name__ == "__main__":
    main()
