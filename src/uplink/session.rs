//! One connection, from CONNACK to its end.
//!
//! `select` waits, the rest decides. Nothing here survives the connection.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::bucket::Bucket;
use super::fill::{Letters, Limits};
use super::inbox::{Inbox, Taken};
use super::lanes::Lanes;
use super::link::{Link, LinkError, LinkEvent, Message, Session, Token};
use super::suspect::{Suspect, Verdict};
use super::window::{Entry, Item, Lane, Window};
use super::{Ended, Error, Uplink};
use crate::model::row::{OutboxId, Route, Row};
use crate::store;

pub(super) struct Run<S> {
    pub session: S,
    pub window: Window,
    /// Below what the broker takes, so that acknowledgements always find their way.
    pub window_max: usize,
    pub lanes: Lanes,
    live: VecDeque<Row>,
    backlog: VecDeque<Row>,
    pub letters: Letters,
    pub inbox: Inbox,
    pub limits: Limits,
    /// What is under suspicion and goes first and alone, once the connection is proven good.
    pub probe: Probe,
    /// The broker has answered something.
    pub is_proven: bool,
    /// Filters wait for their SUBACK.
    pub is_subscribing: bool,
    subscribing_since: Instant,
    /// What this connection subscribed to.
    subscribed: Vec<String>,
    /// So many go one by one, because one of them made the broker hang up.
    one_by_one: usize,
    /// Acknowledged since the last flush that was seen to end: until then a power cut may
    /// bring them back.
    pub unsettled: usize,
    /// Letters among them that no flush has taken yet.
    has_done_mail: bool,
    /// A flush under way, and how many of those it settles.
    flush: Option<(usize, JoinHandle<Result<(), store::Error>>)>,
    committed: watch::Receiver<OutboxId>,
    mail_committed: watch::Receiver<i64>,
    /// Which publish was the oldest in flight at the last tick, and since when.
    oldest: (Option<u64>, Instant),
    progress: bool,
    /// Commits at the last tick, to see whether acknowledged rows are deleted by themselves.
    commits: u64,
    pub status_at: Instant,
    /// The hub was told that this connection stands.
    is_announced: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Probe {
    No,
    /// Waits for a proof that the connection is good.
    Wanted(Item),
    Sent(Item),
}

enum Wake {
    Events(Result<(), LinkError>),
    Answered(Result<Option<Token>, LinkError>),
    Committed,
    Mail,
    Tick,
    Stop,
    Changed,
    Filters,
    Refilled,
}

/// What the connection is watched for beside its own events.
struct Around<'a> {
    stop: &'a CancellationToken,
    changes: &'a mut Option<watch::Receiver<u64>>,
    filters: watch::Receiver<Vec<String>>,
    tick: Interval,
}

impl<L: Link> Uplink<L> {
    /// From CONNACK to the end; the hub hears of both.
    pub(super) async fn session(
        &self,
        session: L::Session,
        suspect: &mut Suspect,
        changes: &mut Option<watch::Receiver<u64>>,
        stop: &CancellationToken,
    ) -> Result<Ended, Error> {
        // What the last connection had acknowledged is deleted before the backlog is read, so
        // that it is not sent twice; what it asked the cloud is asked anew.
        self.store.run(|s| s.flush_acks()).await?;
        self.forget_requests().await?;
        let mut run = self.begin(session, suspect);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut around = Around { stop, changes, filters: self.filters.clone(), tick };
        let filters = around.filters.borrow_and_update().clone();
        let ended = match self.subscribe(&mut run, filters) {
            Ok(()) => self.live(&mut run, suspect, &mut around).await?,
            Err(why) => run.lost(why),
        };
        // Before the hub hears of it: what it asks from now on is for the next connection.
        let is_announced = run.is_announced;
        drop(run);
        self.forget_requests().await?;
        if is_announced {
            self.say_offline(stop).await;
        }
        Ok(ended)
    }

