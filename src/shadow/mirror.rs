//! PURE: keeps a local shadow equal to the cloud's, one state machine per shadow.
//!
//! Constraints: only the shadow and the [`Base`] survive a restart; messages of the cloud are
//! lost, repeated and reordered; the clock may be wrong; a request may be answered or not,
//! and both mean that it may have been done.
//!
//! The way of a change from the cloud: an accepted update that follows the base's version,
//! or a whole document → merged with local shadow and base ([`sync`]) → the local write and
//! the new base, committed together by the caller. What does not follow is asked for whole.
//!
//! The way of a local change: local shadow and base differ → a turn is asked for
//! ([`Step::wants`]) → [`Event::Go`] → the difference goes up with the version of the base.
//! Accepted: the base moves. Refused because the cloud moved (409, 404, 400): the whole
//! document is fetched once and merged, which makes a new difference, or none. There is never
//! more than one request unanswered, every failure lengthens the wait before the next but
//! the first, and nothing but the document itself is the queue.
//!
//! Deletions need no rule of their own: a deleted document is one that lost all its members,
//! and the tombstones on both sides and in the base tell which side did it. A deletion in
//! the cloud is believed only when a get says so, because a late message of an earlier one
//! looks the same.

use super::base::{Base, Note};
use super::cloud::Read;
use super::document::{Section, Sections, Shadow};
use super::message::{Kind, Operation};
use super::request::{Limits, Request, Update};
use super::service::Answer;
use super::sync::{self, Direction, Rules};
use crate::model::thing::ShadowName;

mod hear;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    pub rules: Rules,
    pub direction: Direction,
    /// For what is written here.
    pub limits: Limits,
    /// How long an answer is waited for, in milliseconds.
    pub answer_ms: u64,
    /// After this long without a get there is one, in milliseconds: it finds what a lost
    /// message would have said.
    pub audit_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rules: Rules::default(),
            direction: Direction::Both,
            limits: Limits::default(),
            answer_ms: 20_000,
            audit_ms: 6 * 3_600_000,
        }
    }
}

/// What time it is: on a clock that only goes forward, and for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    pub ms: u64,
    /// Epoch seconds.
    pub s: i64,
}

#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// The connection stands and its subscriptions are confirmed.
    Online,
    Offline,
    /// The local shadow was written by somebody else.
    LocalChanged,
    /// A message of the cloud's shadow service.
    Cloud {
        kind: Kind,
        payload: &'a [u8],
    },
    /// The turn that [`Step::wants`] asked for.
    Go,
    /// [`Mirror::wake_at`] has come, or any other time.
    Tick,
}

/// What is to be done, in this order: commit `local` and `base` together, then log the
/// notes, then publish the request and the local answer's messages.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// The shadow has something to ask: queue it for a turn.
    pub wants: bool,
    /// Its turn is over: nothing of it is unanswered any more.
    pub released: bool,
    /// To publish to the cloud.
    pub request: Option<Outgoing>,
    /// To write here.
    pub local: Option<LocalWrite>,
    /// To keep.
    pub base: Option<Base>,
    pub notes: Vec<Note>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Outgoing {
    pub operation: Operation,
    pub payload: Vec<u8>,
}

/// A write of the mirror to the local shadow, already answered: `answer.next` is what to
/// commit, `answer.messages` what to tell local clients.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalWrite {
    pub request: Request,
    pub answer: Answer,
}

#[derive(Clone, Debug, PartialEq)]
enum Phase {
    Offline,
    Idle,
    /// A turn is asked for.
    Queued,
    Asked(Asked),
}

#[derive(Clone, Debug, PartialEq)]
struct Asked {
    token: String,
    until_ms: u64,
    what: What,
}

#[derive(Clone, Debug, PartialEq)]
enum What {
    Get,
    Update(Sent),
    Delete { local_version: u64 },
}

