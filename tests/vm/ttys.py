"""What only a real kernel shows: ports with settings, sticks that come and go, limits, the clock."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from machine import wait_until
from world import Eye, device

PLANT = Path(__file__).parent.parent / "power/plant.py"


def expect(holds, what):
    if not holds:
        raise AssertionError(what)


class Slave:
    """A foreign RTU device (pymodbus) at the other end of a line of the machine."""

    def __init__(self, bed, sock):
        self.tty = sock.with_suffix(f".{time.monotonic_ns()}")
        self.socat = bed.world.spawn(["socat", f"PTY,link={self.tty},rawer", f"UNIX-CONNECT:{sock}"], "socat.log")
        wait_until("the line", self.tty.exists)
        self.plant = bed.world.spawn([sys.executable, PLANT, self.tty, 1, 4], "slave.log")

    def close(self):
        for process in (self.plant, self.socat):
            process.kill()
            process.wait()


def serial(path):
    """One more bus with one device: unit 1 behind this port."""
    return (f'\n[[bus]]\nname = "rs485"\ntransport = "serial"\npath = "{path}"\nbaud = 19200\nparity = "even"\n'
            'reconnect_min = "200ms"\nreconnect_max = "1s"\n'
            + device("rtu01", "rs485", 1, "gateway", 'response_timeout = "2s"\nbackoff_min = "200ms"\nbackoff_max = "1s"\n'))


def status(m):
    return json.loads(m.run("fieldgate status --json"))


def state_of(m, device_name):
    return next(d for d in status(m)["devices"] if d["device"] == device_name)


def add(m, toml):
    m.run(f"mkdir -p /etc/fieldgate/conf.d; cat >/etc/fieldgate/conf.d/serial.toml <<'END'\n{toml}\nEND\n"
          "chmod 644 /etc/fieldgate/conf.d/serial.toml; fieldgate check")


def came(eye, name, more, seconds=60):
    with eye.lock:
        before = sum(d == name for _, d, _ in eye.seen)
    wait_until(f"{more} readings of {name}", lambda: sum(d == name for _, d, _ in list(eye.seen)) >= before + more, seconds)


def ttys1(bed):
    """A 16550 with parity, opened through the service's device rules; without them it stays shut."""
    m, eye = bed.thaw(), Eye(bed.world.ports["plain"])
    slave = Slave(bed, m.home / "uart1.sock")
    try:
        add(m, serial("/dev/ttyS1"))
        bed.start(m)
        came(eye, "rtu01", 40)
        port = m.run("stty -F /dev/ttyS1 -a")
        expect("speed 19200" in port and {"parenb", "-parodd", "cs8"} <= set(port.split()), port)
        user = m.run("ps -o user= -C fieldgate").strip()
        expect(user == "fieldgate", f"runs as {user}")
        rules = m.run("systemctl show fieldgate -p DevicePolicy -p DeviceAllow")
        print(f"  /dev/ttyS1 at 19200 8E1, {rules.replace(chr(10), ', ')}")
        # The cgroup is what decides: with a rule that names other ports, the same unit cannot open it.
        m.run("mkdir -p /run/systemd/system/fieldgate.service.d; printf '[Service]\\nDevicePolicy=closed\\nDeviceAllow=\\n"
              "DeviceAllow=char-ttyUSB rw\\n' >/run/systemd/system/fieldgate.service.d/no.conf; systemctl daemon-reload; "
              "systemctl restart fieldgate", 120)
        wait_until("the refusal", lambda: next(b for b in status(m)["buses"] if b["bus"] == "rs485")["state"] not in ("", "open", "closed"))
        refused = next(b for b in status(m)["buses"] if b["bus"] == "rs485")["state"]
        expect("ermi" in refused or "permitted" in refused, refused)
        print(f"  without a rule for it: {refused}")
        came(eye, "dev03", 40)
    finally:
        slave.close()
        eye.close()
        m.kill()


