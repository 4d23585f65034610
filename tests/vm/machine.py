"""A Debian 12 with its own kernel under qemu, without KVM: booted once, frozen, and thawed in
half a second for each test.

All devices are in the frozen machine but USB, which cannot be frozen and is plugged in later.
Disks: vda the root (an overlay over the image), vdb the state of fieldgate, vdc a tar from
outside. Channels: `ctl` runs scripts (guest/control.py), `out` is a line-wise voice of the guest.
"""

import base64
import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import threading
import time
from pathlib import Path

DATA, DROP = 256 << 20, 64 << 20


def wait_until(what, ready, seconds=60):
    end = time.monotonic() + seconds
    while not (found := ready()):
        if time.monotonic() > end:
            raise RuntimeError(f"waited {seconds} s for {what}")
        time.sleep(0.05)
    return found


def overlay(backing, path):
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", backing, "-F", "qcow2", path], check=True)


def command(image: Path, d: Path):
    """The machine; a frozen one thaws only in the very same."""
    sock = lambda name: f"socket,id={name},path={d}/{name}.sock,server=on,wait=off"  # noqa: E731
    disk = lambda n, file, kind, more="": [  # noqa: E731
        "-drive", f"file={d}/{file},format={kind},if=none,id=d{n}{more}", "-device", f"virtio-blk-pci,drive=d{n}"]
    return [
        "qemu-system-x86_64", "-M", "q35", "-nodefaults", "-no-user-config", "-vga", "none", "-display", "none",
        "-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max", "-m", "512", "-smp", "2",
        "-kernel", str(image / "vmlinuz"), "-initrd", str(image / "initrd.img"), "-append",
        "console=ttyS0 root=/dev/vda rw quiet mitigations=off nokaslr audit=0 systemd.show_status=0 no_timer_check 8250.nr_uarts=4",
        *disk(0, "root.qcow2", "qcow2"), *disk(1, "data.raw", "raw", ",cache=writeback"), *disk(2, "drop.raw", "raw"),
        "-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
        "-chardev", sock("ctl"), "-device", "virtserialport,chardev=ctl,name=ctl",
        "-chardev", sock("out"), "-device", "virtserialport,chardev=out,name=out",
        "-serial", f"file:{d}/console.log",
        "-chardev", sock("uart1"), "-device", "isa-serial,chardev=uart1,index=1",
        "-device", "qemu-xhci,id=xhci", "-chardev", sock("usb0"),
        "-qmp", f"unix:{d}/qmp.sock,server=on,wait=off",
        "-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0",
    ]