/// An update on its way: what the cloud's document will be if nobody else wrote.
#[derive(Clone, Debug, PartialEq)]
struct Sent {
    state: Sections,
    /// `None` where there was no document.
    expected: Option<u64>,
    local_version: u64,
}

/// What went wrong with a request, by how long to wait before the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// The cloud's document is not the one of the base: look at once, later if that repeats.
    Moved,
    /// It may have been done or not.
    NoAnswer,
    /// Try later.
    Busy,
    /// It will hardly be different in a moment.
    Refused,
}

impl Trouble {
    /// Milliseconds to wait after the n-th failure in a row: the first and the longest.
    fn wait_ms(self, failures: u32) -> u64 {
        let (first, most) = match self {
            Trouble::Moved if failures <= 1 => return 0,
            Trouble::Moved | Trouble::NoAnswer => (1_000, 60_000),
            Trouble::Busy => (2_000, 300_000),
            Trouble::Refused => (60_000, 600_000),
        };
        let doubled = 1_u64.checked_shl(failures.saturating_sub(1).min(16)).unwrap_or(1);
        most.min(first * doubled)
    }

    fn of(code: u16) -> Self {
        match code {
            400 | 404 | 409 => Trouble::Moved,
            429 | 500.. => Trouble::Busy,
            _ => Trouble::Refused,
        }
    }
}

/// The mirror of one shadow. The caller hands in the local shadow as it is committed, and
/// after a commit that failed makes the mirror anew from the store.
#[derive(Clone, Debug)]
pub struct Mirror {
    name: ShadowName,
    settings: Settings,
    base: Base,
    phase: Phase,
    /// Begins every token of this gateway, in every run.
    origin: String,
    run: u32,
    count: u64,
    /// The whole document has to be fetched.
    refresh: bool,
    /// The highest version that others were seen to write while an answer was waited for.
    seen: u64,
    /// An update of which nobody knows whether it was done.
    unknown: Option<Sent>,
    failures: u32,
    not_before_ms: u64,
    audit_at_ms: u64,
}

/// The longest part of the gateway's name in a token, in bytes: a token has 64.
const ORIGIN_BYTES_MAX: usize = 32;

impl Mirror {
    /// `origin` names the gateway and tells its own updates from those of others in every
    /// run; `run` is a random number that tells answers of this run from earlier ones.
    pub fn new(name: ShadowName, base: Base, settings: Settings, origin: &str, run: u32) -> Self {
        let plain = origin.chars().filter(char::is_ascii_alphanumeric).take(ORIGIN_BYTES_MAX);
        Self {
            name,
            settings,
            base,
            phase: Phase::Offline,
            origin: format!("fg-{}-", plain.collect::<String>()),
            run,
            count: 0,
            refresh: true,
            seen: 0,
            unknown: None,
            failures: 0,
            not_before_ms: 0,
            audit_at_ms: u64::MAX,
        }
    }

    pub fn base(&self) -> &Base {
        &self.base
    }

    /// Whether local shadow and cloud are known to be equal and nothing is under way.
    pub fn is_calm(&self, local: &Shadow) -> bool {
        self.phase == Phase::Idle && !self.refresh && !self.is_ahead(local)
    }

    /// When a [`Event::Tick`] is due at the latest, in milliseconds.
    pub fn wake_at(&self, local: &Shadow) -> Option<u64> {
        match &self.phase {
            Phase::Offline | Phase::Queued => None,
            Phase::Idle if self.refresh || self.is_ahead(local) => Some(self.not_before_ms),
            Phase::Idle => Some(self.audit_at_ms),
            Phase::Asked(asked) => Some(asked.until_ms),
        }
    }