def stick(bed):
    """A USB adapter is pulled out while it is polled, and put back: readings go on by themselves."""
    m, eye = bed.thaw(), Eye(bed.world.ports["plain"])
    slave = Slave(bed, m.home / "usb0.sock")

    def plug():
        # Whatever socket it is put into, its serial number names it.
        m.monitor("device_add", driver="usb-serial", chardev="usb0", id="stick", bus="xhci.0", serial="FG0001")

    try:
        m.run("modprobe ftdi_sio")
        plug()
        by_id = wait_until("the stick", lambda: m.run("ls /dev/serial/by-id/* 2>/dev/null", check=False)[1], 30)
        # The package's rules hold for a stick that is plugged in, and for one that was there before.
        timer = "/sys/bus/usb-serial/devices/ttyUSB0/latency_timer"
        wait_until("the latency of a new stick", lambda: m.run(f"cat {timer}") == "1", 30)
        expect("ID_MM_PORT_IGNORE=1" in m.run("udevadm info /dev/ttyUSB0"), "ModemManager would take it")
        m.run(f"echo 16 >{timer}; dpkg -i /root/fieldgate.deb; systemctl stop fieldgate", 240)
        expect(m.run(f"cat {timer}") == "1", "the rules did not reach a stick that was there")
        add(m, serial(by_id))
        bed.start(m)
        came(eye, "rtu01", 20)
        for _ in range(2):
            began = time.monotonic()
            m.monitor("device_del", id="stick")
            wait_until("the trouble in the status", lambda: next(
                b for b in status(m)["buses"] if b["bus"] == "rs485")["state"] != "open", 30)
            said = next(b for b in status(m)["buses"] if b["bus"] == "rs485")["state"]
            came(eye, "dev03", 40)  # its neighbours go on
            plug()
            came(eye, "rtu01", 20, 60)
            print(f"  pulled out: {said}; back after {time.monotonic() - began:.0f} s")
        runs = m.run("systemctl show fieldgate -p NRestarts --value")
        expect(runs == "0", f"the service restarted {runs} times")
    finally:
        slave.close()
        eye.close()
        m.kill()


def memory(bed):
    """MemoryMax is the kernel's, not a wish: a unit that takes more is killed and comes back, and the
    agent itself stays far below the limit it ships with."""
    m, eye = bed.thaw(), Eye(bed.world.ports["plain"])
    try:
        bed.start(m)
        came(eye, "dev03", 40)
        used = int(m.run("systemctl show fieldgate -p MemoryCurrent --value"))
        limit = m.run("systemctl show fieldgate -p MemoryMax --value")
        m.run("systemctl set-property --runtime fieldgate MemoryMax=2M MemorySwapMax=0", check=False)
        killed = "journalctl -k --no-pager | grep -c 'Killed process.*fieldgate'"
        wait_until("the kernel to kill", lambda: m.run(killed, check=False)[1] not in ("", "0"), 60)
        m.run("systemctl set-property --runtime fieldgate MemoryMax=256M", check=False)
        wait_until("the service to come back", lambda: m.run("systemctl is-active fieldgate", check=False)[1] == "active", 120)
        came(eye, "dev03", 40)
        print(f"  uses {used / 1e6:.0f} MB, its own limit is {limit}; below 2 MB it is killed, and comes back")
    finally:
        eye.close()
        m.kill()


def clock(bed):
    """A clock that starts in 1970, as on a board without a battery, and jumps to the truth later."""
    m, eye = bed.thaw(), Eye(bed.world.ports["plain"])
    try:
        m.run("date -s @60")
        bed.start(m)
        wait_until("readings on the disk", lambda: status(m)["store"]["readings"] > 40)
        early = status(m)["uplink"]["state"]
        m.run(f"date -s @{time.time():.0f}")
        came(eye, "dev03", 60, 120)
        with eye.lock:
            first = min(what[0] for _, what in eye.seen.values())
        expect(first < 1e12, f"no reading was taken before the clock was set: {first}")
        came(eye, "dev01", 20, 120)
        # An hour forward, two back: sequence numbers do not care.
        m.run(f"date -s @{time.time() + 3600:.0f}")
        came(eye, "dev03", 20)
        m.run(f"date -s @{time.time() - 3600:.0f}")
        came(eye, "dev03", 20)
        runs = m.run("systemctl show fieldgate -p NRestarts --value")
        expect(runs == "0", f"the service restarted {runs} times")
        wait_until("every number to arrive", lambda: _whole(eye), 60)
        print(f"  in 1970 the uplink was {early!r}; the first reading has t = {first} ms; no number missing")
    finally:
        eye.close()
        m.kill()


