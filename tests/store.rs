//! The store on real files: nothing is lost without an entry, whatever happens to the file.
#![allow(clippy::unwrap_used)]

mod kit;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use fieldgate::model::row::{Dropped, Kind, OutboxId, Reason, Route};
use fieldgate::model::time::Timestamp;
use fieldgate::store::inspect::inspect;
use fieldgate::store::{Error, Store, ledger, salvage, schema};
use kit::{NOW, Place, ROOMY, check_sums, ids, layout, no_gap, peek_all, row};
use proptest::prelude::*;

#[test]
fn an_id_is_never_used_twice() {
    let place = Place::new();
    let mut used = BTreeSet::new();
    for round in 0..4 {
        let store = place.open();
        let layout = layout(&store, "meter");
        for _ in 0..3 {
            let id = store.commit(&[row(layout, 1, 2, NOW)]).unwrap();
            assert!(used.insert(id), "{id:?} in round {round}");
            store.ack(id);
        }
        // Each second round ends in order, with an empty outbox; the others are a power cut.
        if round % 2 == 0 {
            ids(&store).into_iter().for_each(|id| store.ack(OutboxId(id)));
            store.close().unwrap();
            assert_eq!(ids(&store), Vec::<i64>::new());
        }
    }
    let store = place.open();
    store.mark_corrupt().unwrap();
    drop(store);
    let store = place.open();
    let layout = layout(&store, "meter");
    let id = store.commit(&[row(layout, 1, 2, NOW)]).unwrap();
    assert!(used.insert(id), "{id:?} after the salvage");
    check_sums(&store);
}

#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<u32>),
    Ack(prop::sample::Index),
    Flush,
    Close,
    Crash,
    /// Milliseconds go by, then a trim.
    Trim(i64),
    DeadLetter(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::collection::vec(0u32..5, 0..4).prop_map(Step::Commit),
        4 => any::<prop::sample::Index>().prop_map(Step::Ack),
        1 => Just(Step::Flush),
        1 => Just(Step::Close),
        1 => Just(Step::Crash),
        1 => (0i64..2000).prop_map(Step::Trim),
        1 => any::<prop::sample::Index>().prop_map(Step::DeadLetter),
    ]
}

const AGE_MAX: Duration = Duration::from_secs(3);

/// Readings, time of the last one, and which lost ones the row tells of.
type ToyRow = (u32, i64, Option<(Reason, u32)>);

/// A store that cannot be wrong: everything in memory, in the plainest form.
#[derive(Default)]
struct Toy {
    rows: BTreeMap<i64, ToyRow>,
    acked: BTreeSet<i64>,
    last_id: i64,
    taken: u32,
    delivered: u32,
    dropped: u32,
}

impl Toy {
    fn add(&mut self, readings: u32, last: i64, told: Option<(Reason, u32)>) {
        self.last_id += 1;
        self.taken += readings;
        self.rows.insert(self.last_id, (readings, last, told));
    }

    fn flush(&mut self) {
        for id in std::mem::take(&mut self.acked) {
            self.delivered += self.rows.remove(&id).map_or(0, |(n, ..)| n);
        }
    }

    /// A gap record that goes hands its count on, unless the broker would not have it.
    fn drop_rows(&mut self, ids: &[i64], now: i64, reason: Reason) {
        let gone: Vec<_> = ids.iter().filter_map(|id| self.rows.remove(id)).collect();
        let readings: u32 = gone.iter().map(|(n, ..)| n).sum();
        self.dropped += readings;
        let mut gaps: Vec<(Reason, u32)> = Vec::new();
        let carried = gone.iter().filter_map(|(.., told)| *told).filter(|_| reason != Reason::DeadLetter);
        for (reason, n) in carried.chain([(reason, readings)]).filter(|(_, n)| *n > 0) {
            match gaps.iter_mut().find(|(r, _)| *r == reason) {
                Some((_, sum)) => *sum += n,
                None => gaps.push((reason, n)),
            }
        }
        gaps.into_iter().for_each(|gap| self.add(0, now, Some(gap)));
    }
}

