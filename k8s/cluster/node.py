"""A Kubernetes of one node on this machine: etcd, the control plane, kubelet, kube-proxy, containerd and CoreDNS, as processes.

Everything listens on loopback or on a bridge device of its own, 10.88.78.1; pods have 10.88.77.0/24, services 10.0.0.0/24.
"""

import json
import os
import pathlib
import secrets
import shutil
import socket

import yaml

from processes import Failed, call, wait_for

HERE = pathlib.Path(__file__).resolve().parent
VERSION = "1.35.4"
COREDNS = "github.com/coredns/coredns@v1.12.4"
HELM = "helm.sh/helm/v4/cmd/helm@v4.2.4"
ADDRESS, PODS, SERVICES = "10.88.78.1", "10.88.77.0/24", "10.0.0.0/24"
DEVICE, POD_DEVICE = "duetnode", "duetpods"
NAME = "duet-node"
PLUGINS = pathlib.Path("/usr/lib/cni")
CGROUPS = pathlib.Path("/sys/fs/cgroup")
# The image of the container that holds a pod's network: it sleeps.
PAUSE = "localhost/duet-pause:1"


def cache():
    own = os.environ.get("DUET_CACHE")
    return (pathlib.Path(own) if own else pathlib.Path.home() / ".cache/duet") / f"k8s-{VERSION}"


def build():
    """The node's binary, CoreDNS and helm, in the cache; built where they are not there yet."""
    folder = cache()
    folder.mkdir(parents=True, exist_ok=True)
    if not shutil.which("go"):
        raise Failed("there is no go: install Go 1.26 or newer (https://go.dev/dl)")
    env = os.environ | {"GOBIN": str(folder), "GOFLAGS": "-mod=mod"}
    flags = f"-s -w -X k8s.io/component-base/version.gitVersion=v{VERSION}"
    if not (folder / "node").exists():
        print(f"             building Kubernetes {VERSION}: four to ten minutes, once", flush=True)
        # Beside and renamed, so that a file of that name is a whole one.
        call("go", "build", "-trimpath", "-ldflags", flags, "-o", folder / "node.new", ".", cwd=HERE / "node", env=env, timeout=3600)
        (folder / "node.new").rename(folder / "node")
    for name, module in (("coredns", COREDNS), ("helm", HELM)):
        if not (folder / name).exists():
            print(f"             building {name}: some minutes, once", flush=True)
            call("go", "install", "-trimpath", "-ldflags", "-s -w", module, env=env, cwd=folder, timeout=3600)


def port_free(address, port):
    with socket.socket() as tried:
        return tried.connect_ex((address, port)) != 0


