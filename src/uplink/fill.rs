//! What goes next, and whether it may.
//!
//! Letters go before readings, so that an answer does not wait behind a day of backlog; but
//! after a few letters in a row a reading has its turn, whatever holds both back, and letters
//! take half of the window at most. So neither starves the other. Live readings go before the
//! backlog, which leaves them a quarter of the window.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::bucket::Bucket;
use super::link::{Link, LinkError, Message, Session};
use super::session::{Probe, Run};
use super::window::{Item, Lane};
use super::{Error, Uplink};
use crate::model::row::{OutboxId, Reason, Row};
use crate::store::{self, mail::Mail};

/// Letters read ahead of their sending, and how far that went.
pub struct Letters {
    pub read: VecDeque<Mail>,
    pub after: i64,
    /// There may be more on the disk.
    pub has_more: bool,
    /// Sent since the last reading.
    pub in_a_row: usize,
}

pub struct Limits {
    pub begun: Instant,
    pub messages: Option<Bucket>,
    pub bytes: Option<Bucket>,
    pub backlog: Option<Bucket>,
}

/// What became of an attempt to publish.
enum Tried {
    Sent,
    Nothing,
    /// There are no tokens for it yet.
    Wait(Duration),
    Lost(LinkError),
}

impl<L: Link> Uplink<L> {
    /// Publishes what the window, the buckets and the lanes allow. Returns how long to wait
    /// for tokens, if that is what stops it.
    pub(super) async fn fill(
        &self,
        run: &mut Run<L::Session>,
    ) -> Result<Result<Option<Duration>, LinkError>, Error> {
        if let Some(message) = run.status_is_due().then(|| self.status(true)).flatten() {
            run.status_at = Instant::now() + self.config.status_interval;
            if let Err(why) = run.publish(None, 0, Lane::Live, message) {
                return Ok(Err(why));
            }
        }
        match run.probe {
            Probe::No => {}
            Probe::Sent(_) => return Ok(Ok(None)),
            Probe::Wanted(item) => {
                if let Some(sent) = self.probe(run, item).await? {
                    return Ok(sent.map(|()| None));
                }
            }
        }
        loop {
            let rows_turn = run.letters.in_a_row >= usize::from(self.config.window / 2).max(1);
            let order = match rows_turn {
                true => [Lane::Live, Lane::Backlog, Lane::Mail],
                false => [Lane::Mail, Lane::Live, Lane::Backlog],
            };
            let (mut sent, mut wait) = (false, None::<Duration>);
            for lane in order {
                match self.try_lane(run, lane).await? {
                    Tried::Sent => {
                        sent = true;
                        break;
                    }
                    Tried::Nothing => {}
                    Tried::Wait(more) => {
                        wait = Some(wait.map_or(more, |w| w.min(more)));
                        // Who is first in turn is first to get the tokens that all share.
                        if run.limits.is_empty() {
                            break;
                        }
                    }
                    Tried::Lost(why) => return Ok(Err(why)),
                }
            }
            if !sent {
                return Ok(Ok(wait));
            }
        }
    }

    async fn try_lane(&self, run: &mut Run<L::Session>, lane: Lane) -> Result<Tried, Error> {
        if !run.has_room(lane) || Self::may_repeat(run) >= run.window_max {
            return Ok(Tried::Nothing);
        }
        if !run.has_read(lane) && !self.fetch(run, lane).await? {
            return Ok(Tried::Nothing);
        }
        if !run.has_read(lane) {
            // The range held nothing of ours; the lane moves on and is asked again.
            return Ok(Tried::Sent);
        }
        let wait = run.limits.wait(lane);
        if !wait.is_zero() {
            return Ok(Tried::Wait(wait));
        }
        let sent = match lane {
            Lane::Mail => match run.letters.read.pop_front() {
                Some(mail) => self.send_mail(run, mail).await?,
                None => Ok(()),
            },
            Lane::Live | Lane::Backlog => match run.buffer(lane).pop_front() {
                Some(row) => self.send(run, lane, row).await?,
                None => Ok(()),
            },
        };
        Ok(sent.map_or_else(Tried::Lost, |()| Tried::Sent))
    }

