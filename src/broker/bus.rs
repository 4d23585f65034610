//! The broker as the rest of the process sees it.
//!
//! Constraints: the pure core knows no clock; it lives here, as time since the broker was
//! made. A subscriber in the process has the same bounded queue as a client: if it does not
//! take its messages they are dropped and counted, never hoarded.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::core::{Broker, Host};
use super::packet::{Message, Reason};
use super::session::Wake;

/// A running broker; clones are the same one.
pub struct Bus<H> {
    broker: Arc<Broker<H>>,
    started: Instant,
}

impl<H> Clone for Bus<H> {
    fn clone(&self) -> Self {
        Bus { broker: Arc::clone(&self.broker), started: self.started }
    }
}

impl<H: Host> Bus<H> {
    pub fn new(broker: Broker<H>) -> Bus<H> {
        Bus { broker: Arc::new(broker), started: Instant::now() }
    }

    pub fn broker(&self) -> &Broker<H> {
        &self.broker
    }

    /// Time as the broker counts it.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub fn publish(&self, message: Message) {
        self.broker.inject(self.now(), message);
    }

    /// `filter` must be valid and not shared.
    pub fn subscribe(&self, filter: &str) -> Subscriber<H> {
        let bell = Arc::new(Bell(Notify::new()));
        let number = self.broker.attach(filter, Arc::clone(&bell) as Arc<dyn Wake>);
        Subscriber { bus: self.clone(), number, bell }
    }
}

/// Receives until it is dropped.
pub struct Subscriber<H: Host> {
    bus: Bus<H>,
    number: u32,
    bell: Arc<Bell>,
}

impl<H: Host> Subscriber<H> {
    /// The next message. Cancel-safe: a message is taken only by the call that returns it.
    pub async fn next(&self) -> Arc<Message> {
        loop {
            if let Some(message) = self.try_next() {
                return message;
            }
            self.bell.0.notified().await;
        }
    }

    /// The next message if one waits.
    pub fn try_next(&self) -> Option<Arc<Message>> {
        self.bus.broker.pop(self.number).map(|q| q.message)
    }
}

impl<H: Host> Drop for Subscriber<H> {
    fn drop(&mut self) {
        self.bus.broker.detach(self.number);
    }
}

struct Bell(Notify);

impl Wake for Bell {
    fn data(&self) {
        // A permit stays when nobody waits, so no message is overlooked.
        self.0.notify_one();
    }

    fn stop(&self, _why: Reason) {}
}
