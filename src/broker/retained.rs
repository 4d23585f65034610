//! The last message of each topic that asked to be kept.
//!
//! Constraints: bounded by count and bytes; what does not fit is routed but not kept.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::packet::Message;
use super::topic::matches;

#[derive(Debug, Default)]
pub struct Retained {
    /// With the moment at which each was taken.
    by_topic: BTreeMap<Arc<str>, (Arc<Message>, Duration)>,
    bytes: usize,
}

impl Retained {
    /// Keeps the message in the place of the one before; an empty payload clears the topic.
    /// `false`: it was too much.
    pub fn set(&mut self, message: &Arc<Message>, now: Duration, count_max: usize, bytes_max: usize) -> bool {
        if let Some((old, _)) = self.by_topic.remove(&message.topic) {
            self.bytes -= old.weight();
        }
        if message.payload.is_empty() {
            return true;
        }
        let weight = message.weight();
        if self.by_topic.len() >= count_max || self.bytes + weight > bytes_max {
            return false;
        }
        self.bytes += weight;
        self.by_topic.insert(Arc::clone(&message.topic), (Arc::clone(message), now));
        true
    }

    pub fn select(&self, filter: &str) -> impl Iterator<Item = (&Arc<Message>, Duration)> {
        self.by_topic.values().filter(move |(m, _)| matches(filter, &m.topic)).map(|(m, at)| (m, *at))
    }
}
