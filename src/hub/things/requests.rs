//! PURE: what somebody outside asks, and what is said about it.
//!
//! A request for a shadow comes as a message (dialect plain) or from this machine; both go
//! through the same door. A message that is not for a thing of this connection is not ours:
//! with `+` filters another gateway's requests pass by, and no thing speaks for another.

use super::super::member::Now;
use super::{Things, refused};
use crate::channel::{Answer, Origin, Wanted};
use crate::config::Dialect;
use crate::model::kept::{CommandRow, LetterClass};
use crate::model::row::Route;
use crate::model::thing::{STATES, ShadowName};
use crate::shadow::error::Rejected;
use crate::shadow::request::Request;
use crate::shadow::{self, Kind, Message, Operation, Shadow};
use crate::wire::shadow_topics::Topic;

impl Things {
    /// Decides at once; the answer is given when the next [`Things::take`] is on the disk.
    /// `known` is the command of that thing and id, if it was seen before.
    pub fn ask(&mut self, from: &Origin, wanted: &Wanted, known: Option<CommandRow>, now: Now) -> Answer {
        match wanted {
            Wanted::Arrived { topic, payload } => {
                let Origin::Uplink(route) = from else { return Answer::Done };
                self.arrived(*route, topic, payload, known, now);
                Answer::Done
            }
            Wanted::Online(route) => {
                self.online(*route, now);
                Answer::Done
            }
            Wanted::Offline(route) => {
                self.offline(*route, now);
                Answer::Done
            }
            Wanted::Shadow { thing, shadow, operation, payload } => {
                self.local(from, thing, shadow, operation, payload, now)
            }
            Wanted::Approve { thing } => match self.at(thing) {
                Some(at) => self.approve(at, &self.by(from), now),
                None => refused(404, format!("no thing {thing:?}")),
            },
        }
    }

    /// Who asks, as the audit log has it.
    pub(super) fn by(&self, from: &Origin) -> String {
        match from {
            Origin::Uplink(Route::GATEWAY) => "uplink gateway".into(),
            Origin::Uplink(route) => match self.things.iter().find(|t| t.route == *route) {
                Some(thing) => format!("uplink {}", thing.name),
                None => format!("uplink {}", route.0),
            },
            Origin::Socket { uid } => format!("socket uid {uid}"),
        }
    }

    fn arrived(&mut self, route: Route, topic: &str, payload: &[u8], known: Option<CommandRow>, now: Now) {
        let topics = self.topics.clone();
        let Some(parsed) = topics.parse(topic) else { return };
        let thing = match parsed {
            Topic::Shadow { thing, .. } | Topic::Command { thing, .. } => thing,
        };
        let Some(at) = self.at(thing).filter(|at| self.things[*at].route == route) else { return };
        let by = self.by(&Origin::Uplink(route));
        match parsed {
            Topic::Command { name, .. } => self.command(at, name, payload, &by, known, now),
            Topic::Shadow { shadow, rest, .. } => match self.config.dialect {
                Dialect::None => {}
                Dialect::Aws => self.cloud_said(at, shadow, rest, payload, now),
                Dialect::Plain => {
                    if let Some(operation) = Operation::parse(rest) {
                        self.serve(at, shadow, operation, payload, &by, now);
                    }
                }
            },
        }
    }

    /// A request that came as a message.
    fn serve(&mut self, at: usize, shadow: &str, operation: Operation, payload: &[u8], by: &str, now: Now) {
        let Ok(name) = ShadowName::parse(shadow) else { return };
        let asked = may(&name, operation).and_then(|()| Request::parse(operation, payload));
        let done = match asked {
            Ok(request) => return drop(self.change(at, &name, &request, by, now)),
            Err(rejected) => shadow::refuse(operation, &rejected, now.wall.0 / 1000),
        };
        self.tell(at, &name, vec![done], by, now);
    }