    /// Sends the suspect, alone, on a connection that was proven good. `None`: there is none.
    async fn probe(
        &self,
        run: &mut Run<L::Session>,
        item: Item,
    ) -> Result<Option<Result<(), LinkError>>, Error> {
        if !run.window.is_empty() || (!run.is_proven && run.is_subscribing) {
            return Ok(Some(Ok(())));
        }
        if !run.is_proven
            && let Some(other) = self.newest_but(item).await?
        {
            // Nothing of ours asks for an answer here, so another reading has to.
            return Ok(Some(self.send(run, Lane::Backlog, other).await?));
        }
        let sent = match item {
            Item::Row(id) => match self.row(id).await? {
                Some(row) => self.send(run, Lane::Backlog, row).await?,
                None => Ok(()),
            },
            Item::Mail(id) => match self.letter(id).await? {
                Some(mail) => self.send_mail(run, mail).await?,
                None => Ok(()),
            },
        };
        if run.window.is_empty() && sent.is_ok() {
            // It is gone, or was a dead letter already.
            run.probe = Probe::No;
            return Ok(None);
        }
        run.probe = Probe::Sent(item);
        Ok(Some(sent))
    }

    async fn row(&self, id: OutboxId) -> Result<Option<Row>, Error> {
        let route = self.route;
        let rows = self.store.run(move |s| s.peek(route, OutboxId(id.0 - 1), id, 1, usize::MAX)).await?;
        Ok(rows.into_iter().next())
    }

    async fn letter(&self, id: i64) -> Result<Option<Mail>, Error> {
        let found = self.letters(id - 1, 1).await?.unwrap_or_default();
        Ok(found.into_iter().find(|mail| mail.id == id))
    }

    /// The newest row of this connection that is not under suspicion, of the first hundred.
    async fn newest_but(&self, item: Item) -> Result<Option<Row>, Error> {
        let route = self.route;
        let all = (OutboxId(0), OutboxId(i64::MAX));
        let rows = self.store.run(move |s| s.peek(route, all.0, all.1, FETCH_ROWS, FETCH_BYTES)).await?;
        Ok(rows.into_iter().rev().find(|row| Item::Row(row.id) != item))
    }

    /// `None`: the disk is busy.
    async fn letters(&self, after: i64, n: usize) -> Result<Option<Vec<Mail>>, Error> {
        let route = self.route;
        match self.store.run(move |s| s.mail(route, after, n)).await {
            Err(store::Error::Busy(_)) => Ok(None),
            letters => Ok(Some(letters?)),
        }
    }

    /// What the cloud would get again if the power went now: what is in flight, and what is
    /// acknowledged and still stands on the disk. Never more than one window.
    fn may_repeat(run: &Run<L::Session>) -> usize {
        run.window.used() + run.unsettled
    }

    async fn fetch_letters(&self, run: &mut Run<L::Session>) -> Result<bool, Error> {
        if !run.letters.has_more {
            return Ok(false);
        }
        let Some(letters) = self.letters(run.letters.after, FETCH_LETTERS).await? else { return Ok(false) };
        run.letters.has_more = letters.len() == FETCH_LETTERS;
        run.letters.after = letters.last().map_or(run.letters.after, |mail| mail.id);
        run.letters.read.extend(letters);
        Ok(true)
    }

