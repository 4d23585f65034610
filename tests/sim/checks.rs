//! What must hold of every world once it is at rest. Each check has a name; a complaint
//! begins with it.
//!
//! | check | what it says |
//! |---|---|
//! | `whole` | a message has as many readings as its sequence numbers say |
//! | `same` | one (boot, device, seq) is always the same reading |
//! | `gap` | sequence numbers of a boot and device begin at 1 and lack only what was refused |
//! | `lost` | what was taken arrived, or stands in the ledger |
//! | `invented` | nothing arrived that was not taken, nothing counts as delivered that did not arrive |
//! | `tally` | taken = delivered + dropped + what really stands in the file; the ledger sums to dropped |
//! | `rest` | at the end nothing waits, and the agent stops in order |
//! | `true` | a reported value was handed out by that unit for that point, just before |
//! | `once` | an answer became one reading |
//! | `taken` | every proper answer became a reading, but for the polls in flight at a power cut |
//! | `order` | in a connection, backlog and live readings of a device each come in their order |
//! | `faults` | silent and back take turns |
//! | `calm` | where nothing goes wrong no reading is bad and nothing is said twice |

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use serde_json::Value;

use crate::cloud::Arrival;
use crate::plant::{DEVICES, LINES, ON_THE_WIRE, POINTS, RESPONSE_TIMEOUT};
use crate::units::WRITABLE;
use crate::world::{BASE, BATCH_WINDOW, Evidence};

/// (boot, device, sequence number): the name of a reading for ever.
type Name = (String, String, u64);

#[derive(Clone, Debug, PartialEq)]
struct Reading {
    t: i64,
    point: String,
    /// The value, or why there is none.
    what: Result<u64, String>,
}

/// The readings of everything that arrived, by name.
#[derive(Default)]
struct Readings {
    arrived: BTreeMap<Name, Reading>,
    refused: BTreeMap<Name, Reading>,
    complaints: Vec<String>,
    repeated: usize,
}

/// All complaints about a world.
pub fn judge(e: &Evidence) -> Vec<String> {
    let all = Readings::of(e);
    let mut complaints = all.complaints.clone();
    complaints.extend(gap(e, &all));
    complaints.extend(lost(e, &all));
    complaints.extend(tally(e));
    complaints.extend(truth(e, &all));
    complaints.extend(taken(e, &all));
    complaints.extend(order(e));
    complaints.extend(faults(e));
    complaints.extend(crate::things::judge(&e.things));
    complaints
}

/// What must hold besides where nothing ever goes wrong.
pub fn judge_calm(e: &Evidence) -> Vec<String> {
    let all = Readings::of(e);
    let mut complaints = Vec::new();
    // The lines are closed at the very end, and that is told.
    let closed = e.served.iter().map(|s| s.at).max().unwrap_or_default();
    for (name, reading) in &all.arrived {
        if reading.what.is_err() && since(reading.t) <= closed {
            complaints.push(format!("calm: {name:?} is bad: {reading:?}"));
        }
    }
    if all.repeated > 0 {
        complaints.push(format!("calm: {} readings arrived more than once", all.repeated));
    }
    complaints
}

impl Readings {
    fn of(e: &Evidence) -> Readings {
        let mut all = Readings::default();
        for arrival in e.arrivals.iter().filter(|a| a.topic.ends_with("/telemetry")) {
            for (name, reading) in all.open(&arrival.payload) {
                match all.arrived.get(&name) {
                    Some(known) if *known != reading => {
                        all.complaints.push(format!("same: {name:?} was {known:?} and is {reading:?}"));
                    }
                    Some(_) => all.repeated += 1,
                    None => _ = all.arrived.insert(name, reading),
                }
            }
        }
        for payload in &e.refused {
            let opened = all.open(payload);
            all.refused.extend(opened);
        }
        all
    }

    fn open(&mut self, payload: &Value) -> Vec<(Name, Reading)> {
        let text = |key: &str| payload[key].as_str().unwrap_or_default().to_owned();
        let (boot, device) = (text("boot"), text("device"));
        let seq = |n: usize| payload["seq"][n].as_u64().unwrap_or_default();
        let mut readings = Vec::new();
        for group in payload["readings"].as_array().into_iter().flatten() {
            let t = group["t"].as_i64().unwrap_or_default();
            for (section, members) in group.as_object().into_iter().flatten() {
                for (point, value) in members.as_object().into_iter().flatten() {
                    let what = match section.as_str() {
                        "values" => value.as_u64().ok_or_else(|| format!("no number: {value}")),
                        _ => Err(value.as_str().unwrap_or_default().to_owned()),
                    };
                    readings.push(Reading { t, point: point.clone(), what });
                }
            }
        }
        let named: Vec<(Name, Reading)> =
            (seq(0)..).zip(readings).map(|(n, r)| ((boot.clone(), device.clone(), n), r)).collect();
        if seq(0) == 0 || named.last().map(|(name, _)| name.2) != Some(seq(1)) {
            self.complaints.push(format!("whole: seq does not fit the readings: {payload}"));
        }
        named
    }
}

