//! Everything behind the broker's lock: sessions, who wants what, and what is retained.
//!
//! Constraints: called with the lock held, so nothing here waits or asks the host for more
//! than `may`. Wills are handed out and fired by the caller's word, because a will is
//! judged again at the moment it fires.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::core::{Act, Conn, Host, Limits, Principal};
use super::packet::{Connect, Message, Options, Props, Qos, Reason, RetainHandling, Will};
use super::session::{Queued, Session, Subscription, Wake};
use super::tree::Tree;

/// A will that is due, with the one who left it.
pub struct Due {
    will: Will,
    who: Principal,
    client_id: Arc<str>,
}

pub struct State {
    pub dropped: u64,
    limits: Limits,
    sessions: BTreeMap<u32, Session>,
    by_id: HashMap<Arc<str>, u32>,
    tree: Tree<Subscription>,
    retained: super::retained::Retained,
    last_session: u32,
    last_epoch: u32,
    last_invented: u64,
}

impl State {
    pub fn new(limits: Limits) -> State {
        State {
            dropped: 0,
            limits,
            sessions: BTreeMap::new(),
            by_id: HashMap::new(),
            tree: Tree::default(),
            retained: super::retained::Retained::default(),
            last_session: 0,
            last_epoch: 0,
            last_invented: 0,
        }
    }

    /// The session of a connection, unless the connection was overtaken or kicked.
    pub fn session(&mut self, conn: &Conn) -> Result<&mut Session, Reason> {
        let session = self.sessions.get_mut(&conn.session);
        session.filter(|s| s.epoch == conn.epoch).ok_or(Reason::TAKEN_OVER)
    }

    /// A client id that nobody has.
    pub fn invent_id(&mut self) -> String {
        loop {
            self.last_invented += 1;
            let id = format!("auto-{}", self.last_invented);
            if !self.by_id.contains_key(id.as_str()) {
                return id;
            }
        }
    }

    /// Takes up or makes the session of a CONNECT: whether it was there, its number and
    /// epoch, and the wills that this sets free.
    pub fn join(
        &mut self,
        now: Duration,
        who: &Principal,
        c: &Connect,
        expiry: Duration,
        wake: Arc<dyn Wake>,
    ) -> Result<(bool, u32, u32, Vec<Due>), Reason> {
        let mut wills = self.due(now);
        let mut found = self.by_id.get(c.client_id.as_str()).copied();
        if let Some(number) = found {
            // Not even a clean start may drive another certificate's session away.
            if self.sessions.get(&number).is_some_and(|s| s.owner != *who) {
                return Err(Reason::NOT_AUTHORIZED);
            }
            wills.extend(self.overtake(now, number, c.clean_start));
            found = found.filter(|n| self.sessions.contains_key(n));
        }
        if found.is_none() && self.sessions.len() >= self.limits.sessions {
            return Err(Reason::QUOTA_EXCEEDED);
        }
        let number = found.unwrap_or_else(|| self.create(&c.client_id, who));
        self.last_epoch = self.last_epoch.wrapping_add(1);
        let epoch = self.last_epoch;
        let limits = &self.limits;
        let session = self.sessions.get_mut(&number).ok_or(Reason::UNSPECIFIED)?;
        session.epoch = epoch;
        session.version = c.version;
        session.wake = Some(wake);
        session.will = c.will.clone();
        session.will_due = None;
        session.expiry = expiry;
        session.expires_at = None;
        session.window = usize::from(c.props.receive_maximum.unwrap_or(u16::MAX)).min(limits.in_flight);
        let packet = c.props.maximum_packet_size.and_then(|n| usize::try_from(n).ok());
        session.packet_max = packet.unwrap_or(usize::MAX);
        session.resumed();
        Ok((found.is_some(), number, epoch, wills))
    }

    /// A connection has ended: the wills that are due by it.
    pub fn ended(&mut self, now: Duration, number: u32) -> Vec<Due> {
        let Some(session) = self.sessions.get_mut(&number) else { return vec![] };
        session.wake = None;
        // Whatever the old connection still says does not count.
        self.last_epoch = self.last_epoch.wrapping_add(1);
        session.epoch = self.last_epoch;
        let delay =
            session.will.as_ref().map(|w| Duration::from_secs(u64::from(w.props.will_delay.unwrap_or(0))));
        session.will_due = delay.map(|d| now + d.min(session.expiry));
        session.expires_at = Some(now + session.expiry);
        self.due(now)
    }

    /// Whatever is due by now: delayed wills are handed out, dead sessions forgotten.
    pub fn due(&mut self, now: Duration) -> Vec<Due> {
        let mut wills = vec![];
        let mut dead = vec![];
        for (number, session) in &mut self.sessions {
            if session.will_due.is_some_and(|at| at <= now) {
                session.will_due = None;
                wills.extend(take_will(session));
            }
            if session.expires_at.is_some_and(|at| at <= now) {
                dead.push(*number);
            }
        }
        for number in dead {
            self.forget(number);
        }
        wills
    }

    pub fn next_due(&self) -> Option<Duration> {
        self.sessions.values().flat_map(|s| [s.will_due, s.expires_at]).flatten().min()
    }

    /// Publishes wills that their owners may publish at this moment.
    pub fn fire(&mut self, now: Duration, wills: Vec<Due>, host: &impl Host) {
        for Due { will, who, client_id } in wills {
            let act = Act::Publish { topic: &will.topic, qos: will.qos, retain: will.retain };
            if host.may(&who, &client_id, act) {
                let props = Props { will_delay: None, ..will.props };
                let (topic, payload) = (will.topic, will.payload);
                let message = Message { topic, payload, qos: will.qos, retain: will.retain, props };
                self.route(now, &Arc::new(message), None);
            }
        }
    }

