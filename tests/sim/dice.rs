//! Chance that can be repeated.
//!
//! Each decision is drawn from the seed and from what it is about (the third request to this
//! unit, the ninth message of that connection), never from one common stream: so a decision
//! does not change because somebody else asked first, and a seed stays the same story while
//! the agent under test is changed.

use std::time::Duration;

use fastrand::Rng;

#[derive(Clone, Copy, Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// The chance of the `n`-th event of this name.
    pub fn of(self, what: &str, n: u64) -> Rng {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for byte in what.bytes().chain(n.to_le_bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Rng::with_seed(hash ^ (hash >> 29))
    }
}

/// Anything from `from` to `to`, in whole milliseconds.
pub fn ms(random: &mut Rng, from: u64, to: u64) -> Duration {
    Duration::from_millis(random.u64(from..=to))
}

/// A time during which something is wrong, counted from the beginning of the world.
#[derive(Clone, Copy, Debug)]
pub struct Spell {
    pub from: Duration,
    pub to: Duration,
}

impl Spell {
    pub fn holds(&self, now: Duration) -> bool {
        self.from <= now && now < self.to
    }
}

/// Up to `max` spells of up to `longest` seconds before `end`, by time, disjoint.
pub fn spells(random: &mut Rng, max: usize, longest: u64, end: Duration) -> Vec<Spell> {
    let count = random.usize(0..=max);
    let mut all: Vec<Spell> = (0..count)
        .map(|_| {
            let from = ms(random, 500, end.as_millis() as u64);
            Spell { from, to: (from + ms(random, 100, longest * 1000)).min(end) }
        })
        .collect();
    all.sort_by_key(|s| s.from);
    all.dedup_by(|later, first| later.from <= first.to);
    all
}
