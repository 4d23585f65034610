//! The account: what the devices handed out against what the cloud got and the gap records.
//!
//! A value may be missing only when a gap record accounts for it, or when it was on its way
//! from the device as the agent was killed. A value may arrive twice, at most one window of
//! messages per cut, and none more often than there were cuts. A value that no device
//! handed out may not arrive at all.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::subscriber::{Message, Subscriber};
use super::wait::until_true;

/// One value of one point; the devices see to it that there are no two equal ones.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sample {
    pub device: String,
    pub point: String,
    pub value: u64,
}

impl Sample {
    /// `dev01 p0 17`, as the foreign devices note it.
    pub fn parse(line: &str) -> Option<Sample> {
        let mut words = line.split(' ');
        let (device, point, value) = (words.next()?, words.next()?, words.next()?);
        Some(Sample { device: device.into(), point: point.into(), value: value.parse().ok()? })
    }
}

/// What a case allows.
#[derive(Clone, Copy, Default)]
pub struct Allowed {
    /// Each may cost the polls after the last commit, which is not more than the one on the line
    /// where the disk is fast: one run of values per point.
    pub kills: usize,
    /// Connections that broke; each may repeat one window of messages.
    pub cuts: usize,
}

/// Polls that one kill may cost, where a flush takes as long as some of them.
const POLLS_PER_KILL_MAX: usize = 10;

/// Whether these values, in order, can be what so many kills have cost.
fn cost_of_kills(values: &[u64], kills: usize) -> bool {
    let runs: Vec<_> = values.chunk_by(|a, b| a + 1 == *b).collect();
    runs.len() <= kills && runs.iter().all(|run| run.len() <= POLLS_PER_KILL_MAX)
}

/// What arrived, read out of the messages.
#[derive(Default)]
pub struct Arrived {
    pub samples: BTreeSet<Sample>,
    /// Messages that brought a value which had arrived before.
    pub repeated: usize,
    /// How often each value arrived.
    pub copies: BTreeMap<Sample, usize>,
    /// Point and cause of readings without a value.
    pub bad: Vec<(String, String, String)>,
    /// Readings that the ledger gave up, by device.
    pub gaps: BTreeMap<String, u64>,
    /// Sequence ranges by device and boot.
    ranges: BTreeMap<(String, String), BTreeSet<(u64, u64)>>,
}

impl Arrived {
    pub fn read(messages: &[Message]) -> Arrived {
        let mut arrived = Arrived::default();
        for message in messages {
            let topic: Vec<&str> = message.topic.split('/').collect();
            match topic[..] {
                ["dt", "gw-1", device, "telemetry"] => arrived.telemetry(device, &message.payload),
                // By a connection of its own.
                ["dt", thing, "telemetry"] => arrived.telemetry(thing, &message.payload),
                ["dt", "gw-1", _, "gap"] | ["dt", _, "gap"] => arrived.gap(&message.payload),
                _ => {}
            }
        }
        arrived
    }

    fn telemetry(&mut self, device: &str, payload: &Value) {
        assert_eq!((&payload["v"], &payload["gateway"]), (&1.into(), &"gw-1".into()), "{payload}");
        assert_eq!(payload["device"], device, "{payload}");
        let boot = payload["boot"].as_str().unwrap_or_else(|| panic!("no boot id: {payload}"));
        let seq = |i: usize| payload["seq"][i].as_u64().unwrap_or_else(|| panic!("no sequence: {payload}"));
        self.ranges.entry((device.into(), boot.into())).or_default().insert((seq(0), seq(1)));
        let mut news = true;
        let mut count = 0;
        for reading in payload["readings"].as_array().unwrap_or_else(|| panic!("no readings: {payload}")) {
            assert!(reading["t"].is_i64(), "no time: {payload}");
            let good = entries(&reading["values"]).map(|(point, value)| (point, value.clone()));
            let doubtful = entries(&reading["uncertain"]).map(|(point, u)| (point, u["value"].clone()));
            for (point, value) in good.chain(doubtful) {
                count += 1;
                let Some(value) = value.as_u64() else { panic!("not a number of ours: {payload}") };
                let sample = Sample { device: device.into(), point: point.clone(), value };
                *self.copies.entry(sample.clone()).or_default() += 1;
                news &= self.samples.insert(sample);
            }
            for (point, cause) in entries(&reading["bad"]) {
                count += 1;
                let cause = cause.as_str().unwrap_or_default().to_owned();
                self.bad.push((device.into(), point.clone(), cause));
            }
        }
        assert_eq!(seq(1) + 1 - seq(0), count, "as many readings as sequence numbers: {payload}");
        self.repeated += usize::from(!news);
    }

    fn gap(&mut self, payload: &Value) {
        let count =
            payload["readings"].as_u64().unwrap_or_else(|| panic!("a gap without a count: {payload}"));
        let device = payload["device"].as_str().unwrap_or_else(|| panic!("a gap of nobody: {payload}"));
        *self.gaps.entry(device.into()).or_default() += count;
    }

