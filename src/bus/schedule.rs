//! Which poll is due when, and who backs off. PURE: time is the duration since the task
//! started.
//!
//! Constraints:
//! - Each interval lies on a grid counted from the start, so that points of 1 s and 5 s meet
//!   each fifth second and share their requests.
//! - A poll that was not made before its next one became due is skipped and counted; it is
//!   never made up for, so a slow line sees no burst.
//! - Interval zero is due again as soon as its last poll is over; the device that waits
//!   longest is next, and equals take turns.
//! - A device that fails `silent_after` polls in a row is silent: it is tried at the pace of
//!   its own backoff, alone. Devices that fell silent because the line went away wait for
//!   the line and are tried at once when it is back.

use std::time::Duration;

use crate::backoff::Backoff;

/// What the schedule has to know of a device.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Distinct poll intervals; a group of points each. Empty: never polled.
    pub intervals: Vec<Duration>,
    pub silent_after: u8,
    pub backoff: Backoff,
}

/// A poll to make now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    pub device: usize,
    /// Polls of this device that should have been made since its last one.
    pub skipped: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Silent,
    Back,
}

#[derive(Clone, Debug)]
pub struct Schedule {
    devices: Vec<Entry>,
    /// Where the search starts, so that devices due in the same moment take turns.
    turn: usize,
}

#[derive(Clone, Debug)]
struct Entry {
    groups: Vec<Group>,
    failures: u8,
    silent_after: u8,
    silent: Option<Retry>,
    backoff: Backoff,
}

#[derive(Clone, Debug)]
struct Group {
    interval: Duration,
    due: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Retry {
    At(Duration),
    WithLine,
}

impl Schedule {
    pub fn new(paces: impl IntoIterator<Item = Pace>) -> Schedule {
        let entry = |pace: Pace| Entry {
            groups: pace
                .intervals
                .into_iter()
                .map(|interval| Group { interval, due: Duration::ZERO })
                .collect(),
            failures: 0,
            silent_after: pace.silent_after.max(1),
            silent: None,
            backoff: pace.backoff,
        };
        Schedule { devices: paces.into_iter().map(entry).collect(), turn: 0 }
    }

    /// When the next poll becomes due; `None`: nothing will until the line is back.
    pub fn next_due(&self) -> Option<Duration> {
        self.devices.iter().filter_map(Entry::due).min()
    }

    /// The poll to make at `now`; the numbers of its due groups are put into `groups`.
    pub fn take(&mut self, now: Duration, groups: &mut Vec<u16>) -> Option<Due> {
        let count = self.devices.len();
        let device = (0..count)
            .map(|i| (self.turn + i) % count)
            .filter_map(|d| self.devices[d].due().map(|due| (due, d)))
            .filter(|(due, _)| *due <= now)
            .min_by_key(|(due, _)| *due)
            .map(|(_, d)| d)?;
        self.turn = (device + 1) % count;
        let skipped = self.devices[device].take(now, groups);
        Some(Due { device, skipped })
    }

    /// The poll of `device` is over: its groups of interval zero are due again.
    pub fn finished(&mut self, device: usize, now: Duration) {
        for group in self.devices[device].groups.iter_mut().filter(|g| g.interval.is_zero()) {
            group.due = now;
        }
    }

    /// The device answered.
    pub fn answered(&mut self, device: usize) -> Option<Change> {
        let entry = &mut self.devices[device];
        entry.failures = 0;
        entry.backoff.reset();
        entry.silent.take().map(|_| Change::Back)
    }

    /// The device did not answer; `line_gone` if there was no line to ask it on.
    pub fn failed(&mut self, device: usize, now: Duration, line_gone: bool) -> Option<Change> {
        let entry = &mut self.devices[device];
        let was_silent = entry.silent.is_some();
        entry.failures = entry.failures.saturating_add(1);
        if entry.failures < entry.silent_after && !was_silent {
            return None;
        }
        entry.silent = Some(if line_gone {
            Retry::WithLine
        } else {
            Retry::At(now.saturating_add(entry.backoff.next()))
        });
        (!was_silent).then_some(Change::Silent)
    }

    pub fn is_silent(&self, device: usize) -> bool {
        self.devices[device].silent.is_some()
    }

    /// The line is open again: who waited for it is tried now.
    pub fn line_is_back(&mut self, now: Duration) {
        for entry in &mut self.devices {
            if matches!(entry.silent, Some(Retry::WithLine)) {
                entry.silent = Some(Retry::At(now));
            }
        }
    }
}

impl Entry {
    fn due(&self) -> Option<Duration> {
        match self.silent {
            Some(Retry::At(at)) if !self.groups.is_empty() => Some(at),
            Some(_) => None,
            None => self.groups.iter().map(|g| g.due).min(),
        }
    }

