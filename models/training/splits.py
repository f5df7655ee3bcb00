"""Which patients train, which calibrate, which test: one split for every model.

A patient's part follows from a keyed hash of the patient's identity alone, so it never depends on the order of
files, on the model, or on what else is in the folder. Both NIH sets share one name space of patients; sets without
patient identities are split by file.
"""

import hashlib

SALT = "duet-split-1"
SHARES = {"train": 0.70, "val": 0.15, "test": 0.15}
NAME_SPACE = {"nih-adult": "nih", "nih-64px": "nih"}


def part_of(dataset, patient, file):
    """Gives `train`, `val` (choice of epoch, calibration, thresholds) or `test` (final figures only)."""
    identity = f"{SALT}/{NAME_SPACE.get(dataset, dataset)}/{patient or file}"
    share = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big") / 2**64
    for part, width in SHARES.items():
        share -= width
        if share < 0:
            return part
    return "test"
