//! Places for messages that arrived and wait for their acknowledgement, shared by the poller,
//! which takes them, and the session, which gives them back.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How a message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// QoS 0: nobody waits for an answer.
    Loose,
    /// QoS 1 (or 2, by an old subscription): the broker keeps it until it is acknowledged.
    Held,
}

#[derive(Debug, Default)]
pub struct Places {
    loose: AtomicUsize,
    held: AtomicUsize,
}

impl Places {
    /// `false`: all are taken.
    pub fn take(&self, delivery: Delivery) -> bool {
        let (taken, max) = self.of(delivery);
        // Only the poller takes, so nobody else can take the last one in between.
        let free = taken.load(Ordering::Relaxed) < max;
        taken.fetch_add(usize::from(free), Ordering::Relaxed);
        free
    }

    pub fn give_back(&self, delivery: Delivery) {
        self.of(delivery).0.fetch_sub(1, Ordering::Relaxed);
    }

    fn of(&self, delivery: Delivery) -> (&AtomicUsize, usize) {
        match delivery {
            Delivery::Loose => (&self.loose, LOOSE_MAX),
            Delivery::Held => (&self.held, HELD_MAX),
        }
    }
}

/// As many as AWS IoT has in flight towards a client of MQTT 3.1.1, the most of all brokers
/// we know.
pub const HELD_MAX: usize = 100;
/// QoS 0 messages beyond are dropped.
pub const LOOSE_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_own_places() {
        let places = Places::default();
        assert_eq!((0..1000).filter(|_| places.take(Delivery::Loose)).count(), LOOSE_MAX);
        assert_eq!((0..1000).filter(|_| places.take(Delivery::Held)).count(), HELD_MAX);
        places.give_back(Delivery::Held);
        assert!(!places.take(Delivery::Loose));
        assert!(places.take(Delivery::Held) && !places.take(Delivery::Held));
    }
}
