//! One connection, from CONNACK to its end.
//!
//! `select` waits, the rest decides. Nothing here survives the connection.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::bucket::Bucket;
use super::lanes::Lanes;
use super::link::{Link, LinkError, LinkEvent, Message, Session};
use super::suspect::{Suspect, Verdict};
use super::window::{Entry, Lane, Window};
use super::{Ended, Error, Uplink};
use crate::model::row::{OutboxId, Reason, Route, Row};
use crate::store;

struct Run<S> {
    session: S,
    window: Window,
    lanes: Lanes,
    live: VecDeque<Row>,
    backlog: VecDeque<Row>,
    limits: Limits,
    /// A row under suspicion that goes first and alone, once the connection is proven good.
    probe: Probe,
    /// So many rows go one by one, because one of them made the broker hang up.
    one_by_one: usize,
    /// Rows acknowledged since the last flush that was seen to end: until then a power cut may
    /// bring them back.
    unsettled: usize,
    /// A flush under way, and how many of those it settles.
    flush: Option<(usize, JoinHandle<Result<(), store::Error>>)>,
    committed: watch::Receiver<OutboxId>,
    /// Which publish was the oldest in flight at the last tick, and since when.
    oldest: (Option<u64>, Instant),
    progress: bool,
    /// Commits at the last tick, to see whether acknowledged rows are deleted by themselves.
    commits: u64,
    status_at: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Probe {
    No,
    /// Waits for the acknowledgement of the status message.
    Wanted(OutboxId),
    Sent(OutboxId),
}

struct Limits {
    begun: Instant,
    messages: Option<Bucket>,
    bytes: Option<Bucket>,
    backlog: Option<Bucket>,
}

enum Wake {
    Events(Result<(), LinkError>),
    Committed,
    Tick,
    Stop,
    Refilled,
}

impl<L: Link> Uplink<L> {
    pub(super) async fn session(
        &self,
        session: L::Session,
        suspect: &mut Suspect,
        stop: &CancellationToken,
    ) -> Result<Ended, Error> {
        // What the last connection had acknowledged is deleted before the backlog is read, so
        // that it is not sent twice.
        self.store.run(|s| s.flush_acks()).await?;
        let committed = self.store.committed(Route::GATEWAY);
        let newest = *committed.borrow();
        let mut run = Run {
            session,
            window: Window::new(self.config.window),
            lanes: Lanes::new(newest),
            live: VecDeque::new(),
            backlog: VecDeque::new(),
            limits: Limits {
                begun: Instant::now(),
                messages: Bucket::new(self.config.messages_per_second.map(u64::from)),
                bytes: Bucket::new(self.config.bytes_per_second),
                backlog: Bucket::new(self.config.backlog_messages_per_second.map(u64::from)),
            },
            probe: match suspect.verdict() {
                Verdict::Probe(id) => Probe::Wanted(id),
                _ => Probe::No,
            },
            one_by_one: match suspect.verdict() {
                Verdict::Probe(_) => usize::from(self.config.window),
                _ => 0,
            },
            unsettled: 0,
            flush: None,
            committed,
            oldest: (None, Instant::now()),
            progress: false,
            commits: 0,
            status_at: Instant::now(),
        };
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut events = Vec::new();
        loop {
            let wait = match self.fill(&mut run).await? {
                Ok(wait) => wait,
                Err(why) => return Ok(run.lost(why)),
            };
            // While the disk flushes, what `fill` just published is on its way. It is waited for
            // here and not beside the other events, so that a simulated day has one course.
            if let Some((rows, flush)) = run.flush.take() {
                match finished(flush).await {
                    Ok(()) => {
                        run.unsettled -= rows;
                        continue;
                    }
                    Err(store::Error::Busy(_) | store::Error::Full) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            self.metrics.uplink.window_used.set(run.window.used() as i64);
            match run.select(&mut events, wait, &mut tick, stop).await {
                Wake::Stop => return self.goodbye(run, suspect).await,
                Wake::Refilled => {}
                Wake::Committed => {
                    let newest = *run.committed.borrow_and_update();
                    run.lanes.committed(newest);
                }
                Wake::Tick => {
                    self.tick(&mut run).await?;
                    if run.stands_still(self.config.keep_alive * 2 + self.config.connect_timeout) {
                        return Ok(run.lost(LinkError::Stuck));
                    }
                }
                Wake::Events(ended) => {
                    for event in events.drain(..) {
                        if let Err(why) = self.apply(&mut run, suspect, event).await? {
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

    /// Publishes what the window, the buckets and the lanes allow. Returns how long to wait
    /// for tokens, if that is what stops it.
    async fn fill(&self, run: &mut Run<L::Session>) -> Result<Result<Option<Duration>, LinkError>, Error> {
        if Instant::now() >= run.status_at {
            run.status_at = Instant::now() + self.config.status_interval;
            if let Err(why) = run.publish(None, 0, Lane::Live, self.status(true)) {
                return Ok(Err(why));
            }
        }
        match run.probe {
            Probe::No => {}
            Probe::Sent(_) => return Ok(Ok(None)),
            Probe::Wanted(id) if run.window.is_empty() => {
                let row = self
                    .store
                    .run(move |s| s.peek(Route::GATEWAY, OutboxId(id.0 - 1), id, 1, usize::MAX))
                    .await?
                    .pop();
                match row {
                    None => run.probe = Probe::No,
                    Some(row) => {
                        run.probe = Probe::Sent(id);
                        let sent = self.send(run, Lane::Backlog, row).await?;
                        if run.window.is_empty() {
                            // It was a dead letter already.
                            run.probe = Probe::No;
                        }
                        return Ok(sent.map(|()| None));
                    }
                }
            }
            Probe::Wanted(_) => return Ok(Ok(None)),
        }
        for lane in [Lane::Live, Lane::Backlog] {
            while run.room(lane) && Self::may_repeat(run) < usize::from(self.config.window) {
                if run.buffer(lane).is_empty() && !self.fetch(run, lane).await? {
                    break;
                }
                let wait = run.limits.wait(lane);
                if !wait.is_zero() {
                    return Ok(Ok(Some(wait)));
                }
                let Some(row) = run.buffer(lane).pop_front() else { continue };
                if let Err(why) = self.send(run, lane, row).await? {
                    return Ok(Err(why));
                }
            }
        }
        Ok(Ok(None))
    }

    /// What the cloud would get again if the power went now: what is in flight, and what is
    /// acknowledged and still stands on the disk. Never more than one window.
    fn may_repeat(run: &Run<L::Session>) -> usize {
        run.window.used() + run.unsettled
    }

    /// Reads ahead on a lane. `false`: there is nothing to read.
    async fn fetch(&self, run: &mut Run<L::Session>, lane: Lane) -> Result<bool, Error> {
        let Some((after, through)) = run.lanes.next(lane) else { return Ok(false) };
        let rows = match self
            .store
            .run(move |s| s.peek(Route::GATEWAY, after, through, FETCH_ROWS, FETCH_BYTES))
            .await
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
        let message = match self.render(&row) {
            Ok(message) => message,
            Err(e) => {
                self.dead_letter(row.id, Reason::Corrupt, &e.to_string()).await?;
                return Ok(Ok(()));
            }
        };
        let size = message.topic.len() + message.payload.len() + PACKET_OVERHEAD;
        if let Some(max) = run.session.packet_max().filter(|max| size > *max) {
            let why = format!("{size} bytes, the broker takes {max}; lower uplink.payload_max");
            self.dead_letter(row.id, Reason::DeadLetter, &why).await?;
            return Ok(Ok(()));
        }
        run.limits.take(lane, size as f64);
        self.metrics.uplink.messages_sent.add(1);
        self.metrics.uplink.bytes_sent.add(size as u64);
        Ok(run.publish(Some(row.id), row.readings, lane, message))
    }

    async fn apply(
        &self,
        run: &mut Run<L::Session>,
        suspect: &mut Suspect,
        event: LinkEvent,
    ) -> Result<Result<(), LinkError>, Error> {
        match event {
            LinkEvent::Disconnected | LinkEvent::Alive | LinkEvent::Subscribed { .. } => {}
            LinkEvent::Arrived { token, .. } => return Ok(run.session.ack(token)),
            LinkEvent::Sent(packet_id) => {
                if !run.window.sent(packet_id) {
                    let why = format!("the client sent packet {packet_id} that nobody published");
                    return Ok(Err(LinkError::Unreachable(why)));
                }
            }
            LinkEvent::Acked(packet_id) => {
                let Some(entry) = run.window.acked(packet_id) else { return Ok(Ok(())) };
                let Some(id) = entry.row else { return Ok(Ok(())) };
                self.store.ack(id);
                run.unsettled += 1;
                run.settle(suspect, id);
                run.progress = true;
                self.metrics.uplink.messages_acked.add(1);
                self.metrics.uplink.readings_acked.add(u64::from(entry.readings));
            }
            LinkEvent::Refused(packet_id, why) => {
                let Some(entry) = run.window.acked(packet_id) else { return Ok(Ok(())) };
                if why.contains("QuotaExceeded") {
                    // Not this message's fault: it goes again after a pause.
                    return Ok(Err(LinkError::AuthRefused("quota exceeded".into())));
                }
                match entry.row {
                    Some(id) => {
                        run.settle(suspect, id);
                        self.dead_letter(id, Reason::DeadLetter, &format!("the broker refused it: {why}"))
                            .await?;
                    }
                    None => tracing::warn!(
                        topic = self.status_topic,
                        why,
                        "the broker refused the status message"
                    ),
                }
            }
        }
        // Beside the sending, so that the line does not stand while the disk flushes.
        if run.flush.is_none() && run.unsettled >= usize::from(self.config.window / 2).max(1) {
            run.flush = Some((run.unsettled, self.store.start(|s| s.flush_acks())));
        }
        Ok(Ok(()))
    }

    /// Acknowledged rows leave with the hub's commits; where there are none, by themselves.
    async fn tick(&self, run: &mut Run<L::Session>) -> Result<(), Error> {
        let commits = self.metrics.store.commits.get();
        if self.store.acked_rows() > 0 && commits == run.commits {
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

    /// An orderly end: nothing new, the window empties within its grace, the status says
    /// offline, then DISCONNECT.
    async fn goodbye(&self, mut run: Run<L::Session>, suspect: &mut Suspect) -> Result<Ended, Error> {
        let _ = run.publish(None, 0, Lane::Live, self.status(false));
        let until = Instant::now() + self.grace;
        let mut events = Vec::new();
        while !run.window.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            match timeout(left, run.session.events(&mut events)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => break,
            }
            for event in events.drain(..) {
                if self.apply(&mut run, suspect, event).await?.is_err() {
                    return Ok(Ended::Stopped);
                }
            }
        }
        run.session.disconnect();
        let _ = timeout(DISCONNECT_MAX, async {
            while run.session.events(&mut events).await.is_ok() {
                if events.contains(&LinkEvent::Disconnected) {
                    return;
                }
                events.clear();
            }
        })
        .await;
        self.metrics.uplink.state.set("stopped");
        Ok(Ended::Stopped)
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
        tick: &mut Interval,
        stop: &CancellationToken,
    ) -> Wake {
        tokio::select! {
            biased;
            () = stop.cancelled() => Wake::Stop,
            ended = self.session.events(events) => Wake::Events(ended),
            // An error means the store is gone, and with it the process: other tasks say so.
            Ok(()) = self.committed.changed() => Wake::Committed,
            () = sleep(wait.unwrap_or_default()), if wait.is_some() => Wake::Refilled,
            _ = tick.tick() => Wake::Tick,
        }
    }

    fn buffer(&mut self, lane: Lane) -> &mut VecDeque<Row> {
        match lane {
            Lane::Live => &mut self.live,
            Lane::Backlog => &mut self.backlog,
        }
    }

    fn publish(
        &mut self,
        row: Option<OutboxId>,
        readings: u32,
        lane: Lane,
        message: Message,
    ) -> Result<(), LinkError> {
        self.session.publish(message)?;
        self.window.publish(Entry { row, readings, lane });
        Ok(())
    }

    /// A broker that answers pings but not this publish will not answer it any more; on
    /// another connection it may. The library's watchdog sees only the pings.
    fn stands_still(&mut self, patience: Duration) -> bool {
        let oldest = self.window.oldest();
        if oldest != self.oldest.0 {
            self.oldest = (oldest, Instant::now());
        }
        oldest.is_some() && self.oldest.1.elapsed() > patience
    }

    fn room(&self, lane: Lane) -> bool {
        self.window.room(lane) > 0 && (self.one_by_one == 0 || self.window.is_empty())
    }

    fn settle(&mut self, suspect: &mut Suspect, id: OutboxId) {
        suspect.settled(id);
        self.one_by_one = self.one_by_one.saturating_sub(1);
        if self.probe == Probe::Sent(id) {
            self.probe = Probe::No;
        }
    }

    fn lost(&self, why: LinkError) -> Ended {
        // A probe waits for an empty window, so whoever goes one by one goes alone, but for a
        // status message, which has been taken before.
        let alone = (matches!(self.probe, Probe::Sent(_)) || self.one_by_one > 0)
            && !matches!(self.probe, Probe::Wanted(_))
            && self.window.used() == 1;
        Ended::Lost { why, head: self.window.head(), alone, progress: self.progress }
    }
}

impl Limits {
    /// How long until a message may go. How many bytes it is on the wire is only known when it
    /// is rendered, so it goes as soon as nothing is owed, and is then owed itself.
    fn wait(&mut self, lane: Lane) -> Duration {
        let now = self.begun.elapsed();
        let messages = self.messages.as_mut().map(|b| b.wait(1.0, now));
        let bytes = self.bytes.as_mut().map(|b| b.wait(1.0, now));
        let backlog = match lane {
            Lane::Live => None,
            Lane::Backlog => self.backlog.as_mut().map(|b| b.wait(1.0, now)),
        };
        [messages, bytes, backlog].into_iter().flatten().max().unwrap_or_default()
    }

    fn take(&mut self, lane: Lane, bytes: f64) {
        self.messages.iter_mut().for_each(|b| b.take(1.0));
        self.bytes.iter_mut().for_each(|b| b.take(bytes));
        if lane == Lane::Backlog {
            self.backlog.iter_mut().for_each(|b| b.take(1.0));
        }
    }
}

const TICK: Duration = Duration::from_secs(1);
/// Rows and bytes read ahead at one go.
const FETCH_ROWS: usize = 128;
const FETCH_BYTES: usize = 1 << 20;
/// Fixed header, length of the topic, packet id, properties. Bytes.
const PACKET_OVERHEAD: usize = 16;
const DISCONNECT_MAX: Duration = Duration::from_secs(1);
