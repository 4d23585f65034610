//! A gateway and a cloud that is the same shadow service, with a network between them that
//! loses, repeats and reorders, and either side deleting, restarting and forgetting.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::shadow::Rejected;
use crate::shadow::document::TOMBSTONE_S;
use crate::shadow::service::{answer, refuse};
use crate::shadow::tree;

const START: Moment = Moment { ms: 1_000, s: 1_700_000_000 };

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Local,
    Cloud,
}

#[derive(Clone, Debug)]
enum Op {
    Write {
        side: Side,
        section: Section,
        path: &'static str,
        remove: bool,
    },
    Delete(Side),
    Clear(Side, Section),
    /// The n-th message on its way arrives.
    Deliver {
        to: Side,
        which: usize,
        keep: bool,
    },
    Lose {
        to: Side,
        which: usize,
    },
    Turn,
    Offline,
    Online,
    Restart,
    Wait(u64),
    /// The next request is answered with this code and not done.
    Refuse(u16),
    /// So long that the cloud forgets the version of what is deleted.
    Forget,
}

struct World {
    local: Shadow,
    cloud: Shadow,
    /// As the store has them.
    stored: (String, String, u64, bool, i64),
    base: Option<String>,
    settings: Settings,
    mirror: Mirror,
    run: u32,
    now: Moment,
    cloud_s: i64,
    online: bool,
    turn: bool,
    up: Vec<Outgoing>,
    down: Vec<(Kind, Vec<u8>)>,
    refuse: Option<u16>,
    requests: usize,
    notes: Vec<Note>,
    next_value: u64,
    last: BTreeMap<(Side, Section, &'static str), u64>,
    /// Values that were in a side's document at some time.
    been: BTreeSet<(Side, u64)>,
}

impl World {
    fn new(settings: Settings) -> Self {
        let name = ShadowName::classic();
        let mut world = World {
            local: Shadow::absent(),
            cloud: Shadow::absent(),
            stored: Default::default(),
            base: None,
            settings,
            mirror: Mirror::new(name, Base::default(), settings, "gateway-1", 0),
            run: 0,
            now: START,
            cloud_s: START.s + 77,
            online: false,
            turn: false,
            up: Vec::new(),
            down: Vec::new(),
            refuse: None,
            requests: 0,
            notes: Vec::new(),
            next_value: 100,
            last: BTreeMap::new(),
            been: BTreeSet::new(),
        };
        world.commit();
        world
    }

    fn commit(&mut self) {
        let l = &self.local;
        self.stored = (l.state_json(), l.metadata_json(), l.version(), l.is_deleted(), l.updated());
        for (side, shadow) in [(Side::Local, &self.local), (Side::Cloud, &self.cloud)] {
            let mut values = Vec::new();
            numbers(&Value::Object(shadow.state().to_tree()), &mut values);
            self.been.extend(values.into_iter().map(|value| (side, value)));
        }
    }

    fn step(&mut self, event: Event<'_>) {
        let step = self.mirror.step(event, &self.local, self.now);
        if let Some(write) = step.local {
            self.local = write.answer.next.expect("a write changes the shadow");
        }
        if let Some(base) = step.base {
            self.base = Some(base.to_json());
        }
        self.commit();
        self.notes.extend(step.notes);
        self.turn |= step.wants;
        if let Some(request) = step.request {
            self.requests += 1;
            assert!(self.online, "nothing is published without a connection");
            self.up.push(request);
        }
    }

    fn restart(&mut self) {
        let (state, metadata, version, deleted, updated) = &self.stored;
        self.local = Shadow::restore(state, metadata, *version, *deleted, *updated).unwrap();
        let base = self.base.as_deref().map(|text| Base::from_json(text).unwrap()).unwrap_or_default();
        self.run += 1;
        self.mirror = Mirror::new(ShadowName::classic(), base, self.settings, "gateway-1", self.run);
        self.online = false;
        self.turn = false;
    }

    fn ask_local(&mut self, request: &Request) {
        let answer = answer(&self.local, &ShadowName::classic(), request, self.now.s, &Limits::default());
        if let Some(next) = answer.next {
            self.local = next;
            self.commit();
            self.step(Event::LocalChanged);
        }
    }

    fn ask_cloud(&mut self, request: &Request) {
        let answer = answer(&self.cloud, &ShadowName::classic(), request, self.cloud_s, &Limits::default());
        if let Some(next) = answer.next {
            self.cloud = next;
            self.commit();
        }
        self.down.extend(answer.messages.into_iter().map(|m| (m.kind, m.payload)));
    }

