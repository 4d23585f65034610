//! Holds back what is said over and over.
//!
//! Constraints: the first of a kind is always said, whatever its level; of equal ones (the
//! same place in the code about the same bus, device and so on) [`BURST`] pass in each
//! [`WINDOW`]; the others are counted and the count is said once, with the same fields, so
//! that who asks the journal for a device learns of it; memory is bounded. What was asked for
//! by `debug` and `trace` is not held back.
//!
//! The way: an event → its kind → passes, or is counted → `summarise`, every
//! [`TELL_EVERY`], says the counts of the windows that are over. Not the event itself does:
//! a flood that stops would leave its count unsaid.

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit, display};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// The layer, and the handle to it.
#[derive(Clone, Default)]
pub struct Flood(Arc<Mutex<Counts>>);

impl Flood {
    /// Says from time to time what was held back; never returns.
    pub async fn summarise(self) {
        loop {
            tokio::time::sleep(TELL_EVERY).await;
            self.tell(Some(Instant::now()));
        }
    }

    /// Says what was held back in windows that are over by `now`; `None`: in all.
    pub fn tell(&self, now: Option<Instant>) {
        let (told, others) = self.counts().over(now);
        for (about, count) in told {
            let [bus, device, thing] = about.names.each_ref().map(|n| n.as_deref().map(display));
            tracing::warn!(
                target: TARGET, bus, device, thing, suppressed = count,
                "{count} more like this were not logged: {}", about.text
            );
        }
        if others > 0 {
            tracing::warn!(target: TARGET, suppressed = others, "{others} more of many kinds were not logged");
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Subscriber> Layer<S> for Flood {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let meta: &Metadata = event.metadata();
        if *meta.level() > Level::INFO || meta.target() == TARGET {
            return true;
        }
        let mut about = About::default();
        // Values are written out before the lock is taken: they are anybody's code.
        event.record(&mut about);
        let kind = (meta.callsite(), about.who.finish());
        self.counts().passes(kind, about, Instant::now())
    }
}

type Kind = (Identifier, u64);

#[derive(Default)]
struct Counts {
    kinds: HashMap<Kind, Count>,
    /// Held back, of kinds that had to make room.
    others: u64,
}

struct Count {
    since: Instant,
    passed: u32,
    suppressed: u64,
    about: About,
}

impl Counts {
    fn passes(&mut self, kind: Kind, about: About, now: Instant) -> bool {
        if !self.kinds.contains_key(&kind) && self.kinds.len() >= KINDS_MAX {
            self.make_room();
        }
        let fresh = || Count { since: now, passed: 0, suppressed: 0, about };
        let count = self.kinds.entry(kind).or_insert_with(fresh);
        // A window with something to tell waits for `over`, which begins the next one.
        if count.suppressed == 0 && now.duration_since(count.since) >= WINDOW {
            (count.since, count.passed) = (now, 0);
        }
        if count.passed < BURST {
            count.passed += 1;
            return true;
        }
        count.suppressed += 1;
        false
    }

    /// The oldest goes, of those that have nothing to tell if there is one.
    fn make_room(&mut self) {
        let oldest = self.kinds.iter().min_by_key(|(_, c)| (c.suppressed > 0, c.since));
        if let Some(kind) = oldest.map(|(kind, _)| kind.clone()) {
            self.others += self.kinds.remove(&kind).map_or(0, |c| c.suppressed);
        }
    }

    /// Takes out what is over, with how many were held back, and those of kinds that made room.
    fn over(&mut self, now: Option<Instant>) -> (Vec<(About, u64)>, u64) {
        let is_over = |_: &Kind, c: &mut Count| now.is_none_or(|now| now.duration_since(c.since) >= WINDOW);
        let over = self.kinds.extract_if(is_over).map(|(_, c)| (c.about, c.suppressed));
        (over.filter(|(_, suppressed)| *suppressed > 0).collect(), std::mem::take(&mut self.others))
    }
}

/// What an event is about.
#[derive(Default)]
struct About {
    /// Bus, device, thing.
    names: [Option<Box<str>>; 3],
    text: String,
    who: DefaultHasher,
}

impl About {
    fn take(&mut self, name: &str, value: &str) {
        let value = super::cut(value, VALUE_BYTES_MAX);
        if name == "message" {
            self.text = value.to_owned();
        } else if let Some(at) = NAMES.iter().position(|n| *n == name) {
            self.names[at] = Some(value.into());
        }
        if NAMES.contains(&name) || WHICH.contains(&name) {
            (name, value).hash(&mut self.who);
        }
    }
}

impl Visit for About {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take(field.name(), &format!("{value:?}"));
    }
}

/// What is said again in a summary, so that it is found by the same fields.
const NAMES: [&str; 3] = ["bus", "device", "thing"];
/// Fields that, beside the names, say which one is meant. (`log.target`: a library that
/// speaks by the `log` crate has one place in the code for all it says.)
const WHICH: [&str; 6] = ["table", "address", "shadow", "task", "cause", "log.target"];
/// Whose events are the summaries.
const TARGET: &str = "fieldgate::log";
/// So many of a kind pass in each window.
pub const BURST: u32 = 10;
pub const WINDOW: Duration = Duration::from_secs(60);
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Kinds that are told apart at a time: some 350 kB at the very most.
const KINDS_MAX: usize = 512;
const VALUE_BYTES_MAX: usize = 128;

#[cfg(test)]
mod tests;