    fn begin(&self, session: L::Session, suspect: &Suspect) -> Run<L::Session> {
        let committed = self.store.committed(self.route);
        let newest = *committed.borrow();
        let theirs = session.inflight_max().map_or(u16::MAX, |n| n.saturating_sub(OWN_MESSAGES).max(1));
        let window = self.config.window.min(theirs);
        let now = Instant::now();
        Run {
            session,
            window: Window::new(window),
            window_max: usize::from(window),
            lanes: Lanes::new(newest),
            live: VecDeque::new(),
            backlog: VecDeque::new(),
            letters: Letters { read: VecDeque::new(), after: 0, has_more: true, in_a_row: 0 },
            inbox: Inbox::new(self.route, self.asks.clone()),
            limits: Limits {
                begun: now,
                messages: Bucket::new(self.config.messages_per_second.map(u64::from)),
                bytes: Bucket::new(self.config.bytes_per_second),
                backlog: Bucket::new(self.config.backlog_messages_per_second.map(u64::from)),
            },
            probe: match suspect.verdict() {
                Verdict::Probe(id) => Probe::Wanted(id),
                _ => Probe::No,
            },
            is_proven: false,
            is_subscribing: false,
            subscribing_since: now,
            subscribed: Vec::new(),
            one_by_one: match suspect.verdict() {
                Verdict::Probe(_) => usize::from(window),
                _ => 0,
            },
            unsettled: 0,
            has_done_mail: false,
            flush: None,
            committed,
            mail_committed: self.store.mail_committed(self.route),
            oldest: (None, now),
            progress: false,
            commits: 0,
            status_at: now,
            is_announced: false,
        }
    }

    fn subscribe(&self, run: &mut Run<L::Session>, filters: Vec<String>) -> Result<(), LinkError> {
        let new: Vec<String> = filters.iter().filter(|f| !run.subscribed.contains(f)).cloned().collect();
        let had_some = !std::mem::replace(&mut run.subscribed, filters).is_empty();
        if self.asks.is_some() && !new.is_empty() {
            (run.is_subscribing, run.subscribing_since) = (true, Instant::now());
            run.session.subscribe(&new)
        } else if had_some {
            // What is not wanted any more arrives and is ignored until the session ends.
            Ok(())
        } else {
            run.is_announced = run.inbox.online();
            Ok(())
        }
    }

