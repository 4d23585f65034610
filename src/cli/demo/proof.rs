//! Counts at the far end, from the payloads alone.
//!
//! Constraints: nothing here asks the agent. Readings are told apart by device, boot and
//! sequence, so that a redelivered message counts once; and the numbers that the simulated
//! devices gave to their samples show whether one between the first and the last is missing.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// The point that carries a device's sample number.
pub const SAMPLE: &str = "sample";

#[derive(Debug, Default)]
pub struct Proof {
    devices: BTreeMap<String, Arrived>,
    pub messages: u64,
    /// Messages whose readings had all been there before.
    pub duplicates: u64,
    /// Messages that are not telemetry: faults and gaps.
    pub others: u64,
}

/// What has arrived of one device.
#[derive(Debug, Default)]
pub struct Arrived {
    readings: BTreeSet<(String, u64)>,
    samples: BTreeSet<u64>,
    /// The newest values, for people.
    pub latest: BTreeMap<String, Value>,
    latest_t: i64,
}

impl Arrived {
    pub fn readings(&self) -> u64 {
        self.readings.len() as u64
    }

    pub fn samples(&self) -> u64 {
        self.samples.len() as u64
    }

    /// Numbers between the first and the last that never came.
    pub fn missing(&self) -> u64 {
        match (self.samples.first(), self.samples.last()) {
            (Some(first), Some(last)) => last - first + 1 - self.samples.len() as u64,
            _ => 0,
        }
    }
}

impl Proof {
    pub fn take(&mut self, payload: &[u8]) {
        self.messages += 1;
        if self.telemetry(payload).is_none() {
            self.others += 1;
        }
    }

    pub fn devices(&self) -> impl Iterator<Item = (&str, &Arrived)> {
        self.devices.iter().map(|(name, arrived)| (name.as_str(), arrived))
    }

    pub fn device(&self, name: &str) -> Option<&Arrived> {
        self.devices.get(name)
    }

    pub fn readings(&self) -> u64 {
        self.devices.values().map(Arrived::readings).sum()
    }

    pub fn missing(&self) -> u64 {
        self.devices.values().map(Arrived::missing).sum()
    }

    fn telemetry(&mut self, payload: &[u8]) -> Option<()> {
        let json: Value = serde_json::from_slice(payload).ok()?;
        let groups = json.get("readings")?.as_array()?;
        let (boot, seq) = (json.get("boot")?.as_str()?, json.get("seq")?);
        let (first, last) = (seq.get(0)?.as_u64()?, seq.get(1)?.as_u64()?);
        let arrived = self.devices.entry(json.get("device")?.as_str()?.to_owned()).or_default();
        let before = arrived.readings.len();
        arrived.readings.extend((first..=last).map(|n| (boot.to_owned(), n)));
        self.duplicates += u64::from(arrived.readings.len() == before);
        for group in groups {
            let t = group.get("t").and_then(Value::as_i64).unwrap_or(0);
            let Some(values) = group.get("values").and_then(Value::as_object) else { continue };
            arrived.samples.extend(values.get(SAMPLE).and_then(Value::as_u64));
            if t >= arrived.latest_t {
                arrived.latest_t = t;
                arrived.latest.extend(values.iter().map(|(k, v)| (k.clone(), v.clone())));
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(first: u64, last: u64, samples: &[u64]) -> Vec<u8> {
        let groups: Vec<_> =
            samples.iter().map(|n| serde_json::json!({"t": n, "values": {"sample": n, "w": 1.5}})).collect();
        let json = serde_json::json!({
            "v": 1, "gateway": "g", "device": "scale", "boot": "b", "seq": [first, last], "readings": groups,
        });
        json.to_string().into_bytes()
    }

    #[test]
    fn a_sample_that_did_not_come_is_missed_and_one_that_came_twice_is_counted_once() {
        let check = |messages: &[Vec<u8>], expected: (u64, u64, u64)| {
            let mut proof = Proof::default();
            for m in messages {
                proof.take(m);
            }
            assert_eq!((proof.readings(), proof.missing(), proof.duplicates), expected);
        };
        check(&[], (0, 0, 0));
        check(&[message(1, 4, &[10, 11])], (4, 0, 0));
        check(&[message(1, 4, &[10, 11]), message(5, 6, &[13])], (6, 1, 0));
        check(&[message(5, 6, &[12]), message(1, 4, &[10, 11])], (6, 0, 0));
        check(&[message(1, 4, &[10, 11]), message(1, 4, &[10, 11])], (4, 0, 1));
    }

    #[test]
    fn what_is_no_telemetry_is_told_apart() {
        let mut proof = Proof::default();
        proof.take(br#"{"v":1,"device":"x","fault":"silent"}"#);
        proof.take(b"not json");
        assert_eq!((proof.messages, proof.others, proof.readings()), (2, 2, 0));
    }
}
