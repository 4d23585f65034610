"""Tells the outside what the agent says of itself, twenty times a second: `taken N`, the
readings committed since its start, as `fieldgate status` has them."""

import os
import re
import socket
import time

out = os.open("/dev/virtio-ports/out", os.O_WRONLY)
while True:
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.connect("/run/fieldgate/status.sock")
            s.sendall(b'{"ask":"status"}\n')
            answer = b""
            while not answer.endswith(b"\n"):
                answer += s.recv(65536) or b"\n"
        # python3-minimal has no json.
        found = re.search(rb'"store":\{"commits":\d+,"readings":(\d+),', answer)
        os.write(out, b"taken %s\n" % found.group(1))
    except (OSError, AttributeError) as e:
        print(e, flush=True)
    time.sleep(0.05)