class Node:
    """A cluster of one node, from `start` to the end of its run."""

    def __init__(self, run):
        self.run, self.folder = run, run.folder
        self.binary, self.config = cache() / "node", run.folder / "admin.yaml"
        self.socket = run.folder / "containerd.sock"

    def kubectl(self, *arguments, **options):
        env = os.environ | {"KUBECONFIG": str(self.config), "no_proxy": f"{ADDRESS},127.0.0.1", "HOME": str(self.folder)}
        return call(self.binary, "kubectl", *arguments, **{"env": env} | options)

    def helm(self, *arguments, **options):
        env = os.environ | {"KUBECONFIG": str(self.config), "no_proxy": f"{ADDRESS},127.0.0.1", "HOME": str(self.folder)}
        return call(cache() / "helm", *arguments, **{"env": env} | options)

    def get(self, *arguments):
        return json.loads(self.kubectl("get", *arguments, "-o", "json").stdout)

    def apply(self, *resources, verb="apply"):
        text = yaml.safe_dump_all(resources)
        return self.kubectl(verb, "-f", "-", input=text)

    def start(self):
        clean_devices()
        self.network()
        self.credentials()
        for name, command in self.control().items():
            if name == "kube-controller-manager":
                # The others read the certificate that it makes.
                wait_for("kube-apiserver is ready", 90, lambda: self.checked("get", "--raw", "/readyz").stdout == "ok")
            self.run.start(name, *command)
        self.runtime()
        wait_for("the node is Ready", 90, self.is_ready)
        self.names() if (cache() / "coredns").exists() else None

    def checked(self, *arguments):
        self.run.alive()
        return self.kubectl(*arguments)

    def is_ready(self):
        self.run.alive()
        nodes = self.get("nodes")["items"]
        return nodes and any(c["type"] == "Ready" and c["status"] == "True" for c in nodes[0]["status"]["conditions"])

    def network(self):
        call("ip", "link", "add", DEVICE, "type", "bridge")
        self.run.later(clean_devices)
        call("ip", "address", "add", f"{ADDRESS}/32", "dev", DEVICE)
        call("ip", "link", "set", DEVICE, "up")
        for name in ("net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables"):
            path = pathlib.Path("/proc/sys") / name
            if path.exists() and path.read_text().strip() != "1":
                before = path.read_text()
                path.write_text("1")
                self.run.later(path.write_text, before)

    def credentials(self):
        users = {"admin": "system:masters", "controllers": "system:masters", "scheduler": "system:masters",
                 "proxy": "system:masters", "dns": "system:masters", f"system:node:{NAME}": "system:nodes"}
        tokens = {name: secrets.token_hex(16) for name in users}
        lines = [f'{tokens[name]},{name},{i},"{group}"' for i, (name, group) in enumerate(users.items())]
        private(self.folder / "tokens.csv", "\n".join(lines) + "\n")
        private(self.folder / "account.key", call("openssl", "genrsa", "2048").stdout)
        # kube-apiserver is known to kubelet by a certificate, for logs.
        at = self.folder
        call("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/O=system:masters/CN=kube-apiserver",
             "-addext", "extendedKeyUsage=clientAuth", "-keyout", at / "kubelet-client.key", "-out", at / "kubelet-client.crt")
        self.kubeconfigs = {}
        for name in users:
            short = name.split(":")[1] if ":" in name else name
            path = self.folder / f"{short}.yaml"
            private(path, yaml.safe_dump({
                "apiVersion": "v1", "kind": "Config", "current-context": "duet",
                "clusters": [{"name": "duet", "cluster": {"server": f"https://{ADDRESS}:6443", "certificate-authority": str(self.folder / "pki/apiserver.crt")}}],
                "users": [{"name": "duet", "user": {"token": tokens[name]}}],
                "contexts": [{"name": "duet", "context": {"cluster": "duet", "user": "duet"}}],
            }))
            self.kubeconfigs[short] = path

    def control(self):
        """The control plane's commands, by name."""
        at, key = self.folder, self.folder / "account.key"
        return {
            "etcd": ["etcd", "--name=duet", f"--data-dir={at}/etcd", "--listen-client-urls=http://127.0.0.1:12379",
                     "--advertise-client-urls=http://127.0.0.1:12379", "--listen-peer-urls=http://127.0.0.1:12380",
                     "--initial-advertise-peer-urls=http://127.0.0.1:12380", "--initial-cluster=duet=http://127.0.0.1:12380"],
            "kube-apiserver": [self.binary, "kube-apiserver", "--etcd-servers=http://127.0.0.1:12379", f"--bind-address={ADDRESS}",
                               f"--advertise-address={ADDRESS}", "--secure-port=6443", f"--cert-dir={at}/pki", "--service-account-issuer=https://duet.local",
                               f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}", f"--service-cluster-ip-range={SERVICES}",
                               f"--token-auth-file={at}/tokens.csv", "--authorization-mode=Node,RBAC", "--kubelet-preferred-address-types=InternalIP",
                               f"--kubelet-client-certificate={at}/kubelet-client.crt", f"--kubelet-client-key={at}/kubelet-client.key"],
            "kube-controller-manager": [self.binary, "kube-controller-manager", f"--kubeconfig={self.kubeconfigs['controllers']}", "--bind-address=127.0.0.1",
                                        f"--service-account-private-key-file={key}", f"--root-ca-file={at}/pki/apiserver.crt", "--leader-elect=false",
                                        f"--cert-dir={at}/pki-controllers"],
            "kube-scheduler": [self.binary, "kube-scheduler", f"--kubeconfig={self.kubeconfigs['scheduler']}", "--bind-address=127.0.0.1", "--leader-elect=false",
                               f"--cert-dir={at}/pki-scheduler"],
        }

    def runtime(self):
        """containerd, kubelet and kube-proxy."""
        at = self.folder
        (at / "cni").mkdir()
        network = {"cniVersion": "0.4.0", "name": "duet", "plugins": [
            {"type": "bridge", "bridge": POD_DEVICE, "isGateway": True, "hairpinMode": True,
             "ipam": {"type": "host-local", "dataDir": str(at / "addresses"), "ranges": [[{"subnet": PODS}]], "routes": [{"dst": "0.0.0.0/0"}]}},
            {"type": "portmap", "capabilities": {"portMappings": True}}]}
        (at / "cni/10-duet.conflist").write_text(json.dumps(network))
        (at / "containerd.toml").write_text(f"""version = 2
root = "{at}/containerd"
state = "{at}/containerd-state"
[grpc]
address = "{self.socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
restrict_oom_score_adj = true
stream_server_address = "127.0.0.1"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{PLUGINS}"
conf_dir = "{at}/cni"
""")
        self.run.start("containerd", "containerd", "--config", at / "containerd.toml")
        self.run.later(self.remove_pods)
        wait_for("containerd answers", 30, lambda: self.ctr("version"))
        self.pause_image()
        config = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "address": ADDRESS, "healthzBindAddress": "127.0.0.1",
            "failCgroupV1": False, "failSwapOn": False, "cgroupDriver": "cgroupfs", "enforceNodeAllocatable": [], "cgroupRoot": "/",
            "containerRuntimeEndpoint": f"unix://{self.socket}", "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%"},
            "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99, "resolvConf": "", "clusterDNS": [ADDRESS], "clusterDomain": "cluster.local",
            "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True}, "x509": {"clientCAFile": str(at / "kubelet-client.crt")}}, "authorization": {"mode": "Webhook"},
            "volumePluginDir": str(at / "volume-plugins"), "podLogsDir": str(at / "pod-logs"),
        }
        (at / "kubelet-config.yaml").write_text(yaml.safe_dump(config))
        self.run.start("kubelet", self.binary, "kubelet", f"--config={at}/kubelet-config.yaml", f"--kubeconfig={self.kubeconfigs['node']}",
                       f"--hostname-override={NAME}", f"--node-ip={ADDRESS}", f"--root-dir={at}/kubelet", f"--cert-dir={at}/pki-kubelet")
        self.run.start("kube-proxy", self.binary, "kube-proxy", f"--kubeconfig={self.kubeconfigs['proxy']}", "--proxy-mode=iptables",
                       "--conntrack-max-per-core=0", f"--cluster-cidr={PODS}", f"--hostname-override={NAME}",
                       "--healthz-bind-address=127.0.0.1:10256", "--metrics-bind-address=127.0.0.1:10249")
        self.run.later(clean_iptables)

    def names(self):
        (self.folder / "Corefile").write_text(f""".:53 {{
  bind {ADDRESS}
  errors
  kubernetes cluster.local {SERVICES} {{
    kubeconfig {self.kubeconfigs['dns']} duet
  }}
}}
""")
        self.run.start("coredns", cache() / "coredns", "-conf", self.folder / "Corefile", wait=1)
        self.run.alive()

    def ctr(self, *arguments, **options):
        return call("ctr", "--address", self.socket, "--namespace", "k8s.io", *arguments, **options)

    def buildah(self, *arguments, **options):
        return call("buildah", "--root", self.folder / "buildah", "--runroot", self.folder / "buildah-run", *arguments, **options)

    def load(self, image, name):
        """Hands an image that buildah made to containerd, under a full name; returns the archive's size."""
        archive = self.folder / "image.tar"
        archive.unlink(missing_ok=True)
        self.buildah("push", image, f"docker-archive:{archive}:{name}")
        self.ctr("images", "import", archive)
        size = archive.stat().st_size
        archive.unlink()
        return size

    def pause_image(self):
        folder = self.folder / "pause"
        folder.mkdir()
        source = "#include <signal.h>\n#include <unistd.h>\nstatic void end(int s) { _exit(0); }\nint main(void) { signal(SIGTERM, end); for (;;) pause(); }\n"
        call("cc", "-static", "-O1", "-x", "c", "-", "-o", folder / "pause", input=source)
        (folder / "Dockerfile").write_text('FROM scratch\nCOPY pause /pause\nENTRYPOINT ["/pause"]\n')
        self.buildah("bud", "--isolation", "chroot", "-t", PAUSE, folder)
        self.load(PAUSE, PAUSE)

    def remove_pods(self):
        """Ends what containerd's shims still run: they outlive containerd."""
        for name in ("kubelet", "kube-proxy", "coredns"):
            self.run.stop(name)
        listed = self.ctr("tasks", "list", "--quiet", check=False).stdout.split()
        for task in listed:
            self.ctr("tasks", "kill", "--signal", "SIGKILL", task, check=False)
        for task in listed:
            self.ctr("tasks", "delete", "--force", task, check=False)
        self.run.stop("containerd")
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                line = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if "containerd-shim" in line[0] and str(self.socket) in line:
                os.kill(int(process.name), 9)
        for space in pathlib.Path("/run/netns").glob("cni-*"):
            call("ip", "netns", "delete", space.name, check=False)
        for top in CGROUPS.glob("**/kubepods"):
            for group in sorted((p for p in top.rglob("*") if p.is_dir()), key=lambda p: -len(p.parts)):
                remove(group)
            remove(top)


def remove(group):
    try:
        group.rmdir()
    except OSError:
        pass


def private(path, text):
    path.touch(mode=0o600)
    path.write_text(text)


def clean_devices():
    for device in (DEVICE, POD_DEVICE):
        if pathlib.Path("/sys/class/net", device).exists():
            call("ip", "link", "delete", device, check=False)


def clean_iptables():
    """Removes the chains of kube-proxy, kubelet and the network plugins, and no other rule."""
    for tool in ("iptables", "ip6tables"):
        saved = call(f"{tool}-save", check=False).stdout
        if any(word in saved for word in ("KUBE-", "CNI-")):
            kept = [line for line in saved.splitlines() if "KUBE-" not in line and "CNI-" not in line]
            call(f"{tool}-restore", input="\n".join(kept) + "\n")
