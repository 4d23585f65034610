//! The broker without its sockets.
//!
//! Constraints: one lock, held shortly and never across a call to `Host::take`; time comes
//! in with each call; bytes for the client are appended to its output. A connection is a
//! [`Conn`] with the epoch of its session: a take-over or a kick raises the epoch, and
//! whatever the old connection still says is refused.
//!
//! The way of a message: `handle` asks the host whether it may pass and lets the host take
//! it, then, under the lock, `State::route` puts it on the queues; the acknowledgement is
//! written after that. Each receiver's task is woken and drains its own queue.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;

use super::encode::{self, Offer};
use super::packet::{
    ClientPacket, Connect, Filter, Message, Props, Publish, Qos, Reason, Subscribe, Unsubscribe, Version,
};
use super::session::{More, Queued, Subscription, Wake};
use super::state::State;
use super::topic::share;
use super::tree::LEVELS_MAX;

/// Who is on the other end. Made once per TLS connection, never from what the client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The client's own certificate in DER; `None` where none was asked for.
    pub certificate: Option<Arc<[u8]>>,
}

/// What a client wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act<'a> {
    Publish { topic: &'a str, qos: Qos, retain: bool },
    Subscribe { filter: &'a str },
    Receive { topic: &'a str },
}

/// What the host did with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Not mine: to the subscribers.
    Pass,
    /// Mine alone: nobody else gets it.
    Consumed,
    /// I keep a copy: to the subscribers too.
    Copied,
}

/// Everything the broker asks of the house. Plain functions that neither wait nor call back
/// into the broker; `take` alone runs without the broker's lock.
pub trait Host: Send + Sync + 'static {
    fn admit(&self, who: &Principal, connect: &Connect) -> Result<(), Reason>;
    fn may(&self, who: &Principal, client: &str, act: Act<'_>) -> bool;
    fn take(&self, who: &Principal, client: &str, message: &Message) -> Taken;
}

/// Limits on everything a client could fill.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of one packet, both ways.
    pub packet: usize,
    pub in_flight: usize,
    pub queue_messages: usize,
    pub queue_bytes: usize,
    pub topic_aliases: u16,
    pub filters: usize,
    pub retained: usize,
    pub retained_bytes: usize,
    pub sessions: usize,
    pub session_expiry: Duration,
    /// Told to clients of MQTT 5 that ask for more, or for none.
    pub keep_alive: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            packet: 256 * 1024,
            in_flight: 100,
            queue_messages: 5_000,
            queue_bytes: 8 * 1024 * 1024,
            topic_aliases: 10,
            filters: 100,
            retained: 10_000,
            retained_bytes: 16 * 1024 * 1024,
            sessions: 1_000,
            session_expiry: Duration::from_secs(7 * 24 * 3600),
            keep_alive: 60,
        }
    }
}

/// One accepted connection.
pub struct Conn {
    pub(super) session: u32,
    pub(super) epoch: u32,
    version: Version,
    client_id: Arc<str>,
    who: Principal,
    silence_max: Option<Duration>,
    /// Whether CONNECT asked for a session that outlives the connection.
    lasting: bool,
    aliases: Vec<Option<Arc<str>>>,
}

impl Conn {
    pub fn version(&self) -> Version {
        self.version
    }

    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// One and a half times the keep-alive; `None` when it is off.
    pub fn silence_max(&self) -> Option<Duration> {
        self.silence_max
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Go,
    /// The client said goodbye.
    Close,
}

pub struct Broker<H> {
    host: H,
    limits: Limits,
    state: Mutex<State>,
}

impl<H: Host> Broker<H> {
    pub fn new(host: H, limits: Limits) -> Broker<H> {
        Broker { host, limits: limits.clone(), state: Mutex::new(State::new(limits)) }
    }

