//! PURE: packet id ⇄ outbox id, for one connection.
//!
//! The client library numbers publishes itself and says so in the order in which it sends
//! them; it never says which publish got which number. Within one fresh connection the k-th
//! announcement is the k-th publish, and that is all this needs. A new connection gets a new
//! window: nothing of the old one is believed.

use std::collections::{HashMap, VecDeque};

use crate::model::row::OutboxId;

/// What waits for its PUBACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `None` for the gateway's own status messages.
    pub row: Option<OutboxId>,
    pub readings: u32,
    pub lane: Lane,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    Live,
    Backlog,
}

#[derive(Debug)]
pub struct Window {
    capacity: usize,
    /// Handed to the client, packet id not yet announced.
    queued: VecDeque<Entry>,
    /// Packet id → entry and the order in which it was sent.
    inflight: HashMap<u16, (u64, Entry)>,
    sent: u64,
    backlog: usize,
}

impl Window {
    pub fn new(capacity: u16) -> Window {
        Window {
            capacity: usize::from(capacity.max(1)),
            queued: VecDeque::new(),
            inflight: HashMap::new(),
            sent: 0,
            backlog: 0,
        }
    }

    /// How many more may be published on this lane. The backlog never takes the last quarter,
    /// so that a live reading finds room at once.
    pub fn room(&self, lane: Lane) -> usize {
        let free = self.capacity - self.used().min(self.capacity);
        match lane {
            Lane::Live => free,
            Lane::Backlog => {
                let share = self.capacity - self.capacity / 4;
                free.min(share.max(1).saturating_sub(self.backlog))
            }
        }
    }

    pub fn used(&self) -> usize {
        self.queued.len() + self.inflight.len()
    }

    pub fn is_empty(&self) -> bool {
        self.used() == 0
    }

    pub fn publish(&mut self, entry: Entry) {
        self.backlog += usize::from(entry.lane == Lane::Backlog);
        self.queued.push_back(entry);
    }

    /// The client announced a packet id. `false`: it announced more than was published.
    #[must_use]
    pub fn sent(&mut self, packet_id: u16) -> bool {
        let Some(entry) = self.queued.pop_front() else { return false };
        self.sent += 1;
        // A number that comes round again while it is in flight would be the library's fault;
        // the older entry then counts as not delivered and is read again on the next connection.
        if let Some((_, old)) = self.inflight.insert(packet_id, (self.sent, entry)) {
            self.backlog -= usize::from(old.lane == Lane::Backlog);
        }
        true
    }

    /// The broker answered. `None`: nothing is in flight under this number.
    pub fn acked(&mut self, packet_id: u16) -> Option<Entry> {
        let (_, entry) = self.inflight.remove(&packet_id)?;
        self.backlog -= usize::from(entry.lane == Lane::Backlog);
        Some(entry)
    }

    /// Which publish has waited longest for its PUBACK, as a number that never comes back.
    pub fn oldest(&self) -> Option<u64> {
        self.inflight.values().map(|(order, _)| *order).min()
    }

    /// The row that was sent first of those in flight: what a broker that hung up may have
    /// choked on. The gateway's own status is no row, and hides none: a broker need not have
    /// acknowledged it before it hangs up.
    pub fn head(&self) -> Option<OutboxId> {
        let rows = self.inflight.values().filter_map(|(order, entry)| Some((*order, entry.row?)));
        rows.min().map(|(_, row)| row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(id: i64, lane: Lane) -> Entry {
        Entry { row: Some(OutboxId(id)), readings: 1, lane }
    }

    #[test]
    fn the_backlog_leaves_room_for_live_readings() {
        let mut window = Window::new(8);
        for id in 0..6 {
            assert!(window.room(Lane::Backlog) > 0);
            window.publish(entry(id, Lane::Backlog));
        }
        assert_eq!((window.room(Lane::Backlog), window.room(Lane::Live)), (0, 2));
        let smallest = Window::new(1);
        assert_eq!((smallest.room(Lane::Backlog), smallest.room(Lane::Live)), (1, 1));
    }

    #[test]
    fn a_status_in_flight_hides_no_row() {
        let mut window = Window::new(8);
        window.publish(Entry { row: None, readings: 0, lane: Lane::Live });
        window.publish(entry(7, Lane::Backlog));
        assert!(window.sent(1) && window.sent(2));
        assert_eq!(window.head(), Some(OutboxId(7)));
    }

    proptest! {
        /// Against a toy: a list of (packet id, row) pairs in the order of sending.
        #[test]
        fn each_ack_names_the_row_that_was_sent_under_its_number(
            steps in prop::collection::vec((0u8..3, any::<prop::sample::Index>()), 0..200)
        ) {
            let mut window = Window::new(10);
            let (mut toy, mut waiting, mut next) = (Vec::<(u16, i64)>::new(), VecDeque::new(), 1i64);
            let mut packet_id = 0u16;
            for (what, which) in steps {
                match what {
                    0 if window.room(Lane::Live) > 0 => {
                        window.publish(entry(next, Lane::Live));
                        waiting.push_back(next);
                        next += 1;
                    }
                    1 if !waiting.is_empty() => {
                        // As the client does: cyclic, and never one that is in flight.
                        packet_id = packet_id % 20 + 1;
                        while toy.iter().any(|(used, _)| *used == packet_id) {
                            packet_id = packet_id % 20 + 1;
                        }
                        toy.push((packet_id, waiting.pop_front().unwrap()));
                        prop_assert!(window.sent(packet_id));
                    }
                    2 if !toy.is_empty() => {
                        let (packet_id, row) = toy.remove(which.index(toy.len()));
                        prop_assert_eq!(window.acked(packet_id).and_then(|e| e.row), Some(OutboxId(row)));
                        prop_assert_eq!(window.acked(packet_id), None);
                    }
                    _ => {}
                }
                prop_assert_eq!(window.head().map(|id| id.0), toy.first().map(|(_, row)| *row));
                prop_assert_eq!(window.used(), toy.len() + waiting.len());
            }
        }
    }
}
