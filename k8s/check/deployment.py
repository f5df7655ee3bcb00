"""A running Duet on a real Kafka broker, and a real Prometheus that scrapes it. Nothing of it outlives its `with` block."""

import ctypes
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

import yaml

import metrics

REPOSITORY = metrics.repository()
sys.path.insert(0, str(REPOSITORY / "k8s"))
from kafka_jars import TESTS, jars  # noqa: E402

RULES = REPOSITORY / "k8s/rules/duet.rules.yaml"
# Two triages share the images: one with the model of the folder, one with a server that nobody answers for.
SERVICES = ["gateway", "prepare", "triage", "triage-served", "specialist", "publish", "review"]
# Of a machine that others use as well.
PATIENCE = 180


class Trouble(Exception):
    """What went wrong, in words for who runs the check."""


def free_ports(count):
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]  # held together, so that they differ
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def wait(what, holds, patience=PATIENCE):
    until = time.monotonic() + patience
    while not (found := holds()):
        if time.monotonic() > until:
            raise Trouble(f"after {patience} s still not so: {what}")
        time.sleep(0.5)
    return found


def clean_environment():
    """Ours, without what would set Duet otherwise."""
    return {name: value for name, value in os.environ.items() if not name.startswith("DUET_")}


def end_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: also where this program is killed


