"""What a radiologist's report says of each finding: present, denied, or only suspected.

A report is cut into statements; a statement speaks of a finding where its pattern matches. A negation ahead of the
mention (or "is not seen" after it) denies it, words of doubt make it suspected. What is never mentioned is not returned.

Example: python reports.py "No pleural effusion. Mild cardiomegaly, possible left basilar atelectasis."
"""

import re
import sys

MENTION = {
    "Atelectasis": r"atelecta|collapse of|volume loss|lobar collapse",
    "Cardiomegaly": r"cardiomegaly|enlarged (heart|cardiac|cardio)|(heart|cardiac (silhouette|shadow|contour)|cardiomediastinal silhouette)"
                    r"( size)?( is| are| appears| remains| was)?( mildly| moderately| markedly| slightly| borderline| stable| again| significantly| severely| top normal)*"
                    r"( enlarged| prominent)|enlargement of the (heart|cardiac)|cardiac enlargement",
    "Consolidation": r"consolidat|air[ -]?space (disease|opaci|process)|alveolar (opaci|disease)",
    "Edema": r"edema|vascular congestion|pulmonary congestion|pulmonary venous congestion|interstitial fluid|heart failure|\bchf\b",
    "Effusion": r"effusion|pleural fluid|hydropneumothorax|hemothorax",
    "Emphysema": r"emphysem|\bcopd\b|chronic obstructive|hyperinflat|hyperexpan|bullous|\bbulla",
    "Fibrosis": r"fibrosis|fibrotic|interstitial lung disease",
    "Hernia": r"hernia",
    "Infiltration": r"infiltrat",
    "Mass": r"\bmass(es)?\b",
    "Nodule": r"nodule|nodular (density|opaci)",
    "Pleural_Thickening": r"pleural thickening|thickening of the .*pleura|thickened pleura",
    "Pneumonia": r"pneumonia|pneumonic|pulmonary infection|infectious process",
    "Pneumothorax": r"pneumothora",
}
# Said of a finding's absence without a negation.
ABSENT = {
    "Cardiomegaly": r"(heart|cardiac|cardio)[^.]*(normal|unremarkable|not enlarged|within limits)|normal[^.]*(heart|cardiac)",
}
# Near a finding, and not it: nothing is concluded from such a mention.
BESIDE = {
    "Nodule": r"granuloma|calcified|nipple", "Emphysema": r"subcutaneous|hyperinflat|hyperexpan", "Edema": r"soft tissue|congestion",
    "Mass": r"mass effect", "Fibrosis": r"scar", "Infiltration": r"fatty",
    "Atelectasis": r"volume loss", "Cardiomegaly": r"borderline|upper limits|prominent",
}
DENIED = (r"\b(no|not|without|negative for|free of|clear of|absence of|nor|denies|never|rather than|resolved|resolution of|clearing of|"
          r"rule out|exclude|lack of|interval removal|removed)\b")
DENIED_AFTER = r"\b((is|are|was|were) (not|no longer)|(has|have) (resolved|cleared)|resolved|not (seen|identified|visualized|evident)|excluded|absent)\b"
DOUBT = (r"\b(may|might|could|possib\w*|probabl\w*|likely|suspect\w*|suspicious|suggest\w*|question\w*|cannot|versus|vs|or|consider|concern\w*|"
         r"differential|appears? to|equivocal|compatible|versus)\b|\?|xxxx|/")
BREAK = r"(?<=[.;?!])\s+|\bbut\b|\bhowever\b|\balthough\b|\bwhile\b|\bthere (is|are)\b|\bwith(?!out)\b"


def statements(text):
    """Lower-case statements of a report's text, cut where a negation ends its reach."""
    for part in re.split(BREAK, (text or "").lower()):
        if part and part not in ("is", "are"):
            yield re.sub(r"\s+", " ", part).strip()


def read(*texts):
    """label -> 1.0 present, 0.0 denied, 0.5 suspected or contradicted, for the findings that the texts mention."""
    said = {}
    for text in texts:
        for statement in statements(text):
            for label, pattern in MENTION.items():
                found = re.search(pattern, statement)
                if not found:
                    if label in ABSENT and re.search(ABSENT[label], statement):
                        said.setdefault(label, []).append(0.0)
                    continue
                before, after = statement[: found.start()], statement[found.end():]
                if re.search(DENIED, before) or re.search(DENIED_AFTER, after):
                    value = 0.0
                elif re.search(DOUBT, statement) or (label in BESIDE and re.search(BESIDE[label], statement)):
                    value = 0.5
                else:
                    value = 1.0
                said.setdefault(label, []).append(value)
    return {label: 1.0 if 1.0 in v and 0.0 not in v else 0.0 if set(v) == {0.0} else 0.5 for label, v in said.items()}


if __name__ == "__main__":
    print(read(*sys.argv[1:]))
