//! What stands behind the simulated broker for things: its persistent session with the
//! gateway, an application that wants something now and then, and, for the dialect `aws`, a
//! shadow service built on the pure one.
//!
//! Constraints: nothing here has a task of its own. The application's deeds are drawn at the
//! beginning and happen when somebody looks at the clock. What the broker has for the
//! gateway is kept until it is acknowledged, comes again on the next connection, and is
//! forgotten now and then together with the session. The shadow service answers late, twice,
//! in any order or never, is busy, and forgets what it is at when it restarts; an update that
//! it took is kept for ever.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde_json::{Value, json};

use fieldgate::model::thing::ShadowName;
use fieldgate::shadow::{self, Limits, Operation, Rejected, Request, Shadow};
use fieldgate::wire::shadow_topics::{Topic, Topics};

use crate::app::{App, Deed};
use crate::dice::{Dice, Spell, ms, spells};
use crate::world::{BASE, Planted, Temper};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// The gateway is the shadow service.
    Plain,
    Aws,
}

/// What the application asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// Its client token, or the id of the command.
    pub token: String,
    /// The device.
    pub device: usize,
    pub at: Duration,
    pub what: What,
    /// When the broker first had the gateway's acknowledgement.
    pub acked: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// Point and value; `None`: not wanted any more.
    Desired(Vec<(usize, Option<u16>)>),
    Command {
        value: u16,
        expires: Option<i64>,
    },
    /// It is no request, or one that has to be refused.
    Nonsense,
    Get,
}

/// A message of the gateway about things.
#[derive(Clone, Debug, PartialEq)]
pub struct Said {
    pub at: Duration,
    pub topic: String,
    pub payload: Value,
}

/// A message for the gateway that the broker keeps.
struct Held {
    due: Duration,
    id: u64,
    topic: String,
    payload: Vec<u8>,
    asked: Option<usize>,
    /// In the connection of this number.
    sent: u64,
}

pub struct Service {
    pub dialect: Dialect,
    dice: Dice,
    temper: Temper,
    planted: Planted,
    /// The end of all faults of the shadow service; that of the broker comes later.
    calm: Duration,
    restarts: Vec<Spell>,
    topics: Topics,
    app: App,
    pub asked: Vec<Asked>,
    pub said: Vec<Said>,
    pub shadows: BTreeMap<(String, String), Shadow>,
    /// What the application wants in the end, by device.
    pub wanted: Vec<BTreeMap<usize, u16>>,
    filters: Vec<String>,
    held: VecDeque<Held>,
    ids: u64,
    requests: u64,
}

/// Messages under way to the gateway at one time, as its Receive Maximum says.
const RECEIVE_MAX: usize = 20;

impl Service {
    pub fn new(dice: Dice, temper: Temper, planted: Planted, calm: Duration) -> Service {
        let dialect = if dice.of("dialect", 0).bool() { Dialect::Plain } else { Dialect::Aws };
        let restarts = match temper {
            Temper::Calm => Vec::new(),
            Temper::Wild => spells(&mut dice.of("service restart", 0), 4, 5, calm * 2 / 3),
        };
        Service {
            dialect,
            dice,
            temper,
            planted,
            calm: calm * 2 / 3,
            restarts,
            topics: Topics::new("$aws", "cmd/{thing}/{name}"),
            app: App::new(dice, temper, dialect, calm * 4 / 5),
            asked: Vec::new(),
            said: Vec::new(),
            shadows: BTreeMap::new(),
            wanted: vec![BTreeMap::new(); crate::plant::DEVICES.len()],
            filters: Vec::new(),
            held: VecDeque::new(),
            ids: 0,
            requests: 0,
        }
    }

    /// Lets the application do what it has to do by now.
    pub fn advance(&mut self, now: Duration) {
        while let Some((at, deed)) = self.app.next(now) {
            self.does(at, deed);
        }
    }

    /// When there is something for the gateway, or something is done.
    pub fn next(&self, connection: u64) -> Option<Duration> {
        let waits = self.held.iter().filter(|h| h.sent != connection).map(|h| h.due).min();
        let full = self.under_way(connection) >= RECEIVE_MAX;
        waits.filter(|_| !full).into_iter().chain(self.app.at()).min()
    }