    /// Where a device's sequence numbers have a hole.
    pub fn hole(&self) -> Option<String> {
        for ((device, boot), ranges) in &self.ranges {
            let mut covered: Option<u64> = None;
            for (first, last) in ranges {
                if covered.is_some_and(|covered| *first > covered + 1) {
                    return Some(format!(
                        "{device}, boot {boot}: {} is followed by {first}",
                        covered.unwrap()
                    ));
                }
                covered = covered.max(Some(*last));
            }
        }
        None
    }
}

/// Waits until everything that `served` lists has arrived or is accounted for, and judges.
#[track_caller]
pub fn settle(served: impl Fn() -> Vec<Sample>, cloud: &Subscriber, window: usize, allowed: Allowed) {
    let due: BTreeSet<Sample> = served().into_iter().collect();
    assert!(!due.is_empty(), "no device handed anything out: this proves nothing");
    let open = |arrived: &Arrived| {
        let mut missing: BTreeMap<(&str, &str), Vec<u64>> = BTreeMap::new();
        for sample in due.difference(&arrived.samples) {
            missing.entry((&sample.device, &sample.point)).or_default().push(sample.value);
        }
        missing.retain(|_, values| !cost_of_kills(values, allowed.kills));
        let lost: usize = missing.values().map(Vec::len).sum();
        let given_up: u64 = arrived.gaps.values().sum();
        let spans: Vec<String> = missing
            .iter()
            .map(|((device, point), v)| {
                format!("{device} {point}: {} of {}..{}", v.len(), v[0], v[v.len() - 1])
            })
            .collect();
        (lost as u64 > given_up)
            .then(|| format!("{lost} values ({}), gaps {:?}", spans.join("; "), arrived.gaps))
    };
    let mut last = Some(String::new());
    until_true_or("every value to arrive", &mut last, || open(&cloud.arrived()));
    until_true_or("the sequence to have no hole", &mut last, || {
        let arrived = cloud.arrived();
        if arrived.gaps.is_empty() { arrived.hole() } else { None }
    });
    let arrived = cloud.arrived();
    let known: BTreeSet<Sample> = served().into_iter().collect();
    let invented: Vec<_> = arrived.samples.difference(&known).collect();
    assert!(invented.is_empty(), "arrived, but no device handed it out: {invented:?}");
    let most = arrived.copies.iter().max_by_key(|(_, n)| **n);
    assert!(most.is_none_or(|(_, n)| *n <= 1 + allowed.cuts), "{most:?} with {} cuts", allowed.cuts);
    assert!(
        arrived.repeated <= window * allowed.cuts,
        "{} messages came again, with {} cuts and a window of {window}",
        arrived.repeated,
        allowed.cuts
    );
}

/// Like `until_true`, but the panic shows what was still open.
#[track_caller]
fn until_true_or(what: &str, last: &mut Option<String>, mut open: impl FnMut() -> Option<String>) {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        until_true(what, || {
            *last = open();
            last.is_none()
        });
    }));
    if outcome.is_err() {
        panic!("{what} failed; still open: {}", last.take().unwrap_or_default());
    }
}

fn entries(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    object.as_object().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(seq: [u64; 2], values: &[u64]) -> Message {
        let readings: Vec<_> =
            values.iter().map(|v| serde_json::json!({"t": 1, "values": {"p0": v}})).collect();
        Message {
            topic: "dt/gw-1/dev01/telemetry".into(),
            payload: serde_json::json!({
                "v": 1, "gateway": "gw-1", "device": "dev01", "boot": "b", "seq": seq, "readings": readings
            }),
        }
    }

    #[test]
    fn a_kill_costs_one_short_run_of_values() {
        let check = |values: &[u64], kills, expected| {
            assert_eq!(cost_of_kills(values, kills), expected, "{values:?} with {kills}");
        };
        check(&[7], 0, false);
        check(&[7, 8], 1, true);
        check(&[7, 9], 1, false);
        check(&[7, 8, 20], 2, true);
        check(&(1..=POLLS_PER_KILL_MAX as u64 + 1).collect::<Vec<_>>(), 3, false);
    }

    #[test]
    fn a_repeated_message_is_counted_and_a_hole_in_the_sequence_is_seen() {
        let arrived =
            Arrived::read(&[message([1, 2], &[10, 11]), message([1, 2], &[10, 11]), message([5, 5], &[14])]);
        assert_eq!((arrived.samples.len(), arrived.repeated), (3, 1));
        assert_eq!(arrived.hole().as_deref(), Some("dev01, boot b: 2 is followed by 5"));
        let whole = Arrived::read(&[message([3, 5], &[12, 13, 14]), message([1, 2], &[10, 11])]);
        assert_eq!(whole.hole(), None);
    }
}