    async fn live(
        &self,
        run: &mut Run<L::Session>,
        suspect: &mut Suspect,
        around: &mut Around<'_>,
    ) -> Result<Ended, Error> {
        let patience = self.config.keep_alive * 2 + self.config.connect_timeout;
        let mut events = Vec::new();
        loop {
            let wait = match self.fill(run).await? {
                Ok(wait) => wait,
                Err(why) => return self.last_words(run, suspect, why).await,
            };
            // While the disk flushes, what `fill` just published is on its way. It is waited for
            // here and not beside the other events, so that a simulated day has one course.
            if let Some((items, flush)) = run.flush.take() {
                match finished(flush).await {
                    Ok(()) => {
                        run.unsettled -= items;
                        continue;
                    }
                    Err(store::Error::Busy(_) | store::Error::Full) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            if self.route == Route::GATEWAY {
                self.metrics.uplink.window_used.set(run.window.used() as i64);
            }
            match run.select(&mut events, wait, around).await {
                Wake::Stop => return self.goodbye(run, suspect, true).await,
                Wake::Changed => return self.goodbye(run, suspect, false).await,
                Wake::Refilled => {}
                Wake::Filters => {
                    let filters = around.filters.borrow_and_update().clone();
                    if filters.is_empty() != run.subscribed.is_empty() {
                        // It opened with or without a session to receive by.
                        return self.goodbye(run, suspect, false).await;
                    }
                    if let Err(why) = self.subscribe(run, filters) {
                        return Ok(run.lost(why));
                    }
                }
                Wake::Committed => {
                    let newest = *run.committed.borrow_and_update();
                    run.lanes.committed(newest);
                }
                Wake::Mail => {
                    run.mail_committed.mark_unchanged();
                    run.letters.has_more = true;
                }
                Wake::Tick => {
                    self.tick(run).await?;
                    if run.stands_still(patience) {
                        return Ok(run.lost(LinkError::Stuck));
                    }
                }
                Wake::Answered(answered) => {
                    let acked = answered.and_then(|token| token.map_or(Ok(()), |t| run.session.ack(t)));
                    if let Err(why) = acked {
                        return Ok(run.lost(why));
                    }
                }
                Wake::Events(ended) => {
                    for event in events.drain(..) {
                        if let Err(why) = self.apply(run, suspect, event).await? {
                            return Ok(run.lost(why));
                        }
                    }
                    if let Err(why) = ended {
                        return Ok(run.lost(why));
                    }
                }
            }
        }
    }

    pub(super) async fn apply(
        &self,
        run: &mut Run<L::Session>,
        suspect: &mut Suspect,
        event: LinkEvent,
    ) -> Result<Result<(), LinkError>, Error> {
        match event {
            LinkEvent::Disconnected => {}
            LinkEvent::Subscribed => {
                (run.is_proven, run.is_subscribing) = (true, false);
                run.is_announced |= run.inbox.online();
            }
            LinkEvent::SubscribeRefused(filter, why) => {
                tracing::warn!(thing = %self.name, %filter, "a subscription was refused: {why}");
            }
            LinkEvent::Arrived { topic, payload, token } => {
                self.metrics.uplink.arrived.add(1);
                match run.inbox.arrived(topic, payload, token) {
                    Ok(Taken::Kept) => {}
                    Ok(Taken::Unwanted) => return Ok(run.session.ack(token)),
                    Err(why) => return Ok(Err(why)),
                }
            }
            LinkEvent::Sent(packet_id) => {
                if !run.window.sent(packet_id) {
                    let why = format!("the client sent packet {packet_id} that nobody published");
                    return Ok(Err(LinkError::Unreachable(why)));
                }
            }
            LinkEvent::Acked(packet_id) => {
                run.is_proven = true;
                let Some(entry) = run.window.acked(packet_id) else { return Ok(Ok(())) };
                let Some(item) = entry.item else { return Ok(Ok(())) };
                self.settle(run, suspect, item, entry.readings);
            }
            LinkEvent::Refused(packet_id, why) => {
                run.is_proven = true;
                let Some(entry) = run.window.acked(packet_id) else { return Ok(Ok(())) };
                if why.contains("QuotaExceeded") {
                    // Not this message's fault: it goes again after a pause.
                    return Ok(Err(LinkError::AuthRefused("quota exceeded".into())));
                }
                match entry.item {
                    Some(item) => {
                        run.settled(suspect, item);
                        self.give_up(item, &format!("the broker refused it: {why}")).await?;
                        run.has_done_mail |= matches!(item, Item::Mail(_));
                    }
                    None => tracing::warn!(
                        thing = %self.name, topic = self.status_topic, %why,
                        "the broker refused the status message"
                    ),
                }
            }
        }
        // Beside the sending, so that the line does not stand while the disk flushes.
        if run.flush.is_none() && run.unsettled >= (run.window_max / 2).max(1) {
            run.has_done_mail = false;
            run.flush = Some((run.unsettled, self.store.start(|s| s.flush_acks())));
        }
        Ok(Ok(()))
    }

    /// The broker has it.
    fn settle(&self, run: &mut Run<L::Session>, suspect: &mut Suspect, item: Item, readings: u32) {
        match item {
            Item::Row(id) => self.store.ack(id),
            Item::Mail(id) => {
                self.store.mail_done(&[id]);
                run.has_done_mail = true;
            }
        }
        run.unsettled += 1;
        run.settled(suspect, item);
        run.progress = true;
        self.metrics.uplink.messages_acked.add(1);
        self.metrics.uplink.readings_acked.add(u64::from(readings));
    }

    /// Acknowledged rows leave with the hub's commits; where there are none, by themselves.
    async fn tick(&self, run: &mut Run<L::Session>) -> Result<(), Error> {
        let commits = self.metrics.store.commits.get();
        if (self.store.acked_rows() > 0 || run.has_done_mail) && commits == run.commits {
            run.has_done_mail = false;
            match self.store.run(|s| s.flush_acks()).await {
                Ok(()) | Err(store::Error::Busy(_) | store::Error::Full) => {}
                Err(e) => return Err(e.into()),
            }
            let tally = self.store.tally();
            self.metrics.store.rows_waiting.set(tally.rows_waiting());
            self.metrics.store.readings_waiting.set(tally.readings_waiting());
        }
        run.commits = commits;
        Ok(())
    }
}

async fn finished(flush: JoinHandle<Result<(), store::Error>>) -> Result<(), store::Error> {
    match flush.await {
        Ok(done) => done,
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        // The runtime is going down.
        Err(_) => Ok(()),
    }
}

impl<S: Session> Run<S> {
    async fn select(
        &mut self,
        events: &mut Vec<LinkEvent>,
        wait: Option<Duration>,
        around: &mut Around<'_>,
    ) -> Wake {
        tokio::select! {
            biased;
            () = around.stop.cancelled() => Wake::Stop,
            () = super::changed(around.changes) => Wake::Changed,
            Ok(()) = around.filters.changed() => Wake::Filters,
            ended = self.session.events(events) => Wake::Events(ended),
            answered = self.inbox.next() => Wake::Answered(answered),
            // An error means the store is gone, and with it the process: other tasks say so.
            Ok(()) = self.committed.changed() => Wake::Committed,
            Ok(()) = self.mail_committed.changed() => Wake::Mail,
            () = sleep(wait.unwrap_or_default()), if wait.is_some() => Wake::Refilled,
            _ = around.tick.tick() => Wake::Tick,
        }
    }

    /// Rows that were read ahead on this lane.
    pub fn buffer(&mut self, lane: Lane) -> &mut VecDeque<Row> {
        match lane {
            Lane::Live => &mut self.live,
            _ => &mut self.backlog,
        }
    }

    pub fn has_read(&self, lane: Lane) -> bool {
        !match lane {
            Lane::Mail => self.letters.read.is_empty(),
            Lane::Live => self.live.is_empty(),
            Lane::Backlog => self.backlog.is_empty(),
        }
    }

    pub fn status_is_due(&self) -> bool {
        Instant::now() >= self.status_at
    }

    pub fn publish(
        &mut self,
        item: Option<Item>,
        readings: u32,
        lane: Lane,
        message: Message,
    ) -> Result<(), LinkError> {
        self.session.publish(message)?;
        self.window.publish(Entry { item, readings, lane });
        Ok(())
    }

    /// A broker that answers pings but not this publish will not answer it any more, nor one
    /// that owes a SUBACK; on another connection it may. The library's watchdog sees only the
    /// pings.
    fn stands_still(&mut self, patience: Duration) -> bool {
        let oldest = self.window.oldest();
        if oldest != self.oldest.0 {
            self.oldest = (oldest, Instant::now());
        }
        let owes_suback = self.is_subscribing && self.subscribing_since.elapsed() > patience;
        owes_suback || (oldest.is_some() && self.oldest.1.elapsed() > patience)
    }

    pub fn has_room(&self, lane: Lane) -> bool {
        self.window.room(lane) > 0 && (self.one_by_one == 0 || self.window.is_empty())
    }

    fn settled(&mut self, suspect: &mut Suspect, item: Item) {
        suspect.settled(item);
        self.one_by_one = self.one_by_one.saturating_sub(1);
        if self.probe == Probe::Sent(item) {
            self.probe = Probe::No;
        }
    }

    pub fn lost(&self, why: LinkError) -> Ended {
        // A probe waits for an empty window, so whoever goes one by one goes alone, but for a
        // status message, which has been taken before.
        let alone = (matches!(self.probe, Probe::Sent(_)) || self.one_by_one > 0)
            && !matches!(self.probe, Probe::Wanted(_))
            && self.is_proven
            && self.window.used() == 1;
        Ended::Lost { why, head: self.window.head(), alone, progress: self.progress }
    }
}

const TICK: Duration = Duration::from_secs(1);
/// Of what the broker takes, for the status at the start and at the end.
const OWN_MESSAGES: u16 = 2;
