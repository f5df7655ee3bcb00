"""What may be said of a film: the four questions with their prompts, and captions composed from labels.

Frozen sentence encoders order negations badly, so a composed caption states what is there; what is absent is left
to the radiologists' own sentences and to the `abnormal` question.
"""

import math

from films import NIH

# question -> answer -> (meaning, prompts)
QUESTIONS = {
    "kind": {
        "chest-radiograph-frontal": ("chest radiograph, frontal", [
            "a frontal chest X-ray of an adult", "a PA chest radiograph", "an AP chest radiograph of the lungs and heart",
        ]),
        "chest-radiograph-lateral": ("chest radiograph, lateral", [
            "a lateral chest X-ray", "a chest radiograph taken from the side", "lateral view of the chest",
        ]),
        "chest-radiograph-child": ("chest radiograph of a child, frontal", [
            "a chest X-ray of a small child", "a paediatric frontal chest radiograph", "chest radiograph of an infant",
        ]),
        "hand-radiograph": ("radiograph of a hand", [
            "an X-ray of a hand", "a radiograph of the fingers and wrist", "hand bones",
        ]),
        "other-radiograph": ("radiograph of another part of the body", [
            "an X-ray of a hip or leg", "a mammogram", "a radiograph of a body part other than the chest",
        ]),
        "ct": ("computed tomography slice", [
            "an axial CT slice", "a computed tomography scan of the abdomen", "a CT image of the head",
        ]),
        "mr": ("magnetic resonance image", [
            "an MRI scan", "a magnetic resonance image of the breast", "a T1-weighted MR slice",
        ]),
        "photograph": ("photograph", [
            "a photograph of an everyday object", "a photo of an animal", "a colour picture taken with a camera",
        ]),
        "not-an-image-of-a-body": ("nothing of a body", [
            "an empty picture", "random noise", "a test pattern of geometric shapes",
        ]),
    },
    "fitness": {
        "fit": ("fit to read", ["a well exposed radiograph", "a film of good quality", "an upright, sharp radiograph"]),
        "rotated-90": ("lies on its side", ["a radiograph lying on its side", "an image rotated by 90 degrees"]),
        "rotated-180": ("upside down", ["a radiograph shown upside down", "an image rotated by 180 degrees"]),
        "inverted": ("grey scale inverted", ["a radiograph with inverted grey scale", "a negative image, black bones"]),
        "blurred": ("blurred", ["a blurred radiograph", "motion blur, out of focus"]),
        "cropped": ("part of the chest cut off", ["a cropped radiograph, the lungs are cut off", "lungs not completely imaged"]),
        "overexposed": ("over- or under-exposed", ["an overexposed radiograph", "a radiograph with burnt-out contrast"]),
        "blank": ("blank", ["a blank image", "an empty film without any content"]),
    },
    "abnormal": {
        "normal": ("looks normal", [
            "a normal chest X-ray", "no acute cardiopulmonary abnormality", "clear lungs and a normal heart",
        ]),
        "abnormal": ("looks abnormal", [
            "an abnormal chest X-ray", "a chest radiograph with a disease of the lungs or heart", "pathological findings",
        ]),
    },
    "urgency": {
        "routine": ("routine", ["a routine film without need for action", "no acute disease"]),
        "urgent": ("urgent", ["an urgent finding such as pneumonia, effusion or oedema", "should be read today"]),
        "emergency": ("emergency", ["a pneumothorax, needs attention at once", "a life-threatening emergency"]),
    },
}
# A lateral film is read as such and flagged: no frontal specialist takes it, and it is not "not a chest radiograph".
IN_SCOPE = {"chest-radiograph-frontal", "chest-radiograph-lateral", "chest-radiograph-child"}

# Urgency is not in the data: it follows from findings by this table.
EMERGENCY = {"Pneumothorax"}
URGENT = {"Edema", "Effusion", "Pneumonia", "Consolidation", "Mass", "Pneumonia (child)"}