fn gap(e: &Evidence, all: &Readings) -> Vec<String> {
    let mut known: BTreeMap<(&str, &str), BTreeSet<u64>> = BTreeMap::new();
    for (boot, device, seq) in all.arrived.keys().chain(all.refused.keys()) {
        known.entry((boot, device)).or_default().insert(*seq);
    }
    let mut complaints = Vec::new();
    for ((boot, device), seqs) in known {
        let last = seqs.last().copied().unwrap_or_default();
        let missing: Vec<u64> = (1..=last).filter(|n| !seqs.contains(n)).collect();
        // Where old readings expire the ledger has to know how many; see `lost`.
        if !missing.is_empty() && !e.expires {
            complaints.push(format!("gap: {device} in boot {boot} lacks {missing:?}"));
        }
    }
    complaints
}

fn lost(e: &Evidence, all: &Readings) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut lost = 0;
    for life in &e.lives {
        let arrived = all.arrived.keys().filter(|(boot, ..)| *boot == life.boot).count() as i64;
        if arrived > life.taken {
            complaints
                .push(format!("invented: {arrived} of boot {} arrived, {} taken", life.boot, life.taken));
        }
        lost += (life.taken - arrived).max(0);
    }
    let refused = all.refused.keys().filter(|n| !all.arrived.contains_key(*n)).count() as i64;
    let accounted: i64 = e.ledger.iter().map(|(_, n)| *n as i64).sum();
    if lost > accounted {
        complaints.push(format!("lost: {lost} readings did not arrive, the ledger knows of {accounted}"));
    } else if !e.expires && (lost, accounted) != (refused, refused) {
        let text = format!("{lost} did not arrive, {refused} were refused, {accounted} are in the ledger");
        complaints.push(format!("lost: {text}"));
    }
    if e.delivered > all.arrived.len() as i64 {
        complaints.push(format!(
            "invented: {} counted as delivered, {} arrived",
            e.delivered,
            all.arrived.len()
        ));
    }
    complaints
}

fn tally(e: &Evidence) -> Vec<String> {
    let mut complaints: Vec<String> = e.misfits.iter().map(|m| format!("tally: at a start: {m}")).collect();
    let taken: i64 = e.lives.iter().map(|l| l.taken).sum();
    if taken != e.delivered + e.dropped + e.readings_left {
        let (delivered, dropped, left) = (e.delivered, e.dropped, e.readings_left);
        complaints
            .push(format!("tally: {taken} taken, {delivered} delivered, {dropped} dropped, {left} left"));
    }
    let ledger: i64 = e.ledger.iter().map(|(_, n)| *n as i64).sum();
    if ledger != e.dropped {
        complaints.push(format!("tally: the ledger sums to {ledger}, {} dropped", e.dropped));
    }
    if e.rows_left > 0 {
        complaints.push(format!("rest: {} rows never left", e.rows_left));
    }
    if let Some(why) = &e.stopped {
        complaints.push(format!("rest: the agent did not stop in order: {why}"));
    }
    complaints
}

fn since(t: i64) -> Duration {
    Duration::from_millis(u64::try_from(t - BASE.0).unwrap_or_default())
}

fn truth(e: &Evidence, all: &Readings) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut served = HashMap::new();
    for s in &e.served {
        served.insert((DEVICES[s.device].0, POINTS[s.point].0, s.value), s.at);
    }
    let mut seen: HashMap<u64, &Name> = HashMap::new();
    for (name, reading) in &all.arrived {
        let Ok(value) = reading.what else { continue };
        // Registers that are written hold what was written, and not what tells its answer.
        if WRITABLE.iter().any(|(point, _)| *point == reading.point) {
            continue;
        }
        match served.get(&(name.1.as_str(), reading.point.as_str(), value)) {
            None => complaints.push(format!("true: {name:?} {reading:?} was never handed out")),
            Some(at) => {
                let t = since(reading.t);
                // Milliseconds are cut, so a reading may seem one older than its answer.
                if t + Duration::from_millis(1) < *at || t > *at + RESPONSE_TIMEOUT + ON_THE_WIRE {
                    complaints
                        .push(format!("true: {name:?} says {t:?}, {value:#x} was handed out at {at:?}"));
                }
            }
        }
        if let Some(other) = seen.insert(value, name) {
            complaints.push(format!("once: {value:#x} is {name:?} and {other:?}"));
        }
    }
    complaints
}