    fn take(&mut self, now: Duration, due: &mut Vec<u16>) -> u64 {
        due.clear();
        let backing_off = self.silent.is_some();
        let mut skipped = 0;
        for (number, group) in self.groups.iter_mut().enumerate() {
            if backing_off || group.due <= now {
                due.push(number as u16);
                skipped = skipped.max(group.advance(now));
            }
        }
        // What a silent device did not answer was not skipped for want of time.
        if backing_off { 0 } else { skipped }
    }
}

impl Group {
    /// Moves to the first point of the grid after `now`; how many were passed over.
    fn advance(&mut self, now: Duration) -> u64 {
        if self.interval.is_zero() {
            // Until `finished` says otherwise.
            self.due = now;
            return 0;
        }
        if self.due > now {
            return 0;
        }
        let passed = (now - self.due).as_nanos() / self.interval.as_nanos();
        let passed = u64::try_from(passed).unwrap_or(u64::MAX);
        let on_grid = now.as_nanos() / self.interval.as_nanos() + 1;
        self.due = Duration::from_nanos(
            u64::try_from(on_grid.saturating_mul(self.interval.as_nanos())).unwrap_or(u64::MAX),
        );
        passed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn schedule(devices: &[&[u64]]) -> Schedule {
        Schedule::new(devices.iter().map(|intervals| Pace {
            intervals: intervals.iter().map(|n| MS(*n)).collect(),
            silent_after: 2,
            backoff: Backoff::new(MS(1000), MS(8000), 1),
        }))
    }

    /// `time device groups skipped` of each poll until `end`; a poll takes `took`.
    fn polls(schedule: &mut Schedule, took: u64, end: u64) -> Vec<String> {
        let (mut now, mut groups, mut made) = (Duration::ZERO, Vec::new(), Vec::new());
        while now < MS(end) {
            match schedule.take(now, &mut groups) {
                Some(due) => {
                    made.push(format!("{} d{} {groups:?} {}", now.as_millis(), due.device, due.skipped));
                    now += MS(took);
                    schedule.finished(due.device, now);
                }
                None => match schedule.next_due() {
                    Some(due) => now = due,
                    None => break,
                },
            }
        }
        made
    }

    fn check(devices: &[&[u64]], took: u64, end: u64, expected: &[&str]) {
        assert_eq!(polls(&mut schedule(devices), took, end), expected, "{devices:?}, {took} ms each");
    }

    #[test]
    fn intervals_lie_on_one_grid() {
        check(
            &[&[200, 500]],
            10,
            1100,
            &[
                "0 d0 [0, 1] 0",
                "200 d0 [0] 0",
                "400 d0 [0] 0",
                "500 d0 [1] 0",
                "600 d0 [0] 0",
                "800 d0 [0] 0",
                "1000 d0 [0, 1] 0",
            ],
        );
    }

    #[test]
    fn what_comes_too_late_is_skipped_and_leaves_no_burst() {
        check(&[&[100]], 250, 1000, &["0 d0 [0] 0", "250 d0 [0] 1", "500 d0 [0] 2", "750 d0 [0] 1"]);
        // Late, but before the next one is due: nothing is skipped, and the grid stays.
        check(&[&[100]], 90, 300, &["0 d0 [0] 0", "100 d0 [0] 0", "200 d0 [0] 0"]);
    }

    #[test]
    fn a_device_without_pause_leaves_the_others_their_turn() {
        let made = polls(&mut schedule(&[&[0], &[100], &[0]]), 10, 300);
        let of = |device: &str| made.iter().filter(|m| m.contains(device)).count();
        assert_eq!(of("d1"), 3, "{made:?}");
        assert!(of("d0").abs_diff(of("d2")) <= 1, "{made:?}");
    }

    #[test]
    fn a_device_without_points_is_never_due() {
        check(&[&[]], 1, 1000, &[]);
        check(&[], 1, 1000, &[]);
    }

    #[test]
    fn a_silent_device_waits_longer_each_time_and_returns_at_once() {
        let mut schedule = schedule(&[&[100]]);
        let mut groups = Vec::new();
        assert_eq!(schedule.failed(0, MS(0), false), None);
        assert_eq!(schedule.failed(0, MS(100), false), Some(Change::Silent));
        let mut now = MS(100);
        let mut waits = Vec::new();
        for _ in 0..6 {
            let due = schedule.next_due().unwrap();
            waits.push((due - now).as_millis());
            assert_eq!(schedule.take(due - MS(1), &mut groups), None);
            assert_eq!(schedule.take(due, &mut groups), Some(Due { device: 0, skipped: 0 }));
            now = due;
            assert_eq!(schedule.failed(0, now, false), None, "said once");
        }
        assert!(waits[0] >= 1000 && waits[0] <= 2000 && waits[5] >= 4000, "{waits:?}");
        assert_eq!(schedule.answered(0), Some(Change::Back));
        assert_eq!(schedule.answered(0), None);
        assert!(schedule.next_due().unwrap() <= now + MS(100));
    }

    #[test]
    fn who_fell_silent_with_the_line_waits_for_the_line() {
        let mut schedule = schedule(&[&[100], &[100]]);
        for device in [0, 1] {
            schedule.failed(device, MS(0), true);
            schedule.failed(device, MS(100), true);
        }
        assert_eq!(schedule.next_due(), None);
        schedule.line_is_back(MS(5000));
        assert_eq!(schedule.next_due(), Some(MS(5000)));
    }
}