PHRASES = {
    "Atelectasis": ["atelectasis", "a collapsed part of the lung", "subsegmental atelectasis at the lung base"],
    "Cardiomegaly": ["cardiomegaly", "an enlarged heart", "an enlarged cardiac silhouette"],
    "Consolidation": ["consolidation", "airspace consolidation", "a dense opacity of the lung"],
    "Edema": ["pulmonary oedema", "pulmonary edema", "congestive heart failure with fluid in the lungs"],
    "Effusion": ["a pleural effusion", "fluid in the pleural space", "a blunted costophrenic angle from effusion"],
    "Emphysema": ["emphysema", "hyperinflated lungs", "chronic obstructive lung disease"],
    "Fibrosis": ["pulmonary fibrosis", "interstitial scarring", "fibrotic lungs"],
    "Hernia": ["a hiatal hernia", "a diaphragmatic hernia", "a hernia behind the heart"],
    "Infiltration": ["an infiltrate", "pulmonary infiltrates", "patchy infiltration of the lung"],
    "Mass": ["a lung mass", "a large mass suspicious for a tumour", "a pulmonary mass"],
    "Nodule": ["a pulmonary nodule", "a small round nodule in the lung", "lung nodules"],
    "Pleural_Thickening": ["pleural thickening", "a thickened pleura", "apical pleural thickening"],
    "Pneumonia": ["pneumonia", "an infection of the lung", "signs of pneumonia"],
    "Pneumothorax": ["a pneumothorax", "air in the pleural space", "a collapsed lung from pneumothorax"],
    "Tuberculosis": ["tuberculosis", "pulmonary tuberculosis", "cavities of tuberculosis"],
}
FRAMES = ["{}.", "a chest X-ray with {}", "the film shows {}"]
NORMAL = [
    "no acute cardiopulmonary abnormality.", "a normal chest X-ray", "a chest radiograph without findings",
    "the lungs are clear.", "normal heart and lungs.",
]
CHILD = {
    "normal": ["a normal chest X-ray of a child", "a healthy child's lungs", "a child without pneumonia"],
    "bacteria": ["a child with bacterial pneumonia", "lobar consolidation in a child", "pneumonia in a child"],
    "virus": ["a child with viral pneumonia", "diffuse interstitial pneumonia in a child", "pneumonia in a child"],
}
OTHER = {
    "AbdomenCT": ["an abdominal CT slice", "computed tomography of the abdomen"],
    "ChestCT": ["a CT slice of the chest", "computed tomography of the thorax"],
    "HeadCT": ["a CT slice of the head", "computed tomography of the brain"],
    "BreastMRI": ["an MRI of the breast", "magnetic resonance image of the breasts"],
    "Hand": ["an X-ray of a hand", "a hand radiograph"],
    "CXR": ["a frontal chest X-ray"],
    "COVID": ["a chest X-ray of a patient with COVID-19", "viral pneumonia from COVID-19"],
}


def captions_of(film):
    """Composed captions of one film, most telling first; radiologists' sentences come on top of these."""
    if film.dataset == "photos":
        return [f"a photo of a {film.label}", "a photograph"]
    if film.dataset == "modality-64px":
        return OTHER[film.label]
    if film.dataset == "kermany-paediatric":
        return CHILD[film.label]
    captions = [
        frame.format(phrase)
        for label, phrases in PHRASES.items() if film.findings.get(label) == 1
        for phrase in phrases for frame in FRAMES
    ]
    if film.label == "COVID":
        captions += OTHER["COVID"]
    if not captions and film.abnormal == 0:
        captions += NORMAL
    if not captions:
        captions += ["a chest X-ray"]
    return captions


def kind_target(film):
    return list(QUESTIONS["kind"]).index(film.kind)


def abnormal_target(film):
    return -1 if math.isnan(film.abnormal) else int(film.abnormal)


def urgency_target(film):
    """0 routine, 1 urgent, 2 emergency; -1 where the set does not tell."""
    if math.isnan(film.abnormal):
        return -1
    present = {label for label, value in film.findings.items() if value == 1}
    if present & EMERGENCY:
        return 2
    if present & URGENT:
        return 1
    judged = film.abnormal == 0 or any(label in film.findings for label in NIH)
    return 0 if judged else -1
