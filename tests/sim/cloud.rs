//! The simulated cloud: a [`Link`] with a broker behind it that keeps the book of every
//! message it took.
//!
//! Constraints, as with the real client library: packet ids are announced in the order of the
//! publishes and come round again; what arrived before the end of a connection is told
//! before its end; a dropped connection forgets everything. On top of that the broker
//! acknowledges late, out of order or never, takes messages whose acknowledgement is lost,
//! is away for long, refuses some messages for good, and hangs up on others.
//!
//! What arrives at the gateway comes from [`Service`], which keeps it until it is
//! acknowledged.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep, sleep_until};

use fieldgate::uplink::link::{Link, LinkError, LinkEvent, Message, Opening, Session, Token};

use crate::dice::{Dice, Spell, ms, spells};
use crate::service::Service;
use crate::world::{Planted, Temper};

/// What stood in one message that the broker took.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrival {
    pub at: Duration,
    pub connection: u64,
    pub topic: String,
    pub payload: Value,
}

pub struct Cloud {
    dice: Dice,
    temper: Temper,
    planted: Planted,
    origin: Instant,
    calm: Duration,
    outages: Vec<Spell>,
    book: Mutex<Book>,
    pub service: Mutex<Service>,
}

#[derive(Default)]
struct Book {
    arrivals: Vec<Arrival>,
    /// Telemetry that the broker will never take.
    refused: Vec<Value>,
    attempts: u64,
    connections: u64,
}

/// How a connection goes.
struct Character {
    ends: Instant,
    why: LinkError,
    transit: Duration,
    acks: Acks,
}

#[derive(Clone, Copy, PartialEq)]
enum Acks {
    InOrder(Duration),
    Shuffled(u64),
    /// Takes everything, answers pings, never says so.
    Never,
    /// Forgets one acknowledgement in a hundred.
    Forgetful(Duration),
}

impl Cloud {
    pub fn new(dice: Dice, temper: Temper, planted: Planted, calm: Duration) -> Arc<Cloud> {
        let outages = match temper {
            Temper::Calm => Vec::new(),
            Temper::Wild => spells(&mut dice.of("outage", 0), 4, 70, calm),
        };
        let origin = Instant::now();
        let service = Mutex::new(Service::new(dice, temper, planted, calm));
        Arc::new(Cloud { dice, temper, planted, origin, calm, outages, book: Mutex::default(), service })
    }

    pub fn arrivals(&self) -> Vec<Arrival> {
        self.book.lock().unwrap().arrivals.clone()
    }

    pub fn refused(&self) -> Vec<Value> {
        self.book.lock().unwrap().refused.clone()
    }

    pub fn link(self: &Arc<Self>) -> CloudLink {
        CloudLink(Arc::clone(self))
    }

    fn is_calm(&self) -> bool {
        self.temper == Temper::Calm || self.origin.elapsed() >= self.calm
    }

    fn character(&self, connection: u64) -> Character {
        let mut random = self.dice.of("connection", connection);
        let now = Instant::now();
        if self.is_calm() {
            let far = now + Duration::from_secs(1_000_000);
            let transit = Duration::from_millis(2);
            let acks = Acks::InOrder(Duration::from_millis(2));
            return Character { ends: far, why: LinkError::Stuck, transit, acks };
        }
        let longest = if random.bool() { 4_000 } else { 60_000 };
        let life = ms(&mut random, 10, longest);
        let acks = match random.u8(0..10) {
            0 => Acks::Never,
            1 => Acks::Forgetful(ms(&mut random, 1, 300)),
            2..5 => Acks::Shuffled(random.u64(1..=800)),
            _ => Acks::InOrder(ms(&mut random, 1, 300)),
        };
        // What is not acknowledged the agent has to notice by itself.
        let endless = matches!(acks, Acks::Never | Acks::Forgetful(_)) && random.bool();
        Character {
            ends: now + if endless { Duration::from_secs(1_000_000) } else { life },
            why: match random.u8(0..4) {
                0 => LinkError::HungUp("the broker restarts".into()),
                1 => LinkError::Stuck,
                2 => LinkError::TakenOver,
                _ => LinkError::Unreachable("connection reset".into()),
            },
            transit: ms(&mut random, 1, 80),
            acks,
        }
    }

    fn take(&self, mut arrival: Arrival) {
        let mut book = self.book.lock().unwrap();
        let number = book.arrivals.len();
        match self.planted {
            Planted::BrokerForgets if number % 400 == 399 => return,
            Planted::FaultsGetLost if arrival.topic.ends_with("/fault") && number.is_multiple_of(2) => return,
            Planted::BrokerCutsShort if number == 300 => {
                arrival.payload["readings"].as_array_mut().map(Vec::pop);
            }
            Planted::BrokerRewrites => {
                let known = |a: &&Arrival| a.payload["seq"].is_array() && a.payload == arrival.payload;
                if book.arrivals.iter().any(|a| known(&a)) {
                    arrival.payload["readings"][0]["t"] = 1.into();
                }
            }
            _ => {}
        }
        book.arrivals.push(arrival);
        if self.planted == Planted::BrokerReorders && number % 200 == 199 {
            book.arrivals[number - 40..].reverse();
        }
    }

