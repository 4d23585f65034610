"""The agent in a whole machine whose kernel is real: see README.md. Called by `run`."""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

here = Path(__file__).parent
sys.path[:0] = [str(here), str(here.parent / "power")]

import ttys  # noqa: E402
from machine import Machine, gold, wait_until  # noqa: E402
from record import Promises  # noqa: E402
from replay import Judge  # noqa: E402
from world import THINGS, Eye, World  # noqa: E402

STATE = "/var/lib/fieldgate"
AS_AGENT = "setpriv --reuid=fieldgate --regid=fieldgate --init-groups"


class Bed:
    """The world outside, and the machine with the package installed, frozen."""

    def __init__(self, a, work: Path):
        self.a, self.work = a, work
        self.image = Path(subprocess.run([here / "image"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip())
        self.world = World(work, a.binary, sys.executable)
        self.count, self.machines = 0, []

    def install(self):
        """From the .deb, as on a gateway; then frozen, stopped."""
        began = time.monotonic()
        base = gold(self.image)
        pki = {f"pki/{name}": self.work / name for name in ("ca.pem", "gw-1.pem", "gw-1.key")}
        text = self.world.text("10.0.2.2", STATE, "/run/fieldgate/status.sock", "/etc/fieldgate/pki")
        m = self.thaw(base, {"fieldgate.deb": self.a.deb, "fieldgate.toml": text.encode(),
                             "report.py": here / "report.py", "blind.so": self.a.blind, **pki})
        m.take()
        # It starts at once, as on a gateway, with nothing configured.
        m.run("dpkg -i /root/fieldgate.deb", 240)
        m.run("cp /root/fieldgate.toml /etc/fieldgate/fieldgate.toml; cp -r /root/pki /etc/fieldgate/; "
              f"chown -R fieldgate: /etc/fieldgate/pki {STATE}; chmod 600 /etc/fieldgate/pki/*.key; "
              f"chmod 700 {STATE}; systemctl stop fieldgate; systemctl reset-failed; rm -rf {STATE}/fieldgate.db* {STATE}/identity; "
              "systemctl is-enabled fieldgate")
        self.world.start_broker(m.run(f"{AS_AGENT} fieldgate identity ca --create"))
        self.installed = self.work / "installed"
        m.freeze(self.installed)
        print(f"installed from {self.a.deb.name} and frozen, {time.monotonic() - began:.0f} s", flush=True)

    def thaw(self, frozen=None, files=None):
        self.count += 1
        m = Machine.thawed(self.image, frozen or self.installed, self.work / f"m{self.count}", files)
        self.machines.append(m)
        return m

    def start(self, m):
        m.run("systemctl start fieldgate", 120)

    def close(self):
        for m in self.machines:
            m.kill()
        self.world.close()


class Failure(Exception):
    """What was seen is not what was to be seen."""


def expect(holds, what):
    if not holds:
        raise Failure(what)


# The agent's flushes of its write-ahead log do nothing, as with synchronous=NORMAL.
BLIND = """cp /root/blind.so /usr/local/lib/; mkdir -p /run/systemd/system/fieldgate.service.d
printf '[Service]\\nEnvironment=LD_PRELOAD=/usr/local/lib/blind.so BLIND=wal\\n' >/run/systemd/system/fieldgate.service.d/blind.conf
systemctl daemon-reload"""


def killed(bed, dice, reboots, number, blind=False):
    """The power of a whole machine goes at a random moment."""
    world = bed.world
    promises = Promises(serials={thing: [] for thing in THINGS})

    def accepted(now, thing, body):
        if note := body["state"].get("desired", {}).get("note"):
            promises.shadow.append((now, (thing, body["version"], note)))

    m = bed.thaw()
    m.run("systemd-run -q --unit=report python3 /root/report.py")
    if blind:
        m.run(BLIND)
    eye = Eye(world.ports["plain"], accepted)
    hangs = dice.random() < 0.5
    try:
        bed.start(m)
        wait_until("readings", lambda: len(eye.seen) > 20, 120)
        wait_until("the agent to count", lambda: m.heard, 60)
        end, note = time.monotonic() + dice.uniform(2, 8), 0
        hang_at = time.monotonic() + (end - time.monotonic()) / 2
        while time.monotonic() < end:
            note += 1
            for thing in ("dev01", "dev03"):
                body = json.dumps({"state": {"desired": {"note": note, "limit": note}}})
                eye.client.publish(f"$aws/things/{thing}/shadow/update", body, qos=1)
            if hangs and time.monotonic() > hang_at:
                world.broker.send_signal(signal.SIGSTOP)
            time.sleep(0.1)
        cut = m.kill()
    finally:
        world.broker.send_signal(signal.SIGCONT)
    time.sleep(0.5)
    eye.close()
    promises.seen = dict(eye.seen)
    # The last word may be half a line of a machine that is gone.
    with m.lock:
        promises.taken = [(t, int(w.split()[1])) for t, w in m.heard if t < cut and len(w.split()) == 2]
    judge = Judge(world, promises)
    shown = world.mount / "fieldgate"
    shown.mkdir(parents=True, exist_ok=True)
    shutil.copy(m.home / "data.raw", m.home / "check.raw")
    subprocess.run(["mount", "-o", "loop", m.home / "check.raw", shown], check=True)
    try:
        judge.judge(cut)
        waits = json.loads(world.tell("outbox", "--json"))["readings_waiting"]
    finally:
        wait_until("umount", lambda: subprocess.run(["umount", shown], stderr=subprocess.DEVNULL).returncode == 0)
    (m.home / "check.raw").unlink()
    said = f"{len(promises.seen)} readings seen, {promises.taken[-1][1]} counted, {len(promises.shadow)} shadow updates, " \
           f"{waits} wait; {judge.checked} checks, {len(judge.broken)} broken"
    if reboots:
        said += "; " + back(bed, m, promises)
    print(f"  kill {number}{' without flushes' if blind else ''}{' (broker hung)' if hangs else ''}: {said}", flush=True)
    kinds = {kind for kind, _ in judge.broken}
    if blind:
        expect("counted" in kinds, f"without flushes nothing that was counted is gone: the test is blind; broken: {judge.broken}")
    else:
        expect(not kinds, f"promises broken: {judge.broken}")
    shutil.rmtree(m.home)


def back(bed, m, promises):
    """The same disks in a machine that boots: the service is there by itself, and what waited comes."""
    began = time.monotonic()
    eye = Eye(bed.world.ports["plain"])
    m.heard.clear()
    m.start()
    # Enabled by the package, not by us.
    wait_until("the service after the boot", lambda: m.run("systemctl is-active fieldgate", check=False)[1] == "active", 240)
    up = time.monotonic() - began
    altered = [line for line in m.run("dpkg -V fieldgate; dpkg --audit", check=False)[1].splitlines()
               if line != "??5?????? c /etc/fieldgate/fieldgate.toml"]
    expect(not altered, f"the package is not intact: {altered}")
    old = {boot for boot, _, _ in promises.seen}
    wait_until("new readings", lambda: any(boot not in old for boot, _, _ in eye.seen), 120)

    def waiting():
        words = f"{AS_AGENT} fieldgate outbox --json"
        return json.loads(m.run(words))["readings_waiting"]
    wait_until("the backlog to drain", lambda: waiting() < 200, 120)
    m.kill()
    eye.close()
    late = {key: what for key, (_, what) in eye.seen.items() if key[0] in old}
    changed = [k for k, what in late.items() if promises.seen.get(k, (0, what))[1] != what]
    expect(not changed, f"readings changed: {changed[:3]}")
    numbers = {}
    for boot, device, seq in promises.seen.keys() | late.keys():
        numbers.setdefault((boot, device), set()).add(seq)
    holes = {k: max(n) - min(n) + 1 - len(n) for k, n in numbers.items() if max(n) - min(n) + 1 != len(n)}
    expect(not holes, f"numbers are missing: {holes}")
    return f"booted and active in {up:.0f} s, {len(late)} late readings, no number missing"


def upgrade_cut(bed, dice, number):
    """The power goes while dpkg unpacks the package again: the machine boots, dpkg ends its work,
    and nothing of the agent's own is gone."""
    m = bed.thaw()
    bed.start(m)
    wait_until("a certificate", lambda: m.run(f"ls {STATE}/identity/dev01.pem", check=False)[0] == 0, 60)
    before = m.run(f"cat {STATE}/identity/dev01.pem | sha256sum")
    m.run("sync")
    m.run("systemd-run -q --unit=again dpkg -i /root/fieldgate.deb")
    time.sleep(dice.uniform(0.3, 6))
    m.kill()
    m.start()
    # After a boot, what an operator does.
    m.run("dpkg --configure -a; dpkg -i /root/fieldgate.deb", 240)
    m.run("systemctl start fieldgate", 120)
    state = m.run("systemctl is-active fieldgate; dpkg --audit", check=False)[1]
    expect(state == "active", f"after the cut: {state}")
    after = m.run(f"cat {STATE}/identity/dev01.pem | sha256sum")
    expect(before == after, "the key of dev01 changed")
    m.kill()
    shutil.rmtree(m.home)
    print(f"  cut {number} while dpkg worked: the package installs again, keys are as before", flush=True)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--binary", type=Path, required=True)
    ap.add_argument("--deb", type=Path, required=True)
    ap.add_argument("--blind", type=Path, required=True, help="a library that makes fsync do nothing")
    ap.add_argument("--kills", type=int, default=10)
    ap.add_argument("--reboots", type=int, default=2, help="of these kills, how many machines are booted again")
    ap.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    ap.add_argument("--keep", action="store_true")
    ap.add_argument("tests", nargs="*", help="of: kills control upgrade " + " ".join(ttys.TESTS))
    a = ap.parse_args()
    # Whoever is told to end takes what he started with him.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    dice = random.Random(a.seed)
    print(f"seed {a.seed}", flush=True)
    work, failed = Path(tempfile.mkdtemp(prefix="fieldgate-vm-")), []
    bed = Bed(a, work)
    tests = [(f"kills/{n}", lambda n=n: killed(bed, dice, n <= a.reboots, n), "kills") for n in range(1, a.kills + 1)]
    tests += [("control", lambda: killed(bed, dice, False, "0", blind=True), "control")]
    tests += [(f"upgrade/{n}", lambda n=n: upgrade_cut(bed, dice, n), "upgrade") for n in (1,)]
    tests += [(name, lambda test=test: test(bed), name) for name, test in ttys.TESTS.items()]
    try:
        bed.install()
        for name, test, group in tests:
            if a.tests and group not in a.tests:
                continue
            began = time.monotonic()
            try:
                test()
                print(f"ok      {name}, {time.monotonic() - began:.0f} s", flush=True)
            except Exception as e:
                failed.append(name)
                print(f"FAILED  {name}, {time.monotonic() - began:.0f} s: {type(e).__name__}: {e}", flush=True)
                m = bed.machines[-1]
                if m.process.poll() is None:
                    print(m.run("journalctl -u fieldgate -u report -n 25 --no-pager", check=False)[1])
            for m in bed.machines:
                m.kill()
    finally:
        bed.close()
        if a.keep:
            print(f"kept: {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)
    print("FAILED: " + ", ".join(failed) if failed else "all passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