    fn ask(&mut self, side: Side, request: &Request) {
        match side {
            Side::Local => self.ask_local(request),
            Side::Cloud => self.ask_cloud(request),
        }
    }

    fn arrive_up(&mut self, request: &Outgoing) {
        let parsed = Request::parse(request.operation, &request.payload).unwrap();
        match self.refuse.take() {
            Some(code) => {
                let rejected = Rejected::new(code, "not now").with_token(parsed.token());
                let message = refuse(request.operation, &rejected, self.cloud_s);
                self.down.push((message.kind, message.payload));
            }
            None => self.ask_cloud(&parsed),
        }
    }

    fn arrive_down(&mut self, (kind, payload): (Kind, Vec<u8>)) {
        if self.online {
            self.step(Event::Cloud { kind, payload: &payload });
        }
    }

    fn wait(&mut self, ms: u64) {
        self.now.ms += ms;
        self.now.s += i64::try_from(ms / 1000).unwrap();
        self.cloud_s += i64::try_from(ms / 1000).unwrap();
        self.step(Event::Tick);
    }

    fn turn(&mut self) {
        if std::mem::take(&mut self.turn) && self.online {
            self.step(Event::Go);
        }
    }

    fn act(&mut self, op: &Op) {
        match op {
            Op::Write { side, section, path, remove } => {
                self.last.retain(|(s, sec, p), _| (*s, *sec) != (*side, *section) || !related(p, path));
                let value = if *remove {
                    Value::Null
                } else {
                    self.next_value += 1;
                    self.last.insert((*side, *section, path), self.next_value);
                    self.next_value.into()
                };
                let tree = tree::with(path, value);
                let update = match section {
                    Section::Desired => Update::desired(tree),
                    Section::Reported => Update::reported(tree),
                };
                self.ask(*side, &Request::Update(update));
            }
            Op::Delete(side) => {
                self.last.retain(|(s, ..), _| s != side);
                self.ask(*side, &Request::delete(None));
            }
            Op::Clear(side, section) => {
                self.last.retain(|(s, sec, _), _| (s, sec) != (side, section));
                let update = match section {
                    Section::Desired => Update::new(Patch::Clear, Patch::Keep),
                    Section::Reported => Update::new(Patch::Keep, Patch::Clear),
                };
                self.ask(*side, &Request::Update(update));
            }
            Op::Deliver { to: Side::Cloud, which, keep } if !self.up.is_empty() => {
                let at = which % self.up.len();
                let request = if *keep { self.up[at].clone() } else { self.up.remove(at) };
                self.arrive_up(&request);
            }
            Op::Deliver { to: Side::Local, which, keep } if !self.down.is_empty() => {
                let at = which % self.down.len();
                let message = if *keep { self.down[at].clone() } else { self.down.remove(at) };
                self.arrive_down(message);
            }
            Op::Lose { to: Side::Cloud, which } if !self.up.is_empty() => {
                drop(self.up.remove(which % self.up.len()));
            }
            Op::Lose { to: Side::Local, which } if !self.down.is_empty() => {
                drop(self.down.remove(which % self.down.len()));
            }
            Op::Deliver { .. } | Op::Lose { .. } => {}
            Op::Turn => self.turn(),
            Op::Offline => {
                self.online = false;
                self.turn = false;
                self.step(Event::Offline);
            }
            Op::Online => {
                self.online = true;
                self.step(Event::Online);
            }
            Op::Restart => self.restart(),
            Op::Wait(ms) => self.wait(*ms),
            Op::Refuse(code) => self.refuse = Some(*code),
            Op::Forget => self.cloud_s += TOMBSTONE_S + 1,
        }
    }