class Machine:
    def __init__(self, image: Path, home: Path):
        self.image, self.home, self.process = image, home, None
        self.heard, self.lock = [], threading.Lock()  # (when, line) of the channel `out`
        home.mkdir(parents=True, exist_ok=True)

    # --- life ---------------------------------------------------------------------------------

    @classmethod
    def new(cls, image, home):
        """With an empty data disk; not started."""
        m = cls(image, home)
        overlay(image / "root.qcow2", home / "root.qcow2")
        for name, size in (("data.raw", DATA), ("drop.raw", DROP)):
            with open(home / name, "wb") as f:
                f.truncate(size)
        subprocess.run(["mkfs.ext4", "-q", home / "data.raw"], check=True)
        return m

    @classmethod
    def thawed(cls, image, frozen: Path, home, files=None):
        """As it was frozen, half a second ago by its own clock; so the clock is set first."""
        m = cls(image, home)
        overlay(frozen / "root.qcow2", home / "root.qcow2")
        for name in ("data.raw", "drop.raw"):
            subprocess.run(["cp", "--sparse=always", frozen / name, home / name], check=True)
        m.drop(files or {})
        m.start("-incoming", f"file:{frozen}/state")
        return m

    def start(self, *more):
        for old in self.home.glob("*.sock"):
            old.unlink()
        with open(self.home / "qemu.log", "ab") as log:
            self.process = subprocess.Popen(command(self.image, self.home) + list(more), stdout=log, stderr=log)
        wait_until("qemu", lambda: self.process.poll() is not None or (self.home / "qmp.sock").exists())
        self.qmp = self._connect("qmp").makefile("rw")
        self.qmp.readline()
        self.monitor("qmp_capabilities")
        self.control = self._connect("ctl")
        threading.Thread(target=self._listen, args=(self._connect("out"),), daemon=True).start()
        if more:
            wait_until("the thaw", lambda: self.monitor("query-status")["status"] == "running")
        self.run("true", 240)
        self.run(f"date -s @{time.time():.3f}")
        return self

    def kill(self):
        """The power goes. Returns the moment before which everything was heard."""
        at = time.time()
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        return at

    def freeze(self, frozen: Path):
        """Ends this machine; `thawed` makes as many of it as are wanted."""
        self.run("sync; echo 3 >/proc/sys/vm/drop_caches")
        half = self.home / "state"
        self.monitor("migrate", uri=f"file:{half}")
        wait_until("the machine to freeze", lambda: self.monitor("query-migrate").get("status") == "completed")
        self.monitor("quit")
        self.process.wait()
        frozen.mkdir(parents=True, exist_ok=True)
        for name in ("root.qcow2", "data.raw", "drop.raw", "state"):
            shutil.move(self.home / name, frozen / name)

    # --- words --------------------------------------------------------------------------------

    def _connect(self, name):
        s = socket.socket(socket.AF_UNIX)
        wait_until(name, lambda: s.connect_ex(str(self.home / f"{name}.sock")) == 0 or self.process.poll() is not None)
        if self.process.poll() is not None:
            raise RuntimeError("qemu ended: " + (self.home / "qemu.log").read_text())
        return s

    def _listen(self, out):
        pending = b""
        while got := out.recv(65536):
            now = time.time()
            *lines, pending = (pending + got).split(b"\n")
            with self.lock:
                self.heard += [(now, line.decode(errors="replace")) for line in lines]

    def monitor(self, word, **arguments):
        self.qmp.write(json.dumps({"execute": word, "arguments": arguments}) + "\n")
        self.qmp.flush()
        while True:
            answer = json.loads(self.qmp.readline())
            if "error" in answer:
                raise RuntimeError(f"{word}: {answer['error']}")
            if "return" in answer:
                return answer["return"]

    def run(self, script, seconds=60, check=True):
        """In the guest, as root. Output with errors; without `check` also the exit code."""
        self.control.settimeout(seconds)
        self.control.sendall(base64.b64encode(script.encode()) + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            if not (got := self.control.recv(65536)):
                raise RuntimeError("the machine is gone: " + (self.home / "qemu.log").read_text())
            answer += got
        code, text = answer.split(b" ")
        text = base64.b64decode(text).decode(errors="replace").strip()
        if check and int(code):
            raise RuntimeError(f"in the machine: {script}\nexit code {int(code)}: {text}")
        return text if check else (int(code), text)

    def drop(self, files: dict):
        """Files for the guest: name -> path or bytes. `take` unpacks them."""
        with open(self.home / "drop.raw", "r+b") as f, tarfile.open(fileobj=f, mode="w") as tar:
            for name, what in files.items():
                if isinstance(what, Path):
                    tar.add(what, name)
                else:
                    info = tarfile.TarInfo(name)
                    info.size = len(what)
                    tar.addfile(info, io.BytesIO(what))

    def take(self, where="/root"):
        return self.run(f"mkdir -p {where}; tar -xf /dev/vdc -C {where} --no-same-owner 2>&1")


def gold(image: Path):
    """The freshly booted machine, frozen; made once beside the image."""
    version = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True).stdout
    key = hashlib.sha256((version + " ".join(command(image, Path("D")))).encode()).hexdigest()[:12]
    made = image / f"gold-{key}"
    if made.exists():
        return made
    # Where it lies for good, because the disks name each other by path.
    home = image / f".boot-{os.getpid()}"
    try:
        began = time.monotonic()
        m = Machine.new(image, home)
        m.start()
        wait_until("systemd", lambda: m.run("systemctl is-system-running", check=False)[1] in ("running", "degraded"), 240)
        print(f"booted in {time.monotonic() - began:.0f} s: {m.run('systemctl is-system-running; systemctl --failed --no-legend; uname -r', check=False)[1]}", flush=True)
        half = image / f".gold-{os.getpid()}"
        m.freeze(half)
        half.rename(made)
        return made
    finally:
        m.kill()
        shutil.rmtree(home, ignore_errors=True)
