"""Films to send, and the account of what became of them."""

import collections
import json
import pathlib
import shutil
import tarfile
import threading

from node import cache
from processes import Failed, call, wait_for

# A radiograph that `.ci/samples` fetches.
CHEST = "samples/pydicom-data-1.0.0/RG1_UNCR.dcm"


class Films:
    """Files that are all different, each used once."""

    def __init__(self, folder, source=None):
        self.folder, self.made = folder, 0
        folder.mkdir()
        self.names = None
        if source and pathlib.Path(source).is_dir():
            self.names = iter(sorted(p for p in pathlib.Path(source).rglob("*") if p.is_file()))
        elif source:
            self.tar = tarfile.open(source)
            self.names = iter(sorted((m for m in self.tar if m.isfile()), key=lambda m: m.name))
        else:
            chest = cache().parent / CHEST
            if not chest.exists():
                raise Failed(f"{chest} is not there: run .ci/samples, or name films of your own by --films")
            self.chest = chest.read_bytes()

    def take(self, count):
        """A new folder with so many films."""
        folder = self.folder / str(self.made)
        folder.mkdir()
        for _ in range(count):
            self.made += 1
            if self.names is None:
                # The same chest, with other last pixels.
                (folder / f"{self.made:05}.dcm").write_bytes(self.chest[:-4] + self.made.to_bytes(4, "little"))
                continue
            film = next(self.names)
            target = folder / f"{self.made:05}-{pathlib.Path(film.name).name}"
            if isinstance(film, pathlib.Path):
                shutil.copy(film, target)
            else:
                target.write_bytes(self.tar.extractfile(film).read())
        return folder


class Account:
    """What was sent, by case id, against what came out."""

    def __init__(self, duet, kafka, films):
        self.duet, self.kafka, self.films, self.sent, self.foreign = duet, kafka, films, [], 0

    def send(self, count):
        folder = self.films.take(count)
        told = call(self.duet, "send", "--ids", folder, env=self.kafka.settings()).stdout
        ids = [line.split()[0] for line in told.splitlines() if line.strip()]
        if len(ids) != count:
            raise Failed(f"{count} films were sent, {len(ids)} case ids told: {told[:300]}")
        self.sent += ids
        shutil.rmtree(folder)

    def send_by_kcat(self, count):
        """By a client that knows nothing of Duet: the value is the file."""
        folder = self.films.take(count)
        for film in sorted(folder.iterdir()):
            self.kafka.kcat("-P", "-t", "duet.images", film)
        self.foreign += count
        shutil.rmtree(folder)

    def outcome(self):
        reports = collections.Counter(json.loads(line)["id"] for line in self.kafka.records("duet.reports", "%s"))
        dead = collections.Counter()
        for line in self.kafka.records("duet.dead-letters", "%h"):
            headers = dict(part.split("=", 1) for part in line.split(",") if "=" in part)
            dead[headers.get("ce_subject", line)] += 1
        return reports, dead

    def settle(self, seconds=300):
        """Waits until as many came out as went in, then holds them against one another: none lost, none doubled."""
        wanted = len(self.sent) + self.foreign
        last = {}

        def arrived():
            reports, dead = self.outcome()
            last["seen"] = f"{sum(reports.values())} reports, {sum(dead.values())} dead letters"
            return sum(reports.values()) + sum(dead.values()) >= wanted

        try:
            wait_for(f"{wanted} films come out", seconds, arrived, 2)
        except Failed as error:
            raise Failed(f"{error}; there are {last.get('seen')}") from None
        reports, dead = self.outcome()
        both = reports + dead
        lost = [case for case in self.sent if case not in both]
        doubled = [case for case, count in both.items() if count > 1]
        others = len(set(both) - set(self.sent))
        if lost or doubled or others != self.foreign:
            raise Failed(f"{len(lost)} lost, {len(doubled)} doubled, {others} of {self.foreign} by the foreign client: {(lost + doubled)[:5]}")
        return f"{wanted} sent, {sum(reports.values())} reports, {sum(dead.values())} dead letters, 0 lost, 0 doubled"


class Flow:
    """Sends films in the background, a few at a time, until it is stopped."""

    def __init__(self, account, count=2, pause=2.0):
        self.account, self.count, self.stopped, self.error = account, count, threading.Event(), None
        self.pause = pause
        self.thread = threading.Thread(target=self.go, daemon=True)

    def go(self):
        try:
            while not self.stopped.is_set():
                self.account.send(self.count)
                self.stopped.wait(self.pause)
        except Exception as error:  # told to who waits
            self.error = error

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.thread.join(120)
        if self.error:
            raise Failed(f"sending stopped: {self.error}")
