"""Which metrics, labels and label values a PromQL expression names, held against those that Duet has."""

import pathlib
import re

# What every Prometheus adds, and what the Rust client's process collector gives on Linux.
GIVEN = {"up": set()} | {
    f"process_{name}": set()
    for name in [
        "cpu_seconds_total", "open_fds", "max_fds", "virtual_memory_bytes", "resident_memory_bytes",
        "start_time_seconds", "threads",
    ]
}
# Labels that come from scraping, not from Duet.
TARGET = {"namespace", "pod", "instance", "job", "component", "le"}

STRING = r'"(?:[^"\\]|\\.)*"'
WORDS = {"by", "without", "on", "ignoring", "group_left", "group_right", "bool", "offset", "and", "or", "unless", "inf", "nan"}


class Metrics:
    def __init__(self, repository):
        source = (repository / "shared/telemetry/src/metrics.rs").read_text()
        code = source.split("#[cfg(test)]")[0]
        self.labels, self.histograms = dict(GIVEN), set()
        named = r'"(duet_\w+)"\s*,\s*"[^"]*"\s*(?:,|\)\s*,)\s*&\[([^\]]*)\]'
        for found in re.finditer(named, code):
            self.labels[found[1]] = set(re.findall(r'"(\w+)"', found[2]))
            if re.search(r"histogram\(\s*$", code[: found.start()]):
                self.histograms.add(found[1])
        for found in re.finditer(r'Gauge::new\(\s*"(duet_\w+)"', code):
            self.labels[found[1]] = set()
        every = set(re.findall(r'"(duet_\w+)"', code))
        unread = every - set(self.labels)
        if unread or not self.histograms:
            raise ValueError(f"metrics.rs is not understood: {sorted(unread)}")
        rust = [p for part in ("services", "shared") for p in (repository / part).rglob("*.rs")]
        self.words = set(re.findall(r'"([a-z_0-9]+)"', "\n".join(p.read_text() for p in rust)))
        buckets = re.findall(r"const \w+: \[f64; \d+\] =\s*\[([^\]]*)\]", code)
        self.bounds = {float(n) for row in buckets for n in row.split(",") if n.strip()}
        self.recorded = {}

    def of(self, name):
        """The labels of a series, or None where there is no such series."""
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        if base in self.histograms:
            return self.labels[base] if base != name else None
        if name in self.recorded:
            return self.recorded[name]
        return self.labels.get(name)

    def faults(self, expression):
        """What is wrong with an expression, in words."""
        faults, seen = [], set()
        for name, selector in selectors(expression):
            labels = self.of(name)
            if labels is None:
                faults.append(f"there is no metric {name}")
                continue
            seen |= labels
            for label, operator, value in re.findall(r"(\w+)\s*(=~|!~|!=|=)\s*(" + STRING + ")", selector):
                if label not in labels | TARGET:
                    faults.append(f"{name} has no label {label}")
                elif label not in TARGET:
                    faults += self.value_faults(name, label, value[1:-1])
                elif label == "le" and not self.is_bound(value[1:-1]):
                    faults.append(f"{name} has no bucket le={value}")
        for clause in re.findall(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)", expression):
            for label in filter(None, map(str.strip, clause.split(","))):
                if label not in seen | TARGET:
                    faults.append(f"no metric in it has the label {label}")
        return faults

    def value_faults(self, name, label, value):
        if label in {"status", "model", "label", "version"} or value.startswith("$"):
            return []
        unknown = [word for word in value.split("|") if word not in self.words]
        return [f'{name}: no code sets {label}="{word}"' for word in unknown]

    def is_bound(self, value):
        return float(re.match(r"[0-9.]*[0-9]", value)[0]) in self.bounds


def selectors(expression):
    """Each metric with what stands in its braces."""
    bare = re.sub(STRING, lambda m: '"' + "_" * (len(m[0]) - 2) + '"', expression)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", lambda m: " " * len(m[0]), bare)
    bare = re.sub(r"\[[^\]]*\]", lambda m: " " * len(m[0]), bare)
    braces = [(m.start(), m.end()) for m in re.finditer(r"\{[^}]*\}", bare)]
    for found in re.finditer(r"(?<![\w.:$])[a-zA-Z_][\w:]*", bare):
        if any(start < found.start() < end for start, end in braces):
            continue
        rest = bare[found.end():]
        if re.match(r"\s*\(", rest) or found[0].lower() in WORDS:
            continue
        inside = re.match(r"\s*\{", rest)
        end = bare.index("}", found.end()) if inside else found.end()
        yield found[0], expression[found.end():end]


def repository():
    return pathlib.Path(__file__).resolve().parents[2]