/// At a power cut each line may hold one answer that is not in the hub yet (in hand, or waiting
/// for room), the queue holds one, and the hub holds what came since it last took its batch to
/// the disk. A commit takes its batch away `BATCH_WINDOW` after its first reading, units need
/// longer than that for an answer, so that is one per line. While the disk stands still, one
/// more batch is at the disk: again one per line, and what waited in the queue by then.
const IN_FLIGHT_MAX: u64 = 3 * LINES.len() as u64 + 2;

fn taken(e: &Evidence, all: &Readings) -> Vec<String> {
    let reported = |r: &BTreeMap<Name, Reading>| -> BTreeSet<u64> {
        r.values().filter_map(|r| r.what.clone().ok()).collect()
    };
    let (arrived, refused) = (reported(&all.arrived), reported(&all.refused));
    let missing = e.served.iter().filter(|s| s.proper);
    let missing: Vec<_> =
        missing.filter(|s| !arrived.contains(&s.value) && !refused.contains(&s.value)).collect();
    let mut complaints = Vec::new();
    let mut unexplained = Vec::new();
    // An answer carries up to two points; answers are counted.
    let mut at_cuts: BTreeMap<Duration, BTreeSet<(usize, Duration)>> = BTreeMap::new();
    for s in missing {
        match e.lives.iter().filter_map(|l| l.cut).find(|cut| s.at <= *cut) {
            Some(cut) if s.at + IN_FLIGHT_AGE_MAX >= cut => {
                at_cuts.entry(cut).or_default().insert((s.device, s.at));
            }
            _ => unexplained.push(s),
        }
    }
    let accounted: u64 = e.ledger.iter().map(|(_, n)| *n).sum();
    // What expired cannot be told from what was in flight at a cut.
    let expired = if e.expires { accounted } else { 0 };
    for (cut, answers) in at_cuts {
        if answers.len() as u64 > IN_FLIGHT_MAX + expired {
            complaints.push(format!("taken: the cut at {cut:?} cost {} answers: {answers:?}", answers.len()));
        }
    }
    if unexplained.len() as u64 > expired {
        complaints.push(format!("taken: never became readings: {unexplained:?}"));
    }
    complaints
}

/// The longest that the disk stands still, and one batch.
const IN_FLIGHT_AGE_MAX: Duration = Duration::from_millis(4_000 + 300 + BATCH_WINDOW.as_millis() as u64);

/// Two lanes go through one connection: what had been committed before it, and what came
/// after. So the sequence numbers of a boot and device are two rising rows, the one wholly
/// below the other.
fn order(e: &Evidence) -> Vec<String> {
    let mut rows: BTreeMap<(u64, String, String), Vec<u64>> = BTreeMap::new();
    let mut last = 0;
    for Arrival { connection, payload, topic, .. } in &e.arrivals {
        if let (Some(seq), true) = (payload["seq"][0].as_u64(), topic.ends_with("/telemetry")) {
            // A row under suspicion goes before all others, to be tried alone.
            if std::mem::replace(&mut last, *connection) != *connection {
                continue;
            }
            let key = |k: &str| payload[k].as_str().unwrap_or_default().to_owned();
            rows.entry((*connection, key("boot"), key("device"))).or_default().push(seq);
        }
    }
    let bad = rows.iter().filter(|(_, seqs)| !in_two_lanes(seqs));
    bad.map(|(key, seqs)| format!("order: {key:?}: {seqs:?}")).collect()
}

fn in_two_lanes(seqs: &[u64]) -> bool {
    let rises = |keep: &dyn Fn(u64) -> bool| seqs.iter().filter(|n| keep(**n)).is_sorted();
    rises(&|_| true) || seqs.iter().any(|border| rises(&|n| n < *border) && rises(&|n| n >= *border))
}

fn faults(e: &Evidence) -> Vec<String> {
    let mut told: BTreeMap<(String, String), Vec<(i64, String)>> = BTreeMap::new();
    for arrival in e.arrivals.iter().filter(|a| a.topic.ends_with("/fault")) {
        let text = |key: &str| arrival.payload[key].as_str().unwrap_or_default().to_owned();
        let said = (arrival.payload["t"].as_i64().unwrap_or_default(), text("fault"));
        let all = told.entry((text("boot"), text("device"))).or_default();
        if !all.contains(&said) {
            all.push(said);
        }
    }
    let mut complaints = Vec::new();
    for (key, mut all) in told {
        all.sort_by_key(|(t, _)| *t);
        let turns = all.iter().zip(["silent", "back"].iter().cycle()).all(|((_, said), due)| said == due);
        // A fault record that expired is not missed: it is no reading.
        if !turns && !e.expires {
            complaints.push(format!("faults: {key:?}: {all:?}"));
        }
    }
    complaints
}
