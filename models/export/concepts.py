"""What the packages' labels mean: SNOMED CT where a concept says the same, else a code of Duet's own.

Names are Duet's, so that `duet eval` and the page know them. The fourteen of NIH ChestX-ray14 are those of
`models/cxr-findings/model.toml`, by test.
"""

# label -> (SNOMED CT, meaning, synonyms)
CONCEPTS = {
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
    "Lung Lesion": (None, "Lung lesion", []),
    "Fracture": ("125605004", "Fracture of bone", []),
    "Lung Opacity": (None, "Lung opacity", ["Airspace Opacity"]),
    "Enlarged Cardiomediastinum": (None, "Enlarged cardiomediastinum", ["Widened mediastinum"]),
}


def concept(label):
    """(scheme, value, meaning, synonyms) of a label."""
    value, meaning, synonyms = CONCEPTS[label]
    if value is None:
        return "99DUET", label.lower().replace("_", "-").replace(" ", "-"), meaning, synonyms
    return "SCT", value, meaning, synonyms