    /// No faults any more: what is on its way arrives, deadlines pass.
    fn calm(&mut self) {
        self.refuse = None;
        if !self.online {
            self.act(&Op::Online);
        }
        let before = self.requests;
        for _ in 0..2 {
            for _ in 0..400 {
                if !self.up.is_empty() {
                    let request = self.up.remove(0);
                    self.arrive_up(&request);
                } else if !self.down.is_empty() {
                    let message = self.down.remove(0);
                    self.arrive_down(message);
                } else if self.turn {
                    self.turn();
                } else if self.mirror.is_calm(&self.local) {
                    break;
                } else {
                    let due = self.mirror.wake_at(&self.local).expect("work needs a time");
                    self.wait(due.saturating_sub(self.now.ms).max(1));
                }
            }
            assert!(self.mirror.is_calm(&self.local), "it never comes to rest: {:?}", self.mirror);
            // What a lost message would have said is found by the next look.
            self.wait(self.settings.audit_ms);
        }
        let requests = self.requests - before;
        assert!(requests <= 60, "{requests} requests for one shadow that nobody writes any more");
        while !(self.mirror.is_calm(&self.local) && self.up.is_empty() && self.down.is_empty()) {
            self.turn();
            for request in std::mem::take(&mut self.up) {
                self.arrive_up(&request);
            }
            for message in std::mem::take(&mut self.down) {
                self.arrive_down(message);
            }
        }
    }

    #[track_caller]
    fn assert_equal(&self) {
        assert_eq!(self.local.exists(), self.cloud.exists(), "{}", self.show());
        assert!(sync::agree(self.local.state(), self.cloud.state()), "{}", self.show());
    }

    fn show(&self) -> String {
        let (l, c) = (&self.local, &self.cloud);
        format!(
            "local {} {} cloud {} {} base {:?} notes {:?}",
            l.version(),
            l.state_json(),
            c.version(),
            c.state_json(),
            self.base,
            self.notes
        )
    }

    /// The last value each side wrote is there, or was seen by the side that replaced it, or
    /// is named by a rule.
    fn assert_nothing_lost_in_silence(&self) {
        let named = |section, path: &str| {
            self.notes.iter().any(|note| match note {
                Note::Conflict(conflict) => {
                    conflict.section == section && related(&conflict.path.join("."), path)
                }
                Note::DeleteMetUpdate | Note::DeleteOverrode { .. } | Note::NoAnswer(Operation::Delete) => {
                    true
                }
                // Its answer was for the run before.
                Note::Deletes { .. } => self.run > 0,
                _ => false,
            })
        };
        for ((side, section, path), value) in &self.last {
            let other = if *side == Side::Local { Side::Cloud } else { Side::Local };
            let there = self.local.get_path(*section, path) == Some(&Value::from(*value));
            let seen = self.been.contains(&(other, *value));
            assert!(
                there || seen || named(*section, path),
                "{value} written {side:?} at {section:?} {path} is lost in silence: {}",
                self.show()
            );
        }
    }
}

fn numbers(value: &Value, found: &mut Vec<u64>) {
    match value {
        Value::Object(tree) => tree.values().for_each(|value| numbers(value, found)),
        value => found.extend(value.as_u64()),
    }
}

fn related(a: &str, b: &str) -> bool {
    let within = |a: &str, b: &str| a == b || a.strip_prefix(b).is_some_and(|rest| rest.starts_with('.'));
    within(a, b) || within(b, a)
}

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Local), Just(Side::Cloud)]
}

fn section() -> impl Strategy<Value = Section> {
    prop_oneof![Just(Section::Desired), Just(Section::Reported)]
}

fn op() -> impl Strategy<Value = Op> {
    let path = prop::sample::select(vec!["a", "b", "o.x", "o.y", "o"]);
    let write = (side(), section(), path, prop::bool::weighted(0.2));
    prop_oneof![
        10 => write.prop_map(|(side, section, path, remove)| Op::Write { side, section, path, remove }),
        1 => side().prop_map(Op::Delete),
        1 => (side(), section()).prop_map(|(side, section)| Op::Clear(side, section)),
        16 => (side(), 0..4_usize, prop::bool::weighted(0.15))
            .prop_map(|(to, which, keep)| Op::Deliver { to, which, keep }),
        3 => (side(), 0..4_usize).prop_map(|(to, which)| Op::Lose { to, which }),
        8 => Just(Op::Turn),
        1 => Just(Op::Offline),
        3 => Just(Op::Online),
        1 => Just(Op::Restart),
        3 => (1..40_000_u64).prop_map(Op::Wait),
        1 => prop::sample::select(vec![400, 403, 409, 413, 429, 500]).prop_map(Op::Refuse),
        1 => Just(Op::Forget),
    ]
}

