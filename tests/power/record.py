"""One recording: the real agent lives for some seconds on the recorded disk, and everything it
promises to anybody is noted with the time at which it was heard.

In it the broker hangs for a while (a backlog grows), certificates are renewed, desired values
are written to a device, and the agent is killed once and stopped in order once.
"""

import json
import signal
import threading
import time
from dataclasses import dataclass, field

from cryptography import x509

from disk import RecordedDisk, wait_until
from world import THINGS, Eye, World, boot_of


@dataclass
class Promises:
    """Each list is in the order of time; `(when it was heard, what)`."""

    taken: list = field(default_factory=list)  # readings that the status socket counts, all boots
    shadow: list = field(default_factory=list)  # (thing, version, note) of an accepted update
    heads: list = field(default_factory=list)  # head of the audit log
    pairs: list = field(default_factory=list)  # (thing, serial of the certificate in use)
    serials: dict = field(default_factory=dict)  # thing -> serials in the order of their use
    seen: dict = field(default_factory=dict)  # (boot, device, seq) -> (when, what it said)


class Recording:
    def __init__(self, world: World, seconds: float, environment: dict):
        self.world, self.seconds, self.environment = world, seconds, environment
        self.promises = Promises(serials={thing: [] for thing in THINGS})
        self.base_taken, self.stop, self.errors = 0, threading.Event(), []
        self.paused = threading.Lock()  # held while the agent is not there

    def run(self):
        world = self.world
        disk = RecordedDisk(world.work, world.mount)
        try:
            (world.mount / "fieldgate").mkdir()
            world.start_broker(world.tell("identity", "ca", "--create"))
            self.eye = Eye(world.ports["plain"], self._accepted)
            self._start()
            watchers = [threading.Thread(target=self._watch, args=(w, p)) for w, p in (
                (self._taken, 0.05), (self._head, 0.5), (self._renew, 0.4), (self._desire, 0.1), (self._pairs, 0.02))]
            for w in watchers:
                w.start()
            try:
                self._course()
            finally:
                self.stop.set()
                for w in watchers:
                    w.join()
            world.agent.kill()
            world.agent.wait()
            time.sleep(0.3)  # what the broker still has for the eye
            self.eye.close()
            self.promises.seen = self.eye.seen
        finally:
            if world.agent.poll() is None:
                world.agent.kill()
                world.agent.wait()
            disk.close()
        if self.errors:
            raise RuntimeError("; ".join(self.errors))
        return disk

    def _course(self):
        world, part = self.world, self.seconds / 6
        wait_until("readings", lambda: len(self.eye.seen) > 50)
        time.sleep(part)
        world.broker.send_signal(signal.SIGSTOP)
        time.sleep(part)
        world.broker.send_signal(signal.SIGCONT)
        time.sleep(part)
        self._restart(signal.SIGKILL)
        time.sleep(part)
        # A backlog that lives through an orderly stop.
        world.broker.send_signal(signal.SIGSTOP)
        time.sleep(part / 2)
        self._restart(signal.SIGTERM)
        time.sleep(part / 2)
        world.broker.send_signal(signal.SIGCONT)
        time.sleep(part)

    def _restart(self, how):
        with self.paused:
            self.world.agent.send_signal(how)
            self.world.agent.wait()
            self._start()

    def _start(self):
        """The status counts from the start of the process; the file counts for ever."""
        world = self.world
        self.base_taken = self.promises.taken[-1][1] if self.promises.taken else 0
        world.start_agent(self.environment)
        wait_until("the agent to answer", lambda: world.agent.poll() is not None or world.ask({"ask": "status"}))
        if world.agent.poll() is not None:
            raise RuntimeError(f"the agent ended: {world.agent_log()[-2000:]}")

    def _watch(self, work, period):
        while not self.stop.wait(period):
            try:
                with self.paused:
                    work()
            except Exception as e:  # told by the main thread
                self.errors.append(f"{work.__name__}: {e!r}")
                return

    def _taken(self):
        status = self.world.ask({"ask": "status"})
        if status:
            n = self.base_taken + status["status"]["store"]["readings"]
            self.promises.taken.append((time.time(), n))

    def _head(self):
        head = json.loads(self.world.tell("audit", "verify", "--json"))
        if head["entries"]:
            self.promises.heads.append((time.time(), head["head"]))

    def _renew(self):
        for thing in THINGS:
            # Refused while a candidate waits; that is fine.
            self.world.ask({"ask": "identity", "verb": "renew", "thing": thing})

    desires = 0

    def _desire(self):
        """`note` is nobody's register and stays in the shadow, `limit` is written to the device."""
        self.desires += 1
        desired = {"note": self.desires, "limit": self.desires}
        for thing in ("dev01", "dev03"):
            body = json.dumps({"state": {"desired": desired}})
            self.eye.client.publish(f"$aws/things/{thing}/shadow/update", body, qos=1)

    def _accepted(self, now, thing, body):
        note = body["state"].get("desired", {}).get("note")
        if note is not None:
            self.promises.shadow.append((now, (thing, body["version"], note)))

    lines_read = 0

    def _pairs(self):
        """A thing is online: whatever pair lies there now was accepted, and is promised."""
        lines = self.world.agent_log().splitlines()
        for line in lines[self.lines_read :]:
            for thing in THINGS:
                if "thing online" in line and thing in line:
                    serial = serial_of(self.world.mount / "fieldgate/identity" / f"{thing}.pem")
                    known = self.promises.serials[thing]
                    if serial not in known:
                        known.append(serial)
                    self.promises.pairs.append((time.time(), (thing, serial)))
        self.lines_read = len(lines)


def serial_of(path):
    return x509.load_pem_x509_certificate(path.read_bytes()).serial_number


def summary(p: Promises):
    boots = {boot_of(boot) for boot, _, _ in p.seen}
    return (f"{p.taken[-1][1]} readings counted, {len(p.seen)} seen, {len(boots)} boots, {len(p.shadow)} shadow updates, "
            f"{len(p.heads)} heads of the log, {sum(map(len, p.serials.values()))} certificates in use")