    fn under_way(&self, connection: u64) -> usize {
        self.held.iter().filter(|h| h.sent == connection).count()
    }

    /// A new connection; the broker lost its session, or has it.
    pub fn connects(&mut self, is_lost: bool) {
        if is_lost {
            self.filters.clear();
            self.held.clear();
        }
    }

    pub fn subscribes(&mut self, filters: &[String]) {
        self.filters = filters.to_vec();
    }

    /// What goes to the gateway now: id, topic, payload.
    pub fn deliver(&mut self, connection: u64, now: Duration) -> Vec<(u64, String, Vec<u8>)> {
        let room = RECEIVE_MAX.saturating_sub(self.under_way(connection));
        self.held.make_contiguous().sort_by_key(|h| (h.due, h.id));
        let due = self.held.iter_mut().filter(|h| h.due <= now && h.sent != connection).take(room);
        due.map(|h| {
            h.sent = connection;
            (h.id, h.topic.clone(), h.payload.clone())
        })
        .collect()
    }

    pub fn acked(&mut self, id: u64, now: Duration) {
        let Some(at) = self.held.iter().position(|h| h.id == id) else { return };
        if let Some(asked) = self.held.remove(at).and_then(|h| h.asked) {
            self.asked[asked].acked.get_or_insert(now);
        }
    }

    /// A message of the gateway. `false`: it is none about things.
    pub fn hears(&mut self, at: Duration, topic: &str, payload: &Value) -> bool {
        if !topic.starts_with("$aws/") && !topic.starts_with("cmd/") {
            return false;
        }
        let topics = self.topics.clone();
        if let (Dialect::Aws, Some(Topic::Shadow { thing, shadow, rest })) =
            (self.dialect, topics.parse(topic))
        {
            self.serves(at, (thing, shadow), rest, payload);
            return true;
        }
        let is_answer = topic.ends_with("/accepted") || topic.ends_with("/answer");
        let number = self.said.len();
        if !(self.planted == Planted::AnswersGetLost && is_answer && number.is_multiple_of(3)) {
            self.said.push(Said { at, topic: topic.to_owned(), payload: payload.clone() });
        } else {
            self.said.push(Said { at, topic: "lost".into(), payload: Value::Null });
        }
        true
    }

    fn serves(&mut self, at: Duration, (thing, shadow): (&str, &str), rest: &str, payload: &Value) {
        let operation = Operation::parse(rest).expect("the gateway asks as the service is asked");
        self.requests += 1;
        let mut random = self.dice.of("service", self.requests);
        if self.restarts.iter().any(|r| r.holds(at)) {
            return;
        }
        let wild = self.temper == Temper::Wild && at < self.calm;
        let delay = ms(&mut random, 1, if wild { 400 } else { 20 });
        let fate = if wild { random.u8(0..100) } else { 100 };
        let busy = match fate {
            0..2 => Some(Rejected::new(429, "Too many requests")),
            2..4 => Some(Rejected::new(500, "Internal service failure")),
            // It never came to be looked at.
            4..6 => return,
            _ => None,
        };
        let now_s = (BASE.0 + at.as_millis() as i64) / 1000;
        let messages = match busy {
            Some(rejected) => {
                let rejected = rejected.with_token(payload["clientToken"].as_str());
                vec![shadow::refuse(operation, &rejected, now_s)]
            }
            None => {
                let bytes = payload.to_string().into_bytes();
                match Request::parse(operation, &bytes) {
                    Ok(request) => self.answer((thing, shadow), &request, now_s),
                    Err(rejected) => vec![shadow::refuse(operation, &rejected, now_s)],
                }
            }
        };
        // Done, and the answer is lost.
        if matches!(fate, 6..10) {
            return;
        }
        for message in messages {
            let topic = self.topics.of_shadow(thing, shadow, message.kind.suffix());
            self.send(at + delay, &topic, message.payload.clone(), None);
            if matches!(fate, 10..16) {
                let again = at + delay + ms(&mut random, 0, 2_000);
                self.send(again, &topic, message.payload, None);
            }
        }
    }