    pub fn host(&self) -> &H {
        &self.host
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Messages that found a full queue, or no place among the retained.
    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    /// Always writes a CONNACK; `None` if it refuses.
    pub fn connect(
        &self,
        now: Duration,
        who: Principal,
        connect: Connect,
        wake: Arc<dyn Wake>,
        out: &mut BytesMut,
    ) -> Option<Conn> {
        let version = connect.version;
        match self.try_connect(now, who, connect, wake, out) {
            Ok(conn) => Some(conn),
            Err(reason) => {
                encode::refuse(out, version, reason);
                None
            }
        }
    }

    /// What one packet does. An error ends the connection and is its reason.
    pub fn handle(
        &self,
        now: Duration,
        conn: &mut Conn,
        packet: ClientPacket,
        out: &mut BytesMut,
    ) -> Result<Next, Reason> {
        match packet {
            ClientPacket::Publish(publish) => self.publish(now, conn, *publish, out)?,
            ClientPacket::PubAck(ack) => {
                self.lock().session(conn)?.acked(ack.packet_id);
            }
            ClientPacket::Subscribe(subscribe) => self.subscribe(conn, subscribe, out)?,
            ClientPacket::Unsubscribe(unsubscribe) => self.unsubscribe(conn, &unsubscribe, out)?,
            ClientPacket::PingReq => encode::pingresp(out),
            ClientPacket::Disconnect { reason, session_expiry } => {
                return self.disconnect(conn, reason, session_expiry);
            }
            // Only QoS 2 has these, and nobody was granted it. A second CONNECT ends here too.
            ClientPacket::PubRec(_)
            | ClientPacket::PubRel(_)
            | ClientPacket::PubComp(_)
            | ClientPacket::Connect(_) => return Err(Reason::PROTOCOL_ERROR),
        }
        Ok(Next::Go)
    }

    /// Writes what waits for the client until `out` holds `room` bytes.
    pub fn drain(
        &self,
        now: Duration,
        conn: &mut Conn,
        room: usize,
        out: &mut BytesMut,
    ) -> Result<More, Reason> {
        let mut state = self.lock();
        let session = state.session(conn)?;
        let may = |m: &Message| self.host.may(&conn.who, &conn.client_id, Act::Receive { topic: &m.topic });
        Ok(session.drain(now, room, out, may))
    }

    /// The connection has ended; its will and the life of its session take their course.
    pub fn closed(&self, now: Duration, conn: &Conn) {
        let mut state = self.lock();
        if state.session(conn).is_ok() {
            let wills = state.ended(now, conn.session);
            state.fire(now, wills, &self.host);
        }
    }

    /// Ends every connection that `which` selects; `forget` ends the sessions too and
    /// drops their wills. How many there were.
    pub fn kick(
        &self,
        now: Duration,
        which: impl Fn(&Principal, &str) -> bool,
        why: Reason,
        forget: bool,
    ) -> usize {
        let mut state = self.lock();
        let (count, wills) = state.kick(now, which, why, forget);
        state.fire(now, wills, &self.host);
        count
    }

    /// Delayed wills and dead sessions; when to come again.
    pub fn tick(&self, now: Duration) -> Option<Duration> {
        let mut state = self.lock();
        let wills = state.due(now);
        state.fire(now, wills, &self.host);
        state.next_due()
    }

    /// A message of the house itself; the host is not asked.
    pub fn inject(&self, now: Duration, message: Message) {
        self.lock().route(now, &Arc::new(message), None);
    }

    /// A subscriber in the process; its filter must be valid. The queue is bounded as that of any client.
    pub fn attach(&self, filter: &str, wake: Arc<dyn Wake>) -> u32 {
        self.lock().attach(filter, wake)
    }

    pub fn pop(&self, attached: u32) -> Option<Queued> {
        self.lock().pop(attached)
    }

    pub fn detach(&self, attached: u32) {
        self.lock().forget(attached);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic of one connection's task under the lock leaves whole values behind: each
        // change to the state is a single insert or remove.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_connect(
        &self,
        now: Duration,
        who: Principal,
        mut c: Connect,
        wake: Arc<dyn Wake>,
        out: &mut BytesMut,
    ) -> Result<Conn, Reason> {
        if c.props.auth_method.is_some() {
            return Err(Reason::BAD_AUTH_METHOD);
        }
        if c.client_id.is_empty() && c.version == Version::V3_1_1 && !c.clean_start {
            return Err(Reason::CLIENT_ID_NOT_VALID);
        }
        self.host.admit(&who, &c)?;
        let mut state = self.lock();
        let mut offer = Offer {
            receive_maximum: u16::try_from(self.limits.in_flight).unwrap_or(u16::MAX),
            maximum_packet_size: u32::try_from(self.limits.packet).unwrap_or(u32::MAX),
            topic_alias_maximum: self.limits.topic_aliases,
            ..Offer::default()
        };
        if c.client_id.is_empty() {
            c.client_id = state.invent_id();
            offer.assigned_client_id = Some(c.client_id.clone());
        }
        if let Some(will) = &c.will {
            if will.qos == Qos::ExactlyOnce {
                return Err(Reason::QOS_NOT_SUPPORTED);
            }
            let act = Act::Publish { topic: &will.topic, qos: will.qos, retain: will.retain };
            if !self.host.may(&who, &c.client_id, act) {
                return Err(Reason::NOT_AUTHORIZED);
            }
        }
        let keep_alive = self.keep_alive(&c, &mut offer);
        let expiry = self.session_expiry(&c, &mut offer);
        let (present, session, epoch, wills) = state.join(now, &who, &c, expiry, wake)?;
        state.fire(now, wills, &self.host);
        encode::connack(out, c.version, present, &offer);
        Ok(Conn {
            session,
            epoch,
            version: c.version,
            client_id: Arc::from(c.client_id),
            who,
            silence_max: (keep_alive > 0).then(|| Duration::from_millis(u64::from(keep_alive) * 1500)),
            lasting: !expiry.is_zero(),
            aliases: Vec::new(),
        })
    }

    fn keep_alive(&self, c: &Connect, offer: &mut Offer) -> u16 {
        let most = self.limits.keep_alive;
        if c.version == Version::V5 && (c.keep_alive == 0 || c.keep_alive > most) {
            offer.server_keep_alive = Some(most);
            return most;
        }
        c.keep_alive
    }

    fn session_expiry(&self, c: &Connect, offer: &mut Offer) -> Duration {
        let most = self.limits.session_expiry;
        if c.version == Version::V3_1_1 {
            return if c.clean_start { Duration::ZERO } else { most };
        }
        let asked = Duration::from_secs(u64::from(c.props.session_expiry.unwrap_or(0)));
        if asked > most {
            offer.session_expiry = Some(u32::try_from(most.as_secs()).unwrap_or(u32::MAX));
        }
        asked.min(most)
    }

    fn publish(&self, now: Duration, conn: &mut Conn, p: Publish, out: &mut BytesMut) -> Result<(), Reason> {
        if p.qos == Qos::ExactlyOnce {
            return Err(Reason::QOS_NOT_SUPPORTED);
        }
        let topic = self.resolve(conn, &p)?;
        // The connection must still own its session before anything of it takes effect.
        self.lock().session(conn)?;
        let act = Act::Publish { topic: &topic, qos: p.qos, retain: p.retain };
        let reason = if self.host.may(&conn.who, &conn.client_id, act) {
            let props = Props { topic_alias: None, ..p.props };
            let message = Message { topic, payload: p.payload, qos: p.qos, retain: p.retain, props };
            if self.host.take(&conn.who, &conn.client_id, &message) != Taken::Consumed {
                self.lock().route(now, &Arc::new(message), Some(conn.session));
            }
            Reason::SUCCESS
        } else if conn.version == Version::V3_1_1 {
            // 3.1.1 cannot refuse a PUBLISH, and a false acknowledgement would lose it.
            return Err(Reason::NOT_AUTHORIZED);
        } else {
            Reason::NOT_AUTHORIZED
        };
        if p.qos == Qos::AtLeastOnce {
            encode::puback(out, conn.version, p.packet_id, reason);
        }
        Ok(())
    }

    fn resolve(&self, conn: &mut Conn, p: &Publish) -> Result<Arc<str>, Reason> {
        let Some(alias) = p.props.topic_alias else { return Ok(Arc::from(p.topic.as_str())) };
        if alias > self.limits.topic_aliases {
            return Err(Reason::TOPIC_ALIAS_INVALID);
        }
        let at = usize::from(alias);
        if conn.aliases.len() <= at {
            conn.aliases.resize(at + 1, None);
        }
        if !p.topic.is_empty() {
            conn.aliases[at] = Some(Arc::from(p.topic.as_str()));
        }
        conn.aliases[at].clone().ok_or(Reason::PROTOCOL_ERROR)
    }

    fn subscribe(&self, conn: &mut Conn, s: Subscribe, out: &mut BytesMut) -> Result<(), Reason> {
        let mut state = self.lock();
        state.session(conn)?;
        let mut reasons = Vec::with_capacity(s.filters.len());
        for wanted in &s.filters {
            let reason = self.judge(conn, wanted, state.session(conn)?.filters.len());
            if !reason.is_refusal() {
                let mut options = wanted.options;
                options.qos = options.qos.min(Qos::AtLeastOnce);
                let subscription = Subscription { options, id: s.subscription_id };
                state.subscribe(conn.session, &wanted.filter, subscription);
            }
            reasons.push(reason);
        }
        encode::suback(out, conn.version, s.packet_id, &reasons);
        Ok(())
    }

    fn judge(&self, conn: &Conn, wanted: &Filter, held: usize) -> Reason {
        let filter = wanted.filter.as_str();
        if share(filter).is_some() {
            Reason::SHARED_NOT_SUPPORTED
        } else if filter.split('/').count() > LEVELS_MAX {
            Reason::FILTER_INVALID
        } else if !self.host.may(&conn.who, &conn.client_id, Act::Subscribe { filter }) {
            Reason::NOT_AUTHORIZED
        } else if held >= self.limits.filters {
            Reason::QUOTA_EXCEEDED
        } else {
            Reason(wanted.options.qos.min(Qos::AtLeastOnce).bits())
        }
    }

    fn unsubscribe(&self, conn: &Conn, u: &Unsubscribe, out: &mut BytesMut) -> Result<(), Reason> {
        let mut state = self.lock();
        state.session(conn)?;
        let reason = |held| if held { Reason::SUCCESS } else { Reason::NO_SUBSCRIPTION };
        let reasons: Vec<_> = u.filters.iter().map(|f| reason(state.unsubscribe(conn.session, f))).collect();
        encode::unsuback(out, conn.version, u.packet_id, &reasons);
        Ok(())
    }

    fn disconnect(&self, conn: &Conn, reason: Reason, expiry: Option<u32>) -> Result<Next, Reason> {
        let mut state = self.lock();
        let session = state.session(conn)?;
        if let Some(seconds) = expiry {
            if seconds > 0 && !conn.lasting {
                return Err(Reason::PROTOCOL_ERROR);
            }
            session.expiry = Duration::from_secs(u64::from(seconds)).min(self.limits.session_expiry);
        }
        if reason == Reason::SUCCESS {
            session.will = None;
        }
        Ok(Next::Close)
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
