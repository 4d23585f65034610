//! PURE: momentary commands: a reset, a one-off write.
//!
//! A command is an event, not a level: it is executed once, now, or not at all. Its row is on
//! the disk before the write leaves, so a restart never executes it again; whoever repeats a
//! request gets the answer of the first one. A power cut between the two leaves `unknown`.
//!
//! Request: `{"id": text, "value"?: JSON, "expires"?: seconds since 1970}`. Answer:
//! `{"v": 1, "id", "thing", "name", "state": verified | accepted | rejected | failed |
//! expired | unknown, "code"?, "why"?, "t"}`.

use serde_json::{Value as Json, json};

use super::super::member::Now;
use super::Things;
use super::desired::words;
use crate::channel::{Wanted, WriteRequest};
use crate::modbus::write::plan;
use crate::model::device::{DeviceCommand, Protocol};
use crate::model::kept::{CommandRow, LetterClass};
use crate::model::time::{CLOCK_PLAUSIBLE_FROM, Timestamp};
use crate::model::write::WriteOutcome;
use crate::wire::shadow_topics::Topic;

/// A command whose write is under way.
pub(super) struct Running {
    pub at: usize,
    row: CommandRow,
    point: String,
    value: Json,
    by: String,
}

/// What has to be looked up before [`Things::ask`].
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    pub thing: String,
    pub id: String,
}

impl Things {
    /// The command that this message asks for, if it does.
    pub fn asked_command(&self, wanted: &Wanted) -> Option<Asked> {
        let Wanted::Arrived { topic, payload } = wanted else { return None };
        let Some(Topic::Command { thing, .. }) = self.topics.parse(topic) else { return None };
        let payload: Json = serde_json::from_slice(payload).ok()?;
        Some(Asked { thing: thing.to_owned(), id: payload.get("id")?.as_str()?.to_owned() })
    }

    /// Begun before the last stop and never answered: nobody knows.
    pub(super) fn commands_of_last_time(&mut self, rows: Vec<CommandRow>, now: Now) {
        for row in rows {
            let Some(at) = self.at(&row.thing) else { continue };
            let why = "the gateway stopped before the outcome was known; it is not executed again";
            self.answer_command(at, row, "unknown", None, Some(why.into()), now);
        }
    }

    pub(super) fn command(
        &mut self,
        at: usize,
        name: &str,
        payload: &[u8],
        by: &str,
        known: Option<CommandRow>,
        now: Now,
    ) {
        let thing = self.things[at].name.as_str().to_owned();
        let parsed: Option<Json> = serde_json::from_slice(payload).ok();
        let id =
            parsed.as_ref().and_then(|p| p.get("id")?.as_str()).filter(|id| (1..=ID_MAX).contains(&id.len()));
        let (Some(parsed), Some(id)) = (&parsed, id) else {
            let why = format!("a command is JSON with an \"id\" of 1 to {ID_MAX} bytes");
            return self.say(at, name, &json!({ "v": 1, "thing": thing, "name": name, "state": "rejected", "why": why, "t": now.wall.0 }), now);
        };
        if let Some(known) = known {
            // The first one's answer; while that one is under way, it comes by itself.
            if let Some(answer) = known.answer.as_deref().and_then(|text| serde_json::from_str(text).ok()) {
                self.say(at, &known.name, &answer, now);
            }
            return;
        }
        if self.running.values().any(|r| r.at == at && r.row.id == id) {
            return;
        }
        let command = self.things[at]
            .device
            .as_ref()
            .and_then(|(_, d)| d.commands.iter().find(|c| c.name.as_str() == name))
            .cloned();
        let expires =
            command.as_ref().map_or(now.wall, |c| Timestamp(now.wall.0 + c.expiry.as_millis() as i64));
        let mut row = CommandRow {
            thing,
            id: id.to_owned(),
            name: name.to_owned(),
            at: now.wall,
            expires,
            answer: None,
        };
        match self.execute(at, command.as_ref(), parsed, &mut row, by, now) {
            Ok(()) => {}
            Err((state, why)) => self.answer_command(at, row, state, None, Some(why), now),
        }
    }

