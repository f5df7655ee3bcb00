#!/usr/bin/env python3
"""Everything about k8s/ that can be shown without a cluster. Ends with 1 where something is wrong or could not be checked."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

try:
    import yaml
except ImportError:
    sys.exit("k8s/check: Python's yaml is not here: apt install python3-yaml, or pip install pyyaml")

import metrics
import schemas

REPOSITORY = metrics.repository()
K8S = REPOSITORY / "k8s"
CHART, RULES = K8S / "chart", K8S / "rules"
HOW = {
    "helm": "go install helm.sh/helm/v4/cmd/helm@v4.2.4",
    "kubeconform": "go install github.com/yannh/kubeconform/cmd/kubeconform@v0.7.0",
    "promtool": "apt install prometheus",
}
# Who may use the gateway, which no preset can say.
TOKEN = '{"name": "test", "sha256": "' + "0" * 64 + '", "permissions": ["send"]}'
ACCESS = ["config.http={\"tokens\": [" + TOKEN + "]}", "tls.secret=duet-tls"]
# Each is rendered, validated and looked through: values files and single values.
RENDERED = {
    "defaults": ([], ["kafka.bootstrap=kafka:9092", "blob.s3.bucket=duet"]),
    "edge": (["edge"], []),
    "hospital": (["hospital"], []),
    "multi-site": (["multi-site"], []),
    "edge with Strimzi": (["edge"], ["kafka.mode=strimzi", "kafka.strimzi.authentication=tls"]),
    "hospital with mutual TLS": (["hospital"], ["kafka.strimzi.authentication=tls", "autoscaling.by=cpu"]),
    "models from a claim": (["multi-site"], ["models.from=claim", "models.claim.name=models", "models.claim.subPath=v1"]),
    "models fetched": (["multi-site"], ["models.from=fetch", "models.fetch.url=https://models/m.tar.gz", f"models.fetch.sha256={'0' * 64}"]),
    "SCRAM without TLS": (["multi-site"], ["kafka.security.protocol=sasl_plaintext", "kafka.security.mechanism=SCRAM-SHA-256", "blob.from=claim"]),
    "PLAIN": (["multi-site"], ["kafka.security.mechanism=PLAIN"]),
    "behind an ingress": (["hospital"], ["tls.secret=", 'config.http={"tokens": [], "behind_proxy": true, "hosts": ["duet.example.org"]}']),
    "client certificates": (["multi-site"], ["tls.authorityKey=ca.crt"]),
    "served generalist": (["hospital", "served-generalist"], []),
    "served generalist, one pod": (["edge", "served-generalist"], []),
    "a section set": (["edge"], ['config.triage={"audit_rate": 0.1}', 'config.prepare={"limits": {"max_pixels": 1000000}}', 'config.specialist={"models": ["cxr-findings"]}']),
}
# Each is refused with these words.
REFUSED = [
    (["edge"], "triag.model=x", "'triag' not allowed"),
    (["edge"], "config.triage.audit_rat=0.1", "'audit_rat' not allowed"),
    (["edge"], "config.triage.audit_rate=2", "/config/triage/audit_rate"),
    (["edge"], "services.triage.replica=2", "'replica' not allowed"),
    (["edge"], "kafka.mode=kafka", "/kafka/mode"),
    (["edge"], "mode=services", "kafka.mode is embedded"),
    (["edge"], "services.all.replicas=2", "services.all.replicas"),
    (["multi-site"], "kafka.bootstrap=", "kafka.bootstrap is empty"),
    (["multi-site"], "kafka.bootstrap=kafka", "/kafka/bootstrap"),
    (["multi-site"], "kafka.security.user.secret=", "kafka.security.user.secret is empty"),
    (["multi-site"], 'kafka.security={"protocol": "sasl_plaintext", "mechanism": "PLAIN", "user": {"secret": "u"}}', "is PLAIN without TLS"),
    (["multi-site"], "blob.s3.bucket=", "blob.s3.bucket is empty"),
    (["multi-site"], "services.specialist.scaling.max=13", "services.specialist may have 13 replicas, but kafka.partitions is 12"),
    (["multi-site"], "models.from=claim", "models.claim.name is empty"),
    (["multi-site"], "models.from=fetch", "models.fetch needs both"),
    (["hospital"], "kafka.createTopics=true", "kafka.createTopics is for"),
    (["hospital"], "pseudonymKey.secret=", "/pseudonymKey/secret"),
    (["hospital"], "sealingKeys.secret=", "/sealingKeys/secret"),
    (["hospital"], 'config.http={"tokens": []}', "config.http.tokens is empty"),
    (["hospital"], 'config.http={"tokens": [{"name": "RIS", "sha256": "0"}]}', "/config/http/tokens/0"),
    (["edge"], "tls.secret=", "tls.secret is empty"),
    (["edge"], "config.triage.backend.url=vllm:8000", "/config/triage/backend/url"),
    (["edge"], "config.triage.backend.api_key=x", "'api_key' not allowed"),
]


class Report:
    """What was checked, what is wrong, and what could not be checked."""

    def __init__(self):
        self.wrong = self.unchecked = 0

    def done(self, what):
        print(f"ok           {what}")

    def fault(self, what, why=""):
        self.wrong += 1
        print(f"WRONG        {what}" + "".join(f"\n             {line}" for line in str(why).splitlines()))

    def skip(self, what):
        self.unchecked += 1
        print(f"NOT CHECKED  {what}")

    def verdict(self, what, faults):
        self.fault(what, "\n".join(faults)) if faults else self.done(what)

    def has(self, tool, what):
        if shutil.which(tool):
            return True
        self.skip(f"{what}: {tool} is not here; {HOW[tool]}")
        return False


def call(*command, **options):
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)


def helm(verb, presets, values=()):
    files = [word for name in presets for word in ("-f", CHART / "presets" / f"{name}.yaml")]
    sets = [word for value in [*ACCESS, *values] for word in ("--set-json" if "={" in value else "--set", value)]
    name = ["duet"] if verb == "template" else []
    return call("helm", verb, *name, CHART, *files, *sets)


def complaint(text):
    return "\n".join(line for line in text.splitlines() if "symbolic link" not in line)


def chart(report):
    if not report.has("helm", "the chart"):
        return
    rendered = {}
    for name, (presets, values) in RENDERED.items():
        for verb in ("lint", "template"):
            made = helm(verb, presets, values)
            if made.returncode:
                report.fault(f"helm {verb}, {name}", complaint(made.stderr + made.stdout))
            elif verb == "template":
                rendered[name] = made.stdout
    if len(rendered) == len(RENDERED):
        report.done(f"helm lint and template: {', '.join(rendered)}")
    faults = []
    for presets, value, words in REFUSED:
        made = helm("template", presets, [value])
        if made.returncode == 0 or words not in made.stderr:
            faults.append(f"--set {value}: expected {words!r}, got {complaint(made.stderr).strip() or 'no complaint'}")
    report.verdict(f"{len(REFUSED)} wrong values are refused by name", faults)
    validate(report, rendered)
    documents = {name: [d for d in yaml.safe_load_all(text) if d] for name, text in rendered.items()}
    report.verdict("every pod keeps to Pod Security's \"restricted\", read-only and without a token", confined(documents))
    included(report, documents)
    configurations(report, documents)


def validate(report, rendered):
    if not report.has("kubeconform", "schemas of the resources"):
        return
    folder, missing = schemas.ready(lambda text: print(f"             {text}"))
    for what in missing:
        report.skip(what)
    for name, text in rendered.items():
        location = f"{folder}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
        skip = ["-ignore-missing-schemas"] if missing else []
        made = call("kubeconform", "-strict", "-summary", *skip, "-schema-location", location, "-", input=text)
        if made.returncode:
            report.fault(f"kubeconform -strict, {name}", made.stdout + made.stderr)
        else:
            report.done(f"kubeconform -strict, {name}: {made.stdout.strip().splitlines()[-1]}")


def pods(documents):
    for name, resources in documents.items():
        for resource in resources:
            if resource["kind"] in ("Deployment", "Job"):
                yield f"{name}: {resource['metadata']['name']}", resource["spec"]["template"]["spec"]


def confined(documents):
    faults = []
    for name, pod in pods(documents):
        of_pod = pod["securityContext"]
        wanted = [
            (of_pod.get("runAsNonRoot") is True and of_pod.get("runAsUser", 0) > 0, "may run as root"),
            (of_pod.get("seccompProfile", {}).get("type") == "RuntimeDefault", "has no seccomp profile"),
            (pod.get("automountServiceAccountToken") is False, "gets a token"),
            (all(set(v) & {"configMap", "emptyDir", "secret", "persistentVolumeClaim"} for v in pod["volumes"]), "has a volume of another kind"),
            (not set(pod) & {"hostNetwork", "hostPID", "hostIPC"}, "shares the host's"),
        ]
        for container in pod["containers"] + pod.get("initContainers", []):
            own = container["securityContext"]
            wanted += [
                (own.get("allowPrivilegeEscalation") is False, "may gain privileges"),
                (own.get("readOnlyRootFilesystem") is True, "may write to its image"),
                (own.get("capabilities") == {"drop": ["ALL"]}, "keeps capabilities"),
                ("memory" in container["resources"].get("limits", {}), "has no limit of memory"),
            ]
        faults += [f"{name} {what}" for holds, what in wanted if not holds]
    return faults


def included(report, documents):
    """The rules and dashboards in the chart are the very files."""
    faults = []
    hospital = documents.get("hospital", [])
    rules = [d["spec"] for d in hospital if d["kind"] == "PrometheusRule"]
    if rules != [yaml.safe_load((RULES / "duet.rules.yaml").read_text())]:
        faults.append("the PrometheusRule is not k8s/rules/duet.rules.yaml")
    found = {k: json.loads(v) for d in hospital if d["kind"] == "ConfigMap" for k, v in d["data"].items() if k.endswith(".json")}
    if found != {f"duet-{p.name}": json.loads(p.read_text()) for p in K8S.glob("dashboards/*.json")}:
        faults.append("the ConfigMaps are not k8s/dashboards/*.json")
    report.verdict("the chart includes k8s/rules and k8s/dashboards as they are", faults)


def configurations(report, documents):
    """Duet itself takes the configuration that the chart makes."""
    binary = pathlib.Path(os.environ.get("DUET_BIN") or REPOSITORY / "target/debug/duet")
    if not binary.exists():
        report.skip(f"`duet config check` of the chart's duet.toml: {binary} is not built; make build, or set DUET_BIN")
        return
    faults = []
    for name, resources in documents.items():
        text = next(d["data"]["duet.toml"] for d in resources if d["kind"] == "ConfigMap" and "duet.toml" in d["data"])
        settings = {}
        for _, pod in pods({name: resources}):
            for variable in pod["containers"][0]["env"]:
                if variable["name"].startswith("DUET_") and variable["name"] != "DUET_CONFIG":
                    # A Secret's value has every kind of quote.
                    settings[variable["name"]] = variable.get("value", "a'b\"c\\d$")
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "duet.toml"
            file.write_text(text)
            clean = {k: v for k, v in os.environ.items() if not k.startswith("DUET_")}
            made = call(binary, "config", "check", file, env=clean | settings)
        if made.returncode:
            faults.append(f"{name}: {made.stdout}{made.stderr}")
    report.verdict(f"`duet config check` takes duet.toml of {len(documents)} renderings", faults)


def queries(report):
    known = metrics.Metrics(REPOSITORY)
    rules = [rule for group in yaml.safe_load((RULES / "duet.rules.yaml").read_text())["groups"] for rule in group["rules"]]
    known.recorded = {rule["record"]: {"stage"} if rule["record"] == "duet:lag_records" else set() for rule in rules if "record" in rule}
    named = [(f"rule {rule.get('alert') or rule['record']}", rule["expr"]) for rule in rules]
    boards = []
    for path in sorted(K8S.glob("dashboards/*.json")):
        board = json.loads(path.read_text())
        for panel in board["panels"]:
            for target in panel.get("targets", []):
                boards.append((f"{path.stem}: {panel['title']}", target["expr"]))
    faults = [f"{place}: {fault}" for place, query in named + boards for fault in known.faults(query)]
    report.verdict(f"{len(named)} rules and {len(boards)} queries of dashboards name metrics and labels that metrics.rs has", faults)
    used = " ".join(query for _, query in named + boards)
    unused = [name for name in known.labels if name.startswith("duet_") and name not in used]
    report.verdict("every metric of Duet's own is on a dashboard or in a rule", [f"{name} is in none" for name in unused])
    tested(report, rules)
    if not report.has("promtool", "rules and queries"):
        return
    for verb, file in (("check", "duet.rules.yaml"), ("test", "duet.rules.test.yaml")):
        made = call("promtool", verb, "rules", file, cwd=RULES)
        report.fault(f"promtool {verb} rules", made.stdout + made.stderr) if made.returncode else report.done(f"promtool {verb} rules {file}")
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        filled = [(p, q.replace("$__rate_interval", "5m").replace("$namespace", ".*").replace("$carbon", "400")) for p, q in boards]
        yaml.safe_dump({"groups": [{"name": p + str(i), "rules": [{"record": "x", "expr": q}]} for i, (p, q) in enumerate(filled)]}, file)
        file.flush()
        made = call("promtool", "check", "rules", file.name)
    report.verdict("Prometheus can read every query of the dashboards", [made.stderr] if made.returncode else [])


def tested(report, rules):
    cases = [case for test in yaml.safe_load((RULES / "duet.rules.test.yaml").read_text())["tests"] for case in test.get("alert_rule_test", [])]
    faults = []
    for alert in (rule["alert"] for rule in rules if "alert" in rule):
        outcomes = {bool(case["exp_alerts"]) for case in cases if case["alertname"] == alert}
        faults += [f"{alert} is never seen {word}" for holds, word in ((True, "firing"), (False, "silent")) if holds not in outcomes]
    report.verdict("each alert is tested firing and silent", faults)
    runbook = (K8S / "README.md").read_text() if (K8S / "README.md").exists() else ""
    report.verdict("each alert is in the runbook", [f"{r['alert']} is not" for r in rules if "alert" in r and f"`{r['alert']}`" not in runbook])


def source(report):
    """What the chart repeats of the code is the same there."""
    faults = []
    table = (CHART / "templates/_services.tpl").read_text()
    rows = yaml.safe_load(re.search(r'define "duet.table" -\}\}\n(.*?)\{\{- end', table, re.S)[1])
    topics = yaml.safe_load(re.search(r'define "duet.topics" -\}\}\n(.*?)\{\{- end', table, re.S)[1])
    code = (REPOSITORY / "shared/case/src/topic.rs").read_text()
    names = dict(re.findall(r'Self::(\w+) => "([\w-]+)"', code))
    for word in ("guarded", "compacted"):
        marked = re.search(r"fn is_" + word + r"\(self\) -> bool \{\s*matches!\(self, ([^)]*)\)", code)[1]
        if {name: name in [names[g] for g in re.findall(r"Self::(\w+)", marked)] for name in names.values()} != {
            name: word in row for name, row in topics.items()
        }:
            faults.append(f"the chart's topics, and which are {word}, are not those of shared/case/src/topic.rs")
    for name, row in rows.items():
        text = "\n".join(p.read_text() for p in (REPOSITORY / "services" / name / "src").rglob("*.rs"))
        inputs = re.search(r"const INPUTS: &'static \[Topic\] =\s*&\[([^\]]*)\]", text)
        reads = [names[topic] for topic in re.findall(r"Topic::(\w+)", inputs[1])] if inputs else []
        if sorted(reads) != sorted(row.get("reads", [])):
            faults.append(f"{name} reads {reads}, the chart's table says {row.get('reads', [])}")
    sections = json.loads((CHART / "values.schema.json").read_text())["properties"]["config"]["properties"]
    tls = {"tls_cert_file", "tls_key_file", "tls_client_ca_file"}
    key_files = {"prepare": {"pseudonym_key_file", "sealing_key_file"}, "publish": {"sealing_key_file"}}
    set_by_chart = key_files | {"http": {"listen"} | tls}
    for section, schema in sections.items():
        keys = fields(section) - set_by_chart.get(section, set())
        if keys != set(schema["properties"]):
            faults.append(f"config.{section} of the schema and the code differ in {sorted(keys ^ set(schema['properties']))}")
    report.verdict("topics, inputs of stages and keys of the configuration are the code's", faults)


def fields(section):
    """Names of the fields of a section's type."""
    place = {
        "log": ("services/duet/src/config.rs", "Log"),
        "http": ("shared/http/src/config.rs", "Config"),
        "runner": ("shared/stage/src/config.rs", "RunnerConfig"),
        "index": ("shared/stage/src/index.rs", "IndexConfig"),
    }
    if section in place:
        paths, name = [REPOSITORY / place[section][0]], place[section][1]
    else:
        paths, name = (REPOSITORY / "services" / section / "src").rglob("*.rs"), "Config"
    for path in paths:
        found = re.search(rf"^pub(?:\(crate\))? struct {name} \{{(.*?)\}}", path.read_text(), re.S | re.M)
        if found:
            return set(re.findall(r"^\s*pub(?:\(crate\))? (\w+):", found[1], re.M))
    raise ValueError(f"no struct {name} of [{section}] found")


def main():
    report = Report()
    for part in (chart, queries, source):
        try:
            part(report)
        except (ValueError, KeyError, OSError, yaml.YAMLError) as error:
            report.fault(part.__name__, repr(error))
    if report.wrong or report.unchecked:
        sys.exit(f"k8s/check: {report.wrong} wrong, {report.unchecked} not checked")
    print("k8s/check: all is well")


if __name__ == "__main__":
    main()
