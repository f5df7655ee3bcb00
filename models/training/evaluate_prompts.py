"""Measures prompts from end to end: `duet triage try` on test patients' films of openi, against radiologists' terms.

Everything from the JPEG to the score is the services' own code, both towers on tract; this script only chooses the
films and counts. Test patients are those of splits.py; frontal films whose terms judge the finding.

Example: evaluate_prompts.py --data DIR --duet target/debug/duet --models models
"""

import argparse
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np

import films as tables
from figures import auroc_figure

# Of each finding a caption as training composed them (prompts.py), and words that are in none.
PROMPTS = [
    ("Effusion", "a chest X-ray with a pleural effusion"),
    ("Effusion", "there is water around the lung"),
    ("Cardiomegaly", "a chest X-ray with an enlarged heart"),
    ("Cardiomegaly", "the heart is much too big"),
]
LABELS = {label for label, _ in PROMPTS}


def test_films(data):
    """File name -> film: test patients' frontal films of openi whose terms judge."""
    films = tables.load(data, leave_out=set(tables.SETS) - {"openi"})
    return {
        Path(film.file).name: film for film in films
        if film.part == "test" and film.kind == "chest-radiograph-frontal" and LABELS <= set(film.findings)
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--duet", type=Path, required=True, help="the binary")
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="where the lines of `duet triage try --json` go")
    arguments = parser.parse_args()

    films = test_films(arguments.data)
    with tempfile.TemporaryDirectory() as folder, tarfile.open(arguments.data / "openi.tar") as archive:
        for member in archive:
            if Path(member.name).name in films and member.isfile():
                (Path(folder) / Path(member.name).name).write_bytes(archive.extractfile(member).read())
        command = [str(arguments.duet), "triage", "try", "--json", "--models", str(arguments.models), folder]
        command += [part for _, prompt in PROMPTS for part in ("--prompt", prompt)]
        lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n")
    seen = {Path(line["file"]).name: line["scores"] for line in map(json.loads, lines)}
    rows = [film for file, film in films.items() if file in seen]
    print(f"{len(rows)} films of {len({film.patient for film in rows})} studies")
    for at, (label, prompt) in enumerate(PROMPTS):
        truth = np.array([film.findings[label] for film in rows])
        judged = ~np.isnan(truth)
        people = np.array([film.patient for film in rows])[judged]
        for part in ("score", "cosine"):
            score = np.array([seen[Path(film.file).name][at][part] for film in rows])[judged]
            figure = auroc_figure(truth[judged], score, people)
            print(f"{label} by {part} of {prompt!r}: {json.dumps(figure)}")


if __name__ == "__main__":
    main()