/// As the agent spells it.
fn gap(d: &Dropped) -> Vec<u8> {
    let (gateway, span) = ("gw".into(), (d.first, d.last));
    fieldgate::wire::payload::gap(&gateway, &d.device, "0-1", d.reason.as_str(), d.readings, span)
}

fn told(store: &Store) -> Vec<u32> {
    let readings =
        |payload: &[u8]| serde_json::from_slice::<serde_json::Value>(payload).unwrap()["readings"].clone();
    let gaps = peek_all(store).into_iter().filter(|r| r.kind == Kind::Gap);
    gaps.map(|r| readings(&r.payload).as_u64().unwrap() as u32).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sums_hold_at_each_step(steps in prop::collection::vec(step(), 1..40)) {
        let place = Place::new();
        let open = || place.try_open(ROOMY, Some(AGE_MAX)).unwrap();
        let (mut store, mut toy, mut now) = (open(), Toy::default(), NOW.0);
        for step in steps {
            match step {
                Step::Commit(sizes) => {
                    let layout = layout(&store, "meter");
                    let rows: Vec<_> = sizes.iter().map(|n| row(layout, 1, *n, Timestamp(now))).collect();
                    store.commit(&rows).unwrap();
                    toy.flush();
                    rows.iter().for_each(|r| toy.add(r.readings, r.last.0, None));
                }
                Step::Ack(which) if !toy.rows.is_empty() => {
                    let id = *toy.rows.keys().nth(which.index(toy.rows.len())).unwrap();
                    store.ack(OutboxId(id));
                    toy.acked.insert(id);
                }
                Step::DeadLetter(which) if !toy.rows.is_empty() => {
                    let id = *toy.rows.keys().nth(which.index(toy.rows.len())).unwrap();
                    store.dead_letter(OutboxId(id), Reason::DeadLetter, Timestamp(now), &gap).unwrap();
                    toy.flush();
                    toy.drop_rows(&[id], now, Reason::DeadLetter);
                }
                Step::Ack(_) | Step::DeadLetter(_) => {}
                Step::Flush => {
                    store.flush_acks().unwrap();
                    toy.flush();
                }
                Step::Close => {
                    store.close().unwrap();
                    drop(store);
                    store = open();
                    toy.flush();
                }
                Step::Crash => {
                    drop(store);
                    store = open();
                    toy.acked.clear();
                }
                Step::Trim(ms) => {
                    now += ms;
                    store.trim(Timestamp(now), &gap).unwrap();
                    let limit = now - AGE_MAX.as_millis() as i64;
                    let old = |toy: &Toy, limit| -> Vec<i64> {
                        let old = toy.rows.iter().take_while(|(_, (_, last, _))| *last < limit);
                        old.map(|(id, _)| *id).collect()
                    };
                    // Nothing happens before the oldest is a sixty-fourth too old.
                    let overdue = limit - AGE_MAX.as_millis() as i64 / 64;
                    if !old(&toy, overdue).is_empty() {
                        toy.flush();
                        if !old(&toy, overdue).is_empty() {
                            let ids = old(&toy, limit);
                            toy.drop_rows(&ids, now, Reason::Expired);
                        }
                    }
                }
            }
            let expected: Vec<i64> = toy.rows.keys().copied().collect();
            prop_assert_eq!(ids(&store), expected);
            let untold: Vec<u32> = toy.rows.values().filter_map(|(.., told)| told.map(|(_, n)| n)).collect();
            prop_assert_eq!(told(&store), untold);
            let tally = store.tally();
            prop_assert_eq!(
                (tally.last_id, tally.taken, tally.delivered, tally.dropped),
                (toy.last_id, toy.taken.into(), toy.delivered.into(), toy.dropped.into())
            );
            check_sums(&store);
        }
        // What a look from outside finds is the same.
        let seen = inspect(&place.file()).unwrap();
        prop_assert_eq!((seen.rows, seen.taken), (toy.rows.len() as u64, u64::from(toy.taken)));
    }
}

