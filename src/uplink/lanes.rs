//! PURE: which rows go next. Two lanes through one outbox.
//!
//! What stood in the outbox when the connection came up is the backlog; what is committed
//! afterwards is live and goes first. Each lane is in the order of the ids. When the line
//! cannot even carry what is taken now, the live lane falls behind; its rest then joins the
//! backlog and the newest readings are live again.

use std::collections::VecDeque;

use super::window::Lane;
use crate::model::row::OutboxId;

#[derive(Debug)]
pub struct Lanes {
    /// `after < id <= through`, in order, disjoint.
    backlog: VecDeque<(OutboxId, OutboxId)>,
    live_after: OutboxId,
    newest: OutboxId,
}

impl Lanes {
    /// `newest` is the newest committed row at the moment of CONNACK.
    pub fn new(newest: OutboxId) -> Lanes {
        let backlog = VecDeque::from_iter((newest.0 > 0).then_some((OutboxId(0), newest)));
        Lanes { backlog, live_after: newest, newest }
    }

    pub fn committed(&mut self, newest: OutboxId) {
        self.newest = self.newest.max(newest);
        if !self.backlog.is_empty() && self.newest.0 - self.live_after.0 > LIVE_ROWS_BEHIND_MAX {
            self.backlog.push_back((self.live_after, self.newest));
            self.live_after = self.newest;
        }
    }

    /// The range to read from next for this lane.
    pub fn next(&self, lane: Lane) -> Option<(OutboxId, OutboxId)> {
        match lane {
            // Letters are no rows.
            Lane::Mail => None,
            Lane::Live => (self.newest > self.live_after).then_some((self.live_after, self.newest)),
            Lane::Backlog => self.backlog.front().copied(),
        }
    }

    /// Everything of the range up to `last` was read; `last` is its end if nothing was found.
    pub fn read(&mut self, lane: Lane, last: OutboxId) {
        match lane {
            Lane::Mail => {}
            Lane::Live => self.live_after = self.live_after.max(last),
            Lane::Backlog => {
                if let Some((after, through)) = self.backlog.front_mut() {
                    *after = (*after).max(last);
                    if after >= through {
                        self.backlog.pop_front();
                    }
                }
            }
        }
    }
}

/// Rows the live lane may lag behind while there is a backlog.
const LIVE_ROWS_BEHIND_MAX: i64 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: i64) -> OutboxId {
        OutboxId(n)
    }

    #[test]
    fn live_rows_go_beside_the_backlog_and_every_row_is_in_one_lane() {
        let mut lanes = Lanes::new(id(10));
        assert_eq!(lanes.next(Lane::Live), None);
        lanes.committed(id(12));
        assert_eq!(lanes.next(Lane::Live), Some((id(10), id(12))));
        assert_eq!(lanes.next(Lane::Backlog), Some((id(0), id(10))));
        lanes.read(Lane::Live, id(12));
        lanes.read(Lane::Backlog, id(4));
        assert_eq!((lanes.next(Lane::Live), lanes.next(Lane::Backlog)), (None, Some((id(4), id(10)))));
        lanes.read(Lane::Backlog, id(10));
        assert_eq!(lanes.next(Lane::Backlog), None);
    }

    #[test]
    fn a_live_lane_that_cannot_keep_up_joins_the_backlog() {
        let mut lanes = Lanes::new(id(10));
        lanes.committed(id(11 + LIVE_ROWS_BEHIND_MAX));
        assert_eq!(lanes.next(Lane::Live), None);
        lanes.read(Lane::Backlog, id(10));
        assert_eq!(lanes.next(Lane::Backlog), Some((id(10), id(11 + LIVE_ROWS_BEHIND_MAX))));
    }

    #[test]
    fn an_empty_outbox_has_no_backlog() {
        assert_eq!(Lanes::new(id(0)).next(Lane::Backlog), None);
    }
}
