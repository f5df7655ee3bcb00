#!/usr/bin/env python3
"""Runs every query of every dashboard against a real Prometheus that scraped a real, running Duet.

Starts an Apache Kafka broker, Duet's services on it, and Prometheus with k8s/rules, all on free loopback ports; feeds films,
files that cannot be read, and a few faults; then asks Prometheus for each panel as Grafana would. A query without data
fails the check, unless it stands in EMPTY below; one that stands there and has data fails it as well. Ends with 1 where
something is wrong. Takes about a minute on two cores, and needs Linux, Java, Prometheus and the sample radiographs.
"""

import argparse
import json
import math
import os
import pathlib
import re
import shutil
import signal
import sys
import time

try:
    import yaml  # noqa: F401
except ImportError:
    sys.exit("k8s/check: Python's yaml is not here: apt install python3-yaml, or pip install pyyaml")

import deployment
from deployment import Deployment, Trouble, wait

K8S = deployment.REPOSITORY / "k8s"
# Queries that rightly have no data after this run, by dashboard, panel and reference, and why.
EMPTY = {
    ("models", "Failures of models, last hour", "A"): "no model failed",
    ("models", "Failures by stage", "A"): "no model failed",
}
# What some have to count at least, since the first of a kind counts as well: what was fed, less what Prometheus rounds.
COUNTED = {
    ("flow", "Dead letters, last hour", "A"): 3.5,
    ("flow", "Troubles with Kafka", "B"): 0.9,
    ("flow", "Decoders", "B"): 0.9,
}
# A panel's `or vector(0)` at the end is left out, so that what it stands in for is seen to have data.
FALLBACK = re.compile(r"\s+or\s+vector\(0\)\s*$")
FILM, LIMB = "RG1_J2KI.dcm", "RG3_J2KR.dcm"
# A step, and over what Grafana takes rates, at this scrape interval and over these minutes.
STEP, RATE = 2, "15s"


def samples():
    """Where .ci/samples puts them."""
    shared = os.environ.get("XDG_CACHE_HOME")
    cache = pathlib.Path(shared) / "duet" if shared and not os.environ.get("DUET_CACHE") else deployment.cache()
    return cache / "samples/pydicom-data-1.0.0"


def studies(film, count):
    """The same film as if of other studies, so that they spread over the partitions."""
    at = film.index(b"\x20\x00\x0d\x00UI") + 8  # Study Instance UID, explicit VR
    end = at + int.from_bytes(film[at - 2 : at], "little") - 5
    return [film[:end] + f"{number:04}".encode() + film[end + 4 :] for number in range(count)]


