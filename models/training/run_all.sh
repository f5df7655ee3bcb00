#!/usr/bin/env bash
# Trains, ships and measures every model of this folder again.
# Example: models/training/run_all.sh --data DIR [--work /tmp/duet-train] [--seed 7] [--version 1.0.0]
set -euo pipefail

here="$(cd "$(dirname "$0")" && pwd)"
out="$(dirname "$here")"
data="" work="${TMPDIR:-/tmp}/duet-train" seed=7 version=1.0.0
while [ $# -gt 0 ]; do
  case "$1" in
    --data) data="$2"; shift 2 ;;
    --work) work="$2"; shift 2 ;;
    --seed) seed="$2"; shift 2 ;;
    --version) version="$2"; shift 2 ;;
    *) echo "run_all.sh: unknown option $1 (known: --data, --work, --seed, --version)" >&2; exit 2 ;;
  esac
done
[ -n "$data" ] || { echo "run_all.sh: --data DIR is required (the folder of the .tar and .csv files)" >&2; exit 2; }

python="$work/venv/bin/python"
if [ ! -x "$python" ]; then
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install -r "$here/requirements.txt"
fi
# Large tensors are kept by the allocator instead of being returned to the system each step; no GPU is looked for.
export MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=8000000000 CUDA_VISIBLE_DEVICES= PYTHONUNBUFFERED=1
cd "$here"

"$python" train.py --data "$data" --work "$work" --name warm --minutes 62 --stop-at 0.33 --seed "$seed"
"$python" train.py --data "$data" --work "$work" --name joint --init "$work/warm.pt" --minutes 41 --rate 8e-4 \
  --thaw-share 0 --freeze 5 --batch 64 --small-share 0.4 --seed "$((seed + 1))"
"$python" train_anatomy.py --data "$data" --work "$work" --init "$work/joint.pt" --minutes 14 --seed "$seed"

"$python" ship.py --data "$data" --work "$work" --checkpoint "$work/joint.pt" --model generalist --out "$out" --version "$version"
"$python" ship.py --data "$data" --work "$work" --checkpoint "$work/joint.pt" --model cxr-findings --output-stride 16 --out "$out" --version "$version"
"$python" ship.py --data "$data" --work "$work" --checkpoint "$work/joint.pt" --model cxr-paediatric --output-stride 16 --out "$out" --version "$version"
"$python" ship_anatomy.py --data "$data" --work "$work" --out "$out" --version "$version"
"$python" evaluate.py --data "$data" --work "$work" --models "$out" --only generalist cxr-findings cxr-paediatric
"$python" check_maps.py --data "$data" --work "$work" --models "$out"
"$python" evaluate_dicom.py --models "$out"