    fn execute(
        &mut self,
        at: usize,
        command: Option<&DeviceCommand>,
        asked: &Json,
        row: &mut CommandRow,
        by: &str,
        now: Now,
    ) -> Result<(), (&'static str, String)> {
        let command = command.ok_or(("rejected", "the device has no such command".to_owned()))?;
        if let Some(expires) = asked.get("expires") {
            let seconds =
                expires.as_i64().ok_or(("rejected", "\"expires\" is in seconds since 1970".to_owned()))?;
            row.expires = Timestamp(seconds.saturating_mul(1000));
            if now.wall < CLOCK_PLAUSIBLE_FROM {
                return Err(("rejected", "the clock is not set, so nothing that expires is executed".into()));
            }
            if now.wall >= row.expires {
                return Err(("expired", "it arrived too late".into()));
            }
        }
        let thing = &self.things[at];
        let value = match (&command.value, asked.get("value")) {
            (Some(fixed), None) => fixed.clone(),
            (Some(fixed), Some(given)) if fixed == given => fixed.clone(),
            (Some(_), Some(_)) => return Err(("rejected", "the command has a value of its own".into())),
            (None, Some(given)) => given.clone(),
            (None, None) => return Err(("rejected", "the command needs a \"value\"".into())),
        };
        if thing.fingerprint.is_quarantined() {
            return Err(("rejected", "the device is quarantined: its fingerprint changed".into()));
        }
        if thing.silent.is_some() {
            return Err(("rejected", "the device is silent".into()));
        }
        let Some((index, device)) = &thing.device else { return Err(("rejected", "no device".into())) };
        let Protocol::Modbus(modbus) = &device.protocol else {
            return Err(("rejected", "no Modbus device".into()));
        };
        let Some(point) = device.points.get(command.point.at()) else {
            return Err(("rejected", "no such point".into()));
        };
        let plan = plan(modbus, point, &value).map_err(|refusal| ("rejected", refusal.to_string()))?;
        let (id, index, point_name) = (self.next_write, *index, point.name.as_str().to_owned());
        let entry = json!({
            "t": now.wall.to_string(), "what": "command", "thing": row.thing, "name": row.name, "id": row.id,
            "point": point_name, "by": by, "old": thing.reported.latest(command.point).map(|v| v.to_json()),
            "new": value, "outcome": "sent",
        });
        self.next_write += 1;
        self.audit(entry);
        self.out.kept.commands.push(row.clone());
        self.out.writes.push(WriteRequest { id, device: index, point: command.point, plan });
        let running = Running { at, row: row.clone(), point: point_name, value, by: by.to_owned() };
        self.running.insert(id, running);
        Ok(())
    }

    pub(super) fn command_not_sent(&mut self, id: u64, now: Now) {
        if let Some(running) = self.running.remove(&id) {
            self.answer_command(
                running.at,
                running.row,
                "rejected",
                None,
                Some("the line is busy; ask again".into()),
                now,
            );
        }
    }

    pub(super) fn command_done(&mut self, running: Running, outcome: &WriteOutcome, now: Now) {
        let (state, why) = words(outcome);
        let code = match outcome {
            WriteOutcome::Rejected { code } => Some(*code),
            _ => None,
        };
        let entry = json!({
            "t": now.wall.to_string(), "what": "command", "thing": running.row.thing, "name": running.row.name,
            "id": running.row.id, "point": running.point, "by": running.by, "new": running.value,
            "outcome": state, "why": why,
        });
        self.audit(entry);
        self.answer_command(running.at, running.row, state, code, why, now);
    }

    fn answer_command(
        &mut self,
        at: usize,
        row: CommandRow,
        state: &str,
        code: Option<u8>,
        why: Option<String>,
        now: Now,
    ) {
        let mut answer =
            json!({ "v": 1, "id": row.id, "thing": row.thing, "name": row.name, "state": state });
        if let Some(members) = answer.as_object_mut() {
            if let Some(code) = code {
                members.insert("code".into(), code.into());
            }
            if let Some(why) = &why {
                members.insert("why".into(), why.as_str().into());
            }
            members.insert("t".into(), now.wall.0.into());
        }
        if matches!(state, "rejected" | "expired" | "unknown") && code.is_none() {
            let entry = json!({
                "t": now.wall.to_string(), "what": "command", "thing": row.thing, "name": row.name, "id": row.id,
                "outcome": state, "why": why,
            });
            self.audit(entry);
        }
        self.say(at, &row.name.clone(), &answer, now);
        self.out.kept.commands.push(CommandRow { answer: Some(answer.to_string()), ..row });
    }

    fn say(&mut self, at: usize, name: &str, answer: &Json, now: Now) {
        let topic = self.topics.of_answer(self.things[at].name.as_str(), name);
        self.letter(at, LetterClass::Answer, topic, answer.to_string().into_bytes(), now);
    }
}

/// Bytes of a request id.
const ID_MAX: usize = 64;
