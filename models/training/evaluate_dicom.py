"""Asks the generalist about real DICOM files of body parts and scanners it never saw (PyPI's pydicom-data).

None of these files is in any training set. Rendering is plain: modality values, percentiles 0.5 to 99.5 to 8 bit,
MONOCHROME1 inverted.

Example: evaluate_dicom.py --models models
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.errors import InvalidDicomError
from pydicom.pixels import apply_modality_lut

from evaluate import Generalist, table

FILES = {
    "RG1_UNCR.dcm": "chest", "RG3_UNCR.dcm": "other radiograph", "693_UNCR.dcm": "CT or MR", "MR2_UNCR.dcm": "MR",
    "MR-SIEMENS-DICOM-WithOverlays.dcm": "MR", "JPEG-LL.dcm": "other", "JPEG2000_UNC.dcm": "other",
    "JPGLosslessP14SV1_1s_1f_8b.dcm": "other", "US1_UNCR.dcm": "ultrasound", "OBXXXX1A.dcm": "ultrasound",
    "OT-PAL-8-face.dcm": "drawing", "SC_rgb.dcm": "test pattern", "liver.dcm": "segmentation", "emri_small.dcm": "MR",
    "eCT_Supplemental.dcm": "CT", "gdcm-US-ALOKA-16.dcm": "ultrasound", "mlut_18.dcm": "other", "vlut_04.dcm": "other",
}


def render(path):
    """A DICOM file's first frame as 8-bit grey."""
    dataset = pydicom.dcmread(path)
    pixels = dataset.pixel_array
    if dataset.get("SamplesPerPixel", 1) == 3:
        pixels = np.asarray(Image.fromarray(pixels if pixels.ndim == 3 else pixels[0]).convert("L"))
    elif pixels.ndim == 3:
        pixels = pixels[0]
    pixels = apply_modality_lut(pixels, dataset).astype(np.float64)
    low, high = np.percentile(pixels, [0.5, 99.5])
    grey = ((pixels - low) / max(high - low, 1e-6)).clip(0, 1)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        grey = 1 - grey
    return Image.fromarray((grey * 255).round().astype(np.uint8))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--keep", type=Path, help="folder for the renditions as PNG")
    arguments = parser.parse_args()
    folder = arguments.models / "generalist"
    generalist, decision = Generalist(folder), table(folder)["decision"]
    width = table(folder)["input"]["width"]
    store = Path(find_spec("data_store").origin).parent / "data"
    for name, truth in FILES.items():
        if not (store / name).exists():
            continue
        try:
            image = render(store / name)
        except (AttributeError, NotImplementedError, RuntimeError, ValueError, InvalidDicomError) as problem:
            print(f"{name:34} cannot be rendered here: {problem}")
            continue
        if arguments.keep:
            arguments.keep.mkdir(parents=True, exist_ok=True)
            image.resize((256, 256)).save(arguments.keep / f"{name}.png")
        squashed = np.asarray(image.resize((width, width), Image.BILINEAR))[None]
        answered = generalist.answer(generalist.embed(squashed))
        scope = float(generalist.scope(answered)[0])
        said = {q: names[int(answered[q][0].argmax())] for q, (names, *_) in generalist.questions.items()}
        verdict = "out of scope" if scope < decision["scope_min"] else "in scope"
        print(
            f"{name:34} {truth:18} {verdict:13} P(scope) {scope:.3f}  {said['kind']:26} {said['fitness']:12} "
            f"P(abnormal) {answered['abnormal'][0][1]:.3f}", flush=True,
        )


if __name__ == "__main__":
    main()
