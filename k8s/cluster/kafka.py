"""A real Kafka outside the cluster, with TLS and SASL: a broker that pods reach, and a controller of its own on loopback."""

import os
import pathlib
import secrets
import sys

from node import ADDRESS, cache, private
from processes import call, wait_for

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from kafka_jars import TESTS, jars  # noqa: E402

PORT, CONTROLLER, OWN = 19093, 19094, 19092
BOOTSTRAP = f"{ADDRESS}:{PORT}"
USER = "duet"


def certificate(folder, name, authority=None, names=""):
    """`name`.pem and `name`.key, signed by the authority, or by itself where it is one."""
    key, made = folder / f"{name}.key", folder / f"{name}.pem"
    by = ["-CA", folder / f"{authority}.pem", "-CAkey", folder / f"{authority}.key", "-addext", f"subjectAltName={names}"] if authority else [
        "-addext", "keyUsage=keyCertSign,cRLSign"]
    basic = "basicConstraints=critical,CA:" + ("FALSE" if authority else "TRUE")
    call("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
         "-subj", f"/CN={name}", "-addext", basic, *by, "-keyout", key, "-out", made)


class Kafka:
    def __init__(self, run):
        self.run, self.folder, self.password = run, run.folder / "kafka", secrets.token_hex(12)

    def start(self):
        self.folder.mkdir()
        lib, at = jars(cache().parent, call), self.folder
        certificate(at, "authority")
        certificate(at, "broker", "authority", f"IP:{ADDRESS}")
        private(at / "server.pem", "".join((at / name).read_text() for name in ("broker.key", "broker.pem", "authority.pem")))
        shared = f"""controller.quorum.bootstrap.servers=127.0.0.1:{CONTROLLER}
listener.security.protocol.map=OWN:PLAINTEXT,CLIENTS:SASL_SSL,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
"""
        listeners = f"OWN://127.0.0.1:{OWN},CLIENTS://{ADDRESS}:{PORT}"
        (at / "controller.properties").write_text(shared + f"""process.roles=controller
node.id=2
listeners=CONTROLLER://127.0.0.1:{CONTROLLER}
advertised.listeners=CONTROLLER://127.0.0.1:{CONTROLLER}
log.dirs={at}/quorum
""")
        private(at / "broker.properties", shared + f"""process.roles=broker
node.id=1
listeners={listeners}
advertised.listeners={listeners}
inter.broker.listener.name=OWN
log.dirs={at}/data
ssl.keystore.type=PEM
ssl.keystore.location={at}/server.pem
listener.name.clients.sasl.enabled.mechanisms=SCRAM-SHA-512,PLAIN
listener.name.clients.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{self.password}";
listener.name.clients.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
""")
        java = ["java", f"-Dlog4j2.configurationFile={TESTS / 'log4j2.properties'}", "-Xmx512m", "-cp", f"{lib}/*"]
        user = ["--add-scram", f"SCRAM-SHA-512=[name={USER},password={self.password}]"]
        for name, how in (("controller", ["--standalone", *user]), ("broker", ["--no-initial-controllers"])):
            call(*java, "kafka.tools.StorageTool", "format", "-t", "duet-tests-of-Kafka-00", "-c", at / f"{name}.properties", *how)
            self.run.start(f"kafka-{name}", *java, "kafka.Kafka", at / f"{name}.properties")
            wait_for(f"Kafka's {name} has started", 90, lambda name=name: self.started(f"kafka-{name}"))

    def started(self, name):
        self.run.alive()
        return "Kafka Server started" in (self.run.folder / f"{name}.log").read_text()

    def settings(self, password=None):
        """Duet's variables for a client of this broker."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DUET_")}
        return clean | {
            "DUET_KAFKA": BOOTSTRAP, "DUET_KAFKA_TLS_CA_FILE": str(self.folder / "authority.pem"), "DUET_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
            "DUET_KAFKA_SASL_USERNAME": USER, "DUET_KAFKA_SASL_PASSWORD": password or self.password,
        }

    def kcat(self, *arguments, **options):
        # PLAIN: librdkafka before 2.6.1, which Debian 12 has, fails at SCRAM with brokers that check the nonce.
        settings = {"security.protocol": "SASL_SSL", "sasl.mechanisms": "PLAIN", "sasl.username": USER, "sasl.password": self.password,
                    "ssl.ca.location": self.folder / "authority.pem", "isolation.level": "read_committed", "message.max.bytes": "34603008"}
        words = [word for name, value in settings.items() for word in ("-X", f"{name}={value}")]
        return call("kcat", "-q", "-b", BOOTSTRAP, *words, *arguments, **options)

    def records(self, topic, form):
        """Every committed record of a topic, as kcat's format has it, one a line."""
        return [line for line in self.kcat("-C", "-t", topic, "-o", "beginning", "-e", "-f", form + "\\n").stdout.splitlines() if line]
