//! PURE: how much may have arrived and not be acknowledged.
//!
//! The poller must go on reading whatever happens, because our own PUBACKs come by the same
//! stream: a poller that waits for the hub while the hub's messages wait for their PUBACKs
//! would be a deadlock. So an arrival that finds the intake full is not waited for; it is
//! passed over. With MQTT 5 the broker is told the bound (receive maximum) and never exceeds
//! it; brokers of MQTT 3.1.1 have one of their own (20 to 100). A QoS 0 message that is passed
//! over is lost, which is what its sender chose. One of QoS 1 is not acknowledged, so it
//! stays with the broker; nothing of QoS 1 is taken behind it, so the order holds, and when
//! the intake is empty the connection is made anew (`Overrun`) and the broker sends the rest.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

#[derive(Debug, Default)]
pub struct Intake {
    messages: AtomicUsize,
    bytes: AtomicUsize,
    /// PUBACKs that are queued and not on the wire yet.
    owed: AtomicUsize,
    /// A QoS 1 message was passed over.
    overrun: AtomicBool,
}

impl Intake {
    /// `false`: pass it over.
    pub fn take(&self, bytes: usize, qos1: bool) -> bool {
        let (messages, held) = (self.messages.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed));
        let full = messages >= ARRIVALS_MAX || (messages > 0 && held + bytes > BYTES_MAX);
        if full || (qos1 && self.overrun.load(Ordering::Relaxed)) {
            self.overrun.fetch_or(qos1, Ordering::Relaxed);
            return false;
        }
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        true
    }

    /// `qos1`: its PUBACK is being queued.
    pub fn give_back(&self, bytes: usize, qos1: bool) {
        self.owed.fetch_add(usize::from(qos1), Ordering::Relaxed);
        self.messages.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The PUBACK is on the wire.
    pub fn acknowledged(&self) {
        self.owed.fetch_sub(1, Ordering::Relaxed);
    }

    /// Something was passed over and everything before it is acknowledged.
    pub fn is_over(&self) -> bool {
        let none = |n: &AtomicUsize| n.load(Ordering::Relaxed) == 0;
        self.overrun.load(Ordering::Relaxed) && none(&self.messages) && none(&self.owed)
    }
}

/// Messages of one connection that wait for the hub.
pub const ARRIVALS_MAX: usize = 64;
/// And their bytes; one message may be larger.
const BYTES_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_is_passed_over_and_the_rest_behind_it_waits_with_the_broker() {
        let intake = Intake::default();
        for _ in 0..ARRIVALS_MAX {
            assert!(intake.take(100, true));
        }
        assert!(!intake.take(1, false) && !intake.is_over());
        intake.give_back(100, false);
        assert!(intake.take(1, false), "a lost QoS 0 message stops nothing");
        assert!(!intake.take(1, true));
        (1..ARRIVALS_MAX).for_each(|_| intake.give_back(100, false));
        assert!(!intake.take(1, true), "never behind one that was passed over");
        assert!(!intake.is_over());
        intake.give_back(1, true);
        assert!(!intake.is_over(), "its PUBACK is not sent");
        intake.acknowledged();
        assert!(intake.is_over());
    }

    #[test]
    fn bytes_count_too_but_one_message_always_goes() {
        let intake = Intake::default();
        assert!(intake.take(2 * BYTES_MAX, true));
        assert!(!intake.take(1, false));
        intake.give_back(2 * BYTES_MAX, false);
        assert!(intake.take(BYTES_MAX, true) && !intake.is_over());
    }
}
