"""Tells the outside what the agent says of itself, twenty times a second: `taken N`, the
readings committed since its start, as `fieldgate status` has them."""

import json
import os
import socket
import time

out = os.open("/dev/virtio-ports/out", os.O_WRONLY)
while True:
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.connect("/run/fieldgate/status.sock")
            s.sendall(b'{"ask":"status"}\n')
            status = json.loads(s.makefile().readline())["status"]
        os.write(out, b"taken %d\n" % status["store"]["readings"])
    except (OSError, ValueError, KeyError) as e:
        print(e, flush=True)
    time.sleep(0.05)
