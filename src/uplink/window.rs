//! PURE: packet id ⇄ row or letter, for one connection.
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
    /// `None` for status messages, which lie on no disk.
    pub item: Option<Item>,
    pub readings: u32,
    pub lane: Lane,
}

/// What lies on the disk until its PUBACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Item {
    Row(OutboxId),
    /// A letter, by its number in the mail.
    Mail(i64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    Mail,
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
    mail: usize,
}

impl Window {
    pub fn new(capacity: u16) -> Window {
        Window {
            capacity: usize::from(capacity.max(1)),
            queued: VecDeque::new(),
            inflight: HashMap::new(),
            sent: 0,
            backlog: 0,
            mail: 0,
        }
    }

    /// How many more may be published on this lane. The backlog never takes the last quarter,
    /// so that a live reading finds room at once; letters take one half at most, so that
    /// readings go on while there is ever more to say.
    pub fn room(&self, lane: Lane) -> usize {
        let free = self.capacity - self.used().min(self.capacity);
        match lane {
            Lane::Live => free,
            Lane::Mail => free.min(self.capacity.div_ceil(2).saturating_sub(self.mail)),
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
        self.mail += usize::from(entry.lane == Lane::Mail);
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
            self.leave(old);
        }
        true
    }

    /// The broker answered. `None`: nothing is in flight under this number.
    pub fn acked(&mut self, packet_id: u16) -> Option<Entry> {
        let (_, entry) = self.inflight.remove(&packet_id)?;
        self.leave(entry);
        Some(entry)
    }

    fn leave(&mut self, entry: Entry) {
        self.backlog -= usize::from(entry.lane == Lane::Backlog);
        self.mail -= usize::from(entry.lane == Lane::Mail);
    }

    /// Which publish has waited longest for its PUBACK, as a number that never comes back.
    pub fn oldest(&self) -> Option<u64> {
        self.inflight.values().map(|(order, _)| *order).min()
    }

    /// What was sent first of those in flight: what a broker that hung up may have choked on.
    /// The own status does not count, and hides nothing: a broker need not have acknowledged
    /// it before it hangs up.
    pub fn head(&self) -> Option<Item> {
        let items = self.inflight.values().filter_map(|(order, entry)| Some((*order, entry.item?)));
        items.min().map(|(_, item)| item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(id: i64, lane: Lane) -> Entry {
        Entry { item: Some(Item::Row(OutboxId(id))), readings: 1, lane }
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
    fn letters_leave_half_of_the_window_to_readings_and_get_it_back() {
        let mut window = Window::new(8);
        (0..4).for_each(|id| window.publish(entry(id, Lane::Mail)));
        assert_eq!((window.room(Lane::Mail), window.room(Lane::Live)), (0, 4));
        assert!(window.sent(1) && window.acked(1).is_some());
        assert_eq!((window.room(Lane::Mail), window.room(Lane::Live)), (1, 5));
        assert_eq!(Window::new(1).room(Lane::Mail), 1);
    }

    #[test]
    fn a_status_in_flight_hides_no_row() {
        let mut window = Window::new(8);
        window.publish(Entry { item: None, readings: 0, lane: Lane::Live });
        window.publish(entry(7, Lane::Backlog));
        assert!(window.sent(1) && window.sent(2));
        assert_eq!(window.head(), Some(Item::Row(OutboxId(7))));
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
                        prop_assert_eq!(window.acked(packet_id).and_then(|e| e.item), Some(Item::Row(OutboxId(row))));
                        prop_assert_eq!(window.acked(packet_id), None);
                    }
                    _ => {}
                }
                let first = toy.first().map(|(_, row)| Item::Row(OutboxId(*row)));
                prop_assert_eq!(window.head(), first);
                prop_assert_eq!(window.used(), toy.len() + waiting.len());
            }
        }
    }
}
