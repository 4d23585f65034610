//! Does the agent get on with its work? PURE.
//!
//! Constraints: a healthy plant with dead sensors, an idle plant, and a plant without its
//! cloud must never be restarted; a task that hangs must be, and soon.
//!
//! So each stage is judged by what it did against what it had to do: a bus by its requests
//! while it is open and has a device that answers; the store by its commits once polls have
//! brought readings; the uplink by acknowledgements while it says that it is online and rows
//! wait. A stage that has nothing to do, or has stated why it cannot, is excused. What hangs
//! behind a full queue shows at the bus, which then stops polling.

use std::time::Duration;

use crate::config::{Config, Durability};
use crate::metrics::{DeviceMetrics, Metrics};
use crate::model::device::{Bus, Device, ModbusDevice, Protocol};
use crate::model::report::When;

/// No stage is called stuck before it was for this long: disks and cards pause for seconds.
const PATIENCE_MIN: Duration = Duration::from_secs(20);

/// What may be expected of this configuration.
#[derive(Debug)]
pub struct Expectations {
    buses: Vec<BusExpectation>,
    /// Devices of which each good poll must lead to a commit.
    committing: Vec<usize>,
    commit_patience: Duration,
    ack_patience: Duration,
}

#[derive(Debug)]
struct BusExpectation {
    stage: String,
    /// Its Modbus devices, and how long the bus may do nothing while this one answers.
    devices: Vec<(usize, Duration)>,
}

impl Expectations {
    pub fn new(config: &Config) -> Expectations {
        let commit_wait = match config.store.durability {
            Durability::Commit { batch_window } => batch_window,
            Durability::Interval { interval } => interval,
        };
        let uplink = &config.uplink;
        Expectations {
            buses: config.buses.iter().map(|bus| bus_expectation(bus, &config.devices)).collect(),
            committing: config
                .devices
                .iter()
                .enumerate()
                .filter(|(_, d)| reports_each_poll(d))
                .map(|(i, _)| i)
                .collect(),
            commit_patience: PATIENCE_MIN + 2 * commit_wait,
            // A broker that takes and never acknowledges is the uplink's own watchdog's case:
            // it throws the connection away after two keep-alives, which is progress.
            ack_patience: PATIENCE_MIN + 4 * uplink.keep_alive + 2 * uplink.connect_timeout,
        }
    }
}

fn bus_expectation(bus: &Bus, devices: &[Device]) -> BusExpectation {
    let modbus = |at: usize| match &devices.get(at)?.protocol {
        Protocol::Modbus(modbus) => Some((at, modbus)),
        Protocol::Line(_) => None,
    };
    let all = || bus.devices.iter().filter_map(|d| modbus(d.at()));
    // One call on the line, whosever it is, may take this long without any counter moving.
    let call = all().map(|(_, m)| call_max(m)).max().unwrap_or_default()
        + bus.timing.connect_timeout
        + bus.timing.pause_after_connect
        + bus.timing.pause_between_requests;
    let devices = all()
        .filter_map(|(at, _)| {
            let interval = devices[at].points.iter().filter(|p| p.is_readable()).map(|p| p.interval).min()?;
            Some((at, PATIENCE_MIN + 2 * interval + 2 * call))
        })
        .collect();
    BusExpectation { stage: format!("bus {}", bus.name), devices }
}

fn call_max(m: &ModbusDevice) -> Duration {
    (m.response_timeout + m.late_window) * (1 + u32::from(m.retries))
        + (m.busy_pause + m.response_timeout) * u32::from(m.busy_retries)
        + m.pause_after_write
}

/// A point that is reported by exception may rightly be silent for ever.
fn reports_each_poll(device: &Device) -> bool {
    matches!(device.protocol, Protocol::Modbus(_))
        && device.points.iter().any(|p| p.is_readable())
        && device.points.iter().all(|p| p.report.when == When::Always && p.report.silence_min.is_none())
}

/// One stage at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageSeen {
    pub stage: String,
    /// Grows with each thing done.
    pub done: u64,
    pub due: Due,
    pub patience: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// There is work, always.
    Yes,
    /// Excused.
    No,
    /// There is work once this has moved on since the last thing done.
    Fed(u64),
}

/// Every stage as the counters show it now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot(pub Vec<StageSeen>);

impl Snapshot {
    pub fn take(metrics: &Metrics, expected: &Expectations) -> Snapshot {
        let mut stages: Vec<StageSeen> =
            expected.buses.iter().enumerate().map(|(i, bus)| bus_seen(i, bus, metrics)).collect();
        let good_polls =
            expected.committing.iter().filter_map(|i| metrics.devices.get(*i)).map(|d| good_polls(d)).sum();
        stages.push(StageSeen {
            stage: "store".into(),
            done: metrics.store.commits.get(),
            due: Due::Fed(good_polls),
            patience: expected.commit_patience,
        });
        let uplink = &metrics.uplink;
        let busy = uplink.state.get() == "online" && metrics.store.rows_waiting.get() > 0;
        stages.push(StageSeen {
            stage: "uplink".into(),
            done: uplink.messages_acked.get()
                + uplink.dead_lettered.get()
                + uplink.connects.get()
                + uplink.disconnects.get(),
            due: if busy { Due::Yes } else { Due::No },
            patience: expected.ack_patience,
        });
        Snapshot(stages)
    }
}