    /// Reads ahead on a lane. `false`: there is nothing to read.
    async fn fetch(&self, run: &mut Run<L::Session>, lane: Lane) -> Result<bool, Error> {
        if lane == Lane::Mail {
            return self.fetch_letters(run).await;
        }
        let Some((after, through)) = run.lanes.next(lane) else { return Ok(false) };
        let route = self.route;
        let rows = match self.store.run(move |s| s.peek(route, after, through, FETCH_ROWS, FETCH_BYTES)).await
        {
            Err(store::Error::Busy(_)) => return Ok(false),
            rows => rows?,
        };
        let bytes: usize = rows.iter().map(|r| r.payload.len()).sum();
        let all = rows.len() < FETCH_ROWS && bytes < FETCH_BYTES;
        run.lanes.read(lane, rows.last().filter(|_| !all).map_or(through, |r| r.id));
        run.buffer(lane).extend(rows);
        Ok(true)
    }

    async fn send(
        &self,
        run: &mut Run<L::Session>,
        lane: Lane,
        row: Row,
    ) -> Result<Result<(), LinkError>, Error> {
        run.letters.in_a_row = 0;
        let message = match self.render(&row) {
            Ok(message) => message,
            Err(e) => {
                self.dead_letter(row.id, Reason::Corrupt, &e.to_string()).await?;
                return Ok(Ok(()));
            }
        };
        self.publish(run, Item::Row(row.id), row.readings, lane, message).await
    }

    async fn send_mail(&self, run: &mut Run<L::Session>, mail: Mail) -> Result<Result<(), LinkError>, Error> {
        run.letters.in_a_row += 1;
        let message = Message { topic: mail.letter.topic, payload: mail.letter.payload, retain: false };
        self.publish(run, Item::Mail(mail.id), 0, Lane::Mail, message).await
    }

    async fn publish(
        &self,
        run: &mut Run<L::Session>,
        item: Item,
        readings: u32,
        lane: Lane,
        message: Message,
    ) -> Result<Result<(), LinkError>, Error> {
        let size = message.topic.len() + message.payload.len() + PACKET_OVERHEAD;
        if let Some(max) = run.session.packet_max().filter(|max| size > *max) {
            let why = format!("{size} bytes, the broker takes {max}; lower uplink.payload_max");
            self.give_up(item, &why).await?;
            return Ok(Ok(()));
        }
        run.limits.take(lane, size as f64);
        self.metrics.uplink.messages_sent.add(1);
        self.metrics.uplink.bytes_sent.add(size as u64);
        Ok(run.publish(Some(item), readings, lane, message))
    }
}

impl Limits {
    /// How long until a message may go. How many bytes it is on the wire is only known when it
    /// is rendered, so it goes as soon as nothing is owed, and is then owed itself.
    pub fn wait(&mut self, lane: Lane) -> Duration {
        let now = self.begun.elapsed();
        let messages = self.messages.as_mut().map(|b| b.wait(1.0, now));
        let bytes = self.bytes.as_mut().map(|b| b.wait(1.0, now));
        let backlog = match lane {
            Lane::Mail | Lane::Live => None,
            Lane::Backlog => self.backlog.as_mut().map(|b| b.wait(1.0, now)),
        };
        [messages, bytes, backlog].into_iter().flatten().max().unwrap_or_default()
    }

    pub fn take(&mut self, lane: Lane, bytes: f64) {
        self.messages.iter_mut().for_each(|b| b.take(1.0));
        self.bytes.iter_mut().for_each(|b| b.take(bytes));
        if lane == Lane::Backlog {
            self.backlog.iter_mut().for_each(|b| b.take(1.0));
        }
    }

    /// Nobody may send: the limits that all share are used up.
    fn is_empty(&mut self) -> bool {
        !self.wait(Lane::Live).is_zero()
    }
}

/// Rows and bytes read ahead at one go.
const FETCH_ROWS: usize = 128;
const FETCH_BYTES: usize = 1 << 20;
/// Few, because a letter may be replaced by a newer one until it is sent.
const FETCH_LETTERS: usize = 16;
/// Fixed header, length of the topic, packet id, properties. Bytes.
const PACKET_OVERHEAD: usize = 16;