#[test]
fn a_full_store_drops_the_oldest_and_writes_down_what() {
    let place = Place::new();
    let quota = 1 << 20;
    let store = place.try_open(quota, None).unwrap();
    let (a, b) = (layout(&store, "a"), layout(&store, "b"));
    let mut taken = 0;
    let mut told = 0;
    for n in 0..600u32 {
        let at = Timestamp(NOW.0 + i64::from(n) * 1000);
        let rows = [row(a, 1, 900, at), row(b, 1, 300, at)];
        match store.commit(&rows) {
            Ok(_) => taken += 1200,
            Err(Error::Full) => {
                let dropped = store.make_room(at, &no_gap).unwrap();
                told += dropped.iter().map(|d| d.readings).sum::<u64>();
                continue;
            }
            Err(e) => panic!("{e}"),
        }
        let dropped = store.trim(at, &no_gap).unwrap();
        told += dropped.iter().map(|d| d.readings).sum::<u64>();
        let size = std::fs::metadata(place.file()).unwrap().len();
        assert!(size <= quota, "{size} bytes after {n} commits");
    }
    check_sums(&store);
    let tally = store.tally();
    assert_eq!(tally.taken, taken);
    assert_eq!(tally.dropped as u64, told);
    assert!(tally.dropped > 0 && tally.readings_waiting() > 0, "{tally:?}");
    let (left, gaps): (Vec<_>, Vec<_>) =
        peek_all(&store).into_iter().partition(|r| r.kind == Kind::Telemetry);
    // The newest are the ones that stayed, and the loss is announced to the cloud.
    assert_eq!(left.last().unwrap().first, Timestamp(NOW.0 + 599_000));
    assert!(!gaps.is_empty());
    for entry in store.ledger().unwrap() {
        assert_eq!(entry.reason, "store-full");
        // The two devices of one second may fall on either side of the cut.
        assert!(entry.first >= NOW && entry.last.0 < left[0].first.0 + 1000, "{entry:?}");
    }
    store.close().unwrap();
    let total: u64 =
        place.names().iter().map(|n| std::fs::metadata(place.folder().join(n)).unwrap().len()).sum();
    assert!(total <= quota + (256 << 10), "{total} bytes with the log");
}

#[test]
fn what_is_too_old_goes_into_the_ledger_and_the_rest_stays() {
    let place = Place::new();
    let store = place.try_open(ROOMY, Some(Duration::from_secs(60))).unwrap();
    let layout = layout(&store, "meter");
    let at = |s: i64| Timestamp(NOW.0 + s * 1000);
    store.commit(&[row(layout, 1, 3, at(0)), row(layout, 4, 2, at(10)), row(layout, 6, 1, at(50))]).unwrap();
    assert_eq!(store.trim(at(60), &no_gap).unwrap(), []);
    let dropped = store.trim(at(71), &no_gap).unwrap();
    assert_eq!(dropped.len(), 1);
    assert_eq!((dropped[0].reason, dropped[0].readings), (Reason::Expired, 5));
    let kinds: Vec<Kind> = peek_all(&store).iter().map(|r| r.kind).collect();
    assert_eq!(kinds, [Kind::Telemetry, Kind::Gap]);
    check_sums(&store);
}

#[test]
fn a_clock_that_was_never_set_expires_nothing() {
    let place = Place::new();
    let store = place.try_open(ROOMY, Some(Duration::from_secs(60))).unwrap();
    let layout = layout(&store, "meter");
    // Taken before the clock was set, then years later by the clock, then before again.
    store.commit(&[row(layout, 1, 1, Timestamp(5_000)), row(layout, 2, 1, NOW)]).unwrap();
    for now in [Timestamp(9_000), Timestamp(900_000), NOW, Timestamp(NOW.0 + 1_000_000)] {
        assert_eq!(store.trim(now, &no_gap).unwrap(), [], "at {now}");
    }
    assert_eq!(ids(&store), [1, 2]);
}

