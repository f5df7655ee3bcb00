"""Kafka's jars, in the very folder where the tests of tests/src/kafka.rs keep them."""

import hashlib
import os
import pathlib
import re
import tempfile

TESTS = pathlib.Path(__file__).resolve().parent.parent / "tests/kafka"


def jars(cache, call):
    """Their folder under `cache`. Maven fills it the first time, run by `call`, which fails where a program does."""
    pom = TESTS / "pom.xml"
    text = pom.read_text()
    version = re.search(r"<artifactId>kafka_2\.13</artifactId>\s*<version>([^<]*)", text)[1].strip()
    folder = cache / f"kafka-{version}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    found = folder / "lib"
    if not found.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        # Filled beside and renamed, so that a folder of that name is a whole one.
        filling = tempfile.mkdtemp(dir=folder)
        call("mvn", "-q", "-B", "-f", pom, "dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={filling}")
        os.rename(filling, found)
    return found
