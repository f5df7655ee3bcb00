"""Decodes every image once into a uint8 array, so that training reads memory and not JPEGs.

Example: cache.py --data DIR --cache /tmp/duet-cache --size 144
"""

import argparse
import io
import tarfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

import films

Image.MAX_IMAGE_PIXELS = None


def squash(encoded, size):
    """Luminance, the whole picture squashed to a square by an antialiased triangle filter."""
    image = Image.open(io.BytesIO(encoded)).convert("L")
    return np.asarray(image.resize((size, size), Image.BILINEAR))


def build(job):
    """Fills the cache file of one set."""
    data, cache, dataset, size = job
    target = Path(cache) / f"{dataset}-{size}.npy"
    if target.exists():
        return f"{target.name}: there already"
    rows = {film.file: i for i, film in enumerate(films.load(data, set(films.SETS) - {dataset}))}
    pixels = np.zeros((len(rows), size, size), np.uint8)
    missing = set(rows)
    with tarfile.open(Path(data) / f"{dataset}.tar") as tar:
        for member in tar:
            if member.name in missing:
                pixels[rows[member.name]] = squash(tar.extractfile(member).read(), size)
                missing.discard(member.name)
    if missing:
        raise SystemExit(f"{dataset}.tar lacks {len(missing)} files of {dataset}.csv, {sorted(missing)[0]} for one")
    np.save(target, pixels)
    return f"{target.name}: {len(rows)} images"


def load(data, cache, size, leave_out=()):
    """The cached pixels of all films, in the order of `films.load`, as one array [N, size, size]."""
    Path(cache).mkdir(parents=True, exist_ok=True)
    jobs = [(str(data), str(cache), dataset, size) for dataset in films.SETS if dataset not in leave_out]
    if any(not (Path(cache) / f"{dataset}-{size}.npy").exists() for _, _, dataset, _ in jobs):
        with ProcessPoolExecutor(2) as pool:
            for line in pool.map(build, jobs):
                print(line, flush=True)
    return np.concatenate([np.load(Path(cache) / f"{dataset}-{size}.npy") for _, _, dataset, _ in jobs])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the .tar and .csv files")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--size", type=int, default=144)
    arguments = parser.parse_args()
    print(load(arguments.data, arguments.cache, arguments.size).shape)


if __name__ == "__main__":
    main()