#[test]
fn a_delivered_row_is_not_counted_as_dropped() {
    let place = Place::new();
    let store = place.try_open(ROOMY, Some(Duration::from_secs(60))).unwrap();
    let layout = layout(&store, "meter");
    store.commit(&[row(layout, 1, 3, NOW)]).unwrap();
    store.ack(OutboxId(1));
    assert_eq!(store.trim(Timestamp(NOW.0 + 100_000), &no_gap).unwrap(), []);
    assert_eq!((store.tally().delivered, store.tally().dropped), (3, 0));
}

#[test]
fn the_ledger_is_bounded_and_its_sum_holds() {
    let place = Place::new();
    let store = place.open();
    let layout = layout(&store, "meter");
    // One entry per hour: fill to just below the limit from outside, then lose three more.
    let db = rusqlite::Connection::open(place.file()).unwrap();
    db.execute_batch(&format!(
        "WITH RECURSIVE h(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM h WHERE n < {})
         INSERT INTO ledger SELECT 'meter', 'expired', n, 7, n, n FROM h",
        ledger::ENTRIES_MAX
    ))
    .unwrap();
    drop(db);
    let rows: Vec<_> = (0..3).map(|n| row(layout, n, 5, NOW)).collect();
    store.commit(&rows).unwrap();
    for id in 1..=3 {
        store.dead_letter(OutboxId(id), Reason::DeadLetter, NOW, &no_gap).unwrap();
    }
    let entries = store.ledger().unwrap();
    assert!(entries.len() as i64 <= ledger::ENTRIES_MAX, "{} entries", entries.len());
    let sum: u64 = entries.iter().map(|e| e.count).sum();
    assert_eq!(sum, 7 * ledger::ENTRIES_MAX as u64 + 15);
    let folded = entries.iter().find(|e| e.reason == "expired").unwrap();
    assert_eq!((folded.first, folded.count > 7), (Timestamp(1), true), "{folded:?}");
}

#[test]
fn a_newer_schema_is_refused_in_words_and_left_alone() {
    let place = Place::new();
    place.open().close().unwrap();
    let db = rusqlite::Connection::open(place.file()).unwrap();
    db.pragma_update(None, "user_version", schema::VERSION + 1).unwrap();
    drop(db);
    let e = place.try_open(ROOMY, None).err().unwrap();
    assert!(matches!(e, Error::Newer { .. }), "{e:?}");
    assert!(e.to_string().contains("newer fieldgate"), "{e}");
    assert!(!salvage::is_marked(&place.file()));
}

#[test]
fn a_second_opener_that_holds_the_file_makes_it_busy() {
    let place = Place::new();
    let store = place.open();
    let layout = layout(&store, "meter");
    let mut other = rusqlite::Connection::open(place.file()).unwrap();
    let held = other.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).unwrap();
    let refused = store.commit(&[row(layout, 1, 1, NOW)]);
    assert!(matches!(refused, Err(Error::Busy(_))), "{refused:?}");
    drop(held);
    // Nothing of the refused commit stayed behind, and it goes through now.
    assert_eq!(store.commit(&[row(layout, 1, 1, NOW)]).unwrap(), OutboxId(1));
    check_sums(&store);
}

#[test]
fn a_busy_store_forgets_no_acknowledgement() {
    let place = Place::new();
    let store = place.open();
    let layout = layout(&store, "meter");
    store.commit(&[row(layout, 1, 1, NOW), row(layout, 2, 1, NOW)]).unwrap();
    store.ack(OutboxId(1));
    store.ack(OutboxId(2));
    let mut other = rusqlite::Connection::open(place.file()).unwrap();
    let held = other.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).unwrap();
    assert!(store.flush_acks().is_err());
    drop(held);
    store.flush_acks().unwrap();
    assert_eq!((ids(&store).len(), store.tally().delivered), (0, 2));
}

