"""Every image of every set as one table: what it shows, which labels its set judges, what may be said of it.

`findings` holds 1 (present), 0 (judged absent) or nan (not judged by that set; masked in the loss).
"""

import csv
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import reports
from splits import part_of

SETS = [
    "nih-adult", "nih-64px", "openi", "tb-covid-adult", "kermany-paediatric", "jsrt", "modality-64px", "photos",
]
NIH = [
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia",
    "Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax",
]
ADULT = NIH + ["Tuberculosis"]
CHILD = ["Pneumonia (child)", "Bacterial pneumonia (child)", "Viral pneumonia (child)"]
# Every logit of the joint training: adult findings, any abnormality of an adult film, and the children's.
LOGITS = ADULT + ["Abnormal"] + CHILD

KINDS = [
    "chest-radiograph-frontal", "chest-radiograph-lateral", "chest-radiograph-child", "hand-radiograph",
    "other-radiograph", "ct", "mr", "photograph", "not-an-image-of-a-body",
]

# Radiologists' MeSH terms of openi, by a pattern over one whole term ("Opacity/lung/base/left").
MESH = {
    "Atelectasis": r"^Pulmonary Atelectasis|^Atelectasis",
    "Cardiomegaly": r"^Cardiomegaly|^Cardiac Shadow/enlarged|^Heart/enlarged",
    "Consolidation": r"^Consolidation|^Airspace Disease",
    "Edema": r"^Pulmonary Edema",
    "Effusion": r"^Pleural Effusion|^Hydropneumothorax|^Hemopneumothorax",
    "Emphysema": r"Emphysema(?!.*[Ss]ubcutaneous)|^Pulmonary Disease, Chronic Obstructive|^Blister",
    "Fibrosis": r"Fibrosis$|Fibrosis/|^Lung Diseases, Interstitial",
    "Hernia": r"^Hernia",
    "Infiltration": r"^Infiltrate|^Airspace Disease",
    "Mass": r"^Mass(?!ive)",
    "Nodule": r"^Nodule",
    "Pleural_Thickening": r"^Thickening/pleura|^Pleura/thick",
    "Pneumonia": r"^Pneumonia",
    "Pneumothorax": r"^Pneumothorax|^Hydropneumothorax|^Hemopneumothorax",
}
# Terms so close to a finding that its absence is not claimed beside them.
MESH_DOUBT = {
    "Atelectasis": r"^Opacity.*(base|streaky|linear)|^Volume Loss",
    "Consolidation": r"^Opacity|^Infiltrate|^Pneumonia|^Density",
    "Edema": r"^Pulmonary Congestion|^Heart Failure|^Markings.*interstitial",
    "Effusion": r"^Costophrenic Angle",
    "Emphysema": r"^Lung/hyperdistention|^Diaphragm.*flattened|^Lung, Hyperlucent",
    "Fibrosis": r"^Cicatrix|interstitial",
    "Infiltration": r"^Opacity|^Consolidation|^Pneumonia|^Density",
    "Mass": r"^Opacity.*(round|mass)|^Nodule|^Density.*round",
    "Nodule": r"^Granuloma|^Calcified Granuloma|^Mass|^Opacity.*(round|nod)|^Density.*round",
    "Pleural_Thickening": r"^Costophrenic Angle|^Thickening|^Cicatrix/.*(apex|pleura)",
    "Pneumonia": r"^Opacity|^Infiltrate|^Consolidation|^Airspace Disease",
}


@dataclass
class Film:
    dataset: str
    file: str
    patient: str
    part: str
    kind: str
    findings: dict = field(default_factory=dict)
    abnormal: float = math.nan  # 1, 0, or nan where the set cannot tell it fairly
    view: str = ""
    source_px: int = 0
    sentences: list = field(default_factory=list)  # a radiologist's own words
    label: str = ""


def sentences_of(*texts):
    """Splits report text into single statements; drops numbering and what anonymisation left unreadable."""
    found = []
    for text in texts:
        for sentence in re.split(r"(?<=[.;?!])\s+", text or ""):
            sentence = re.sub(r"^\s*\d+[.)]\s*", "", sentence).strip(" .;,")
            gaps = sentence.count("XXXX")
            sentence = re.sub(r"\s*\bXXXX\b\s*", " ", sentence).strip()
            if len(sentence) < 6 or not re.search(r"[a-z]{3}", sentence) or gaps > 1:
                continue
            found.append(sentence + ".")
    return found


