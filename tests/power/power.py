"""Power cuts of a recorded disk: see README.md. Called by `run`."""

import argparse
import collections
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from disk import Log, Mounted  # noqa: E402
from record import Recording, summary  # noqa: E402
from replay import Judge  # noqa: E402
from world import World  # noqa: E402


# What is taken away, and which kinds of promises then have to be found broken.
CONTROLS = [
    ("without flushes of the log (as synchronous=NORMAL)", "wal", ("counted", "published", "shadow", "audit")),
    ("without any flush", "all", ("store", "pair", "whole")),
]


def trial(name, a, seconds, states, revivals, blind=None):
    """Records, cuts, judges. Returns the judge."""
    work = Path(tempfile.mkdtemp(prefix="fieldgate-power-"))
    began = time.monotonic()
    dice = random.Random(a.seed)
    world = None
    try:
        world = World(work, a.binary, sys.executable)
        disk = Recording(world, seconds, {"LD_PRELOAD": str(a.blind), "BLIND": blind} if blind else {})
        recorded = disk.run()
        promises = disk.promises
        print(f"{name}: recorded in {time.monotonic() - began:.0f} s: {summary(promises)}", flush=True)
        log = Log(recorded.base, recorded.log, dice)
        flushes = sum(e[0] == b"F" for e in log.entries)
        began = time.monotonic()
        judge = Judge(world, promises)
        first = next(i for i, e in enumerate(log.entries) if e[5] > promises.taken[0][0])
        cuts = sorted(dice.randrange(first, len(log.entries) + 1) for _ in range(states))
        delivered = broken_states = 0
        for i, at in enumerate(cuts):
            log.state(at, work / "state.raw")
            known = len(judge.broken)
            with Mounted(work / "state.raw", world.mount):
                judge.judge(log.time(at))
                if revivals and i % max(1, states // revivals) == 0 and len(judge.broken) == known:
                    delivered += judge.revive(log.time(at))
            broken_states += len(judge.broken) > known
            for kind, what in judge.broken[known:][:3]:
                if blind is None:
                    print(f"  BROKEN at entry {at} (seed {a.seed}): {kind}: {what}", flush=True)
        print(f"{name}: {states} crash states of {len(log.entries)} writes and {flushes} flushes, {judge.checked} checks, "
              f"{delivered} waiting readings delivered after a start, {len(judge.broken)} broken in {broken_states} states, "
              f"{time.monotonic() - began:.0f} s", flush=True)
        return judge
    except BaseException:
        if world:
            print("--- the agent's last words\n" + "\n".join(world.agent_log().splitlines()[-30:]), file=sys.stderr)
        raise
    finally:
        if world:
            world.close()
        if a.keep:
            print(f"kept: {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--binary", type=Path, required=True)
    ap.add_argument("--blind", type=Path, required=True, help="a library that makes fsync do nothing")
    ap.add_argument("--states", type=int, default=100)
    ap.add_argument("--seconds", type=float, default=12)
    ap.add_argument("--revivals", type=int, default=8)
    ap.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    ap.add_argument("--keep", action="store_true", help="leave the recording on the disk")
    ap.add_argument("--only", choices=["real", "control"])
    a = ap.parse_args()
    print(f"seed {a.seed}")
    failed = False
    if a.only != "control":
        judge = trial("as it is", a, a.seconds, a.states, a.revivals)
        failed = bool(judge.broken)
    for name, blind, expected in CONTROLS if a.only != "real" else []:
        judge = trial(name, a, 5, 20, 0, blind)
        kinds = collections.Counter(kind for kind, _ in judge.broken)
        print("  broken, as it has to be: " + ", ".join(f"{kind} {n}" for kind, n in kinds.most_common()))
        for kind in expected:
            if not kinds[kind]:
                print(f"FAILED: {name}, no promise of the kind {kind!r} was found broken: the test is blind")
                failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
