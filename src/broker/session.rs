//! What the broker keeps for one client id.
//!
//! Constraints: everything here is bounded, whatever the client does: the queue by count
//! and bytes, the in-flight list by the smaller of both sides' wishes. A session outlives its
//! connections; the epoch tells a connection that has been overtaken.
//!
//! The way of a message: `push` puts it on the queue, `drain` gives it a packet id and
//! moves it to the in-flight list, `acked` takes it off. After a reconnect what is in
//! flight goes out first, in its old order, with the DUP flag.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

use super::core::{Limits, Principal};
use super::encode::{self, Delivery};
use super::packet::{Message, Options, Qos, Reason, Version, Will};

/// How the pure core reaches the task of a connection. Neither call may block or call back.
pub trait Wake: Send + Sync {
    /// There is something to drain.
    fn data(&self);
    /// The connection is over; it shall end even if its socket does not take a byte.
    fn stop(&self, why: Reason);
}

/// A message that waits for one client.
#[derive(Clone, Debug)]
pub struct Queued {
    pub message: Arc<Message>,
    pub qos: Qos,
    pub retain: bool,
    pub subscription_ids: Vec<u32>,
    /// When the broker took it.
    pub since: Duration,
}

impl Queued {
    /// Seconds of life left; `None` if it lives for ever, `Err` if it is over.
    fn expiry(&self, now: Duration) -> Result<Option<u32>, Expired> {
        let Some(life) = self.message.props.message_expiry else { return Ok(None) };
        let waited = now.saturating_sub(self.since).as_secs();
        u64::from(life)
            .checked_sub(waited)
            .filter(|left| *left > 0)
            .map_or(Err(Expired), |left| Ok(Some(u32::try_from(left).unwrap_or(life))))
    }
}

struct Expired;

#[derive(Debug)]
struct InFlight {
    packet_id: u16,
    queued: Queued,
    /// On the present connection.
    sent: bool,
}

/// What a subscription asks for.
#[derive(Clone, Debug)]
pub struct Subscription {
    pub options: Options,
    pub id: Option<u32>,
}

/// Whether another `drain` would find more at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More {
    Yes,
    No,
}

pub struct Session {
    pub client_id: Arc<str>,
    /// A session belongs to the certificate that made it.
    pub owner: Principal,
    pub version: Version,
    pub epoch: u32,
    /// `None`: nobody is connected.
    pub wake: Option<Arc<dyn Wake>>,
    pub filters: BTreeMap<String, Subscription>,
    pub will: Option<Will>,
    /// A will that waits for its delay, and until when.
    pub will_due: Option<Duration>,
    /// How long the session stays after its connection; zero: not at all.
    pub expiry: Duration,
    pub expires_at: Option<Duration>,
    /// What the client takes at one time, and how long a packet may be for it.
    pub window: usize,
    pub packet_max: usize,
    queue: VecDeque<Queued>,
    queue_bytes: usize,
    in_flight: VecDeque<InFlight>,
    last_id: u16,
}

impl Session {
    pub fn new(client_id: Arc<str>, owner: Principal) -> Session {
        Session {
            client_id,
            owner,
            version: Version::V5,
            epoch: 0,
            wake: None,
            filters: BTreeMap::new(),
            will: None,
            will_due: None,
            expiry: Duration::ZERO,
            expires_at: None,
            window: 1,
            packet_max: usize::MAX,
            queue: VecDeque::new(),
            queue_bytes: 0,
            in_flight: VecDeque::new(),
            last_id: 0,
        }
    }

    /// Whether the queue took it. QoS 0 does not wait for a client that is away.
    pub fn push(&mut self, queued: Queued, limits: &Limits) -> bool {
        if self.wake.is_none() && queued.qos == Qos::AtMostOnce {
            return false;
        }
        let weight = queued.message.weight();
        if self.queue.len() >= limits.queue_messages || self.queue_bytes + weight > limits.queue_bytes {
            return false;
        }
        self.queue_bytes += weight;
        self.queue.push_back(queued);
        if let Some(wake) = &self.wake {
            wake.data();
        }
        true
    }

    /// Takes the oldest waiting message without any acknowledgement: the way of the house's
    /// own subscribers.
    pub fn pop(&mut self) -> Option<Queued> {
        let queued = self.queue.pop_front()?;
        self.queue_bytes -= queued.message.weight();
        Some(queued)
    }

    /// Another connection has taken up the session: all that is in flight must be sent anew.
    pub fn resumed(&mut self) {
        for entry in &mut self.in_flight {
            entry.sent = false;
        }
    }

    /// Whether the id was in flight.
    pub fn acked(&mut self, packet_id: u16) -> bool {
        let at = self.in_flight.iter().position(|e| e.packet_id == packet_id);
        at.is_some_and(|at| self.in_flight.remove(at).is_some())
    }

    /// Writes what may go out, until `out` holds `room` bytes. `may` is asked for each
    /// message at this moment, so that what was queued obeys the policy of today.
    pub fn drain(
        &mut self,
        now: Duration,
        room: usize,
        out: &mut BytesMut,
        may: impl Fn(&Message) -> bool,
    ) -> More {
        if self.resend(now, room, out, &may) == More::Yes {
            return More::Yes;
        }
        while self.queue.front().is_some_and(|next| self.fits(next.qos)) {
            if out.len() >= room {
                return More::Yes;
            }
            let Some(queued) = self.pop() else { break };
            let Ok(expiry) = queued.expiry(now) else { continue };
            if !may(&queued.message) {
                continue;
            }
            let packet_id = if queued.qos == Qos::AtMostOnce { 0 } else { self.next_id() };
            let written = self.write(out, &queued, packet_id, false, expiry);
            if written && packet_id != 0 {
                self.in_flight.push_back(InFlight { packet_id, queued, sent: true });
            }
        }
        More::No
    }

    fn resend(
        &mut self,
        now: Duration,
        room: usize,
        out: &mut BytesMut,
        may: &impl Fn(&Message) -> bool,
    ) -> More {
        let mut at = 0;
        while at < self.in_flight.len().min(self.window) {
            if self.in_flight[at].sent {
                at += 1;
                continue;
            }
            if out.len() >= room {
                return More::Yes;
            }
            let InFlight { packet_id, queued, .. } = &self.in_flight[at];
            // One that is in flight is resent even when its life is over: the client may have
            // taken it, and its packet id is not free before the acknowledgement.
            let expiry = queued.expiry(now).unwrap_or(Some(1));
            if may(&queued.message) && self.write(out, queued, *packet_id, true, expiry) {
                self.in_flight[at].sent = true;
                at += 1;
            } else {
                self.in_flight.remove(at);
            }
        }
        More::No
    }

    fn write(&self, out: &mut BytesMut, q: &Queued, packet_id: u16, dup: bool, expiry: Option<u32>) -> bool {
        let delivery = Delivery {
            message: &q.message,
            dup,
            qos: q.qos,
            retain: q.retain,
            packet_id,
            expiry,
            subscription_ids: &q.subscription_ids,
        };
        encode::publish(out, self.version, self.packet_max, &delivery)
    }

    fn fits(&self, qos: Qos) -> bool {
        qos == Qos::AtMostOnce || self.in_flight.len() < self.window
    }

    /// An id that nothing in flight uses; the window is far smaller than their number.
    fn next_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if !self.in_flight.iter().any(|e| e.packet_id == self.last_id) {
                return self.last_id;
            }
        }
    }
}
