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

sets=(--data "$data" --work "$work")
# The joint trunk of all sets, and what is measured with it.
"$python" train.py "${sets[@]}" --name warm --minutes 62 --stop-at 0.33 --seed "$seed"
"$python" train.py "${sets[@]}" --name joint --init "$work/warm.pt" --minutes 41 --rate 8e-4 \
  --thaw-share 0 --freeze 5 --batch 64 --small-share 0.4 --seed "$((seed + 1))"
"$python" train_anatomy.py "${sets[@]}" --init "$work/joint.pt" --minutes 14 --seed "$seed"
"$python" ship_anatomy.py "${sets[@]}" --out "$out" --version "$version"
"$python" ship.py "${sets[@]}" --checkpoint "$work/joint.pt" --model cxr-paediatric --output-stride 16 --out "$out" --version "$version"
"$python" ship.py "${sets[@]}" --checkpoint "$work/joint.pt" --model generalist --out "$work/joint" --version "$version"
"$python" ship.py "${sets[@]}" --checkpoint "$work/joint.pt" --model cxr-findings --output-stride 16 --out "$work/joint" --version "$version"

# Findings: one network from the joint trunk, one from ImageNet weights that first learns without openi.
findings=("$python" train_findings.py "${sets[@]}" --freeze 5 --batch 32)
"${findings[@]}" --name plain --shipped "$work/joint/cxr-findings" --minutes 25 --rate 2.5e-4 --small 128 --size 160 --small-share 0.6 --seed "$seed"
"${findings[@]}" --name away --leave-out openi --minutes 20 --rate 1e-3 --thaw-share 0.25 --small 112 --size 128 --small-share 0.4 --seed "$((seed + 4))"
"${findings[@]}" --name away2 --init "$work/away.pt" --minutes 12 --rate 6e-4 --small 128 --size 128 --seed "$((seed + 14))"

# Both together teach, for comparison: the generalist what is abnormal, and a student every finding on every film.
"$python" teach.py "${sets[@]}" --members plain away2 --out "$work/soft.npz"
"${findings[@]}" --name taught --init "$work/plain.pt" --soft "$work/soft.npz" --minutes 20 --rate 2e-4 --small 128 --size 160 --small-share 0.5 --seed "$((seed + 20))"
"$python" train.py "${sets[@]}" --name gen --shipped "$work/joint/generalist" --soft "$work/soft.npz" --minutes 20 --small 128 --small-share 0 \
  --freeze 6 --thaw-share 0 --rate 2e-4 --defects 0.12 --phantoms 0.02 --seed "$((seed + 2))"

"$python" ship.py "${sets[@]}" --checkpoint "$work/joint.pt" --model generalist --out "$out" --version "$version"
"$python" ship.py "${sets[@]}" --checkpoint "$work/gen.pt" --model generalist --out "$work/taught" --version "$version"
"$python" ship.py "${sets[@]}" --checkpoint "$work/plain.pt" "$work/away2.pt" --joint "$work/joint/cxr-findings" --anatomy "$out/cxr-anatomy" \
  --model cxr-findings --size 160 --out "$out" --version "$version"
"$python" compare.py "${sets[@]}" --models "$out" --teacher plain away2 --student-plain plain --student taught --away away
"$python" check_maps.py "${sets[@]}" --models "$out"
"$python" evaluate_dicom.py --models "$out"
