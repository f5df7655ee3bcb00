"""Makes wordpiece.json: what the Python package `tokenizers` makes of texts with BERT's rules. Needs tokenizers.

    python3 wordpiece.py            # writes beside itself
"""

import json
import tomllib
from pathlib import Path

from tokenizers import BertWordPieceTokenizer

HERE = Path(__file__).parent
MODELS = HERE / "../../../models"

TEXTS = [
    "a chest X-ray with a large pleural effusion", "", "   ", "Pneumothorax!",
    "PA & lateral views (2), 12.5 mm nodule; left-sided.",
    "Röntgenthorax: Pleuraerguß links, Ödem, Größe 3,5 cm", "œdème pulmonaire aigu — épanchement",
    "naïve café e\u0301tude", "Ærøskøbing İstanbul ǅ", "胸部X線写真", "肺炎の所見 lung", "рентген грудной клетки",
    "صورة الصدر", "छाती का एक्सरे", "가슴 엑스레이", "x\u0000y\ufffdz\u200bq\u00adr\u202e",
    "tab\tnew\nline\r\nend\u00a0nbsp\u2028sep\u3000wide", "pneumonoultramicroscopicsilicovolcanoconiosis",
    "a" * 100, "a" * 101, "b" * 250 + " lung", "$100 + 5% <b>^`~|=", "“quoted” ‘single’ … •¿¡«»", "😀 ☢ ™ ½ ² Ⅷ ﬁ",
    "\ue000private\U000f0000", "don't can't l'œil", "un##able ##ing", "\U0002b820\U0002a700 x", "e\u0327\u0301 ṩ ộ",
    "TÜRKÇE Σίσυφος ΟΔΟΣ", "a\u0903b\u093eक",
]


def main():
    tokenizer = BertWordPieceTokenizer(str(MODELS / "all-minilm-l6-v2/vocab.txt"), lowercase=True)
    manifest = tomllib.loads((MODELS / "generalist/model.toml").read_text())
    prompts = [p for q in manifest["questions"] for a in q["answers"][:3] for p in a["prompts"][:2]]
    cases = [{"text": text, "ids": tokenizer.encode(text).ids} for text in prompts + TEXTS]
    (HERE / "wordpiece.json").write_text(json.dumps(cases, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
