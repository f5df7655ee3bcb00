#!/usr/bin/env python3
"""Duet's chart on a real Kubernetes of one node, with a real Kafka outside of it: `make test-k8s`.

Brings the cluster up on this machine, builds the image, installs the chart, sends films, breaks things while films flow, and
counts. Needs root. Everything it starts, mounts and adds is removed at the end, also after a failure or Ctrl-C.
"""

import argparse
import contextlib
import fcntl
import json
import os
import pathlib
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

import yaml

from films import Account, Films, Flow
from kafka import BOOTSTRAP, Kafka, USER, certificate
from node import ADDRESS, HERE, Node, build, cache, port_free
from processes import Failed, Run, call, wait_for

REPOSITORY = HERE.parents[1]
CHART, DOCKERFILE = REPOSITORY / "k8s/chart", REPOSITORY / "k8s/image/Dockerfile"
NAMESPACE, IMAGE, TAG = "duet", "localhost/duet", "0.1.0"
SERVICES = ("gateway", "prepare", "triage", "specialist", "publish", "review")
PROMETHEUS = "127.0.0.1:19090"
# What must be on this machine, by the package that has it.
NEEDS = {"etcd": "etcd-server", "containerd": "containerd", "runc": "runc", "buildah": "buildah", "debootstrap": "debootstrap", "iptables": "iptables",
         "conntrack": "conntrack", "ip": "iproute2", "java": "default-jre-headless", "kcat": "kcat", "prometheus": "prometheus", "openssl": "openssl"}