def feed(duet, films, say):
    """Films, what cannot be read, a broker that goes away, and decoders that are killed."""
    film, limb = ((samples() / name).read_bytes() for name in (FILM, LIMB))
    # Few bytes: it answers before it has read them, and hangs up on more.
    answer = duet.post(b"film", with_token=False)
    if answer != 401:
        raise Trouble(f"the gateway answered {answer} to a client without a token")
    ready = studies(film, films)
    fed = send(duet, [*ready[: films // 2], limb], 0, say)
    duet.stop("kafka")
    wait("the services miss the broker", lambda: duet.value("sum(duet_kafka_trouble)") > 0)
    duet.start_broker()
    wait("they are at work again", lambda: duet.value("sum(duet_kafka_trouble)") == 0)
    say("the broker went away and came back")
    duet.kill_decoders()
    send(duet, ready[films // 2 :], fed, say)


def send(duet, films, before, say):
    """Some films over HTTP, and beside them what cannot be read. Waits for their ends; returns how many there were so far."""
    unreadable = {"text.dcm": b"no image\n" * 9, "broken.dcm": films[0][: len(films[0]) // 2]}
    for name, content in unreadable.items():
        (duet.folder / name).write_bytes(content)
    duet.duet("send", *(duet.folder / name for name in unreadable))
    for film in films:
        # It may have just found the broker again.
        wait("the gateway takes a film", lambda: duet.post(film) == 202, 60)
        time.sleep(0.5)
    fed = before + len(films) + len(unreadable)
    ended = 'sum(duet_reports_total) + sum(duet_records_total{stage!="gateway", outcome="rejected"})'
    wait(f"{fed} records came to an end", lambda: duet.value(ended) >= fed)
    wait("nothing waits", lambda: duet.value("sum(duet:lag_records)") == 0)
    say(f"{fed} records came to an end")
    return fed


def panels(board):
    for panel in board["panels"]:
        yield panel
        yield from panels(panel) if "panels" in panel else ()


def filled(text, board, namespace):
    """An expression as Grafana would send it, less a fallback at its end."""
    values = {"namespace": namespace, "__rate_interval": RATE}
    for variable in board["templating"]["list"]:
        if variable["type"] == "textbox":
            values[variable["name"]] = variable["query"]
    text = FALLBACK.sub("", text)
    for name, value in values.items():
        text = text.replace(f"${name}", value)
    left = re.search(r"\$\w+", text)
    if left:
        raise Trouble(f"nobody gives {left[0]} a value")
    return text


def series(duet, target, query, since):
    """What comes back that has a figure in it."""
    if target.get("instant"):
        found = duet.api("query", query=query)["result"]
    else:
        found = duet.api("query_range", query=query, start=since, end=time.time(), step=STEP)["result"]
    return [one for one in found if figures(one)]


def figures(one):
    """Those of a series that are numbers."""
    values = (float(value) for _, value in one.get("values") or [one["value"]])
    return [value for value in values if math.isfinite(value)]


def last(one):
    """A series' labels and the last of its figures."""
    labels = " ".join(value for name, value in one["metric"].items() if name != "__name__")
    return f"{labels} {figures(one)[-1]:.4g}".strip()


def look(duet, since, values):
    """Prints a line for each dashboard, and where `values` says so the last figures; returns what is wrong."""
    faults, seen = [], set()
    for path in sorted(K8S.glob("dashboards/*.json")):
        board = json.loads(path.read_text())
        shown = queries = full = 0
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
                if duet.api(f"label/{label}/values", **{"match[]": metric}) != ["test"]:
                    faults.append(f"{path.stem}: the choice of {variable['name']} is empty")
        for panel in panels(board):
            targets = panel.get("targets", [])
            shown += bool(targets)
            for target in targets:
                queries += 1
                place = (path.stem, panel["title"], target["refId"])
                named = f"{path.stem}: {panel['title']}, {target['refId']}"
                seen.add(place)
                try:
                    found = series(duet, target, filled(target["expr"], board, "test"), since)
                except Trouble as error:
                    faults.append(f"{named}: {error}")
                    continue
                full += bool(found)
                if values:
                    print(f"  {named}: {', '.join(map(last, found)) or 'nothing'}")
                if found and place in EMPTY:
                    faults.append(f"{named} has data, take it off the list of empty ones")
                if not found and place not in EMPTY:
                    faults.append(f"{named} has no data: {target['expr']}")
                counted = sum(figures(one)[-1] for one in found)
                if counted < COUNTED.get(place, 0):
                    faults.append(f"{named} counts {counted:.3g}, and there were {COUNTED[place]} at least")
                for label in re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")):
                    if any(label not in one["metric"] for one in found):
                        faults.append(f"{named}: the legend's {label} is no label of what comes back")
        print(f"{board['title']:16} {shown:3} panels  {queries:3} queries  {full:3} with data")
    faults += [f"{', '.join(place)} is on the list of empty queries and on no dashboard" for place in EMPTY.keys() - seen]
    faults += [f"{', '.join(place)} is to count something and on no dashboard" for place in COUNTED.keys() - seen]
    return faults


def unhealthy(duet):
    """Rules that Prometheus has an error for."""
    rules = [rule for group in duet.api("rules")["groups"] for rule in group["rules"]]
    faults = [f"rule {rule['name']}: {rule.get('lastError')}" for rule in rules if rule["health"] != "ok"]
    print(f"{'k8s/rules':16} {len(rules):3} rules evaluated")
    return faults


def needed(binary):
    missing = [f"{name} is not here; apt install {package}" for name, package in
               (("java", "default-jre-headless"), ("prometheus", "prometheus")) if not shutil.which(name)]
    if not binary.exists():
        missing.append(f"{binary} is not built; make build, or set DUET_BIN")
    if not (samples() / FILM).exists():
        missing.append("the sample radiographs are not here; .ci/samples fetches them")
    return missing


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=16, metavar="N", help="how many chest films to feed, from 8 (default: 16)")
    parser.add_argument("--quiet", action="store_true", help="print the result alone")
    parser.add_argument("--values", action="store_true", help="print the last figures of every query, too")
    options = parser.parse_args()
    if not 8 <= options.films <= 9999:
        parser.error("--films is from 8 to 9999")
    binary = pathlib.Path(os.environ.get("DUET_BIN") or deployment.REPOSITORY / "target/debug/duet").absolute()
    missing = needed(binary)
    if missing:
        sys.exit("\n".join(f"k8s/check: {what}" for what in missing))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    begun = time.time()
    say = (lambda _: None) if options.quiet else lambda what: print(f"{time.time() - begun:5.0f} s  {what}", flush=True)
    try:
        with Deployment(binary) as duet:
            duet.format_broker()
            duet.start_broker()
            duet.start_services(audit_rate=0.6)
            say(f"a broker and {len(duet.ports)} services run")
            since = time.time()
            duet.start_prometheus()
            feed(duet, options.films, say)
            duet.wait_for_scrapes()
            time.sleep(6)  # a few more scrapes and evaluations
            faults = unhealthy(duet) + look(duet, since, options.values)
    except Trouble as error:
        sys.exit(f"k8s/check: {error}")
    for (board, panel, reference), why in EMPTY.items():
        print(f"rightly empty    {board}: {panel}, {reference}: {why}")
    if faults:
        sys.exit("".join(f"WRONG            {fault}\n" for fault in faults) + f"k8s/check: {len(faults)} wrong")
    print(f"k8s/check: all is well, {time.time() - begun:.0f} s")


if __name__ == "__main__":
    main()