proptest! {
    #[test]
    fn both_sides_come_to_the_same_and_nothing_is_lost_in_silence(ops in prop::collection::vec(op(), 0..80)) {
        let mut world = World::new(Settings::default());
        world.act(&Op::Online);
        ops.iter().for_each(|op| world.act(op));
        world.calm();
        world.assert_equal();
        world.assert_nothing_lost_in_silence();
    }

    #[test]
    fn to_cloud_the_local_shadow_wins(ops in prop::collection::vec(op(), 0..60)) {
        let mut world = World::new(Settings { direction: Direction::ToCloud, ..Settings::default() });
        world.act(&Op::Online);
        for op in &ops {
            let before = world.local.clone();
            world.act(op);
            let own = matches!(op, Op::Write { side: Side::Local, .. } | Op::Delete(Side::Local) | Op::Clear(Side::Local, _));
            prop_assert!(own || before == world.local, "the cloud changed the local shadow by {:?}", op);
        }
        world.calm();
        world.assert_equal();
        world.assert_nothing_lost_in_silence();
    }

    #[test]
    fn to_device_the_cloud_wins_and_is_never_written(ops in prop::collection::vec(op(), 0..60)) {
        let mut world = World::new(Settings { direction: Direction::ToDevice, ..Settings::default() });
        world.act(&Op::Online);
        ops.iter().for_each(|op| world.act(op));
        world.calm();
        world.assert_equal();
        let local: Vec<u64> = world.last.iter().filter(|((side, ..), _)| *side == Side::Local).map(|(_, v)| *v).collect();
        prop_assert!(local.iter().all(|value| !world.been.contains(&(Side::Cloud, *value))));
    }
}