    /// One event, one answer.
    pub fn step(&mut self, event: Event<'_>, local: &Shadow, now: Moment) -> Step {
        let mut step = Step::default();
        match event {
            Event::Online => {
                self.forget_asked();
                self.phase = Phase::Idle;
                self.refresh = true;
            }
            Event::Offline => {
                self.forget_asked();
                self.phase = Phase::Offline;
            }
            Event::LocalChanged => {}
            Event::Cloud { .. } if self.phase == Phase::Offline => {}
            Event::Cloud { kind, payload } => {
                let heard = Read::new(payload).and_then(|read| self.hear(kind, &read, local, now, &mut step));
                if let Err(problem) = heard {
                    step.notes.push(Note::Unreadable { kind, problem });
                }
            }
            Event::Go => self.go(local, now, &mut step),
            Event::Tick => self.tick(now, &mut step),
        }
        let written = step.local.as_ref().and_then(|write| write.answer.next.as_ref());
        let local = written.unwrap_or(local);
        let work = self.refresh || self.is_ahead(local);
        if self.phase == Phase::Idle && work && now.ms >= self.not_before_ms {
            self.phase = Phase::Queued;
            step.wants = true;
        }
        step
    }

    /// Whether the local shadow holds what the cloud has not.
    fn is_ahead(&self, local: &Shadow) -> bool {
        if self.settings.direction == Direction::ToDevice {
            return false;
        }
        local.exists() != self.base.cloud_exists || !sync::agree(local.state(), &self.base.state)
    }

    fn tick(&mut self, now: Moment, step: &mut Step) {
        match &self.phase {
            Phase::Asked(asked) if now.ms >= asked.until_ms => {
                let operation = asked.what.operation();
                self.forget_asked();
                step.released = true;
                step.notes.push(Note::NoAnswer(operation));
                self.failed(Trouble::NoAnswer, now);
            }
            Phase::Idle if now.ms >= self.audit_at_ms => self.refresh = true,
            _ => {}
        }
    }

    /// An unanswered update may have been done.
    fn forget_asked(&mut self) {
        if let Phase::Asked(Asked { what: What::Update(sent), .. }) =
            std::mem::replace(&mut self.phase, Phase::Idle)
        {
            self.unknown = Some(sent);
        }
    }

    fn failed(&mut self, trouble: Trouble, now: Moment) {
        self.phase = Phase::Idle;
        self.failures = self.failures.saturating_add(1);
        self.refresh = true;
        self.not_before_ms = now.ms.saturating_add(trouble.wait_ms(self.failures));
    }

    /// The turn has come: asks for what is most needed now.
    fn go(&mut self, local: &Shadow, now: Moment, step: &mut Step) {
        if self.phase != Phase::Queued {
            step.released = true;
            return;
        }
        let (request, what) = if self.refresh {
            (Request::get(None), What::Get)
        } else if !self.is_ahead(local) {
            self.phase = Phase::Idle;
            step.released = true;
            return;
        } else if local.exists() {
            let [desired, reported] = Section::ALL.map(|s| sync::patch(&self.base.state, local.state(), s));
            let expected = self.base.cloud_exists.then_some(self.base.cloud_version);
            let update = Update::new(desired, reported);
            let sent = Sent { state: local.state().clone(), expected, local_version: local.version() };
            (Request::Update(expected.map_or(update.clone(), |v| update.with_version(v))), What::Update(sent))
        } else {
            (Request::delete(None), What::Delete { local_version: local.version() })
        };
        self.count += 1;
        let token = format!("{}{:08x}-{}", self.origin, self.run, self.count);
        let request = request.with_token(&token);
        step.request = Some(Outgoing { operation: request.operation(), payload: request.to_payload() });
        if what == What::Get {
            self.refresh = false;
            self.seen = 0;
            self.audit_at_ms = now.ms.saturating_add(self.settings.audit_ms);
        }
        let until_ms = now.ms.saturating_add(self.settings.answer_ms);
        self.phase = Phase::Asked(Asked { token, until_ms, what });
    }
}

impl What {
    fn operation(&self) -> Operation {
        match self {
            What::Get => Operation::Get,
            What::Update(_) => Operation::Update,
            What::Delete { .. } => Operation::Delete,
        }
    }
}