/// Bytes this thread has read by system calls.
fn bytes_read() -> u64 {
    let io = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    let line = io.lines().find(|l| l.starts_with("rchar")).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn starting_up_reads_a_handful_of_pages_whatever_waits() {
    let place = Place::new();
    let store = place.open();
    let layout = layout(&store, "meter");
    for batch in 0..20u64 {
        let rows: Vec<_> = (0..10_000).map(|n| row(layout, batch * 10_000 + n, 4, NOW)).collect();
        store.commit(&rows).unwrap();
    }
    store.close().unwrap();
    drop(store);
    let size = std::fs::metadata(place.file()).unwrap().len();
    let before = bytes_read();
    let store = place.open();
    let read = bytes_read() - before;
    assert!(read < 200_000, "{read} of {size} bytes were read");
    assert_eq!(store.tally().rows_waiting(), 200_000);
    // Nor does looking at it each second, or reading the first rows.
    let before = bytes_read();
    store.oldest().unwrap();
    store.bytes_used().unwrap();
    store.trim(NOW, &no_gap).unwrap();
    store.peek(Route::GATEWAY, OutboxId(100_000), OutboxId(i64::MAX), 10, usize::MAX).unwrap();
    let read = bytes_read() - before;
    assert!(read < 200_000, "{read} of {size} bytes were read");
}

#[test]
fn what_was_committed_survives_kill_9() {
    const CHILD: &str = "FIELDGATE_TEST_STORE_CHILD";
    if let Ok(path) = std::env::var(CHILD) {
        let store = Store::open(path.as_ref(), ROOMY, None, NOW).unwrap();
        let layout = layout(&store, "meter");
        for seq in 1.. {
            let id = store.commit(&[row(layout, seq, 3, NOW)]).unwrap();
            // Straight to the descriptor: the harness would keep it.
            writeln!(std::io::stderr(), "{}", id.0).unwrap();
        }
    }
    let place = Place::new();
    let mut random = fastrand::Rng::with_seed(7);
    let mut known = BTreeSet::new();
    for round in 0..20 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "what_was_committed_survives_kill_9", "--nocapture"])
            .env(CHILD, place.file())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        // At a random commit, and wherever the child is by then.
        for _ in 0..random.u32(1..60) {
            known.insert(lines.next().unwrap().unwrap().parse::<i64>().unwrap());
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // The last line may be cut.
        known.extend(lines.map_while(Result::ok).filter_map(|l| l.parse::<i64>().ok()));
        let store = place.open();
        let there: BTreeSet<i64> = ids(&store).into_iter().collect();
        let lost: Vec<_> = known.difference(&there).collect();
        assert!(lost.is_empty(), "round {round}: {lost:?}");
        check_sums(&store);
    }
}

/// A store with rows 1..=n of three readings each, of which row 1 is delivered and row 2 in
/// the ledger; closed.
fn prepared(place: &Place, n: u64) -> Store {
    let store = place.open();
    let layout = layout(&store, "meter");
    let rows: Vec<_> = (0..n).map(|i| row(layout, 1 + 3 * i, 3, Timestamp(NOW.0 + i as i64))).collect();
    store.commit(&rows).unwrap();
    store.ack(OutboxId(1));
    store.flush_acks().unwrap();
    store.dead_letter(OutboxId(2), Reason::DeadLetter, NOW, &no_gap).unwrap();
    store
}

fn overwrite(place: &Place, at: u64, bytes: &[u8]) {
    let mut file = std::fs::OpenOptions::new().write(true).open(place.file()).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(bytes).unwrap();
}

/// What an agent does with a damaged file, over as many starts as it takes: it opens, reads
/// everything, and when it meets damage it ends and starts again.
fn live_through(place: &Place) -> Store {
    for _ in 0..4 {
        let store = place.open();
        let all = store.peek(Route::GATEWAY, OutboxId(0), OutboxId(i64::MAX), usize::MAX >> 1, usize::MAX);
        match all.and_then(|_| store.trim(NOW, &no_gap)) {
            Ok(_) => return store,
            Err(Error::Corrupt(_)) => assert!(salvage::is_marked(&place.file()), "damage without a mark"),
            Err(e) => panic!("{e}"),
        }
    }
    panic!("damage is met at each start, for ever");
}