    pub fn kick(
        &mut self,
        now: Duration,
        which: impl Fn(&Principal, &str) -> bool,
        why: Reason,
        forget: bool,
    ) -> (usize, Vec<Due>) {
        let chosen: Vec<u32> = self
            .sessions
            .iter()
            .filter(|(_, s)| !s.client_id.is_empty() && which(&s.owner, &s.client_id))
            .map(|(number, _)| *number)
            .collect();
        let mut wills = vec![];
        let mut count = 0;
        for number in chosen {
            let Some(session) = self.sessions.get_mut(&number) else { continue };
            if let Some(wake) = session.wake.take() {
                wake.stop(why);
                count += 1;
                if !forget {
                    wills.extend(self.ended(now, number));
                }
            }
            if forget {
                self.forget(number);
            }
        }
        (count, wills)
    }

    pub fn subscribe(&mut self, number: u32, filter: &str, subscription: Subscription) {
        let Some(session) = self.sessions.get_mut(&number) else { return };
        let options = subscription.options;
        let new = session.filters.insert(filter.to_owned(), subscription.clone()).is_none();
        self.tree.insert(filter, number, subscription.clone());
        let wanted = match options.retain_handling {
            RetainHandling::Always => true,
            RetainHandling::IfNew => new,
            RetainHandling::Never => false,
        };
        if !wanted {
            return;
        }
        for (message, since) in self.retained.select(filter) {
            let queued = Queued {
                qos: message.qos.min(options.qos),
                retain: true,
                subscription_ids: subscription.id.into_iter().collect(),
                message: Arc::clone(message),
                since,
            };
            if !session.push(queued, &self.limits) {
                self.dropped += 1;
            }
        }
    }

    /// Whether there was such a subscription.
    pub fn unsubscribe(&mut self, number: u32, filter: &str) -> bool {
        self.tree.remove(filter, number);
        self.sessions.get_mut(&number).is_some_and(|s| s.filters.remove(filter).is_some())
    }

    /// To the retained, if it asks for it, and onto the queue of each who wants it; a session
    /// with overlapping filters gets it once, at the highest QoS.
    pub fn route(&mut self, now: Duration, message: &Arc<Message>, from: Option<u32>) {
        if message.retain {
            let Limits { retained, retained_bytes, .. } = self.limits;
            if !self.retained.set(message, now, retained, retained_bytes) {
                self.dropped += 1;
            }
        }
        let mut receivers: BTreeMap<u32, (Qos, bool, Vec<u32>)> = BTreeMap::new();
        self.tree.find(&message.topic, &mut |number, subscription| {
            let Subscription { options, id } = subscription;
            if options.no_local && from == Some(number) {
                return;
            }
            let (qos, retain, ids) = receivers.entry(number).or_insert((Qos::AtMostOnce, false, vec![]));
            *qos = (*qos).max(options.qos);
            *retain |= options.retain_as_published && message.retain;
            ids.extend(id);
        });
        for (number, (qos, retain, subscription_ids)) in receivers {
            let Some(session) = self.sessions.get_mut(&number) else { continue };
            let qos = qos.min(message.qos);
            let queued = Queued { message: Arc::clone(message), qos, retain, subscription_ids, since: now };
            if !session.push(queued, &self.limits) {
                self.dropped += 1;
            }
        }
    }

    /// A subscriber in the process: a session without a client id.
    pub fn attach(&mut self, filter: &str, wake: Arc<dyn Wake>) -> u32 {
        let number = self.create("", &Principal { certificate: None });
        if let Some(session) = self.sessions.get_mut(&number) {
            session.wake = Some(wake);
        }
        let options = Options {
            qos: Qos::AtLeastOnce,
            no_local: false,
            retain_as_published: true,
            retain_handling: RetainHandling::Always,
        };
        self.subscribe(number, filter, Subscription { options, id: None });
        number
    }

    pub fn pop(&mut self, number: u32) -> Option<Queued> {
        self.sessions.get_mut(&number)?.pop()
    }

    /// Ends a session with all that waits for it.
    pub fn forget(&mut self, number: u32) {
        let Some(session) = self.sessions.remove(&number) else { return };
        for filter in session.filters.keys() {
            self.tree.remove(filter, number);
        }
        if !session.client_id.is_empty() {
            self.by_id.remove(&session.client_id);
        }
    }

    fn create(&mut self, client_id: &str, who: &Principal) -> u32 {
        self.last_session = self.last_session.wrapping_add(1);
        let id: Arc<str> = Arc::from(client_id);
        if !id.is_empty() {
            self.by_id.insert(Arc::clone(&id), self.last_session);
        }
        self.sessions.insert(self.last_session, Session::new(id, who.clone()));
        self.last_session
    }

    /// Someone with the same client id and certificate is here. The old will is published,
    /// unless it waits for its delay and the session goes on.
    fn overtake(&mut self, now: Duration, number: u32, clean: bool) -> Vec<Due> {
        let Some(session) = self.sessions.get_mut(&number) else { return vec![] };
        let mut wills = vec![];
        if let Some(wake) = session.wake.take() {
            wake.stop(Reason::TAKEN_OVER);
            // The end of a session that lives no longer than its connection is not awaited.
            let expiry = session.expiry;
            wills = self.ended(now, number);
            if expiry.is_zero() {
                return wills;
            }
        }
        if clean {
            if let Some(session) = self.sessions.get_mut(&number) {
                wills.extend(take_will(session));
            }
            self.forget(number);
        }
        wills
    }
}

fn take_will(session: &mut Session) -> Option<Due> {
    let will = session.will.take()?;
    Some(Due { will, who: session.owner.clone(), client_id: Arc::clone(&session.client_id) })
}