const WRITE: fn(Side, Section, &'static str) -> Op =
    |side, section, path| Op::Write { side, section, path, remove: false };

/// A gateway whose shadow is in the cloud, with nothing under way.
fn synced() -> World {
    let mut world = World::new(Settings::default());
    world.act(&WRITE(Side::Local, Section::Reported, "a"));
    world.act(&WRITE(Side::Cloud, Section::Desired, "b"));
    world.calm();
    world.assert_equal();
    world.requests = 0;
    world.notes.clear();
    world
}

impl World {
    /// Everything that is on its way arrives, in order, and no time passes.
    fn settle(&mut self) {
        while self.turn || !self.up.is_empty() || !self.down.is_empty() {
            self.turn();
            for request in std::mem::take(&mut self.up) {
                self.arrive_up(&request);
            }
            for message in std::mem::take(&mut self.down) {
                self.arrive_down(message);
            }
        }
    }
}

#[test]
fn every_connection_begins_with_a_get() {
    let mut world = synced();
    for _ in 0..3 {
        world.act(&Op::Offline);
        world.act(&Op::Online);
        world.turn();
        let asked: Vec<_> = world.up.iter().map(|request| request.operation).collect();
        assert_eq!(asked, [Operation::Get]);
        world.settle();
    }
    assert_eq!(world.requests, 3, "and with nothing else when nothing changed");
}

#[test]
fn an_update_that_follows_needs_no_request() {
    let mut world = synced();
    world.act(&WRITE(Side::Cloud, Section::Desired, "o.x"));
    world.settle();
    world.assert_equal();
    assert_eq!(world.requests, 0);
    let value = world.local.get_path(Section::Desired, "o.x").cloned();
    assert_eq!(value, Some(world.next_value.into()));
    // By the cloud's clock, which is 77 s ahead: an expiry counts from when it was desired.
    assert_eq!(world.local.desired_time("o.x"), Some(world.cloud_s));
}

#[test]
fn a_gap_is_one_get_and_old_news_is_none() {
    let mut world = synced();
    world.act(&WRITE(Side::Cloud, Section::Desired, "a"));
    let old = std::mem::take(&mut world.down);
    world.act(&WRITE(Side::Cloud, Section::Desired, "b"));
    // Without the document in the news only the accepted update tells of it.
    world.down.retain(|(kind, _)| *kind == Kind::UpdateAccepted);
    world.settle();
    world.assert_equal();
    assert_eq!(world.requests, 1);
    world.down = old;
    world.settle();
    assert_eq!(world.requests, 1);
    world.assert_equal();
}

#[test]
fn a_version_conflict_is_one_get_and_one_update() {
    let mut world = synced();
    world.act(&WRITE(Side::Cloud, Section::Desired, "o.x"));
    world.down.clear();
    world.act(&WRITE(Side::Local, Section::Reported, "o.y"));
    world.settle();
    world.assert_equal();
    assert_eq!(world.requests, 3, "the update that met 409, the get, the update again");
    assert!(matches!(&world.notes[..], [Note::Refused { rejected, .. }] if rejected.code == 409));
}

#[test]
fn who_is_always_refused_asks_ever_more_slowly() {
    for (code, most) in [(409, 160), (400, 160), (500, 60), (413, 20), (403, 20)] {
        let mut world = synced();
        world.act(&WRITE(Side::Local, Section::Reported, "o.x"));
        let end = world.now.ms + 3_600_000;
        while world.now.ms < end {
            if !world.up.is_empty() {
                let request = world.up.remove(0);
                world.refuse = (request.operation == Operation::Update).then_some(code);
                world.arrive_up(&request);
            } else if !world.down.is_empty() {
                let message = world.down.remove(0);
                world.arrive_down(message);
            } else if world.turn {
                world.turn();
            } else {
                let due = world.mirror.wake_at(&world.local).unwrap();
                world.wait(due.saturating_sub(world.now.ms).max(1));
            }
        }
        assert!((5..=most).contains(&world.requests), "{code}: {} in an hour", world.requests);
        world.calm();
        world.assert_equal();
    }
}

#[test]
fn a_deletion_goes_to_the_other_side() {
    let mut world = synced();
    world.act(&Op::Delete(Side::Cloud));
    world.settle();
    assert!(world.local.is_deleted());
    assert_eq!(world.notes, []);

    let mut world = synced();
    world.act(&Op::Delete(Side::Local));
    world.settle();
    assert!(world.cloud.is_deleted());
    assert!(world.mirror.is_calm(&world.local));
}

#[test]
fn an_update_after_a_deletion_makes_it_anew() {
    for forget in [false, true] {
        for side in [Side::Cloud, Side::Local] {
            let mut world = synced();
            world.act(&Op::Delete(side));
            world.settle();
            if forget {
                world.act(&Op::Forget);
                world.now.s += TOMBSTONE_S + 1;
            }
            world.act(&WRITE(side, Section::Desired, "o.x"));
            world.settle();
            world.assert_equal();
            assert!(world.cloud.exists());
            assert_eq!(all_numbers(&world.cloud), [world.next_value], "old members do not come back");
            assert_eq!(world.local.version() < 4, forget, "{}", world.local.version());
        }
    }
}

fn all_numbers(shadow: &Shadow) -> Vec<u64> {
    let mut found = Vec::new();
    numbers(&Value::Object(shadow.state().to_tree()), &mut found);
    found
}

#[test]
fn a_deletion_there_and_an_update_here_keep_the_update_and_say_so() {
    let mut world = synced();
    world.act(&Op::Offline);
    world.act(&WRITE(Side::Local, Section::Reported, "o.x"));
    world.act(&Op::Delete(Side::Cloud));
    world.calm();
    world.assert_equal();
    assert_eq!(all_numbers(&world.cloud), [world.next_value]);
    assert!(world.notes.contains(&Note::DeleteMetUpdate));
}

#[test]
fn an_answer_that_comes_too_late_is_known_by_its_token() {
    let mut world = synced();
    world.act(&WRITE(Side::Local, Section::Desired, "a"));
    world.turn();
    let request = world.up.remove(0);
    world.arrive_up(&request);
    let late = std::mem::take(&mut world.down);
    world.wait(Settings::default().answer_ms);
    world.act(&WRITE(Side::Local, Section::Desired, "a"));
    world.down = late;
    world.calm();
    world.assert_equal();
    assert_eq!(world.local.get_path(Section::Desired, "a"), Some(&world.next_value.into()));
    let conflicts = world.notes.iter().filter(|note| matches!(note, Note::Conflict(_))).count();
    assert_eq!(conflicts, 0, "it met itself, and nobody else");
}

#[test]
fn what_the_cloud_says_may_be_anything() {
    let mut world = synced();
    let before = world.local.clone();
    for kind in Kind::ALL {
        for payload in
            ["", "5", "[]", "{}", "{\"version\":-1}", "{\"version\":9e99,\"state\":[]}", "{\"current\":1}"]
        {
            world.step(Event::Cloud { kind, payload: payload.as_bytes() });
        }
    }
    assert_eq!(world.local, before);
    let named = world.notes.iter().filter(|note| matches!(note, Note::Unreadable { .. })).count();
    assert!(named > 10, "{named}");
    world.calm();
    world.assert_equal();
}