fn check_damaged(what: &str, damage: impl Fn(&Place), readings_saved: std::ops::RangeInclusive<i64>) {
    let place = Place::new();
    let store = prepared(&place, 2000);
    let (before, boot) = (store.tally(), store.boot());
    store.close().unwrap();
    drop(store);
    damage(&place);
    let store = live_through(&place);
    check_sums(&store);
    let tally = store.tally();
    assert!(readings_saved.contains(&tally.readings_waiting()), "{what}: {tally:?}");
    if *readings_saved.end() > 0 {
        // The cloud hears of what could not be saved.
        let gaps = peek_all(&store).iter().filter(|r| r.layout.device.as_str() == "*").count();
        assert_eq!(gaps, usize::from(*readings_saved.end() < WAITING), "{what}");
        assert_eq!((tally.taken, tally.delivered), (before.taken, before.delivered), "{what}");
        assert!(tally.last_id >= before.last_id, "{what}: ids are used again");
        // A reading keeps its name, and no later one gets the same.
        assert_eq!(store.boot().store_id, boot.store_id, "{what}");
        assert!(store.boot().count > boot.count, "{what}");
        assert!(peek_all(&store).iter().all(|r| r.boot == boot || r.kind == Kind::Gap), "{what}");
    }
    let aside = place.names().into_iter().find(|n| n.contains("damaged")).expect(what);
    assert!(std::fs::metadata(place.folder().join(aside)).unwrap().len() > 0, "{what}");
    assert!(!salvage::is_marked(&place.file()), "{what}");
    let layout = layout(&store, "meter");
    store.commit(&[row(layout, 1, 1, NOW)]).expect(what);
}

const WAITING: i64 = 1998 * 3;

#[test]
fn a_damaged_file_is_salvaged_and_the_rest_is_in_the_ledger() {
    let size = {
        let place = Place::new();
        prepared(&place, 2000).close().unwrap();
        std::fs::metadata(place.file()).unwrap().len()
    };
    check_damaged("marked, but sound", |p| salvage::mark(&p.file()).unwrap(), WAITING..=WAITING);
    check_damaged(
        "a page in the middle",
        |p| overwrite(p, size / 2 / 4096 * 4096, &[0xA5; 4096]),
        1..=WAITING - 1,
    );
    check_damaged(
        "a hole of four pages",
        |p| overwrite(p, size / 4096 / 2 * 4096, &[0; 16384]),
        1..=WAITING - 1,
    );
    check_damaged(
        "cut short",
        |p| {
            std::fs::OpenOptions::new()
                .write(true)
                .open(p.file())
                .unwrap()
                .set_len(size * 3 / 4 / 4096 * 4096)
                .unwrap()
        },
        1..=WAITING - 1,
    );
    check_damaged("no SQLite at all", |p| overwrite(p, 0, &[b'x'; 4096]), 0..=0);
    check_damaged(
        "a row of a kind that does not exist",
        |p| {
            let db = rusqlite::Connection::open(p.file()).unwrap();
            db.execute("UPDATE outbox SET kind = 57 WHERE id = 500", []).unwrap();
        },
        WAITING - 3..=WAITING - 3,
    );
    check_damaged(
        "a row without its layout, one with text for a number",
        |p| {
            let db = rusqlite::Connection::open(p.file()).unwrap();
            db.execute_batch(
                "UPDATE outbox SET layout = 999 WHERE id = 500; UPDATE outbox SET seq = 'x' WHERE id = 600",
            )
            .unwrap();
        },
        WAITING - 6..=WAITING - 6,
    );
}

#[test]
fn bytes_flipped_anywhere_never_break_the_sums() {
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..25 {
        let place = Place::new();
        prepared(&place, 300).close().unwrap();
        let size = std::fs::metadata(place.file()).unwrap().len();
        for _ in 0..random.u32(1..30) {
            // The first page holds the schema; the header itself is another test.
            overwrite(&place, random.u64(100..size), &[random.u8(..)]);
        }
        let store = live_through(&place);
        // Whether the ledger was read from the damaged file or made up for, nothing is missing.
        if place.names().iter().any(|n| n.contains("damaged")) {
            check_sums(&store);
        }
    }
}

