"""What stands around the agent: a plant, a broker, an eye behind the broker, certificates."""

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import paho.mqtt.client as mqtt

from disk import run, wait_until

UNITS, POINTS, PERIOD = 3, 4, "50ms"
# The first two connect as themselves, the third speaks through the gateway.
THINGS = ["dev01", "dev02"]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def listens(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def device(name, bus, unit, uplink, more=""):
    text = f"""
[[device]]
name = "{name}"
bus = "{bus}"
unit_id = {unit}
interval = "{PERIOD}"
uplink = "{uplink}"
{more}"""
    for k in range(POINTS):
        text += f'[[device.point]]\nname = "p{k}"\ntable = "holding"\naddress = {2 * k}\ntype = "uint32"\nshadow = ""\n'
    text += '[[device.point]]\nname = "limit"\ntable = "holding"\naddress = 100\ntype = "uint16"\naccess = "read-write"\n'
    return text + 'write_min = 0\nwrite_max = 60000\nwrite_interval = "0s"\ninterval = "200ms"\n'


class World:
    def __init__(self, work: Path, binary: Path, python: str):
        self.work, self.binary = work, binary
        self.mount = work / "mnt"
        self.ports = {name: free_port() for name in ("plain", "tls", "plant")}
        self.processes = []
        self._certificates()
        self._configure()
        plant = Path(__file__).with_name("plant.py")
        self.spawn([python, plant, self.ports["plant"], UNITS, POINTS], "plant.log")
        wait_until("the plant", lambda: listens(self.ports["plant"]))

    def spawn(self, command, log, **more):
        with open(self.work / log, "ab") as out:
            process = subprocess.Popen([str(c) for c in command], stdout=out, stderr=out, **more)
        self.processes.append(process)
        return process

    def close(self):
        for process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait()

    def _certificates(self):
        w, ec = self.work, ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        run("openssl", "req", "-x509", *ec, "-days", 2, "-keyout", w / "ca.key", "-out", w / "ca.pem",
            "-subj", "/CN=cloud", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        for name in ("localhost", "gw-1"):
            run("openssl", "req", *ec, "-keyout", w / f"{name}.key", "-out", w / f"{name}.csr", "-subj", f"/CN={name}")
            (w / "ext").write_text(f"subjectAltName=DNS:{name}\nextendedKeyUsage=serverAuth,clientAuth\n")
            run("openssl", "x509", "-req", "-in", w / f"{name}.csr", "-CA", w / "ca.pem", "-CAkey", w / "ca.key",
                "-CAcreateserial", "-days", 2, "-extfile", w / "ext", "-out", w / f"{name}.pem")

    def _configure(self):
        self.config = self.work / "fieldgate.toml"
        self.config.write_text(self.text("127.0.0.1", self.mount / "fieldgate", self.work / "status.sock", self.work))

    def text(self, host, state, socket, pki):
        """The configuration of an agent that finds plant and broker at `host`, its own things in
        `state` and the certificates in `pki`."""
        text = f"""
[gateway]
name = "gw-1"
status_socket = "{socket}"
[uplink]
url = "mqtts://{host}:{self.ports['tls']}"
server_name = "localhost"
ca = "{pki}/ca.pem"
certificate = "{pki}/gw-1.pem"
key = "{pki}/gw-1.key"
window = 20
reconnect_min = "100ms"
reconnect_max = "500ms"
[store]
path = "{state}/fieldgate.db"
[identity]
enroller = "local-ca"
directory = "{state}/identity"
[shadow]
dialect = "plain"
reported = true
interval = "500ms"
[log]
level = "info,fieldgate::uplink=debug"
format = "text"
[[bus]]
name = "line"
transport = "tcp"
host = "{host}"
port = {self.ports['plant']}
reconnect_min = "100ms"
"""
        for unit in range(1, UNITS + 1):
            name = f"dev{unit:02}"
            text += device(name, "line", unit, "own" if name in THINGS else "gateway")
        return text

    def start_broker(self, things_ca):
        w = self.work
        (w / "all.pem").write_text((w / "ca.pem").read_text() + things_ca)
        (w / "mosquitto.conf").write_text(
            "user root\npersistence false\nper_listener_settings true\nmax_queued_messages 0\nlog_type error\n"
            f"listener {self.ports['plain']} 127.0.0.1\nallow_anonymous true\n"
            f"listener {self.ports['tls']} 127.0.0.1\ncafile {w}/all.pem\ncertfile {w}/localhost.pem\n"
            f"keyfile {w}/localhost.key\nrequire_certificate true\nuse_identity_as_username true\n")
        self.broker = self.spawn(["mosquitto", "-c", w / "mosquitto.conf"], "mosquitto.log")
        wait_until("mosquitto", lambda: listens(self.ports["plain"]) and listens(self.ports["tls"]))

    def start_agent(self, environment={}):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("FIELDGATE_", "RUST_LOG"))}
        self.agent = self.spawn([self.binary, "run", "--config", self.config], "agent.log", env=env | environment)
        return self.agent

    def tell(self, *words, check=True):
        """Another verb on the same configuration."""
        done = subprocess.run([self.binary, *words, "--config", self.config], capture_output=True, text=True, timeout=30)
        if check and done.returncode:
            raise RuntimeError(f"fieldgate {' '.join(words)}: {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def ask(self, question):
        """On the status socket; `None` while nobody answers."""
        try:
            with socket.socket(socket.AF_UNIX) as s:
                s.settimeout(5)
                s.connect(str(self.work / "status.sock"))
                s.sendall(json.dumps(question).encode() + b"\n")
                return json.loads(s.makefile().readline() or "null")
        except OSError:
            return None

    def agent_log(self):
        return (self.work / "agent.log").read_text(errors="replace")


class Eye:
    """Who listens behind the broker: every reading it saw, and when."""

    def __init__(self, port, on_accepted=None):
        # (boot, device, seq) -> (when it was first seen, what it said)
        self.seen, self.conflicts, self.lock = {}, [], threading.Lock()
        self.on_accepted = on_accepted
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self.client.on_message = self._message
        self.ready = threading.Event()
        self.client.on_subscribe = lambda *_: self.ready.set()
        self.client.max_queued_messages_set(0)
        self.client.connect("127.0.0.1", port)
        self.client.subscribe([("dt/#", 1), ("$aws/things/+/shadow/update/accepted", 1)])
        self.client.loop_start()
        if not self.ready.wait(10):
            raise RuntimeError("the eye did not get its subscription")

    def _message(self, _client, _data, message):
        now, topic = time.time(), message.topic
        body = json.loads(message.payload)
        if topic.endswith("/accepted"):
            if self.on_accepted:
                self.on_accepted(now, topic.split("/")[2], body)
            return
        if "readings" not in body:
            return
        with self.lock:
            # A number for each value, in the order of the text.
            values = [(r["t"], point, value) for r in body["readings"] for quality in r if quality != "t"
                      for point, value in r[quality].items()]
            first, last = body["seq"]
            if last + 1 - first != len(values):
                self.conflicts.append(f"{len(values)} values have the numbers {first} to {last}")
            for seq, what in enumerate(values, first):
                known = self.seen.setdefault((body["boot"], body["device"], seq), (now, what))
                if known[1] != what:
                    self.conflicts.append(f"{body['boot']} {body['device']} {seq}: {known[1]} and {what}")

    def close(self):
        self.client.loop_stop()
        self.client.disconnect()


def boot_of(text):
    store, count = re.fullmatch(r"([0-9a-f]{8})-(\d+)", text).groups()
    return store, int(count)
