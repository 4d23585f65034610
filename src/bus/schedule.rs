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
