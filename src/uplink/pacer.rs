//! How fast new connections are made, over all connections of the agent.
//!
//! After an outage every connection wants to be first. Each takes the next place in one
//! queue of evenly spaced places and starts within its place at random, so that a broker
//! sees a steady trickle of handshakes and no beat. Who is alone never waits.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

#[derive(Debug)]
pub struct Pacer {
    spacing: Duration,
    next: Mutex<Option<Instant>>,
}

impl Pacer {
    pub fn new(per_second: u32) -> Pacer {
        Pacer { spacing: Duration::from_secs(1) / per_second.max(1), next: Mutex::new(None) }
    }

    /// Returns when it is this connection's turn. A turn that is not waited for is lost, which
    /// makes the others wait one spacing longer and no more.
    pub async fn turn(&self, random: &mut fastrand::Rng) {
        let place = self.place(Instant::now());
        if let Some(place) = place {
            sleep_until(place + self.spacing.mul_f64(random.f64())).await;
        }
    }

    /// `None`: now.
    fn place(&self, now: Instant) -> Option<Instant> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let place = next.filter(|next| *next > now);
        *next = Some(place.unwrap_or(now) + self.spacing);
        place
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn five_hundred_connections_start_at_the_rate_and_a_lonely_one_at_once() {
        let pacer = Arc::new(Pacer::new(10));
        let begun = Instant::now();
        pacer.turn(&mut fastrand::Rng::with_seed(0)).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let tasks: Vec<_> = (0..500u64)
            .map(|n| {
                let pacer = Arc::clone(&pacer);
                tokio::spawn(async move {
                    pacer.turn(&mut fastrand::Rng::with_seed(n)).await;
                    begun.elapsed().as_secs_f64()
                })
            })
            .collect();
        let mut started = Vec::new();
        for task in tasks {
            started.push(task.await.unwrap());
        }
        started.sort_by(f64::total_cmp);
        for window in started.windows(22) {
            assert!(window[21] - window[0] >= 1.9, "21 connections within {}", window[21] - window[0]);
        }
        assert!((50.0..51.0).contains(started.last().unwrap()), "{:?}", started.last());
    }
}