    /// What the broker thinks of a message, always the same of the same message.
    fn verdict(&self, payload: &Value) -> Verdict {
        let (Some(seq), Some(device)) = (payload["seq"][0].as_u64(), payload["device"].as_str()) else {
            return Verdict::Takes;
        };
        let boot = payload["boot"].as_str().and_then(|b| b.rsplit('-').next()).unwrap_or_default();
        let mut random = self.dice.of(&format!("verdict {device} {boot}"), seq);
        let early = payload["readings"][0]["t"]
            .as_i64()
            .is_some_and(|t| t < crate::world::BASE.0 + self.calm.as_millis() as i64);
        match random.u32(0..1500) {
            _ if self.temper == Temper::Calm || !early => Verdict::Takes,
            0 => Verdict::HangsUp,
            1..7 => Verdict::Refuses,
            _ => Verdict::Takes,
        }
    }
}

enum Verdict {
    Takes,
    Refuses,
    HangsUp,
}

pub struct CloudLink(Arc<Cloud>);

impl Link for CloudLink {
    type Session = CloudSession;

    async fn connect(&mut self, opening: Opening) -> Result<CloudSession, LinkError> {
        let cloud = &self.0;
        let attempt = {
            let mut book = cloud.book.lock().unwrap();
            book.attempts += 1;
            book.attempts
        };
        let will = opening.will.expect("the gateway has a last will");
        let will: Value = serde_json::from_slice(&will.payload).expect("the last will is JSON");
        assert_eq!(will["state"], "offline");
        let mut random = cloud.dice.of("attempt", attempt);
        sleep(ms(&mut random, 5, 120)).await;
        let now = cloud.origin.elapsed();
        let never = cloud.planted == Planted::BrokerNeverComes && cloud.is_calm();
        if never || cloud.outages.iter().any(|o| o.holds(now)) {
            return Err(match random.u8(0..8) {
                0 => LinkError::TlsRefused("the certificate has expired".into()),
                1 => LinkError::AuthRefused("not authorised".into()),
                2 => {
                    sleep(Duration::from_secs(10)).await;
                    LinkError::Unreachable("no CONNACK".into())
                }
                _ => LinkError::Unreachable("connection refused".into()),
            });
        }
        let number = {
            let mut book = cloud.book.lock().unwrap();
            book.connections += 1;
            book.connections
        };
        let character = cloud.character(number);
        // A broker that restarted may have forgotten the session.
        let is_lost = !cloud.is_calm() && random.u8(0..10) == 0;
        cloud.service.lock().unwrap().connects(is_lost);
        Ok(CloudSession {
            cloud: Arc::clone(cloud),
            number,
            character,
            events: Vec::new(),
            in_use: HashSet::new(),
            last_id: 0,
            published: 0,
            last_ack: Instant::now(),
            subscribed: None,
            arrived: 0,
            unacked: HashMap::new(),
        })
    }
}

pub struct CloudSession {
    cloud: Arc<Cloud>,
    number: u64,
    character: Character,
    /// Due at, in the order in which they came up.
    events: Vec<(Instant, LinkEvent)>,
    in_use: HashSet<u16>,
    last_id: u16,
    published: u64,
    last_ack: Instant,
    /// From when on the broker sends what it has.
    subscribed: Option<Instant>,
    arrived: u64,
    /// The broker's name of what arrived under each token.
    unacked: HashMap<u64, u64>,
}

/// Packet ids come round soon, as with the library.
const PACKET_IDS: u16 = 24;

impl CloudSession {
    fn packet_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id % PACKET_IDS + 1;
            if self.in_use.insert(self.last_id) {
                return self.last_id;
            }
        }
    }

    fn hang_up(&mut self, at: Instant, why: LinkError) {
        if at < self.character.ends {
            (self.character.ends, self.character.why) = (at, why);
        }
    }

    /// When the broker's answer is back, if it ever is.
    fn ack_at(&mut self, arrives: Instant, random: &mut fastrand::Rng) -> Option<Instant> {
        match self.character.acks {
            Acks::Never => None,
            Acks::Forgetful(_) if random.u8(0..100) == 0 => None,
            Acks::Shuffled(max) => Some(arrives + ms(random, 1, max)),
            Acks::InOrder(delay) | Acks::Forgetful(delay) => {
                self.last_ack = self.last_ack.max(arrives + delay);
                Some(self.last_ack)
            }
        }
    }
}

