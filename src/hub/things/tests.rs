//! Stories of one meter: what comes in, what the next commit holds, what is sent.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::*;
use crate::channel::{Origin, Wanted};
use crate::config::{Dialect, raw};
use crate::control::fixture;
use crate::model::device::{DeviceCommand, Point, Source};
use crate::model::reading::{Measured, Reading};
use crate::model::register::{Kind, Order, Table};
use crate::model::time::CLOCK_PLAUSIBLE_FROM;
use crate::model::value::{Cause, Value};
use crate::model::write::{ShadowMember, WriteOutcome, WriteRules, Wrote};

mod reconfigure;

const START: Timestamp = Timestamp(CLOCK_PLAUSIBLE_FROM.0 + 86_400_000);
const VOLTAGE: PointIndex = PointIndex(0);
const SETPOINT: PointIndex = PointIndex(1);

/// A meter with a voltage and a setpoint in tenths of 0 to 30.
fn meter() -> Device {
    let mut device = fixture::config().devices.remove(0);
    let member = |path: &str| {
        Some(ShadowMember { path: path.split('.').map(str::to_owned).collect(), interval: Duration::ZERO })
    };
    let voltage = Point { shadow: member("grid.voltage"), ..device.points[0].clone() };
    let mut setpoint = Point { name: "setpoint".into(), shadow: member("setpoint"), ..voltage.clone() };
    if let Source::Register(register) = &mut setpoint.source {
        register.table = Table::Holding;
        register.encoding.kind = Kind::Int16;
        register.encoding.order = Order::big(2);
        register.transform.scale = Some(0.1);
    }
    setpoint.write = Some(WriteRules {
        readable: true,
        min: Some(0.0),
        max: Some(30.0),
        step: None,
        interval: Duration::from_secs(1),
        expiry: Some(Duration::from_secs(300)),
        retry_min: Duration::from_secs(5),
        retry_max: Duration::from_secs(600),
        verify_within: Duration::from_secs(2),
    });
    device.points = Arc::from([voltage, setpoint]);
    let command = DeviceCommand {
        name: "reset".into(),
        point: SETPOINT,
        value: Some(json!(0)),
        expiry: Duration::from_secs(60),
    };
    device.commands = Arc::from([command]);
    device
}

struct Rig {
    things: Things,
    s: u64,
}

impl Rig {
    fn new(change: impl FnOnce(&mut config::Shadow)) -> Rig {
        let mut shadow = config::Shadow { dialect: Dialect::Plain, reported: true, ..Default::default() };
        change(&mut shadow);
        let mut rig = Rig { things: Rig::things(shadow, Kept::default()), s: 0 };
        rig.after(0);
        // That it answers is told once, and is no news in these stories.
        rig.seen(Seen::Back);
        rig
    }

    fn things(shadow: config::Shadow, kept: Kept) -> Things {
        let device = meter();
        let thing = NewThing {
            name: device.thing.clone(),
            route: Route::GATEWAY,
            device: Some((DeviceIndex(0), device)),
        };
        Things::new(shadow, "gw-1", 1, vec![thing], kept, Now { mono: Duration::ZERO, wall: START })
    }

    fn now(&self) -> Now {
        Now { mono: Duration::from_secs(self.s), wall: Timestamp(START.0 + self.s as i64 * 1000) }
    }

    fn read(&mut self, point: PointIndex, value: f64) -> Out {
        self.seen(Seen::Readings(vec![Reading { point, measured: Measured::Good(Value::Float(value)) }]))
    }

    fn seen(&mut self, seen: Seen) -> Out {
        let now = self.now();
        self.things.observe(&Observation { device: DeviceIndex(0), at: now.wall, seen }, now);
        self.things.take()
    }

    fn arrive(&mut self, topic: &str, payload: Json) -> Out {
        self.arrive_known(topic, payload, None)
    }

    fn arrive_known(
        &mut self,
        topic: &str,
        payload: Json,
        known: Option<crate::model::kept::CommandRow>,
    ) -> Out {
        let wanted = Wanted::Arrived { topic: topic.into(), payload: payload.to_string().into_bytes() };
        let now = self.now();
        assert_eq!(self.things.ask(&Origin::Uplink(Route::GATEWAY), &wanted, known, now), Answer::Done);
        self.things.take()
    }

    fn desire(&mut self, desired: Json) -> Out {
        self.arrive("$aws/things/meter-1/shadow/update", json!({ "state": { "desired": desired } }))
    }

    fn wrote(&mut self, id: u64, outcome: WriteOutcome) -> Out {
        self.seen(Seen::Wrote(Wrote { id, point: SETPOINT, outcome }))
    }

