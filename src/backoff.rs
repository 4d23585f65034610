//! How long to wait before trying again: exponential, with jitter from a seed.
//!
//! Many devices fail in the same moment (a plug, a switch, a power cut) and must not come
//! back in the same moment. The seed makes a simulated day repeatable. The n-th wait is
//! drawn from the upper half of `min * 2^n`, so each is at least `min` and at most `max`.

use std::time::Duration;

#[derive(Clone, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    ceiling: Duration,
    random: fastrand::Rng,
}

impl Backoff {
    pub fn new(min: Duration, max: Duration, seed: u64) -> Backoff {
        let max = max.max(min);
        Backoff { min, max, ceiling: min, random: fastrand::Rng::with_seed(seed) }
    }

    /// The next wait. Not an iterator: it never ends.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Duration {
        self.ceiling = self.ceiling.saturating_mul(2).min(self.max);
        let floor = (self.ceiling / 2).max(self.min);
        let spread = self.ceiling.saturating_sub(floor).mul_f64(self.random.f64());
        floor + spread
    }

    /// After a success the next failure waits short again.
    pub fn reset(&mut self) {
        self.ceiling = self.min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(seed: u64) -> Vec<Duration> {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60), seed);
        (0..12).map(|_| backoff.next()).collect()
    }

    #[test]
    fn waits_grow_to_the_maximum_and_stay_in_their_limits() {
        for seed in 0..200 {
            let waits = waits(seed);
            for (n, wait) in waits.iter().enumerate() {
                let ceiling = 2_u64.pow(n as u32 + 1).min(60);
                let floor = (ceiling / 2).max(1);
                let range = Duration::from_secs(floor)..=Duration::from_secs(ceiling);
                assert!(range.contains(wait), "wait {n} of seed {seed}: {wait:?}");
            }
        }
    }

    #[test]
    fn a_seed_repeats_and_seeds_differ() {
        assert_eq!(waits(1), waits(1));
        assert_ne!(waits(1), waits(2));
    }

    #[test]
    fn after_a_success_the_first_wait_is_short_again() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60), 3);
        for _ in 0..9 {
            backoff.next();
        }
        backoff.reset();
        assert!(backoff.next() <= Duration::from_secs(2));
    }

    #[test]
    fn equal_limits_and_zero_are_no_trouble() {
        let mut fixed = Backoff::new(Duration::from_secs(3), Duration::from_secs(1), 0);
        assert_eq!(fixed.next(), Duration::from_secs(3));
        let mut none = Backoff::new(Duration::ZERO, Duration::ZERO, 0);
        assert_eq!(none.next(), Duration::ZERO);
    }
}