fn bus_seen(at: usize, expected: &BusExpectation, metrics: &Metrics) -> StageSeen {
    let bus = metrics.buses.get(at);
    let done = bus.map_or(0, |b| b.requests.get() + b.timeouts.get() + b.lines.get() + b.opened.get());
    let open = bus.is_some_and(|b| b.state.get() == "open");
    // The most frequent of the devices that answer sets the pace; mute ones back off.
    let patience = expected
        .devices
        .iter()
        .filter(|(device, _)| metrics.devices.get(*device).is_some_and(|d| d.state.get() == "good"))
        .map(|(_, patience)| *patience)
        .min();
    StageSeen {
        stage: expected.stage.clone(),
        done,
        due: if open && patience.is_some() { Due::Yes } else { Due::No },
        patience: patience.unwrap_or(PATIENCE_MIN),
    }
}

fn good_polls(device: &DeviceMetrics) -> u64 {
    device.polls.get().saturating_sub(device.polls_failed.get())
}

/// A stage that had work and did none of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    pub stage: String,
    pub since: Duration,
}

/// Remembers when each stage last moved.
#[derive(Debug, Default)]
pub struct Progress {
    moved: Vec<Moved>,
}

#[derive(Clone, Copy, Debug)]
struct Moved {
    at: Duration,
    done: u64,
    fed: u64,
}

impl Progress {
    /// `now` is the time since the start of the process; the error names the first stage that
    /// is stuck.
    pub fn judge(&mut self, now: Duration, current: &Snapshot) -> Result<(), Stuck> {
        let mut verdict = Ok(());
        for (i, seen) in current.0.iter().enumerate() {
            let fed = if let Due::Fed(n) = seen.due { n } else { 0 };
            if i == self.moved.len() {
                self.moved.push(Moved { at: now, done: seen.done, fed });
            }
            let last = &mut self.moved[i];
            let idle = match seen.due {
                Due::Yes => false,
                Due::No => true,
                Due::Fed(n) => n == last.fed,
            };
            if idle || last.done != seen.done {
                *last = Moved { at: now, done: seen.done, fed };
            }
            let since = now.saturating_sub(last.at);
            if since > seen.patience && verdict.is_ok() {
                verdict = Err(Stuck { stage: seen.stage.clone(), since });
            }
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixture;

    /// Lets virtual minutes pass in steps of ten seconds; `each` does what happens in one.
    fn minutes(metrics: &Metrics, n: u64, each: impl Fn(&Metrics)) -> Option<String> {
        let expected = Expectations::new(&fixture::config());
        let mut progress = Progress::default();
        for step in 0..n * 6 {
            each(metrics);
            let now = Duration::from_secs(10 * step);
            if let Err(stuck) = progress.judge(now, &Snapshot::take(metrics, &expected)) {
                return Some(stuck.stage);
            }
        }
        None
    }

    fn polled(m: &Metrics) {
        m.buses[0].requests.add(10);
        m.devices[0].polls.add(10);
    }

    fn committed(m: &Metrics) {
        m.store.commits.add(10);
        m.store.rows_waiting.set(10);
    }

    fn acked(m: &Metrics) {
        m.uplink.messages_acked.add(10);
    }

    /// `prepare` sets the states, `each` the work of ten seconds.
    fn check(prepare: impl Fn(&Metrics), each: impl Fn(&Metrics), stuck: Option<&str>) {
        let metrics = Metrics::new(2, 2);
        metrics.buses[0].state.set("open");
        metrics.devices[0].state.set("good");
        metrics.uplink.state.set("online");
        prepare(&metrics);
        assert_eq!(minutes(&metrics, 30, each).as_deref(), stuck);
    }

    #[test]
    fn who_works_is_never_stuck() {
        let all = |m: &Metrics| {
            polled(m);
            committed(m);
            acked(m);
        };
        check(|_| {}, all, None);
    }

    #[test]
    fn a_task_that_hangs_is_named() {
        check(|_| {}, |_| {}, Some("bus line-1"));
        check(|_| {}, polled, Some("store"));
        let without_acks = |m: &Metrics| {
            polled(m);
            committed(m);
        };
        check(|_| {}, without_acks, Some("uplink"));
    }

    #[test]
    fn who_has_nothing_to_do_or_says_why_it_cannot_is_excused() {
        // The port is unplugged.
        check(|m| m.buses[0].state.set("no such port"), |_| {}, None);
        // The only device is mute and backs off for longer than anybody's patience.
        check(|m| m.devices[0].state.set("timeout"), |_| {}, None);
        // Every poll fails: no reading, so no commit.
        let failing = |m: &Metrics| {
            polled(m);
            m.devices[0].polls_failed.add(10);
        };
        check(|_| {}, failing, None);
        // The cloud is away, and the agent says so.
        let offline = |m: &Metrics| {
            polled(m);
            committed(m);
        };
        check(|m| m.uplink.state.set("offline: connection refused"), offline, None);
        // A broker that never acknowledges is dropped by the uplink itself, again and again.
        let dropped = |m: &Metrics| {
            polled(m);
            committed(m);
            m.uplink.disconnects.add(1);
        };
        check(|_| {}, dropped, None);
    }

    #[test]
    fn a_rest_before_the_hang_is_not_counted_as_hang() {
        let expected = Expectations::new(&fixture::config());
        let metrics = Metrics::new(2, 2);
        let mut progress = Progress::default();
        let mut judge = |s: u64| {
            progress.judge(Duration::from_secs(s), &Snapshot::take(&metrics, &expected)).map_err(|e| e.stage)
        };
        assert_eq!(judge(0), Ok(()));
        assert_eq!(judge(3600), Ok(()));
        // Now the device answers, and its bus owes work from here on.
        metrics.buses[0].state.set("open");
        metrics.devices[0].state.set("good");
        assert_eq!(judge(3601), Ok(()));
        assert_eq!(judge(3700), Err("bus line-1".to_string()));
    }
}