    fn after(&mut self, s: u64) -> Out {
        self.s += s;
        let now = self.now();
        self.things.tick(now);
        self.things.take()
    }

    /// A document as `fieldgate shadow get` shows it.
    fn get(&mut self, shadow: &str) -> Json {
        let wanted = Wanted::Shadow {
            thing: "meter-1".into(),
            shadow: shadow.into(),
            operation: "get".into(),
            payload: Vec::new(),
        };
        let now = self.now();
        match self.things.ask(&Origin::Socket { uid: 0 }, &wanted, None, now) {
            Answer::Said(text) => serde_json::from_slice::<Json>(&text).unwrap()["state"].clone(),
            other => panic!("{other:?}"),
        }
    }

    fn state(&mut self) -> Json {
        self.get("fieldgate")["reported"]["writes"]["setpoint"].clone()
    }
}

fn topics(out: &Out) -> Vec<&str> {
    out.letters.iter().map(|l| l.topic.trim_start_matches("$aws/things/meter-1/shadow/")).collect()
}

fn payload(out: &Out, ends: &str) -> Json {
    let letter = out.letters.iter().rfind(|l| l.topic.ends_with(ends));
    serde_json::from_slice(&letter.unwrap_or_else(|| panic!("no {ends} in {out:?}")).payload).unwrap()
}

/// What the audit log says: who, what, from where to where, how it ended.
fn audit(out: &Out) -> Vec<String> {
    let entry = |text: &String| {
        let e: Json = serde_json::from_str(text).unwrap();
        format!(
            "{} {} {}->{} {}",
            e["by"].as_str().unwrap_or("-"),
            e["what"].as_str().unwrap(),
            e["old"],
            e["new"],
            e["outcome"].as_str().unwrap()
        )
    };
    out.kept.audit.iter().map(entry).collect()
}

#[test]
fn a_reading_becomes_reported_on_change_and_not_too_often() {
    let mut rig = Rig::new(|_| {});
    let out = rig.read(VOLTAGE, 230.0);
    assert_eq!(topics(&out), ["update/documents", "update/accepted"]);
    assert!(out.letters.iter().all(|l| l.class == LetterClass::News));
    assert_eq!(out.kept.shadows.len(), 1, "in the transaction of the readings");
    assert_eq!(rig.get("")["reported"], json!({ "grid": { "voltage": 230.0 } }));
    // Equal: nothing. Another one waits for shadow.interval, and the newest is told.
    assert!(rig.read(VOLTAGE, 230.0).is_empty());
    rig.s = 2;
    assert!(rig.read(VOLTAGE, 231.0).is_empty());
    rig.s = 3;
    assert!(rig.read(VOLTAGE, 232.0).is_empty());
    assert_eq!(rig.things.next_wake(), Some(Duration::from_secs(5)));
    assert_eq!(
        payload(&rig.after(2), "update/accepted")["state"],
        json!({ "reported": { "grid": { "voltage": 232.0 } } })
    );
    // A value that came back before it was told is no change.
    rig.read(VOLTAGE, 240.0);
    rig.read(VOLTAGE, 232.0);
    assert!(rig.after(60).is_empty());
}

#[test]
fn quality_and_time_stand_beside_the_values() {
    let mut rig = Rig::new(|shadow| shadow.quality = true);
    rig.read(VOLTAGE, 230.0);
    let quality = json!({ "grid": { "voltage": { "quality": "good", "t": START.0 } } });
    assert_eq!(rig.get("")["reported"], json!({ "grid": { "voltage": 230.0 }, "_quality": quality }));
    rig.s = 9;
    rig.seen(Seen::Readings(vec![Reading { point: VOLTAGE, measured: Measured::Bad(Cause::Timeout) }]));
    let t = START.0 + 9000;
    let bad = json!({ "quality": "bad", "cause": "timeout", "t": t });
    let reported = rig.get("")["reported"].clone();
    assert_eq!(reported["_quality"]["grid"]["voltage"], bad);
    assert_eq!(reported["grid"]["voltage"], 230.0, "the last one that was true");
    rig.s = 20;
    rig.read(VOLTAGE, 230.0);
    assert_eq!(rig.get("")["reported"]["_quality"]["grid"]["voltage"].get("cause"), None);
}