    /// A request of this machine.
    fn local(
        &mut self,
        from: &Origin,
        thing: &str,
        shadow: &str,
        operation: &str,
        payload: &[u8],
        now: Now,
    ) -> Answer {
        let rejected = |r: Rejected| refused(r.code, r.message);
        let Some(at) = self.at(thing) else { return rejected(Rejected::no_thing()) };
        let now_s = now.wall.0 / 1000;
        if operation == "list" {
            let things = &self.things[at].shadows;
            let names = things.iter().filter(|(n, s)| s.exists() && !n.is_classic()).map(|(n, _)| n);
            return shadow::list_named(names, Some(shadow::service::PAGE_MAX), None, now_s)
                .map_or_else(rejected, Answer::Said);
        }
        let (Ok(name), Some(operation)) = (ShadowName::parse(shadow), Operation::parse(operation)) else {
            return refused(400, format!("no operation {operation:?} on a shadow {shadow:?}"));
        };
        let by = self.by(from);
        let asked = may(&name, operation).and_then(|()| Request::parse(operation, payload));
        match asked.and_then(|request| self.change(at, &name, &request, &by, now)) {
            Ok(said) => Answer::Said(said),
            Err(r) => rejected(r),
        }
    }

    /// The one door to a shadow. Everybody who may see it is told; the reply is returned.
    pub(super) fn change(
        &mut self,
        at: usize,
        name: &ShadowName,
        request: &Request,
        by: &str,
        now: Now,
    ) -> Result<Vec<u8>, Rejected> {
        let now_s = now.wall.0 / 1000;
        let thing = &mut self.things[at];
        let absent = Shadow::absent();
        let is_new = !thing.shadows.contains_key(name);
        let before = thing.shadows.get(name).unwrap_or(&absent);
        let crowded = is_new && thing.shadows.len() >= self.config.per_thing;
        let answer = match request {
            Request::Update(_) if crowded => {
                let why = format!(
                    "the thing has {} shadows, as many as shadow.per_thing allows",
                    self.config.per_thing
                );
                let rejected = Rejected::new(429, why).with_token(request.token());
                let message = shadow::refuse(Operation::Update, &rejected, now_s);
                shadow::Answer { next: None, messages: vec![message], rejected: Some(rejected) }
            }
            _ => shadow::answer(before, name, request, now_s, &self.limits),
        };
        let said = answer.outcome().map(<[u8]>::to_vec).map_err(Clone::clone);
        if let Some(next) = answer.next {
            thing.shadows.insert(name.clone(), next);
            thing.dirty.insert(name.clone());
            self.changed(at, name, by, now);
        }
        self.tell(at, name, answer.messages, by, now);
        said
    }

    /// What follows from a change of a shadow.
    pub(super) fn changed(&mut self, at: usize, name: &ShadowName, by: &str, now: Now) {
        if by != CLOUD {
            self.local_change(at, name, now);
        }
        if *name == self.carrying && by != "device" {
            self.desire(at, Some(by), now);
            self.tell_states(at, now);
        }
    }

    fn tell(&mut self, at: usize, name: &ShadowName, messages: Vec<Message>, by: &str, now: Now) {
        if self.config.dialect != Dialect::Plain {
            return;
        }
        let by_message = by.starts_with("uplink");
        for message in messages {
            // Who asked on this machine has the answer, and nobody else waits for it; that
            // something changed is told to everybody.
            let told = matches!(
                message.kind,
                Kind::Delta | Kind::Documents | Kind::UpdateAccepted | Kind::DeleteAccepted
            );
            if !by_message && !told {
                continue;
            }
            let thing = self.things[at].name.as_str();
            let topic = self.topics.of_shadow(thing, name.as_str(), message.kind.suffix());
            let class = match message.kind {
                // Nobody waits for the answers to what the gateway says of itself.
                Kind::Delta | Kind::Documents => LetterClass::News,
                _ if by_message => LetterClass::Answer,
                _ => LetterClass::News,
            };
            self.letter(at, class, topic, message.payload, now);
        }
    }
}

/// Who changed a shadow when it was the cloud's own service.
pub(super) const CLOUD: &str = "cloud";

/// Whose shadow it is: what fieldgate says of its own work nobody else writes.
fn may(name: &ShadowName, operation: Operation) -> Result<(), Rejected> {
    let own = name.as_str() == STATES && operation != Operation::Get;
    if own { Err(Rejected::forbidden()) } else { Ok(()) }
}
