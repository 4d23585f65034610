"""The rig's runner for fieldgate: PEERS_EXTRA names this file, FIELDGATE_BIN the binary.

The rig gives a plan (see its peers.py) and measures from outside. Here the plan becomes a
configuration as a user would write it: every simulated device that has a port of its own
is a bus of its own, so that they are polled side by side.
"""

import os
from pathlib import Path


def table(header, /, **keys):
    """One TOML table; text, booleans and numbers only."""
    def text(v):
        return str(v).lower() if isinstance(v, bool) else str(v) if isinstance(v, int) else f'"{v}"'
    return "\n".join([header, *(f"{k} = {text(v)}" for k, v in keys.items())]) + "\n"


def transports(plan):
    """The buses of the plan: (name, keys of [[bus]], devices behind it)."""
    kind, *where = plan.modbus
    every = range(plan.devices)
    if kind == "tcp":
        return [(f"bus{i + 1:02d}", dict(transport="tcp", host="127.0.0.1", port=where[0] + i), [i]) for i in every]
    if kind == "units":
        return [("bus", dict(transport="tcp", host="127.0.0.1", port=where[0]), every)]
    if kind == "rtu":
        # A pseudo-terminal has no parity: 8N1.
        line = dict(transport="serial", path=where[0], baud=where[1], data_bits=8, parity="none", stop_bits=1)
        return [("bus", line, every)]
    if kind == "line":
        line = dict(transport="serial", baud=115200, data_bits=8, parity="none", stop_bits=1)
        return [(f"bus{i + 1:02d}", dict(line, path=f"{where[0]}{i + 1:02d}"), [i]) for i in every]
    raise SystemExit(f"fieldgate: no transport for {plan.modbus}")


def config(plan):
    """The whole configuration as text."""
    lines = plan.modbus[0] == "line"
    out = [
        table("[gateway]", name="gw-1", status_socket=f"{plan.dir}/status.sock"),
        table("[uplink]", url=f"mqtts://localhost:{plan.mqtt_port}", ca=f"{plan.certs}/ca.crt",
              certificate=f"{plan.certs}/client.crt", key=f"{plan.certs}/client.key",
              # The broker is on this machine: dialling costs nothing, and the drain is
              # measured from the moment the broker is back.
              reconnect_min="20ms", reconnect_max="50ms"),
        table("[store]", path=f"{plan.dir}/fieldgate.db", durability="commit", max_size="4GiB"),
        table("[log]", level="warn", format="text"),
    ]
    for name, keys, devices in transports(plan):
        out.append(table("[[bus]]", name=name, **keys))
        for i in devices:
            device = dict(name=f"dev{i + 1:02d}", bus=name)
            if lines:
                device.update(protocol="line", format="json", delimiter="\\n")
            else:
                device.update(unit_id=i + 1, interval=f"{plan.period_ms}ms" if plan.period_ms else "0s")
            out.append(table("[[device]]", **device))
            for r in range(plan.regs):
                where = dict(field=f"v.{r}") if lines else dict(table="holding", address=r, type="uint16")
                out.append(table("[[device.point]]", name=f"r{r:03d}", **where))
    return "\n".join(out)


def fieldgate(plan):
    path = Path(plan.dir, "fieldgate.toml")
    path.write_text(config(plan))
    return dict(cmd=[os.environ.get("FIELDGATE_BIN", "fieldgate"), "run", "--config", str(path)],
                # As the service unit sets them.
                env=dict(MALLOC_TRIM_THRESHOLD_="65536", MALLOC_ARENA_MAX="2"),
                format="scan", topic="dt/+/+/telemetry")


PEERS = {"fieldgate": fieldgate}