#[test]
fn a_desired_member_ends_as_a_verified_write() {
    let mut rig = Rig::new(|_| {});
    rig.read(SETPOINT, 20.0);
    let out = rig.desire(json!({ "setpoint": 21.5 }));
    assert_eq!(out.writes.len(), 1);
    assert_eq!(out.writes[0].plan.expect, [215]);
    assert_eq!(audit(&out), ["uplink gateway write 20.0->21.5 sent"]);
    assert_eq!(payload(&out, "shadow/update/delta")["state"], json!({ "setpoint": 21.5 }));
    assert_eq!(rig.state()["state"], "sent");
    let out = rig.wrote(out.writes[0].id, WriteOutcome::Verified);
    assert_eq!(audit(&out), ["uplink gateway write null->21.5 verified"]);
    rig.s = 6;
    let out = rig.read(SETPOINT, 21.5);
    assert!(out.writes.is_empty());
    assert!(out.letters.iter().all(|l| !l.topic.ends_with("delta")), "nothing is left to do");
    assert_eq!(rig.state()["state"], "verified");
    assert_eq!(rig.get("").get("delta"), None);
}

#[test]
fn what_does_not_fit_is_refused_with_its_reason_and_no_frame() {
    for (wanted, why) in [(json!(31), "0 to 30"), (json!(21.55), "21.5"), (json!("warm"), "number")] {
        let mut rig = Rig::new(|_| {});
        rig.read(SETPOINT, 20.0);
        let out = rig.desire(json!({ "setpoint": wanted }));
        assert!(out.writes.is_empty(), "{wanted}");
        assert!(audit(&out)[0].ends_with("refused"), "{:?}", audit(&out));
        let state = rig.state();
        assert_eq!(state["state"], "rejected");
        assert!(state["why"].as_str().unwrap().contains(why), "{state}");
        assert!(rig.after(3600).writes.is_empty(), "it is not tried again");
    }
}

#[test]
fn a_device_that_refuses_or_clamps_is_told_of_and_not_pestered() {
    let mut rig = Rig::new(|_| {});
    rig.read(SETPOINT, 20.0);
    let id = rig.desire(json!({ "setpoint": 25 })).writes[0].id;
    rig.wrote(id, WriteOutcome::Rejected { code: 3 });
    let state = rig.state();
    assert_eq!((state["state"].as_str(), state["code"].as_u64()), (Some("rejected"), Some(3)));
    rig.s = 100;
    assert!(rig.read(SETPOINT, 20.0).writes.is_empty());
    // A new wish is tried at once.
    let id = rig.desire(json!({ "setpoint": 24 })).writes.first().map(|w| w.id);
    let id = id.or_else(|| rig.after(600).writes.first().map(|w| w.id));
    let Some(id) = id else { return assert_eq!(rig.state()["state"], "expired") };
    rig.wrote(id, WriteOutcome::NotTaken { read: Measured::Good(Value::Float(22.0)) });
    let state = rig.state();
    assert_eq!((state["why"].as_str(), state["read"].as_f64()), (Some("write-not-taken"), Some(22.0)));
    assert_eq!(state.get("code"), None, "nothing of the old state is left: {state}");
}

#[test]
fn nothing_is_written_late_after_an_outage() {
    let mut rig = Rig::new(|_| {});
    rig.read(SETPOINT, 20.0);
    rig.seen(Seen::Silent(Cause::Timeout));
    assert_eq!(rig.get("fieldgate")["reported"]["device"]["cause"], "timeout");
    assert!(rig.desire(json!({ "setpoint": 25 })).writes.is_empty());
    assert_eq!(rig.state()["why"], "the device is silent");
    rig.after(400);
    assert_eq!(rig.state()["state"], "expired");
    rig.seen(Seen::Back);
    assert!(rig.read(SETPOINT, 20.0).writes.is_empty());
    // In time it is written as soon as the device is back.
    rig.seen(Seen::Silent(Cause::Timeout));
    rig.desire(json!({ "setpoint": 26 }));
    rig.s += 30;
    rig.seen(Seen::Back);
    assert_eq!(rig.read(SETPOINT, 20.0).writes.len(), 1);
    // The request may bring its own expiry.
    let mut rig = Rig::new(|_| {});
    rig.read(SETPOINT, 20.0);
    let past = START.0 / 1000 - 1;
    assert!(rig.desire(json!({ "setpoint": 25, "_expires": past })).writes.is_empty());
    assert_eq!(rig.state()["state"], "expired");
}

#[test]
fn a_restart_is_no_special_case() {
    let mut rig = Rig::new(|_| {});
    rig.read(SETPOINT, 20.0);
    let sent = rig.desire(json!({ "setpoint": 25 }));
    // The power goes before the outcome is known. What was committed is all there is.
    let kept = sent.kept;
    let shadow = config::Shadow { dialect: Dialect::Plain, reported: true, ..Default::default() };
    let mut rig = Rig { things: Rig::things(shadow, kept), s: 10 };
    assert_eq!(rig.get("")["desired"], json!({ "setpoint": 25 }));
    assert!(rig.after(1).writes.is_empty(), "nothing was read yet");
    assert_eq!(rig.read(SETPOINT, 20.0).writes.len(), 1);
}

