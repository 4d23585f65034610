"""What has to be true of the disk after a power cut at a given moment.

A promise counts only if it was heard before the moment of the cut; so a slow machine makes
the test weaker, never wrong.
"""

import bisect
import json
import sqlite3
import stat
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from disk import wait_until
from record import Promises
from world import THINGS, Eye, World, boot_of

# The broker acknowledged a reading, and the eye sees it this much later at most.
EYE_LAG_S = 3.0


def public(key):
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


class Judge:
    def __init__(self, world: World, promises: Promises):
        self.world, self.p = world, promises
        self.store = world.mount / "fieldgate/fieldgate.db"
        self.checked, self.broken = 0, []
        # In the order in which they were seen.
        self.seen = sorted((when, key) for key, (when, _) in promises.seen.items())

    def hold(self, kind, is_kept, what):
        self.checked += 1
        if not is_kept:
            self.broken.append((kind, what))
        return is_kept

    def judge(self, cut):
        """Of the mounted crash state whose power went at `cut`."""
        self._pairs(cut)
        if not self.store.exists():
            self.hold("store", not self._anything_promised(cut), "there is no store")
            return
        try:
            self._store(cut)
            self._own_words(cut)
        except sqlite3.Error as e:
            self.hold("store", not self._anything_promised(cut), f"the store cannot be read: {e}")

    def _anything_promised(self, cut):
        return self._last(self.p.taken, cut) is not None

    @staticmethod
    def _last(promises, cut):
        at = bisect.bisect_right(promises, cut, key=lambda p: p[0])
        return promises[at - 1][1] if at else None

    def _seen_by(self, when):
        return [key for _, key in self.seen[: bisect.bisect_right(self.seen, when, key=lambda s: s[0])]]

    def _store(self, cut):
        db = sqlite3.connect(self.store)
        try:
            (integrity,) = db.execute("PRAGMA integrity_check").fetchone()
            self.hold("integrity", integrity == "ok", integrity)
            row = db.execute("SELECT store_id, boots, taken, delivered, dropped FROM tally").fetchone()
            store, boots, taken, delivered, dropped = row
            waiting = db.execute("SELECT device, boot, seq, outbox.readings FROM outbox JOIN layout ON layout.id = layout "
                                 "WHERE kind = 0").fetchall()
            shadows = {thing: (json.loads(state), version) for thing, state, version in
                       db.execute("SELECT thing, state, version FROM shadow WHERE name = ''")}
        finally:
            db.close()
        n = sum(r[3] for r in waiting)
        self.hold("sums", delivered + dropped + n == taken, f"{delivered} delivered + {dropped} dropped + {n} waiting, {taken} taken")
        self.hold("dropped", dropped == 0, f"{dropped} readings dropped")
        counted = self._last(self.p.taken, cut) or 0
        self.hold("counted", taken >= counted, f"{counted - taken} readings of {counted} that were counted are gone")
        seen = self._seen_by(cut)
        self.hold("published", taken >= len(seen), f"{len(seen) - taken} readings of {len(seen)} that were published are gone")
        names = [boot_of(boot) for boot in {boot for boot, _, _ in seen}]
        self.hold("boot", all(b <= boots for _, b in names), f"boot {boots}, and readings of {names} were published")
        self.hold("store id", all(int(s, 16) == store for s, _ in names), f"store {store:08x}, published as {names}")
        self._holes(store, waiting, cut)
        for thing in ("dev01", "dev03"):
            of_it = [(t, what) for t, what in self.p.shadow if what[0] == thing]
            if promised := self._last(of_it, cut):
                state, version = shadows.get(thing, ({}, 0))
                found = state.get("desired", {}).get("note", 0)
                self.hold("shadow", found >= promised[2] and version >= promised[1],
                          f"{thing}: version {version} with note {found}, accepted was {promised[1]} with {promised[2]}")

    def _holes(self, store, waiting, cut):
        """Of each boot and device: what arrived and what waits leaves no number out. Rows go in any
        order, because live ones overtake the backlog."""
        arrived = {}
        for boot, device, seq in self._seen_by(cut + EYE_LAG_S):
            arrived.setdefault((boot_of(boot), device), set()).add(seq)
        waits = {}
        for device, boot, seq, count in waiting:
            waits.setdefault((boot, device), set()).update(range(seq, seq + count))
        for (boot, device), there in waits.items():
            both = there | {n for n in arrived.get(((f"{store:08x}", boot), device), ()) if n < max(there)}
            holes = set(range(min(both), max(both))) - both
            self.hold("holes", not holes, f"{device}, boot {boot}: {len(holes)} numbers from {min(holes, default=0)} neither arrived nor wait")

    def _own_words(self, cut):
        """What the program itself says of the file."""
        told = json.loads(self.world.tell("outbox", "--json"))
        self.hold("outbox", not told["ledger"], f"the ledger has entries: {told['ledger']}")
        head = self._last(self.p.heads, cut)
        words = ["--head", head] if head else []
        said = self.world.tell("audit", "verify", *words, check=False).strip()
        self.hold("audit", said.startswith("intact"), said)

    def _pairs(self, cut):
        folder = self.store.parent / "identity"
        for thing in THINGS:
            promised = self._last([(t, s) for t, (name, s) in self.p.pairs if name == thing], cut)
            path = folder / f"{thing}.pem"
            if promised is None:
                continue
            if self.hold("pair", path.exists(), f"{path.name} is gone"):
                serial = x509.load_pem_x509_certificate(path.read_bytes()).serial_number if self._whole(path) else None
                order = self.p.serials[thing]
                is_newer = serial not in order[: order.index(promised)]
                self.hold("pair", serial is not None and is_newer, f"{path.name} is older than what was accepted")
        # Whatever lies there under its final name is whole, promised or not.
        if folder.exists():
            for path in folder.glob("*.pem"):
                self._whole(path)

    def _whole(self, path: Path):
        mode = stat.S_IMODE(path.stat().st_mode)
        text, why = path.read_bytes(), None
        try:
            if b"PRIVATE KEY" in text or not path.name.startswith("ca"):
                key = load_pem_private_key(text, None)
                if not path.name.endswith(".key.pem"):
                    leaf = x509.load_pem_x509_certificates(text)[0]
                    why = None if public(key.public_key()) == public(leaf.public_key()) else "key and certificate differ"
                if mode != 0o600:
                    why = f"mode {mode:04o}"
            else:
                x509.load_pem_x509_certificates(text)
        except ValueError as e:
            why = f"{len(text)} bytes: {e}"
        return self.hold("whole", why is None, f"{path.name}: {why}")

    def revive(self, cut):
        """Starts the agent on the crash state: what waits arrives, under its own names, and new
        readings have names that nobody has seen before."""
        world = self.world
        db = sqlite3.connect(self.store)
        store, boots, taken = db.execute("SELECT store_id, boots, taken FROM tally").fetchone()
        db.close()
        before = {key: self.p.seen[key][1] for key in self._seen_by(cut + EYE_LAG_S)}
        eye = Eye(world.ports["plain"])
        agent = world.start_agent()
        try:
            def done():
                if agent.poll() is not None:
                    return True
                with eye.lock:
                    new = sum(boot_of(boot)[1] > boots for boot, _, _ in eye.seen)
                status = (world.ask({"ask": "status"}) or {}).get("status")
                return status and new > 20 and status["store"]["readings_waiting"] < 50
            wait_until("the revived agent to deliver", done, 30)
            self.hold("revived", agent.poll() is None, "the agent ended by itself")
            time.sleep(0.1)
        finally:
            agent.kill()
            agent.wait()
            eye.close()
        self.hold("conflict", not eye.conflicts, str(eye.conflicts[:2]))
        old = {key: what for key, (_, what) in eye.seen.items() if boot_of(key[0])[1] <= boots}
        changed = [key for key, what in old.items() if self.p.seen.get(key, (0, what))[1] != what]
        self.hold("changed", not changed, f"{len(changed)} readings are not what they were: {changed[:2]}")
        early = [k for k in self._seen_by(cut) if k in eye.seen and boot_of(k[0])[1] > boots]
        self.hold("reused", not early, f"{len(early)} names were given again: {early[:2]}")
        ids = {boot_of(boot)[0] for boot, _, _ in eye.seen}
        self.hold("store id", ids == {f"{store:08x}"}, f"{ids}")
        arrived = {k for k in before.keys() | old.keys() if boot_of(k[0])[1] <= boots}
        self.hold("arrived", len(arrived) >= taken, f"{taken - len(arrived)} of {taken} readings never arrived")
        aside = [p.name for p in self.store.parent.glob("*corrupt*")]
        self.hold("aside", not aside, f"the store was set aside: {aside}")
        return len(old)