    fn answer(&mut self, (thing, name): (&str, &str), request: &Request, now_s: i64) -> Vec<shadow::Message> {
        let key = (thing.to_owned(), name.to_owned());
        let name = ShadowName::parse(name).expect("the name of a shadow");
        let absent = Shadow::absent();
        let before = self.shadows.get(&key).unwrap_or(&absent);
        let answer = shadow::answer(before, &name, request, now_s, &Limits::default());
        let version = before.version();
        let forgets = self.planted == Planted::ServiceForgets && version % 3 == 2;
        if let Some(next) = answer.next.filter(|_| !forgets) {
            self.shadows.insert(key, next);
        }
        answer.messages
    }

    fn send(&mut self, due: Duration, topic: &str, payload: Vec<u8>, asked: Option<usize>) {
        if !self.filters.iter().any(|f| fits(f, topic)) {
            return;
        }
        self.ids += 1;
        let (id, topic) = (self.ids, topic.to_owned());
        self.held.push_back(Held { due, id, topic, payload, asked, sent: 0 });
    }

    fn does(&mut self, at: Duration, deed: Deed) {
        let now_s = (BASE.0 + at.as_millis() as i64) / 1000;
        let thing = |device: usize| crate::plant::DEVICES[device].0;
        match deed {
            Deed::Asks(mut asked, payload) => {
                asked.at = at;
                let topic = match (&asked.what, self.dialect) {
                    (What::Command { .. }, _) => self.topics.of_command(thing(asked.device), "kick"),
                    (What::Get, _) => self.topics.of_shadow(thing(asked.device), "", "get"),
                    (_, Dialect::Plain) => self.topics.of_shadow(thing(asked.device), "", "update"),
                    (_, Dialect::Aws) => return self.updates(at, asked, &payload),
                };
                let place = self.asked.len();
                self.asked.push(asked);
                self.send(at, &topic, payload, Some(place));
            }
            Deed::Repeats => {
                let last = self.asked.iter().rposition(|a| matches!(a.what, What::Command { .. }));
                let Some(place) = last else { return };
                let asked = &self.asked[place];
                let (topic, payload) =
                    (self.topics.of_command(thing(asked.device), "kick"), asked.command_payload());
                self.send(at, &topic, payload, Some(place));
            }
            Deed::Deletes(device) => {
                let request = Request::delete(Some("app"));
                let messages = self.answer((thing(device), ""), &request, now_s);
                if messages.iter().all(|m| m.kind == shadow::Kind::DeleteAccepted) {
                    self.wanted[device].clear();
                }
                self.tell(at, device, messages);
            }
        }
    }

    /// The application changes what is desired, in the cloud's own shadow.
    fn updates(&mut self, at: Duration, asked: Asked, payload: &[u8]) {
        let device = asked.device;
        let now_s = (BASE.0 + at.as_millis() as i64) / 1000;
        let What::Desired(points) = &asked.what else { return };
        let Ok(update) = Request::parse_update(payload) else { return };
        let request = Request::Update(update);
        for (point, value) in points {
            match value {
                Some(value) => drop(self.wanted[device].insert(*point, *value)),
                None => drop(self.wanted[device].remove(point)),
            }
        }
        let messages = self.answer((crate::plant::DEVICES[device].0, ""), &request, now_s);
        self.asked.push(asked);
        self.tell(at, device, messages);
    }

    fn tell(&mut self, at: Duration, device: usize, messages: Vec<shadow::Message>) {
        let mut random = self.dice.of("news", at.as_millis() as u64);
        let wild = self.temper == Temper::Wild && at < self.calm;
        for message in messages {
            let topic = self.topics.of_shadow(crate::plant::DEVICES[device].0, "", message.kind.suffix());
            self.send(at + ms(&mut random, 1, if wild { 400 } else { 5 }), &topic, message.payload, None);
        }
    }
}

impl Asked {
    pub fn command_payload(&self) -> Vec<u8> {
        let What::Command { value, expires } = &self.what else { return Vec::new() };
        let mut payload = json!({ "id": self.token, "value": value });
        if let Some(expires) = expires {
            payload["expires"] = (*expires).into();
        }
        payload.to_string().into_bytes()
    }
}

/// Whether an MQTT filter without `#` fits a topic.
fn fits(filter: &str, topic: &str) -> bool {
    let (mut filter, mut topic) = (filter.split('/'), topic.split('/'));
    loop {
        match (filter.next(), topic.next()) {
            (None, None) => return true,
            (Some(f), Some(t)) if f == "+" || f == t => {}
            _ => return false,
        }
    }
}