impl CloudSession {
    /// What the broker has for the gateway by now. `false`: nothing.
    fn arrive(&mut self, now: Instant, into: &mut Vec<LinkEvent>) -> bool {
        let mut service = self.cloud.service.lock().unwrap();
        service.advance(now - self.cloud.origin);
        if self.subscribed.is_none_or(|at| at > now) {
            return false;
        }
        let arrivals = service.deliver(self.number, now - self.cloud.origin);
        for (id, topic, payload) in &arrivals {
            self.arrived += 1;
            self.unacked.insert(self.arrived, *id);
            let token = Token(self.arrived);
            into.push(LinkEvent::Arrived { topic: topic.clone(), payload: payload.clone(), token });
        }
        !arrivals.is_empty()
    }
}

impl Session for CloudSession {
    fn packet_max(&self) -> Option<usize> {
        None
    }

    fn publish(&mut self, message: Message) -> Result<(), LinkError> {
        let now = Instant::now();
        let cloud = Arc::clone(&self.cloud);
        let payload: Value = serde_json::from_slice(&message.payload).expect("every payload is JSON");
        self.published += 1;
        let mut random = cloud.dice.of("message", self.number * 1_000_000 + self.published);
        let id = self.packet_id();
        assert!(self.in_use.len() < usize::from(PACKET_IDS), "more in flight than the window allows");
        self.events.push((now, LinkEvent::Sent(id)));
        let arrives = now + self.character.transit;
        if arrives >= self.character.ends {
            // It dies with the connection.
            if cloud.planted == Planted::BrokerAcksUnseen && !message.retain {
                self.events.push((now, LinkEvent::Acked(id)));
            }
            return Ok(());
        }
        let answer = match cloud.verdict(&payload) {
            Verdict::HangsUp => {
                cloud.book.lock().unwrap().refused.push(payload);
                self.hang_up(arrives, LinkError::HungUp("protocol error".into()));
                return Ok(());
            }
            Verdict::Refuses => {
                cloud.book.lock().unwrap().refused.push(payload);
                LinkEvent::Refused(id, "PayloadFormatInvalid".into())
            }
            Verdict::Takes => {
                let at = arrives - cloud.origin;
                let mut service = cloud.service.lock().unwrap();
                service.advance(now - cloud.origin);
                if service.hears(at, &message.topic, &payload) {
                    drop(service);
                    if let Some(at) = self.ack_at(arrives, &mut random) {
                        self.events.push((at, LinkEvent::Acked(id)));
                    }
                    return Ok(());
                }
                drop(service);
                let arrival = Arrival { at, connection: self.number, topic: message.topic, payload };
                cloud.take(arrival);
                LinkEvent::Acked(id)
            }
        };
        if let Some(at) = self.ack_at(arrives, &mut random) {
            self.events.push((at, answer));
        }
        Ok(())
    }

    fn subscribe(&mut self, filters: &[String]) -> Result<(), LinkError> {
        let (now, answered) = (Instant::now(), Instant::now() + self.character.transit);
        if answered < self.character.ends {
            let mut service = self.cloud.service.lock().unwrap();
            service.advance(now - self.cloud.origin);
            service.subscribes(filters);
        }
        self.subscribed = Some(answered);
        self.events.push((answered, LinkEvent::Subscribed));
        Ok(())
    }

    fn ack(&mut self, token: Token) -> Result<(), LinkError> {
        let id = self.unacked.remove(&token.0).expect("what is acknowledged arrived");
        let there = Instant::now() + self.character.transit;
        let cloud = &self.cloud;
        if there < self.character.ends {
            cloud.service.lock().unwrap().acked(id, there - cloud.origin);
        }
        Ok(())
    }

    fn disconnect(&mut self) {
        self.events.push((Instant::now(), LinkEvent::Disconnected));
    }

    async fn events(&mut self, into: &mut Vec<LinkEvent>) -> Result<(), LinkError> {
        loop {
            let now = Instant::now();
            let ends = self.character.ends;
            // By time, then in the order in which they came up; nothing after the end.
            self.events.sort_by_key(|(at, _)| *at);
            let due = self.events.partition_point(|(at, _)| *at <= now && *at <= ends);
            for (_, event) in self.events.drain(..due) {
                if let LinkEvent::Acked(id) | LinkEvent::Refused(id, _) = &event {
                    self.in_use.remove(id);
                }
                into.push(event);
            }
            if now >= ends {
                return Err(self.character.why.clone());
            }
            if self.arrive(now, into) || due > 0 {
                return Ok(());
            }
            let next = self.events.first().map_or(ends, |(at, _)| ends.min(*at));
            let service = self.cloud.service.lock().unwrap().next(self.number);
            let service = service.map_or(ends, |at| self.cloud.origin + at);
            // Before it is subscribed nothing arrives; the answer to that is an event.
            let service = if self.subscribed.is_some_and(|at| at <= now) { service } else { ends };
            sleep_until(next.min(service)).await;
        }
    }
}