class Test:
    def __init__(self, run, options):
        self.run, self.options = run, options
        self.node, self.kafka = Node(run), Kafka(run)
        self.table, self.figures = [], []
        self.set = []

    @contextlib.contextmanager
    def step(self, name):
        print(f"....         {name}", flush=True)
        begun, told = time.monotonic(), []
        try:
            yield told.append
        except BaseException as error:
            self.table.append((name, time.monotonic() - begun, "FAILED"))
            print(f"FAILED       {name}: {error}", flush=True)
            raise
        seconds = time.monotonic() - begun
        self.table.append((name, seconds, "; ".join(told)))
        print(f"ok   {seconds:6.1f} s {name}" + "".join(f"\n             {line}" for line in told), flush=True)

    def all(self):
        self.cluster()
        self.image()
        self.broker()
        self.install()
        self.flows()
        if not self.options.short:
            self.changes()
        if self.options.full:
            self.memory_kill()
            self.scraped()
            self.measured()
            self.failures()

    def cluster(self):
        with self.step("binaries of Kubernetes, CoreDNS and helm are there"):
            build()
        with self.step("the cluster is up and its node Ready") as tell:
            self.node.start()
            node = self.node.get("nodes")["items"][0]["status"]["nodeInfo"]
            tell(f"Kubernetes {node['kubeletVersion']}, {node['containerRuntimeVersion']}")
        with self.step("a namespace that enforces Pod Security \"restricted\" refuses a pod that may run as root") as tell:
            labels = {"pod-security.kubernetes.io/enforce": "restricted"}
            self.node.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
            wait_for("the service account", 30, lambda: self.node.kubectl("-n", NAMESPACE, "get", "serviceaccount", "default"))
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "refused", "namespace": NAMESPACE},
                   "spec": {"containers": [{"name": "x", "image": "x"}]}}
            done = self.node.kubectl("create", "--dry-run=server", "-f", "-", input=yaml.safe_dump(pod), check=False)
            expect(done.returncode and 'violates PodSecurity "restricted' in done.stderr, f"expected a refusal, got {done.stdout}{done.stderr}")
            tell(done.stderr.strip()[:160])

    def image(self):
        with self.step("the image is built from its Dockerfile and loaded") as tell:
            base(self.node)
            context = self.run.folder / "context"
            binary = context / "src/target/release/duet"
            binary.parent.mkdir(parents=True)
            shutil.copy(self.options.duet, binary)
            call("strip", binary)
            self.duet = binary
            self.node.buildah("bud", "--isolation", "chroot", "--network", "host", "--pull-never", "--ignorefile", f"{DOCKERFILE}.dockerignore",
                              "--build-context", f"build={context}", "-f", DOCKERFILE, "-t", f"{IMAGE}:{TAG}", REPOSITORY)
            size = self.node.load(f"{IMAGE}:{TAG}", f"{IMAGE}:{TAG}")
            tell(f"{size / 1e6:.0f} MB unpacked, of them {binary.stat().st_size / 1e6:.0f} the binary")
            self.figures.append(("image", f"{size / 1e6:.0f} MB"))

    def broker(self):
        with self.step("a Kafka broker with TLS and SCRAM-SHA-512 runs outside the cluster"):
            self.kafka.start()
            env = self.kafka.settings("wrong")
            done = call(self.duet, "topics", "create", env=env, check=False, timeout=120)
            expect(done.returncode, "a wrong password was let in")

    def secrets(self):
        at = self.run.folder
        certificate(at, "web-authority")
        certificate(at, "web", "web-authority", "DNS:duet-gateway.duet.svc,DNS:duet-review.duet.svc")
        call(self.duet, "keys", "new", at / "sealing.keys", env=self.kafka.settings())
        token = call(self.duet, "tokens", "new", "--name", "test", "--may", "send", env=self.kafka.settings())
        entry = dict(line.split(" = ") for line in (token.stdout + token.stderr).splitlines() if " = " in line)
        made = {
            "duet-pseudonym-key": {"key": secrets.token_hex(32)}, "duet-sealing-keys": {"keys": (at / "sealing.keys").read_text()},
            "duet-tls": {"tls.crt": (at / "web.pem").read_text(), "tls.key": (at / "web.key").read_text()},
            "duet-kafka": {"username": USER, "password": self.kafka.password}, "duet-kafka-authority": {"ca.crt": (at / "kafka/authority.pem").read_text()},
        }
        for name, data in made.items():
            self.node.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE}, "stringData": data})
        blobs = at / "blobs"
        blobs.mkdir()
        os.chown(blobs, 65532, 65532)
        self.node.apply({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "blobs"},
                         "spec": {"capacity": {"storage": "10Gi"}, "accessModes": ["ReadWriteMany"], "hostPath": {"path": str(blobs)}}})
        small = {"cpu": "20m"}
        services = {name: {"replicas": 2 if name in ("gateway", "triage") else 1, "resources": {"requests": small}} for name in SERVICES}
        values = {
            "image": {"repository": IMAGE, "tag": TAG, "pullPolicy": "Never"},
            "kafka": {"bootstrap": BOOTSTRAP, "partitions": 4, "replicationFactor": 1, "createTopics": True, "security": {
                "protocol": "sasl_ssl", "mechanism": "SCRAM-SHA-512", "user": {"secret": "duet-kafka"}, "authority": {"secret": "duet-kafka-authority"}}},
            "blob": {"from": "claim", "claim": {"size": "10Gi"}}, "tls": {"secret": "duet-tls"}, "services": services,
            "config": {"http": {"tokens": [{"name": "test", "sha256": entry["sha256"].strip('"'), "permissions": ["send"]}]}},
        }
        (at / "values.yaml").write_text(yaml.safe_dump(values))

    def helm(self, verb, *settings, **options):
        # --set makes a text of a fraction.
        words = [word for setting in settings for word in ("--set-json" if ".clear_below=" in setting else "--set", setting)]
        return self.node.helm(verb, "duet", CHART, "-n", NAMESPACE, "-f", self.run.folder / "values.yaml", *words, **options)

    def install(self):
        with self.step("a wrong value is refused by name"):
            self.secrets()
            done = self.helm("install", "config.triage.audit_rat=0.1", check=False)
            expect(done.returncode and "audit_rat" in done.stderr, f"expected a refusal, got {done.stdout}{done.stderr}")
        with self.step("helm install; every pod becomes Ready") as tell:
            self.helm("install")
            self.ready(300)
            starts = sorted(self.start_seconds())
            tell(f"{len(starts)} pods; from a container's start to Ready {starts[0]:.0f} to {starts[-1]:.0f} s")
            self.figures.append(("start to Ready", f"{starts[0]:.0f} to {starts[-1]:.0f} s"))
        with self.step("the API server takes every resource, by server-side dry run") as tell:
            text = self.node.helm("template", "duet", CHART, "-n", NAMESPACE, "-f", self.run.folder / "values.yaml").stdout
            done = self.node.kubectl("-n", NAMESPACE, "apply", "--server-side", "--dry-run=server", "--force-conflicts", "-f", "-", input=text)
            expect("Warning" not in done.stderr, done.stderr)
            tell(f"{len(done.stdout.splitlines())} resources, no warning")
        films = Films(self.run.folder / "films", self.options.films)
        self.account = Account(self.duet, self.kafka, films)

    def pods(self, component=None):
        selector = "app.kubernetes.io/name=duet" + (f",app.kubernetes.io/component={component}" if component else ",app.kubernetes.io/component!=topics")
        pods = self.node.get("pods", "-n", NAMESPACE, "-l", selector)["items"]
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def ready(self, seconds=240):
        """Waits until every Deployment runs what it is told to, and all of it is Ready."""
        def settled():
            self.run.alive()
            waiting = []
            for item in self.node.get("deployments", "-n", NAMESPACE)["items"]:
                wanted, status = item["spec"]["replicas"], item["status"]
                if status.get("observedGeneration") != item["metadata"]["generation"] or any(
                    status.get(key, 0) != wanted for key in ("replicas", "updatedReplicas", "readyReplicas")
                ):
                    waiting.append(item["metadata"]["name"])
            if waiting:
                raise Failed(f"not yet: {', '.join(waiting)}")
            return True
        try:
            wait_for("every pod is Ready", seconds, settled, 1)
        except Failed as error:
            raise Failed(f"{error}\n{self.why()}") from None

    def why(self):
        """What pods that are not Ready say."""
        told = []
        for pod in self.pods():
            for status in pod["status"].get("containerStatuses", []):
                if not status["ready"]:
                    name = pod["metadata"]["name"]
                    log = self.node.kubectl("-n", NAMESPACE, "logs", name, "--tail=5", check=False)
                    told.append(f"{name}: {json.dumps(status['state'])} {(log.stdout + log.stderr)[-800:]}")
            if not pod["status"].get("containerStatuses"):
                told.append(f"{pod['metadata']['name']}: {json.dumps(pod['status'].get('conditions'))[-500:]}")
        events = self.node.kubectl("-n", NAMESPACE, "get", "events", "--field-selector=type=Warning", check=False).stdout
        return "\n".join(told) + "\n" + events[-1500:]

    def start_seconds(self):
        for pod in self.pods():
            started = pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
            ready = next(c["lastTransitionTime"] for c in pod["status"]["conditions"] if c["type"] == "Ready")
            yield moment(ready) - moment(started)

    def flows(self):
        count = self.options.count
        with self.step(f"{count} films by `duet send`: one report each") as tell:
            self.account.send(count)
            begun = time.monotonic()
            tell(self.account.settle(600))
            tell(f"{count / (time.monotonic() - begun):.1f} films/s")
        with self.step("5 films by a foreign client: one report each") as tell:
            self.account.send_by_kcat(5)
            tell(self.account.settle())

    def changes(self):
        with self.step("films flow while helm upgrade sets another threshold") as tell, Flow(self.account):
            before = {pod["metadata"]["name"] for pod in self.pods()}
            self.set.append("config.triage.clear_below=0.05")
            self.helm("upgrade", *self.set)
            self.ready()
            kept = before & {pod["metadata"]["name"] for pod in self.pods()}
            expect(not kept, f"not rolled: {kept}")
            tell(f"{len(before)} pods rolled")
        self.nothing_lost()
        with self.step("a pod of each service is deleted while films flow") as tell, Flow(self.account):
            for name in SERVICES:
                pod = self.pods(name)[0]["metadata"]["name"]
                self.node.kubectl("-n", NAMESPACE, "delete", "pod", pod)
            self.ready()
        self.nothing_lost()
        with self.step("of two pods one may be evicted, the other is kept by the disruption budget") as tell, Flow(self.account):
            first, second = (pod["metadata"]["name"] for pod in self.pods("triage"))
            expect(self.evict(first).returncode == 0, "the first eviction was refused")
            refused = self.evict(second)
            expect("disruption budget" in refused.stderr, f"the second was not refused: {refused.stdout}{refused.stderr}")
            tell(refused.stderr.strip()[:160])
            self.ready()
        self.nothing_lost()
        with self.step("specialist goes from 1 to 2 and back") as tell, Flow(self.account):
            for replicas in (2, 1):
                self.node.kubectl("-n", NAMESPACE, "scale", "deployment/duet-specialist", f"--replicas={replicas}")
                self.ready()
        self.nothing_lost()

    def nothing_lost(self):
        with self.step("nothing lost, nothing doubled") as tell:
            tell(self.account.settle(600))

    def evict(self, pod):
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": NAMESPACE}}
        return self.node.kubectl("create", "--raw", f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction", "-f", "-", input=json.dumps(body), check=False)

    def memory_kill(self):
        with self.step("specialist is killed for memory, and goes on once it has enough") as tell, Flow(self.account):
            self.helm("upgrade", *self.set, "services.specialist.resources.limits.memory=40Mi", "services.specialist.resources.requests.memory=20Mi")
            wait_for("a container is OOMKilled", 180, self.oom_killed)
            self.helm("upgrade", *self.set)
            self.ready()
            tell("seen OOMKilled at a limit of 40 MiB")
        self.nothing_lost()

    def oom_killed(self):
        for pod in self.pods("specialist"):
            for status in pod["status"].get("containerStatuses", []):
                if "OOMKilled" in json.dumps([status.get("lastState"), status.get("state")]):
                    return True
        return False

    def scraped(self):
        with self.step("Prometheus finds the pods by the ServiceMonitor's labels; every target is up") as tell:
            self.prometheus()
            pods = len(self.pods())

            def up():
                self.run.alive()
                targets = asked("targets")["activeTargets"]
                last = sorted({target["lastError"] for target in targets} - {""})
                if len(targets) != pods or any(target["health"] != "up" for target in targets):
                    raise Failed(f"{len(targets)} targets of {pods} pods, {last}")
                return True

            wait_for("targets are up", 90, up, 2)
            tell(f"{pods} targets of {pods} pods are up, job {sorted({t['labels']['job'] for t in asked('targets')['activeTargets']})}")

    def prometheus(self):
        """As the Prometheus Operator would be told by the chart's own ServiceMonitor."""
        text = self.node.helm("template", "duet", CHART, "-n", NAMESPACE, "-f", self.run.folder / "values.yaml", "--set", "monitoring.serviceMonitor=true").stdout
        monitor = next(d for d in yaml.safe_load_all(text) if d and d["kind"] == "ServiceMonitor")["spec"]
        jobs = []
        for endpoint in monitor["endpoints"]:
            # What the Operator would have Prometheus discover; Debian's is built without that, and reads it from a file.
            file = self.run.folder / f"targets-{endpoint['port']}.json"
            file.write_text(json.dumps(self.targets(monitor, endpoint["port"])))
            jobs.append({
                "job_name": endpoint["port"], "scheme": endpoint.get("scheme", "http"), "metrics_path": endpoint["path"], "scrape_interval": "5s",
                "honor_labels": endpoint["honorLabels"], "file_sd_configs": [{"files": [str(file)], "refresh_interval": "5s"}],
                "tls_config": {"insecure_skip_verify": endpoint.get("tlsConfig", {}).get("insecureSkipVerify", False)},
            })
        at = self.run.folder
        (at / "prometheus.yaml").write_text(yaml.safe_dump({"scrape_configs": jobs}))
        env = {"no_proxy": f"{ADDRESS},127.0.0.1,10.88.77.0/24"}
        self.run.start("prometheus", "prometheus", f"--config.file={at}/prometheus.yaml", f"--storage.tsdb.path={at}/prometheus",
                       f"--web.listen-address={PROMETHEUS}", env=env)

    def targets(self, monitor, port):
        """The pods behind every Service that the ServiceMonitor selects, at a port of this name."""
        found = []
        selector = ",".join(f"{key}={value}" for key, value in monitor["selector"]["matchLabels"].items())
        for service in self.node.get("services", "-n", NAMESPACE, "-l", selector)["items"]:
            of_service = f"kubernetes.io/service-name={service['metadata']['name']}"
            for piece in self.node.get("endpointslices", "-n", NAMESPACE, "-l", of_service)["items"]:
                for number in [p["port"] for p in piece["ports"] or [] if p["name"] == port]:
                    found += [{"targets": [f"{one['addresses'][0]}:{number}"], "labels": {
                        "pod": one["targetRef"]["name"], "namespace": NAMESPACE, "job": service["metadata"]["labels"][monitor["jobLabel"]],
                    }} for one in piece["endpoints"] or []]
        return found

    def failures(self):
        """Each is a release of its own, so that the one that works goes on."""
        cases = [
            ("a Secret that is not there", ["pseudonymKey.secret=no-such-key"], "prepare", "no-such-key"),
            ("an image tag that is not there", ["image.tag=no-such-tag"], "publish", "no-such-tag"),
            ("a wrong Kafka password", ["kafka.security.user.passwordKey=wrong"], "publish", "SaslAuthenticationFailed|authentication|credential|password|refused"),
        ]
        wrong = {"username": USER, "password": self.kafka.password, "wrong": "wrong"}
        self.node.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "duet-kafka", "namespace": NAMESPACE}, "stringData": wrong})
        for name, settings, service, words in cases:
            with self.step(f"{name} is told by name") as tell:
                self.helm("upgrade", *self.set, *settings)
                tell(wait_for("it is told", 150, lambda: self.told(service, words), 2))
                self.helm("upgrade", *self.set)
                self.ready()

    def told(self, service, words):
        for pod in self.pods(service):
            name = pod["metadata"]["name"]
            if all(status["ready"] for status in pod["status"].get("containerStatuses", [{"ready": False}])):
                continue
            log = self.node.kubectl("-n", NAMESPACE, "logs", name, "--tail=3", check=False).stdout
            events = self.node.kubectl("-n", NAMESPACE, "get", "events", f"--field-selector=involvedObject.name={name},type=Warning", "-o",
                                       "jsonpath={range .items[*]}{.message}{\"\\n\"}{end}", check=False).stdout
            for line in (log + events).splitlines():
                if any(word.lower() in line.lower() for word in words.split("|")):
                    return line[:220]
        return None

    def measured(self):
        with self.step("each pod's memory and CPU, idle and under load") as tell:
            time.sleep(35)
            idle = self.usage("30s")
            begun = time.monotonic()
            self.account.send(self.options.count)
            time.sleep(5)
            self.account.settle(900)
            seconds = time.monotonic() - begun
            load = self.usage(f"{max(15, int(seconds))}s")
            tell(f"under load {self.options.count / seconds:.2f} films/s")
            for pod in sorted(load):
                (before, idling), (memory, working) = idle.get(pod, (0, 0)), load[pod]
                tell(f"{pod:32} idle {before:5.0f} MiB {idling:5.2f} cores, load {memory:5.0f} MiB {working:5.2f} cores")

    def usage(self, span):
        memory = by_pod(f"max_over_time(process_resident_memory_bytes{{namespace='{NAMESPACE}'}}[{span}]) / 1048576")
        cpu = by_pod(f"rate(process_cpu_seconds_total{{namespace='{NAMESPACE}'}}[{span}])")
        return {pod: (memory[pod], cpu.get(pod, 0.0)) for pod in memory}

    def summary(self):
        print()
        width = max((len(name) for name, _, _ in self.table), default=0)
        for name, seconds, told in self.table:
            print(f"{name:{width}} {seconds:7.1f} s  {told.split(chr(10))[0][:120]}")


