"""A model's folder: model.toml, MODEL_CARD.md, and prompts.json for a generalist. Nothing in it claims a measurement."""

import json
import tomllib
from pathlib import Path

from concepts import concept

RANDOM = "RANDOM WEIGHTS, FINDS NOTHING: "
HERE = Path(__file__).resolve().parent
DEFAULT_QUESTIONS = HERE.parent / "generalist" / "model.toml"


def quote(value):
    return json.dumps(value, ensure_ascii=False)


def make(out):
    """The folder, whose name is the model's."""
    out = Path(out).resolve()
    plain = set("abcdefghijklmnopqrstuvwxyz0123456789-_")
    if not out.name or len(out.name) > 64 or not set(out.name) <= plain:
        raise SystemExit(f"--out {out}: the folder's name is the model's: write lower-case letters, digits and hyphens")
    if (out / "model.toml").exists():
        raise SystemExit(f"--out {out}: holds a model already: name another folder, or remove that one")
    out.mkdir(parents=True, exist_ok=True)
    return out


def head(folder, about, kind, sha256, size, mean, std):
    return [
        "# Written by models/export/export.py. Nobody has calibrated it: `duet eval` measures it on your images, and",
        "# models/export/calibrate.py fits a classifier to them.",
        "schema = 1", f"name = {quote(folder.name)}", f"version = {quote(about['version'])}", f"kind = {quote(kind)}",
        f"title = {quote(about['title'])}", 'file = "model.onnx"', f"sha256 = {quote(sha256)}",
        f"licence = {quote(about['licence'])}", f"source = {quote(about['source'])}", "",
        "[input]", f"width = {size}", f"height = {size}", f"mean = {mean!r}", f"std = {std!r}", 'fit = "crop"', "",
    ]


def write_classifier(folder, about, sha256, size, mean, std, labels, points):
    """`points`: label to (threshold, whose), for those that the package has one for."""
    lines = head(folder, about, "classifier", sha256, size, mean, std)
    lines += ["[outputs]", 'logits = "logits"', 'cam = "cam"', "", "[accepts]", 'kind = ["chest-radiograph-frontal"]', ""]
    for label in labels:
        scheme, value, meaning, synonyms = concept(label)
        lines += [
            "[[labels]]", f"name = {quote(label)}", f"synonyms = {quote(synonyms)}",
            f"code = {{ scheme = {quote(scheme)}, value = {quote(value)}, meaning = {quote(meaning)} }}",
        ]
        if label in points:
            threshold, whose = points[label]
            lines.append(f"operating_point = {{ threshold = {threshold!r}, source = {quote(whose)} }}")
        lines.append("")
    (folder / "model.toml").write_text("\n".join(lines), encoding="utf-8")


def questions(path):
    """What a generalist is asked, as a manifest of Duet's has it."""
    with open(path or DEFAULT_QUESTIONS, "rb") as file:
        return tomllib.load(file)["questions"]


def write_generalist(folder, about, sha256, size, dim, tower, scale, asked, vectors):
    """`vectors`: "question/answer" to a vector of length 1. Nothing is refused, found unfit or cleared: no images say
    where that would begin."""
    prompts = folder / "prompts.json"
    rounded = {key: [round(float(v), 7) for v in vector] for key, vector in vectors.items()}
    prompts.write_text(json.dumps(rounded, separators=(",", ":")) + "\n", encoding="utf-8")
    from graphs import digest

    lines = head(folder, about, "vision-language", sha256, size, 0.0, 1.0)
    lines += [
        "[outputs]", 'embedding = "embedding"', "",
        "[text]", f"dim = {dim}", f"tower = {quote(tower)}", 'embeddings = "prompts.json"',
        f"sha256 = {quote(digest(prompts))}", "",
        "# Nothing is out of scope, nothing unfit, and nothing cleared: no images say where that would begin.",
        "[decision]", "scope_min = 0.0", "fitness_min = 0.0", "",
    ]
    for question in asked:
        lines += ["[[questions]]", f"id = {quote(question['id'])}", f"scale = {scale:.6f}"]
        for answer in question["answers"]:
            lines += ["[[questions.answers]]", f"id = {quote(answer['id'])}", f"meaning = {quote(answer['meaning'])}"]
            if "in_scope" in answer:
                lines.append(f"in_scope = {quote(answer['in_scope'])}")
            lines.append(f"prompts = {quote(answer['prompts'])}")
        lines.append("")
    (folder / "model.toml").write_text("\n".join(lines), encoding="utf-8")


def write_card(folder, about, input_words, output_words, worst):
    (folder / "MODEL_CARD.md").write_text(f"""# {folder.name}

{about['title']}.

**Research use only. Not a medical device. Not for diagnosis.**

Not measured here: run `duet eval` on images of your own, which neither trained nor calibrated it.

## What it is

{about['what']}

- Goes in: {input_words}
- Comes out: {output_words}
- Source: {about['source']}
- The ONNX graph computes what PyTorch does within {worst:.0e} (ONNX Runtime, three pictures, when it was written).

## Terms

{about['licence']}

## Not calibrated

{about['uncalibrated']}

## Citation

{about['citation']}
""", encoding="utf-8")


def done(folder, worst):
    size = (folder / "model.onnx").stat().st_size / 1e6
    print(f"{folder}: {size:.1f} MB, within {worst:.1e} of PyTorch. Next: duet models verify, with models.dir = {folder.parent}")