def _missing(eye, *names):
    """Sequence numbers between the first and the last of each device that did not arrive."""
    numbers = {}
    with eye.lock:
        for boot, name, seq in eye.seen:
            numbers.setdefault((boot, name), set()).add(seq)
    return sum(max(n) - min(n) + 1 - len(n) for (_, name), n in numbers.items() if not names or name in names)


def _whole(eye, name="dev03"):
    return _missing(eye, name) == 0


def link(bed):
    """A link that delays and loses packets, then is gone while a serial line goes on, then is back."""
    m, eye = bed.thaw(), Eye(bed.world.ports["plain"])
    slave = Slave(bed, m.home / "uart1.sock")
    try:
        add(m, serial("/dev/ttyS1"))
        bed.start(m)
        came(eye, "rtu01", 20)
        nic = m.run("ls /sys/class/net | grep '^e'")
        m.run(f"tc qdisc add dev {nic} root netem delay 150ms 50ms loss 15%")
        came(eye, "rtu01", 60, 180)
        came(eye, "dev03", 20, 180)
        m.run(f"tc qdisc change dev {nic} root netem loss 100%")
        wait_until("the loss to be seen", lambda: status(m)["uplink"]["state"] != "online", 240)
        said = status(m)["uplink"]
        waits = status(m)["store"]["readings_waiting"]
        wait_until("a backlog", lambda: status(m)["store"]["readings_waiting"] > waits + 100, 60)
        waits = status(m)["store"]["readings_waiting"]
        m.run(f"tc qdisc del dev {nic} root")
        came(eye, "rtu01", waits, 180)
        came(eye, "dev03", 20, 180)
        wait_until("every number to arrive", lambda: _whole(eye, "dev03") and _whole(eye, "rtu01"), 60)
        runs = m.run("systemctl show fieldgate -p NRestarts --value")
        expect(runs == "0", f"the service restarted {runs} times")
        print(f"  150 ms and 15 % loss: goes on; cut: {said['state']}, {waits} readings waited, no number missing")
    finally:
        slave.close()
        eye.close()
        m.kill()


def full(bed):
    """The disk fills up while the broker hangs, and is emptied again: the agent lives, says so, and
    what it had to give up stands in the ledger."""
    m, eye = bed.thaw(), Eye(bed.world.ports["plain"])
    try:
        bed.start(m)
        came(eye, "dev03", 40)
        bed.world.broker.send_signal(signal.SIGSTOP)
        state = "/var/lib/fieldgate"
        wait_until("a backlog", lambda: status(m)["store"]["readings_waiting"] > 200, 60)
        m.run(f"dd if=/dev/zero of={state}/ballast bs=1M; dd if=/dev/zero of={state}/ballast2 bs=4k; true", 120)
        wait_until("a word about it", lambda: "is full" in m.run("journalctl -u fieldgate --no-pager -o cat"), 60)
        found = {f["name"]: f for f in json.loads(m.run("fieldgate doctor --json", 120, check=False)[1])}
        expect(found["disk-space"]["result"] == "failed", f"doctor says {found['disk-space']}")
        m.run(f"rm {state}/ballast {state}/ballast2")
        bed.world.broker.send_signal(signal.SIGCONT)
        came(eye, "dev03", 100, 120)
        runs = m.run("systemctl show fieldgate -p NRestarts --value; systemctl is-active fieldgate")
        expect(runs == "0\nactive", f"restarts, state: {runs}")
        wait_until("the backlog to drain", lambda: status(m)["store"]["readings_waiting"] < 200, 60)
        m.run("systemctl stop fieldgate")
        sums = json.loads(m.run("setpriv --reuid=fieldgate --regid=fieldgate --init-groups fieldgate outbox --json"))
        wait_until("the rest", lambda: len(eye.seen) >= sums["readings_delivered"], 30)
        taken = sums["readings_taken"]
        expect(taken == sums["readings_delivered"] + sums["readings_accounted"] + sums["readings_waiting"], f"{sums}")
        lost = _missing(eye)
        expect(lost <= sums["readings_accounted"], f"{lost} numbers are missing, the ledger has {sums['ledger']}")
        print(f"  doctor: {found['disk-space']['found']}; {taken} taken, {sums['readings_accounted']} given up, as the ledger says")
    finally:
        bed.world.broker.send_signal(signal.SIGCONT)
        eye.close()
        m.kill()


TESTS = {"ttys1": ttys1, "stick": stick, "memory": memory, "clock": clock, "link": link, "full": full}
