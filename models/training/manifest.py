"""Writes model.toml and prompts.json, the only places where the services read a model's labels and thresholds."""

import hashlib
import json

import numpy as np

import prompts
import text

CODES = {
    "Atelectasis": ("46621007", "Atelectasis", ["Pulmonary atelectasis"]),
    "Cardiomegaly": ("8186001", "Cardiomegaly", ["Enlarged heart"]),
    "Consolidation": ("95436008", "Lung consolidation", ["Airspace consolidation"]),
    "Edema": ("19242006", "Pulmonary edema", ["Pulmonary oedema", "Oedema"]),
    "Effusion": ("60046008", "Pleural effusion", ["Pleural Effusion"]),
    "Emphysema": ("87433001", "Pulmonary emphysema", ["Pulmonary Emphysema"]),
    "Fibrosis": ("51615001", "Fibrosis of lung", ["Pulmonary fibrosis"]),
    "Hernia": ("39839004", "Diaphragmatic hernia", ["Hiatal hernia"]),
    "Infiltration": ("409609008", "Radiologic infiltrate of lung", ["Infiltrate", "Lung infiltrate"]),
    "Mass": ("309529002", "Lung mass", ["Pulmonary mass"]),
    "Nodule": ("786838002", "Pulmonary nodule", ["Lung nodule"]),
    "Pleural_Thickening": (None, "Pleural thickening", ["Pleural Thickening"]),
    "Pneumonia": ("233604007", "Pneumonia", ["Lung infection"]),
    "Pneumothorax": ("36118008", "Pneumothorax", []),
}
LICENCE = {
    "openi": "Open-I reports and films, CC BY-NC-ND 4.0: no commercial use",
    "kermany-paediatric": "Kermany 2018, CC BY 4.0",
    "nih-adult": "NIH ChestX-ray14, with citation",
    "others": "other sets for research use",
}


def quote(value):
    return json.dumps(value, ensure_ascii=False)


def licence(leave_out):
    parts = [words for name, words in LICENCE.items() if name not in leave_out]
    return "Research use only. Inherited from the training data: " + "; ".join(parts) + "."


def name_of(label):
    return label.removesuffix(" (child)")


def code_of(label):
    value, meaning, synonyms = CODES[name_of(label)]
    if value is None:
        return "99DUET", label.lower().replace("_", "-"), meaning, synonyms
    return "SCT", value, meaning, synonyms


def write_prompts(path, state):
    """Stores the answers' vectors; gives the questions as they were learnt (scale, biases) and the digest."""
    vectors, questions = {}, []
    embedded = text.embed_answers(prompts.QUESTIONS)
    for question, answers in prompts.QUESTIONS.items():
        for row, answer in zip(embedded[question], answers):
            vectors[f"{question}/{answer}"] = [round(float(v), 7) for v in row]
        biases = [float(b) for b in state[f"bias.{question}"]]
        questions.append({"id": question, "scale": float(state[f"log_scale.{question}"].exp()), "biases": biases})
    path.write_text(json.dumps(vectors, separators=(",", ":")) + "\n")
    return {"questions": questions, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def head(name, kind, title, common, note):
    return [
        "# Written by models/training/ship.py; the figures are of unseen patients, see MODEL_CARD.md.",
        "schema = 1", f"name = {quote(name)}", f"version = {quote(common['version'])}", f"kind = {quote(kind)}",
        f"title = {quote(title)}", 'file = "model.onnx"', f"sha256 = {quote(common['sha256'])}",
        f"licence = {quote(licence(common['leave_out']))}",
        f"source = {quote('models/training/' + note + ', seed ' + str(common['seed']))}", "",
        "[input]", f"width = {common['size']}", f"height = {common['size']}", "mean = 0.5", "std = 0.25", "",
    ]


def calibration(sets, common, count):
    return [
        "[calibration]", f"set = {quote(sets + ', validation patients')}", f"sha256 = {quote(common['calibration'])}",
        f"n = {count}", f"date = {quote(common['date'])}", "",
    ]


def write_generalist(folder, common, learnt, decision):
    lines = head("generalist", "vision-language", "What an image is, whether it is fit to read, and how it looks", common, "train.py")
    lines += ["[outputs]", 'embedding = "embedding"', ""]
    lines += [
        "[text]", "dim = 384", f"tower = {quote(text.TOWER)}", f"model = {quote(text.MODEL)}", 'embeddings = "prompts.json"',
        f"sha256 = {quote(learnt['sha256'])}", "",
    ]
    lines += calibration(decision["sets"], common, decision["n"])
    lines += ["[decision]", f"scope_min = {decision['scope_min']:.4f}", f"fitness_min = {decision['fitness_min']:.4f}"]
    if decision["clear_below"] is not None:
        lines += [
            f"clear_below = {decision['clear_below']:.6f}",
            f"miss_rate = {{ bound = {decision['bound']}, confidence = {decision['confidence']}, "
            f"positives = {decision['positives']}, measured = {decision['measured']:.4f} }}",
        ]
    lines.append("")
    for question in learnt["questions"]:
        lines += ["[[questions]]", f"id = {quote(question['id'])}", f"scale = {question['scale']:.5f}"]
        for bias, (answer, (meaning, words)) in zip(question["biases"], prompts.QUESTIONS[question["id"]].items()):
            lines += ["[[questions.answers]]", f"id = {quote(answer)}", f"meaning = {quote(meaning)}"]
            if question["id"] == "kind":
                lines.append(f"in_scope = {quote(answer in prompts.IN_SCOPE)}")
            lines += [f"bias = {bias:.5f}", f"prompts = {quote(words)}"]
        lines.append("")
    (folder / "model.toml").write_text("\n".join(lines))


def write_specialist(folder, name, common, plan, chosen, metrics=None):
    """`metrics` (of test patients) fill the operating points' measured columns and the AUROCs."""
    lines = head(name, "classifier", plan["title"], common, common.get("script", "train.py"))
    lines += ["[outputs]", 'logits = "logits"', 'cam = "cam"', "", "[accepts]", f"kind = {quote(plan['kind'])}"]
    lines += [f"{key} = {value}" for key, value in plan["age"].items()] + [""]
    lines += calibration(", ".join(plan["sets"]), common, chosen["n"])
    for label in plan["labels"]:
        scheme, value, meaning, synonyms = code_of(label)
        point = chosen["labels"][label]
        lines += [
            "[[labels]]", f"name = {quote(name_of(label))}", f"synonyms = {quote(synonyms)}",
            f"code = {{ scheme = {quote(scheme)}, value = {quote(value)}, meaning = {quote(meaning)} }}",
            f"platt = {{ scale = {point['scale']:.5f}, bias = {point['bias']:.5f} }}",
        ]
        measured = metrics["labels"][label] if metrics else point
        lines.append(
            f"operating_point = {{ threshold = {point['threshold']:.5f}, sensitivity = {measured['sensitivity']['value']}, "
            f"specificity = {measured['specificity']['value']}, positives = {measured['positives']}, "
            f"negatives = {measured['negatives']} }}"
        )
        if metrics:
            area = measured["auroc"]
            lines.append(
                f"auroc = {{ value = {area['value']}, low = {area['low']}, high = {area['high']}, n = {area['n']} }}"
            )
        lines.append("")
    (folder / "model.toml").write_text("\n".join(lines))
