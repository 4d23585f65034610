//! Another configuration in the middle of a story.

use super::*;

impl Rig {
    fn kept(&self, out: Out) -> Kept {
        out.kept
    }

    fn reconfigure(&mut self, device: Device, index: u32, reopened: &[u32], kept: Kept) -> Out {
        let now = self.now();
        let other =
            NewThing { name: ThingName::parse("other").unwrap(), route: Route::GATEWAY, device: None };
        let index = DeviceIndex(index);
        let thing =
            NewThing { name: device.thing.clone(), route: Route::GATEWAY, device: Some((index, device)) };
        let reopened = reopened.iter().copied().map(DeviceIndex).collect();
        // The places change, too.
        self.things.reconfigure(vec![other, thing], &reopened, kept, now);
        self.things.take()
    }
}

#[test]
fn a_device_that_is_the_same_keeps_what_was_not_told_yet() {
    let mut rig = Rig::new(|shadow| shadow.interval = Duration::from_secs(10));
    rig.read(VOLTAGE, 230.0);
    rig.after(1);
    assert!(rig.read(VOLTAGE, 231.0).kept.shadows.is_empty(), "it waits for its interval");
    rig.reconfigure(meter(), 0, &[], Kept::default());
    let told = rig.after(10).kept.shadows;
    assert!(told.len() == 1 && told[0].state.contains("231"), "{told:?}");
}

#[test]
fn a_write_under_way_is_still_waited_for_when_its_line_stays_open() {
    let mut rig = Rig::new(|_| {});
    rig.read(SETPOINT, 10.0);
    let writes = rig.desire(json!({ "setpoint": 21.5 })).writes;
    rig.reconfigure(meter(), 0, &[], Kept::default());
    rig.read(SETPOINT, 21.5);
    let out = rig.wrote(writes[0].id, WriteOutcome::Verified);
    assert!(out.kept.shadows.iter().any(|s| s.state.contains("verified")), "{:?}", out.kept.shadows);
    assert!((0..30).all(|_| rig.after(1).writes.is_empty()), "it was not written twice");
}

#[test]
fn what_was_on_its_way_to_a_line_that_closed_is_asked_again() {
    let mut rig = Rig::new(|_| {});
    rig.read(SETPOINT, 10.0);
    let out = rig.desire(json!({ "setpoint": 21.5 }));
    assert_eq!(out.writes.len(), 1);
    let kept = rig.kept(out);
    rig.reconfigure(meter(), 0, &[0], kept);
    let again: usize =
        (0..30).map(|_| rig.after(1).writes.len() + rig.read(SETPOINT, 10.0).writes.len()).sum();
    assert!(again >= 1, "desired is a level");
}

#[test]
fn a_command_whose_line_closed_has_an_unknown_outcome_and_is_not_repeated() {
    let mut rig = Rig::new(|_| {});
    let out = rig.arrive("cmd/meter-1/reset", json!({ "id": "c-1" }));
    assert_eq!(out.writes.len(), 1);
    let kept = rig.kept(out);
    let out = rig.reconfigure(meter(), 0, &[0], kept);
    assert!(out.writes.is_empty());
    let said: Vec<String> = out.letters.iter().map(|l| String::from_utf8_lossy(&l.payload).into()).collect();
    assert!(said.iter().any(|s| s.contains("\"unknown\"") && s.contains("c-1")), "{said:?}");
}

#[test]
fn a_changed_device_begins_from_what_the_store_holds_and_a_gone_one_says_nothing() {
    let mut rig = Rig::new(|_| {});
    let out = rig.read(VOLTAGE, 230.0);
    let kept = rig.kept(out);
    let mut changed = meter();
    changed.points = changed.points.iter().take(1).cloned().collect();
    rig.reconfigure(changed, 3, &[3], kept);
    // It has another index now; who still speaks under the old one is nobody.
    assert!(rig.read(VOLTAGE, 240.0).is_empty());
    let now = rig.now();
    let reading = Reading { point: VOLTAGE, measured: Measured::Good(Value::Float(240.0)) };
    let seen = Observation { device: DeviceIndex(3), at: now.wall, seen: Seen::Readings(vec![reading]) };
    rig.things.observe(&seen, now);
    let told = rig.things.take().kept.shadows;
    let carrying = told.iter().find(|s| s.name.is_empty()).unwrap();
    assert!(carrying.state.contains("240") && carrying.version > 1, "{told:?}");
}

#[test]
fn a_command_under_way_is_answered_for_the_thing_that_was_asked() {
    let mut rig = Rig::new(|_| {});
    let out = rig.arrive("cmd/meter-1/reset", json!({ "id": "c-1" }));
    rig.reconfigure(meter(), 0, &[], Kept::default());
    let out = rig.wrote(out.writes[0].id, WriteOutcome::Verified);
    let topics: Vec<&str> = out.letters.iter().map(|l| l.topic.as_str()).collect();
    assert!(topics.iter().any(|t| t.starts_with("cmd/meter-1/")), "{topics:?}");
}