class Deployment:
    """Everything in a folder of its own, on free loopback ports."""

    def __init__(self, binary):
        self.binary, self.processes = binary, {}
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="duet-dashboards-"))
        kafka, controller, prometheus, *rest = free_ports(3 + len(SERVICES))
        self.kafka, self.controller, self.prometheus = kafka, controller, prometheus
        self.ports = dict(zip(SERVICES, rest))

    def __enter__(self):
        return self

    def __exit__(self, failure, *_):
        for name in reversed(self.processes):
            self.stop(name)
        if failure is Trouble:
            print(f"what they wrote is kept in {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, name, command, variables=()):
        log = open(self.folder / f"{name}.log", "ab")
        self.processes[name] = subprocess.Popen(
            [str(word) for word in command], cwd=self.folder, env=clean_environment() | dict(variables),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=end_with_parent,
        )
        log.close()

    def stop(self, name):
        process = self.processes[name]
        process.terminate()
        try:
            process.wait(45)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def log(self, name):
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def alive(self, name):
        """Ends the check where a process did."""
        if self.processes[name].poll() is not None:
            raise Trouble(f"{name} ended:\n" + "\n".join(self.log(name).splitlines()[-8:]))
        return True

    # Kafka

    def format_broker(self):
        data = self.folder / "kafka"
        (self.folder / "server.properties").write_text(
            f"""process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{self.controller}
listeners=PLAINTEXT://127.0.0.1:{self.kafka},CONTROLLER://127.0.0.1:{self.controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{self.kafka},CONTROLLER://127.0.0.1:{self.controller}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
"""
        )
        made = call(*self.java(), "kafka.tools.StorageTool", "format", "--standalone", "-t", "duet-tests-of-Kafka-00",
                    "-c", self.folder / "server.properties")
        if made.returncode:
            raise Trouble(f"Kafka's storage cannot be formatted: {made.stderr}")

    def java(self):
        logging = TESTS / "log4j2.properties"
        return ["java", f"-Dlog4j2.configurationFile={logging}", "-Xmx512m", "-cp", jars(cache(), fetch) / "*"]

    def start_broker(self):
        started = "Kafka Server started"
        before = self.log("kafka").count(started) if "kafka" in self.processes else 0
        self.start("kafka", [*self.java(), "kafka.Kafka", self.folder / "server.properties"])
        wait("the broker has started", lambda: self.alive("kafka") and self.log("kafka").count(started) > before)

    # Duet

    def duet(self, *arguments):
        made = call(self.binary, "--config", self.folder / "duet.toml", *arguments, cwd=self.folder, env=clean_environment())
        if made.returncode:
            raise Trouble(f"duet {arguments[0]}: {made.stdout}{made.stderr}")
        return made.stdout

    def start_services(self, audit_rate):
        config = self.folder / "duet.toml"
        (self.folder / "blobs").mkdir()
        config.write_text("")
        entry = self.duet("tokens", "new", "--name", "test", "--token-file", self.folder / "token")
        config.write_text(
            f"""[kafka]
bootstrap = "127.0.0.1:{self.kafka}"
[blob]
url = "file://{self.folder / "blobs"}"
[models]
dir = "{REPOSITORY / "models"}"
[prepare]
pseudonym_key_file = "{self.folder / "pseudonym.key"}"
sealing_key_file = "{self.folder / "sealing.keys"}"
[triage]
audit_rate = {audit_rate}
{entry}"""
        )
        self.duet("topics", "create")
        own = {
            # Of these few films none would be cleared otherwise.
            "triage": {"DUET_TRIAGE_CLEAR_BELOW": "0.99"},
            # Port 9 is discard: nobody listens.
            "triage-served": {"DUET_TRIAGE_BACKEND_URL": "http://127.0.0.1:9/v1", "DUET_TRIAGE_BACKEND_START_WAIT_MS": "0"},
        }
        for name, port in self.ports.items():
            command = [self.binary, "--config", config, "run", name.split("-")[0], "--listen", f"127.0.0.1:{port}"]
            self.start(name, command, own.get(name, {}))
        for name in self.ports:
            # The one without a server never becomes ready, which is to be seen on Flow.
            path = "/healthz" if name == "triage-served" else "/readyz"
            wait(f"{name} answers {path} with 200", lambda: self.alive(name) and self.get(name, path) == 200)

    def get(self, service, path):
        return status(urllib.request.Request(f"http://127.0.0.1:{self.ports[service]}{path}"))

    def post(self, body, with_token=True):
        """One image to the gateway; its answer's status."""
        headers = {"Content-Type": "application/dicom"}
        if with_token:
            headers["Authorization"] = f"Bearer {(self.folder / 'token').read_text().strip()}"
        return status(urllib.request.Request(f"http://127.0.0.1:{self.ports['gateway']}/v1/images", body, headers))

    def kill_decoders(self):
        """Kills the processes that decode for prepare, as a kernel short of memory would."""
        pid = self.processes["prepare"].pid
        of_threads = pathlib.Path(f"/proc/{pid}/task").glob("*/children")
        children = " ".join(path.read_text() for path in of_threads).split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)

    # Prometheus

    def start_prometheus(self):
        rules = yaml.safe_load(RULES.read_text())
        for group in rules["groups"]:
            group.pop("interval", None)  # as often as they are scraped
        (self.folder / "rules.yaml").write_text(yaml.safe_dump(rules))
        targets = [
            {"targets": [f"127.0.0.1:{port}"], "labels": {"namespace": "test", "component": name, "pod": f"duet-{name}-0"}}
            for name, port in self.ports.items()
        ]
        (self.folder / "prometheus.yaml").write_text(yaml.safe_dump({
            "global": {"scrape_interval": "2s", "evaluation_interval": "2s"},
            "rule_files": ["rules.yaml"],
            # As the chart's ServiceMonitor has it.
            "scrape_configs": [{"job_name": "duet", "honor_labels": True, "static_configs": targets}],
        }))
        self.start("prometheus", [
            "prometheus", "--config.file=prometheus.yaml", "--storage.tsdb.path=prometheus", "--log.level=warn",
            f"--web.listen-address=127.0.0.1:{self.prometheus}",
        ])
        wait("Prometheus is ready", lambda: self.alive("prometheus") and status(self.api_request("/-/ready")) == 200)
        self.wait_for_scrapes()

    def wait_for_scrapes(self):
        wait("every service answers Prometheus", lambda: self.value('sum(up{job="duet"})') == len(SERVICES))

    def api_request(self, path, **parameters):
        query = urllib.parse.urlencode(parameters)
        return urllib.request.Request(f"http://127.0.0.1:{self.prometheus}{path}?{query}")

    def api(self, path, **parameters):
        try:
            with urllib.request.urlopen(self.api_request(f"/api/v1/{path}", **parameters), timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise Trouble(json.load(error).get("error", str(error))) from error

    def value(self, query):
        result = self.api("query", query=query)["result"]
        return float(result[0]["value"][1]) if result else 0.0


def status(request):
    """An answer's status; None where nobody answers."""
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def call(*command, **options):
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)


def cache():
    return pathlib.Path(os.environ.get("DUET_CACHE") or pathlib.Path.home() / ".cache/duet")


def fetch(*command):
    made = call(*command)
    if made.returncode:
        raise Trouble(f"Kafka's jars cannot be fetched: {made.stdout}{made.stderr}")