#[test]
fn a_line_without_room_is_asked_again() {
    let mut rig = Rig::new(|_| {});
    rig.read(SETPOINT, 20.0);
    let out = rig.desire(json!({ "setpoint": 25 }));
    let now = rig.now();
    rig.things.not_written(&out.writes[0], now);
    assert_eq!(rig.after(2).writes.len(), 1);
}

#[test]
fn a_command_is_executed_once_and_its_answer_repeated() {
    let mut rig = Rig::new(|_| {});
    rig.read(SETPOINT, 20.0);
    let request = json!({ "id": "r-1" });
    let out = rig.arrive("cmd/meter-1/reset", request.clone());
    assert_eq!((out.writes.len(), out.kept.commands.len()), (1, 1));
    assert_eq!(out.kept.commands[0].answer, None, "on the disk before it is on the wire");
    assert!(rig.arrive("cmd/meter-1/reset", request.clone()).writes.is_empty(), "it is under way");
    let out = rig.wrote(out.writes[0].id, WriteOutcome::Verified);
    let answer = payload(&out, "cmd/meter-1/reset/answer");
    assert_eq!((answer["id"].as_str(), answer["state"].as_str()), (Some("r-1"), Some("verified")));
    let known = out.kept.commands[0].clone();
    let again = rig.arrive_known("cmd/meter-1/reset", request, Some(known));
    assert!(again.writes.is_empty());
    assert_eq!(payload(&again, "answer"), answer);
}

#[test]
fn a_command_that_cannot_be_executed_says_why() {
    let check = |topic: &str, request: Json, state: &str, why: &str| {
        let mut rig = Rig::new(|_| {});
        rig.read(SETPOINT, 20.0);
        let out = rig.arrive(topic, request.clone());
        assert!(out.writes.is_empty());
        let answer = payload(&out, "answer");
        assert_eq!(answer["state"], state, "{request}");
        assert!(answer["why"].as_str().unwrap().contains(why), "{answer}");
    };
    check("cmd/meter-1/reset", json!({}), "rejected", "\"id\"");
    check("cmd/meter-1/reset", json!([]), "rejected", "\"id\"");
    check("cmd/meter-1/explode", json!({ "id": "1" }), "rejected", "no such command");
    check("cmd/meter-1/reset", json!({ "id": "1", "value": 3 }), "rejected", "value of its own");
    check("cmd/meter-1/reset", json!({ "id": "1", "expires": START.0 / 1000 }), "expired", "too late");
    let mut rig = Rig::new(|_| {});
    rig.seen(Seen::Silent(Cause::Timeout));
    let out = rig.arrive("cmd/meter-1/reset", json!({ "id": "1" }));
    assert_eq!(payload(&out, "answer")["why"], "the device is silent");
}

#[test]
fn a_command_that_was_begun_before_a_power_cut_is_never_executed_again() {
    let mut rig = Rig::new(|_| {});
    rig.read(SETPOINT, 20.0);
    let kept = rig.arrive("cmd/meter-1/reset", json!({ "id": "r-1" })).kept;
    let mut things = Rig::things(config::Shadow { dialect: Dialect::Plain, ..Default::default() }, kept);
    let out = things.take();
    assert!(out.writes.is_empty());
    assert_eq!(payload(&out, "answer")["state"], "unknown");
}

