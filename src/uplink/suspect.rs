//! PURE: which message makes the broker hang up.
//!
//! A line that breaks is no evidence against a message, so three things must come together:
//! the same row or letter was at the head of two connections the broker closed; then, on a connection
//! that was just proven good by an acknowledgement, it is sent alone, and the
//! broker hangs up on it again, twice. Only then it is a dead letter.

use super::window::Item;

#[derive(Debug, Default)]
pub struct Suspect {
    head: Option<Item>,
    strikes: u8,
    proofs: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Innocent,
    /// Send it alone on the next connection.
    Probe(Item),
    Dead(Item),
}

impl Suspect {
    /// The broker closed a connection; `head` was the oldest row in flight, `alone` if nothing
    /// else was, on a connection that had been proven good.
    pub fn hung_up(&mut self, head: Option<Item>, alone: bool) -> Verdict {
        let Some(id) = head else { return self.verdict() };
        if self.head != Some(id) {
            *self = match alone {
                true => Suspect { head: Some(id), strikes: STRIKES, proofs: 1 },
                false => Suspect { head: Some(id), strikes: 1, proofs: 0 },
            };
        } else if alone {
            self.proofs += 1;
        } else {
            self.strikes = self.strikes.saturating_add(1);
        }
        self.verdict()
    }

    /// The row was acknowledged, refused or is gone.
    pub fn settled(&mut self, id: Item) {
        if self.head == Some(id) {
            *self = Suspect::default();
        }
    }

    pub fn verdict(&self) -> Verdict {
        match self.head {
            Some(id) if self.proofs >= PROOFS => Verdict::Dead(id),
            Some(id) if self.strikes >= STRIKES => Verdict::Probe(id),
            _ => Verdict::Innocent,
        }
    }
}

const STRIKES: u8 = 2;
const PROOFS: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::row::OutboxId;

    fn row(n: i64) -> Item {
        Item::Row(OutboxId(n))
    }

    #[test]
    fn a_poisonous_message_is_found_and_a_bad_line_is_not_blamed_on_one() {
        let id = Item::Mail(7);
        let mut s = Suspect::default();
        assert_eq!(s.hung_up(Some(id), false), Verdict::Innocent);
        assert_eq!(s.hung_up(Some(id), false), Verdict::Probe(id));
        assert_eq!(s.hung_up(Some(id), true), Verdict::Probe(id));
        assert_eq!(s.hung_up(None, false), Verdict::Probe(id));
        assert_eq!(s.hung_up(Some(id), true), Verdict::Dead(id));

        // The first suspect passes alone, the next one does not.
        let mut s = Suspect::default();
        s.hung_up(Some(id), false);
        s.hung_up(Some(id), false);
        s.settled(id);
        assert_eq!(s.hung_up(Some(row(8)), true), Verdict::Probe(row(8)));
        assert_eq!(s.hung_up(Some(row(8)), true), Verdict::Dead(row(8)));

        let mut s = Suspect::default();
        for n in 0..100 {
            assert_eq!(s.hung_up(Some(row(n)), false), Verdict::Innocent);
        }
        s.hung_up(Some(row(99)), false);
        s.settled(row(99));
        assert_eq!(s.verdict(), Verdict::Innocent);
    }
}