def mesh_findings(terms, *texts):
    """Findings of one openi film by its terms; a term that only suggests a finding leaves it unjudged.

    The report's own words then decide what the terms leave open, and leave open what they contradict.
    """
    judged, said = {}, reports.read(*texts)
    for label in NIH:
        if any(re.search(MESH[label], term) for term in terms):
            judged[label] = 1.0
        elif label in MESH_DOUBT and any(re.search(MESH_DOUBT[label], term) for term in terms):
            judged[label] = math.nan
        else:
            judged[label] = 0.0
        word = said.get(label)
        if word in (0.0, 1.0):
            agrees = math.isnan(judged[label]) or judged[label] == word
            judged[label] = word if agrees else math.nan
        elif word == 0.5 and judged[label] == 0.0:
            judged[label] = math.nan
    return judged


def film_of(dataset, row):
    """One row of a set's table."""
    patient = row.get("patient", "")
    film = Film(dataset, row["file"], patient, part_of(dataset, patient, row["file"]), "photograph")
    if dataset.startswith("nih"):
        present = set(row["findings"].split("|")) - {"No Finding"}
        film.findings = {label: float(label in present) for label in NIH}
        film.abnormal = float(bool(present))
        film.view, film.source_px = row["view"], int(row["source_px"])
        child = row["age"].isdigit() and int(row["age"]) < 10
        film.kind = "chest-radiograph-child" if child else "chest-radiograph-frontal"
    elif dataset == "openi":
        terms = [term.strip() for term in row["mesh"].split("|")]
        lateral = row["projection"] == "Lateral"
        film.kind = "chest-radiograph-lateral" if lateral else "chest-radiograph-frontal"
        film.sentences = sentences_of(row["findings_text"], row["impression"])
        film.view = row["projection"]
        if terms != ["No Indexing"]:
            film.abnormal = float(terms != ["normal"])
            if not lateral:
                film.findings = mesh_findings(terms, row["findings_text"], row["impression"])
    elif dataset == "tb-covid-adult":
        film.kind = "chest-radiograph-frontal"
        film.label = row["label"]
        # COVID, TB and Normal come from different places: only `TB_TB.` against `Normal_others` is one source.
        if row["file"].startswith(("TB_TB.", "Normal_others")):
            film.findings = {"Tuberculosis": float(row["file"].startswith("TB_TB."))}
    elif dataset == "kermany-paediatric":
        sick = float(row["label"] == "PNEUMONIA")
        film.kind, film.abnormal, film.label = "chest-radiograph-child", sick, row["subtype"]
        film.findings = {
            CHILD[0]: sick,
            CHILD[1]: float(row["subtype"] == "bacteria"),
            CHILD[2]: float(row["subtype"] == "virus"),
        }
    elif dataset == "jsrt":
        film.kind = "chest-radiograph-frontal"
        film.abnormal = float(row["label"] == "nodule")
        film.findings = {"Nodule": film.abnormal}
    elif dataset == "modality-64px":
        film.label = row["label"]
        film.kind = {
            "AbdomenCT": "ct", "ChestCT": "ct", "HeadCT": "ct", "BreastMRI": "mr", "Hand": "hand-radiograph",
            "CXR": "chest-radiograph-frontal",
        }[row["label"]]
    elif dataset == "photos":
        film.label = row["label"].replace("_", " ")
    if film.kind == "chest-radiograph-frontal":
        film.findings["Abnormal"] = film.abnormal
    return film


def load(folder, leave_out=()):
    """All films of all sets in `folder` but those left out, in a stable order."""
    films = []
    for dataset in SETS:
        if dataset in leave_out:
            continue
        with open(Path(folder) / f"{dataset}.csv", newline="", encoding="utf-8") as table:
            films += [film_of(dataset, row) for row in csv.DictReader(table)]
    return films


def target_row(film):
    """The film's findings in the order of LOGITS, nan where not judged."""
    return [film.findings.get(label, math.nan) for label in LOGITS]
