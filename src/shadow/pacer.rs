//! PURE: which shadow may talk to the cloud next.
//!
//! The cloud takes at most 10 unanswered shadow requests of a connection and 20 requests a
//! second of a shadow. After a reconnect every shadow of the gateway wants to ask at once:
//! they stand in one queue, each at most once, so the queue is never longer than there are
//! shadows, and nobody is served twice before all others had their turn.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Unanswered requests on one connection; a limit of AWS IoT.
pub const IN_FLIGHT_MAX: usize = 10;

/// Between two requests of one shadow, in milliseconds: 20 a second.
pub const SPACING_MS: u64 = 50;

/// The turns of one connection. `K` is what names a shadow.
#[derive(Clone, Debug)]
pub struct Pacer<K> {
    waiting: VecDeque<K>,
    queued: BTreeSet<K>,
    in_flight: BTreeSet<K>,
    /// When a shadow may ask again; forgotten once that has passed.
    rested: BTreeMap<K, u64>,
}

impl<K: Ord + Clone> Default for Pacer<K> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            queued: BTreeSet::new(),
            in_flight: BTreeSet::new(),
            rested: BTreeMap::new(),
        }
    }
}

impl<K: Ord + Clone> Pacer<K> {
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a shadow at the end of the queue, if it is not in it.
    pub fn want(&mut self, key: K) {
        if self.queued.insert(key.clone()) {
            self.waiting.push_back(key);
        }
    }

    /// The next shadow that may ask, which then holds a slot until [`Pacer::done`].
    pub fn next(&mut self, now_ms: u64) -> Option<K> {
        self.rested.retain(|_, until| *until > now_ms);
        if self.in_flight.len() >= IN_FLIGHT_MAX {
            return None;
        }
        let ready = |key: &K| !self.rested.contains_key(key) && !self.in_flight.contains(key);
        let key = self.waiting.remove(self.waiting.iter().position(ready)?)?;
        self.queued.remove(&key);
        self.in_flight.insert(key.clone());
        self.rested.insert(key.clone(), now_ms.saturating_add(SPACING_MS));
        Some(key)
    }

    /// The shadow's request was answered, or nobody waits for the answer any more.
    pub fn done(&mut self, key: &K) {
        self.in_flight.remove(key);
    }

    /// The connection is gone, and with it every queue and every slot.
    pub fn clear(&mut self) {
        self.waiting.clear();
        self.queued.clear();
        self.in_flight.clear();
    }

    /// The shadows have other keys now; who has none is gone.
    pub fn rename(&mut self, key: impl Fn(&K) -> Option<K>) {
        self.waiting = self.waiting.iter().filter_map(&key).collect();
        self.queued = self.queued.iter().filter_map(&key).collect();
        self.in_flight = self.in_flight.iter().filter_map(&key).collect();
        self.rested = self.rested.iter().filter_map(|(k, until)| Some((key(k)?, *until))).collect();
    }

    /// When [`Pacer::next`] may have somebody although nothing else happened, in
    /// milliseconds; `None` while only an answer can free a slot, or nobody waits.
    pub fn wake_at(&self) -> Option<u64> {
        if self.in_flight.len() >= IN_FLIGHT_MAX {
            return None;
        }
        let free = self.waiting.iter().filter(|key| !self.in_flight.contains(*key));
        free.map(|key| self.rested.get(key).copied().unwrap_or(0)).min()
    }

    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }
}
