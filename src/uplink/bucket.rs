//! PURE: a token bucket. Holds one second's worth; time is an argument.

use std::time::Duration;

#[derive(Debug)]
pub struct Bucket {
    per_second: f64,
    tokens: f64,
    at: Duration,
}

impl Bucket {
    /// `None` or zero: no limit.
    pub fn new(per_second: Option<u64>) -> Option<Bucket> {
        let per_second = per_second.filter(|n| *n > 0)? as f64;
        Some(Bucket { per_second, tokens: per_second, at: Duration::ZERO })
    }

    /// Zero if `n` tokens are there (then they are taken by [`Bucket::take`]), else how long
    /// until they are. More than the bucket holds goes when it is full, and is then owed.
    pub fn wait(&mut self, n: f64, now: Duration) -> Duration {
        self.refill(now);
        let missing = n.min(self.per_second) - self.tokens;
        if missing <= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(missing / self.per_second) }
    }

    pub fn take(&mut self, n: f64) {
        self.tokens -= n;
    }

    fn refill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.at = now;
        self.tokens = (self.tokens + passed * self.per_second).min(self.per_second);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_passes_than_the_rate_and_one_bucket_full() {
        let mut bucket = Bucket::new(Some(10)).unwrap();
        let mut passed = 0;
        for ms in 0..=3000 {
            while bucket.wait(1.0, Duration::from_millis(ms)).is_zero() {
                bucket.take(1.0);
                passed += 1;
            }
        }
        assert_eq!(passed, 10 + 30);
    }

    #[test]
    fn what_is_larger_than_the_bucket_passes_and_is_owed() {
        let mut bucket = Bucket::new(Some(10)).unwrap();
        assert!(bucket.wait(25.0, Duration::ZERO).is_zero());
        bucket.take(25.0);
        assert_eq!(bucket.wait(1.0, Duration::ZERO), Duration::from_secs_f64(1.6));
        assert!(Bucket::new(None).is_none() && Bucket::new(Some(0)).is_none());
    }
}