def base(node):
    """The Dockerfile's base, made of Debian's packages where no registry is at hand, under the very name that it asks for."""
    archive = cache() / "debian-12.tar"
    if not archive.exists():
        root = node.folder / "debian"
        call("debootstrap", "--variant=minbase", "bookworm", root, "http://deb.debian.org/debian")
        shutil.rmtree(root / "var/cache/apt/archives", ignore_errors=True)
        call("tar", "-C", root, "-cf", archive.with_suffix(".new"), "--exclude=./proc/*", "--exclude=./sys/*", ".")
        archive.with_suffix(".new").rename(archive)
        shutil.rmtree(root)
    container = node.buildah("from", "scratch").stdout.strip()
    node.buildah("add", container, archive, "/")
    node.buildah("commit", "--rm", container, "docker.io/library/debian:12-slim")


def expect(holds, otherwise):
    if not holds:
        raise Failed(otherwise)


def moment(text):
    return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ"))


def asked(path, **query):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{PROMETHEUS}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=10) as answer:
        return json.load(answer)["data"]


def by_pod(query):
    return {row["metric"]["pod"]: float(row["value"][1]) for row in asked("query", query=query)["result"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--duet", type=pathlib.Path, default=os.environ.get("DUET_BIN") or REPOSITORY / "target/debug/duet", help="the binary that goes into the image")
    parser.add_argument("--films", help="a folder or a .tar of films that are all different; else copies of one chest radiograph")
    parser.add_argument("--count", type=int, default=20, help="films of the first step")
    parser.add_argument("--short", action="store_true", help="install and send, and break nothing")
    parser.add_argument("--full", action="store_true", help="also a kill for memory, Prometheus, measured pods, and failures told by name")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("k8s/cluster: this needs root: it makes network devices, mounts and cgroups")
    missing = [package for command, package in NEEDS.items() if not shutil.which(command)]
    if missing:
        sys.exit(f"k8s/cluster: missing: {' '.join(missing)} (names of Debian's packages); .ci/setup k8s installs them")
    if not pathlib.Path(options.duet).exists():
        sys.exit(f"k8s/cluster: {options.duet} is not there: make build, or set DUET_BIN")
    # Two runs would remove one another's devices. Held until the process ends.
    lock = pathlib.Path("/run/lock/duet-k8s").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit("k8s/cluster: another run is going on, or still cleans up")
    for port in (12379, 19092, 19090):
        if not port_free("127.0.0.1", port):
            sys.exit(f"k8s/cluster: port {port} is taken; is another run going on?")
    # As Ctrl-C, so that everything is removed.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    run = Run(tempfile.mkdtemp(prefix="duet-k8s-", dir="/var/tmp"))
    test = Test(run, options)
    failed = None
    try:
        test.all()
    except KeyboardInterrupt:
        failed = "interrupted"
    except (Failed, subprocess.TimeoutExpired) as error:
        failed = error
    finally:
        run.close()
    test.summary()
    sys.exit(f"k8s/cluster: {failed}" if failed else 0)


if __name__ == "__main__":
    main()
