"""Runs what the test outside wants: a line in is a script in base64, a line out is its exit code
and its output in base64. One at a time, over a virtio port: no network, no login."""

import base64
import os
import subprocess
import time

port = os.open("/dev/virtio-ports/ctl", os.O_RDWR)
pending = b""
while True:
    try:
        got = os.read(port, 65536)
    except OSError:
        got = b""
    if not got:  # nobody is connected
        time.sleep(0.1)
        continue
    pending += got
    while b"\n" in pending:
        line, pending = pending.split(b"\n", 1)
        if not line:
            continue
        script = base64.b64decode(line)
        done = subprocess.run(["sh", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        answer = b"%d %s\n" % (done.returncode, base64.b64encode(done.stdout))
        while answer:
            answer = answer[os.write(port, answer) :]
