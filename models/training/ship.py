"""Turns a checkpoint into a model folder: ONNX, thresholds from validation patients, model.toml, metrics of test patients.

Everything after the export is computed from the ONNX file that ships. Validation patients give calibration and
thresholds; test patients give the figures and are read for nothing else.

Example: ship.py --data DIR --work /tmp/duet-train --checkpoint /tmp/duet-train/joint.pt --model generalist --out models
"""

import argparse
import datetime
import hashlib
import json
from pathlib import Path

import torch

import cache
import evaluate
import export
import films as tables
import manifest
import train_findings
from findings_net import Joint

SPECIALISTS = {
    "cxr-findings": {
        "labels": tables.NIH, "kind": ["chest-radiograph-frontal"], "sets": ["nih-adult", "nih-64px", "openi"],
        "title": "Adult chest radiograph findings", "age": {"min_age_years": 10},
    },
    "cxr-paediatric": {
        "labels": ["Pneumonia (child)"], "kind": ["chest-radiograph-child"],
        "sets": ["kermany-paediatric"], "title": "Paediatric chest radiograph: pneumonia", "age": {},
    },
}


def calibration_digest(films):
    names = sorted(f"{film.dataset}/{film.file}" for film in films)
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, nargs="+", required=True, help="several of train_findings.py make one graph")
    parser.add_argument("--model", required=True, choices=["generalist", *SPECIALISTS])
    parser.add_argument("--out", type=Path, required=True, help="the repository's models folder")
    parser.add_argument("--joint", type=Path, help="cxr-findings as the joint training ships it, as one more network of the graph")
    parser.add_argument("--anatomy", type=Path, help="folder of the segmentation model whose heart share cardiomegaly is blended with")
    parser.add_argument("--version", default="1.0.0")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--output-stride", type=int, choices=[16, 32], help="16: the same weights on maps of 8 x 8 cells")
    arguments = parser.parse_args()

    folder = arguments.out / arguments.model
    folder.mkdir(parents=True, exist_ok=True)
    state = torch.load(arguments.checkpoint[0], weights_only=False)
    films = tables.load(arguments.data)
    pixels = cache.load(arguments.data, arguments.work / "cache", arguments.size)
    common = {
        "version": arguments.version, "size": arguments.size, "seed": state["seed"],
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(), "leave_out": state["leave_out"],
        "script": "train_findings.py" if "variant" in state else "train.py",
    }
    if arguments.model == "generalist":
        model, _ = export.restore(arguments.checkpoint[0], arguments.output_stride)
        common["sha256"] = export.embedding(model, folder / "model.onnx", arguments.size)
        text = manifest.write_prompts(folder / "prompts.json", state["questions"])
        decision = evaluate.decide(folder, text, films, pixels)
        common["calibration"] = calibration_digest(decision.pop("films"))
        manifest.write_generalist(folder, common, text, decision)
    else:
        plan = SPECIALISTS[arguments.model]
        normal = evaluate.rows_where(
            films, lambda f: f.part == "val" and f.dataset in plan["sets"] and f.kind in plan["kind"] and f.abnormal == 0
        )[:200]
        path, logits = folder / "model.onnx", None
        if "variant" in state:
            members = [train_findings.restore(checkpoint)[0] for checkpoint in arguments.checkpoint]
            if arguments.joint:
                labels = [tables.LOGITS.index(label) for label in tables.NIH]
                members.append(Joint(arguments.joint, len(tables.LOGITS), labels, arguments.size).eval())
            rows = evaluate.rows_for(films, plan["sets"], "val")
            truth = {label: evaluate.truth_of([films[i] for i in rows], label) for label in plan["labels"]}
            common["sha256"], logits = export.graph(
                members, plan["labels"], path, arguments.size, pixels[normal], arguments.anatomy, pixels[rows], truth
            )
        else:
            model, _ = export.restore(arguments.checkpoint[0], arguments.output_stride)
            common["sha256"] = export.findings(model, plan["labels"], path, arguments.size, pixels[normal])
        chosen = evaluate.calibrate(folder, plan, films, pixels, logits)
        print("ECE on validation patients: " + ", ".join(f"{k} {v['ece']}" for k, v in chosen["labels"].items()))
        common["calibration"] = calibration_digest(chosen.pop("films"))
        manifest.write_specialist(folder, arguments.model, common, plan, chosen)
    metrics = evaluate.evaluate(folder, films, pixels)
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    if arguments.model != "generalist":
        manifest.write_specialist(folder, arguments.model, common, plan, chosen, metrics)
    if (folder / "MODEL_CARD.md").exists() and evaluate.BEGIN in (folder / "MODEL_CARD.md").read_text():
        evaluate.write_card(folder, metrics)
    print(evaluate.summary(arguments.model, metrics))


if __name__ == "__main__":
    main()