#[test]
fn a_swapped_device_is_quarantined_until_a_person_approves_it() {
    let mut rig = Rig::new(|_| {});
    rig.seen(Seen::Fingerprint("Eastron SDM120 1".into()));
    rig.read(SETPOINT, 20.0);
    let out = rig.seen(Seen::Fingerprint("Eastron SDM120 2".into()));
    assert_eq!(audit(&out), [r#"device fingerprint "Eastron SDM120 1"->"Eastron SDM120 2" quarantined"#]);
    assert_eq!(rig.get("fieldgate")["reported"]["identity"]["state"], "quarantined");
    rig.s = 60;
    assert!(rig.read(SETPOINT, 22.0).kept.shadows.is_empty(), "another device's values are not this thing's");
    assert!(rig.desire(json!({ "setpoint": 25 })).writes.is_empty());
    let now = rig.now();
    let approve = Wanted::Approve { thing: "meter-1".into() };
    assert_eq!(rig.things.ask(&Origin::Socket { uid: 7 }, &approve, None, now), Answer::Done);
    let out = rig.things.take();
    assert_eq!(audit(&out)[0], r#"socket uid 7 fingerprint "Eastron SDM120 1"->"Eastron SDM120 2" approved"#);
    assert_eq!(out.writes.len(), 1, "what is wanted is wanted of the new one");
    assert!(matches!(
        rig.things.ask(&Origin::Socket { uid: 7 }, &approve, None, now),
        Answer::Refused { code: 409, .. }
    ));
}

#[test]
fn no_thing_speaks_for_another_and_nobody_writes_what_fieldgate_says() {
    let mut rig = Rig::new(|_| {});
    let update = json!({ "state": { "desired": { "setpoint": 25 } } });
    let wanted = Wanted::Arrived {
        topic: "$aws/things/meter-1/shadow/update".into(),
        payload: update.to_string().into_bytes(),
    };
    let now = rig.now();
    rig.things.ask(&Origin::Uplink(Route(9)), &wanted, None, now);
    assert!(rig.things.take().is_empty(), "it came over the connection of another thing");
    assert!(rig.arrive("$aws/things/other/shadow/update", update.clone()).is_empty());
    let out = rig.arrive("$aws/things/meter-1/shadow/name/fieldgate/update", update);
    assert_eq!(payload(&out, "name/fieldgate/update/rejected")["code"], 403);
    assert_eq!(out.letters[0].class, LetterClass::Answer);
}

#[test]
fn a_thing_has_no_more_shadows_than_it_may() {
    let mut rig = Rig::new(|shadow| shadow.per_thing = 3);
    let update = json!({ "state": { "desired": { "a": 1 } }, "clientToken": "t" });
    for (name, ends) in [("a", "accepted"), ("b", "accepted"), ("c", "rejected"), ("a", "accepted")] {
        let out = rig.arrive(&format!("$aws/things/meter-1/shadow/name/{name}/update"), update.clone());
        assert_eq!(payload(&out, ends)["clientToken"], "t", "{name}");
    }
}

/// The cloud's side of the dialect aws: answers what the mirror asks.
fn requests(out: &Out) -> Vec<(String, Json)> {
    let all = out.letters.iter().filter(|l| l.class == LetterClass::Request);
    all.map(|l| (l.topic.clone(), serde_json::from_slice(&l.payload).unwrap())).collect()
}

#[test]
fn a_mirror_asks_first_and_then_tells_what_changed_here() {
    let mut rig = Rig::new(|shadow| {
        shadow.dialect = Dialect::Aws;
        shadow.mirror = vec![config::MirrorRule {
            thing: "*".into(),
            shadow: "*".into(),
            direction: raw::Direction::Both,
            desired: raw::Side::Cloud,
            reported: raw::Side::Device,
        }];
    });
    rig.read(SETPOINT, 20.0);
    let now = rig.now();
    rig.things.ask(&Origin::Uplink(Route::GATEWAY), &Wanted::Online(Route::GATEWAY), None, now);
    let out = rig.things.take();
    let asked = requests(&out);
    let of = |asked: &[(String, Json)], topic: &str| asked.iter().find(|(t, _)| t == topic).cloned();
    let get = of(&asked, "$aws/things/meter-1/shadow/get").unwrap();
    // The cloud has a wish and nothing reported.
    let document = json!({
        "state": { "desired": { "setpoint": 25 } }, "metadata": { "desired": { "setpoint": { "timestamp": START.0 / 1000 } } },
        "version": 4, "timestamp": START.0 / 1000, "clientToken": get.1["clientToken"],
    });
    let mut out = rig.arrive("$aws/things/meter-1/shadow/get/accepted", document);
    assert_eq!(out.writes.len(), 1, "the wish is the device's");
    assert_eq!(out.kept.mirrors.len(), 1, "with what was agreed upon");
    let mut asked = requests(&out);
    for _ in 0..3 {
        out = rig.after(1);
        asked.extend(requests(&out));
    }
    let update = asked.iter().find(|(topic, _)| topic == "$aws/things/meter-1/shadow/update");
    let (_, update) = update.unwrap_or_else(|| panic!("{asked:?}"));
    assert_eq!(update["state"], json!({ "reported": { "setpoint": 20.0 } }));
    assert_eq!(update["version"], 4);
    // The connection goes: nothing of it is sent on the next one.
    let now = rig.now();
    rig.things.ask(&Origin::Uplink(Route::GATEWAY), &Wanted::Offline(Route::GATEWAY), None, now);
    assert_eq!(rig.things.take().offline, [Route::GATEWAY]);
}