/// Every state in which a power cut can leave a salvage, made by hand.
#[test]
fn a_salvage_that_was_interrupted_goes_on_and_loses_nothing() {
    let check = |what: &str, interrupt: &dyn Fn(&Place)| {
        let place = Place::new();
        let store = prepared(&place, 50);
        let boot = store.boot();
        // A copy of the files while they are open: the rows still stand in the log.
        let wal = std::fs::read(place.folder().join("outbox.db-wal")).unwrap();
        let main = std::fs::read(place.file()).unwrap();
        assert!(!wal.is_empty());
        drop(store);
        std::fs::write(place.file(), main).unwrap();
        std::fs::write(place.folder().join("outbox.db-wal"), wal).unwrap();
        salvage::mark(&place.file()).unwrap();
        interrupt(&place);
        let store = place.open();
        assert_eq!(store.tally().readings_waiting(), 48 * 3, "{what}");
        assert_eq!(store.boot().store_id, boot.store_id, "{what}");
        check_sums(&store);
        let names = place.names();
        assert!(names.contains(&"outbox.db.damaged-1".to_owned()), "{what}: {names:?}");
        assert!(!salvage::is_marked(&place.file()), "{what}");
        // It happens again, years later: nothing is in its way.
        salvage::mark(&place.file()).unwrap();
        drop(store);
        assert_eq!(place.open().tally().readings_waiting(), 48 * 3, "{what}");
    };
    let rename = |p: &Place, suffix: &str| {
        let from = p.folder().join(format!("outbox.db{suffix}"));
        std::fs::rename(from, p.folder().join(format!("outbox.db.damaged-1{suffix}"))).unwrap();
    };
    let chosen = |p: &Place| {
        std::fs::write(p.folder().join("outbox.db-corrupt"), "set aside as number 1\n").unwrap();
    };
    check("marked", &|_| {});
    check("mark cut short", &|p| std::fs::write(p.folder().join("outbox.db-corrupt"), "").unwrap());
    check("name chosen", &chosen);
    check("log renamed", &|p| {
        chosen(p);
        rename(p, "-wal");
    });
    check("all renamed", &|p| {
        chosen(p);
        rename(p, "-wal");
        rename(p, "");
    });
    check("new file made, nothing copied", &|p| {
        chosen(p);
        rename(p, "-wal");
        rename(p, "");
        let half = Place::new();
        half.open().close().unwrap();
        std::fs::copy(half.file(), p.file()).unwrap();
    });
    check("the new file has a log, the damaged one none", &|p| {
        chosen(p);
        rename(p, "-wal");
        rename(p, "");
        let aside = rusqlite::Connection::open(p.folder().join("outbox.db.damaged-1")).unwrap();
        aside.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        drop(aside);
        assert!(!p.names().contains(&"outbox.db.damaged-1-wal".to_owned()));
        let half = Place::new();
        let open = half.open();
        for suffix in ["", "-wal"] {
            let name = format!("outbox.db{suffix}");
            std::fs::copy(half.folder().join(&name), p.folder().join(&name)).unwrap();
        }
        drop(open);
    });
    check("everything copied, mark still there", &|p| {
        let all = p.open();
        all.close().unwrap();
        drop(all);
        chosen(p);
    });
}

#[test]
fn two_damaged_files_are_kept() {
    let place = Place::new();
    for _ in 0..12 {
        drop(prepared(&place, 3));
        salvage::mark(&place.file()).unwrap();
    }
    drop(place.open());
    let mut kept: Vec<String> = place.names();
    kept.retain(|n| n.contains("damaged") && !n.ends_with("-wal") && !n.ends_with("-shm"));
    assert_eq!(kept, ["outbox.db.damaged-11", "outbox.db.damaged-12"]);
}
