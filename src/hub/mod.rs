//! TASK: the one writer of the outbox, of shadows and of all else that is kept of things.
//!
//! Constraints: up blocks, down never waits. Observations come over a bounded channel; while
//! a commit is on its way to the disk the next ones gather there, so that a slow disk makes
//! commits larger, not more frequent. The hub never talks to the uplink: each waits only for
//! the disk.
//!
//! The way of an observation: channel → `apply` (report by exception, packing, numbering) →
//! `batch_window` or `interval` ends → ONE store transaction → the store tells the uplink.
//!
//! The way of what somebody asks, and of a desired change: channel → [`things`] decides → the
//! same transaction, without waiting for more → only then the answer, and the writes to the
//! buses, which are never waited for.
//!
//! An orderly end: the buses drop their senders, the channel runs dry, the last rows are
//! committed, and the hub returns by itself.

pub mod apply;
pub mod member;
pub mod report;
pub mod things;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use self::member::Now;
use self::things::{NewThing, Out, Things};
use crate::channel::{Answer, Ask, Serials, WriteRequest};
use crate::config::Durability;
use crate::metrics::Metrics;
use crate::model::device::Device;
use crate::model::ids::{DeviceIndex, GatewayName};
use crate::model::observation::Observation;
use crate::model::row::{Dropped, LayoutId, NewRow, Route};
use crate::model::time::{Clock, Timestamp};
use crate::store::trim::Render;
use crate::store::{self, Store};
use crate::wire::payload;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process has to end: what cannot be kept must not be polled.
    #[error(transparent)]
    Store(#[from] store::Error),
}

pub struct Hub {
    pub state: apply::State,
    pub gateway: GatewayName,
    pub store: Arc<Store>,
    pub durability: Durability,
    pub things: Things,
    pub observations: mpsc::Receiver<Observation>,
    pub asks: mpsc::Receiver<Ask>,
    /// Where the writes to each device go.
    pub writes: HashMap<DeviceIndex, mpsc::Sender<WriteRequest>>,
    /// Of capacity 1; a closed one means that the configuration stays as it is.
    pub changes: mpsc::Receiver<Reconfigure>,
    pub started: Instant,
    /// Who the devices said they are, for their certificates.
    pub serials: watch::Sender<Serials>,
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
}

/// Another configuration. By the time it is sent, the buses that are gone have ended, so what
/// they said last waits in the channel of observations.
pub struct Reconfigure {
    pub payload_max: usize,
    pub devices: Vec<(DeviceIndex, Device, LayoutId, Route)>,
    pub things: Vec<NewThing>,
    /// Devices whose line was closed and is opened anew.
    pub reopened: BTreeSet<DeviceIndex>,
    pub writes: HashMap<DeviceIndex, mpsc::Sender<WriteRequest>>,
    /// Comes when the hub works by it.
    pub answer: oneshot::Sender<()>,
}

/// What `select` found.
enum Event {
    Seen,
    Asked(Vec<Ask>),
    /// Something is due in `things`.
    Due,
    Commit,
    Maintain,
    Changed(Reconfigure),
    Ended,
}

impl Hub {
    pub async fn run(mut self) -> Result<(), Error> {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let mut commit_at: Option<Instant> = None;
        let mut maintain_at = Instant::now() + MAINTAIN_EVERY;
        let (mut readings, mut answers) = (0, Vec::new());
        self.measure().await?;
        loop {
            match self.select(&mut batch, commit_at, maintain_at).await {
                Event::Asked(asks) => {
                    for ask in asks {
                        answers.extend(self.ask(ask).await?);
                    }
                    commit_at = soon(commit_at);
                }
                Event::Due => {
                    self.things.tick(self.now());
                    if self.things.has_news() {
                        commit_at = soon(commit_at);
                    }
                }
                Event::Seen => {
                    let now = self.now();
                    for seen in batch.drain(..) {
                        readings += self.state.apply(&seen);
                        self.things.observe(&seen, now);
                    }
                    if self.things.is_urgent() {
                        commit_at = soon(commit_at);
                    }
                    let window = match self.durability {
                        Durability::Commit { batch_window } => batch_window,
                        Durability::Interval { interval } => interval,
                    };
                    let at = *commit_at.get_or_insert(Instant::now() + window);
                    // In the default mode a full batch need not wait for more company. With
                    // an interval the user chose how much memory may be at risk, up to a bound.
                    let full = match self.durability {
                        Durability::Commit { .. } => readings >= READINGS_FULL,
                        Durability::Interval { .. } => readings >= READINGS_HELD_MAX,
                    };
                    if full || at <= Instant::now() {
                        self.commit(&mut readings, &mut answers).await?;
                        commit_at = None;
                    }
                }
                Event::Commit => {
                    self.commit(&mut readings, &mut answers).await?;
                    commit_at = None;
                }
                Event::Changed(change) => {
                    self.drain(&mut batch, &mut readings);
                    self.commit(&mut readings, &mut answers).await?;
                    self.reconfigure(change).await?;
                    commit_at = soon(None);
                }
                Event::Maintain => {
                    self.maintain().await?;
                    maintain_at = Instant::now() + MAINTAIN_EVERY;
                }
                Event::Ended => {
                    self.commit(&mut readings, &mut answers).await?;
                    return Ok(());
                }
            }
        }
    }

    async fn select(
        &mut self,
        batch: &mut Vec<Observation>,
        commit_at: Option<Instant>,
        maintain_at: Instant,
    ) -> Event {
        let due_at = self.things.next_wake().map(|wake| self.started + wake);
        let mut asks = Vec::new();
        tokio::select! {
            biased;
            // First, so that a flood of observations cannot put off the commit for ever.
            () = sleep_until(commit_at.unwrap_or(maintain_at)), if commit_at.is_some() => Event::Commit,
            () = sleep_until(maintain_at) => Event::Maintain,
            () = sleep_until(due_at.unwrap_or(maintain_at)), if due_at.is_some() => Event::Due,
            Some(change) = self.changes.recv() => Event::Changed(change),
            n = self.asks.recv_many(&mut asks, ASKS_AT_ONCE), if !self.asks.is_closed() || !self.asks.is_empty() => {
                if n == 0 { Event::Due } else { Event::Asked(asks) }
            }
            n = self.observations.recv_many(batch, BATCH_MAX) => {
                if n == 0 { Event::Ended } else { Event::Seen }
            }
        }
    }

    /// What waits was said by devices of the configuration that ends now.
    fn drain(&mut self, batch: &mut Vec<Observation>, readings: &mut usize) {
        let now = self.now();
        for _ in 0..self.observations.len() {
            let Ok(seen) = self.observations.try_recv() else { break };
            batch.push(seen);
        }
        for seen in batch.drain(..) {
            *readings += self.state.apply(&seen);
            self.things.observe(&seen, now);
        }
    }

    async fn reconfigure(&mut self, change: Reconfigure) -> Result<(), Error> {
        let kept = loop {
            match self.store.run(Store::things).await {
                Ok(kept) => break kept,
                Err(store::Error::Busy(_)) => tokio::time::sleep(BUSY_PAUSE).await,
                Err(e) => return Err(e.into()),
            }
        };
        self.state.reconfigure(change.payload_max, change.devices.into_iter());
        let now = self.now();
        self.things.reconfigure(change.things, &change.reopened, kept, now);
        self.writes = change.writes;
        self.serials.send_replace(self.things.serials());
        // Whoever asked may have lost patience; the configuration stands all the same.
        let _ = change.answer.send(());
        Ok(())
    }

    fn now(&self) -> Now {
        Now { mono: self.started.elapsed(), wall: self.clock.now() }
    }

    /// Decides about an ask; the answer goes out when it is on the disk.
    async fn ask(&mut self, ask: Ask) -> Result<Option<(oneshot::Sender<Answer>, Answer)>, Error> {
        let mut known = None;
        if let Some(asked) = self.things.asked_command(&ask.what) {
            known = self.store.run(move |s| s.command(&asked.thing, &asked.id)).await?;
        }
        let now = self.now();
        let answer = self.things.ask(&ask.from, &ask.what, known, now);
        Ok(Some((ask.answer, answer)))
    }

    async fn commit(
        &mut self,
        readings: &mut usize,
        answers: &mut Vec<(oneshot::Sender<Answer>, Answer)>,
    ) -> Result<(), Error> {
        let rows = self.state.seal();
        let mut out = self.things.take();
        let writes = std::mem::take(&mut out.writes);
        let devices_known = !out.kept.fingerprints.is_empty();
        if !rows.is_empty() || !out.is_empty() {
            self.keep(rows, out).await?;
            self.metrics.store.commits.add(1);
            self.metrics.store.readings.add(*readings as u64);
            self.gauges();
        }
        *readings = 0;
        if devices_known {
            self.serials.send_replace(self.things.serials());
        }
        for (asker, answer) in answers.drain(..) {
            // Whoever went away meanwhile asks again.
            let _ = asker.send(answer);
        }
        let now = self.now();
        for write in writes {
            let line = self.writes.get(&write.device);
            if line.is_none_or(|line| line.try_send(write.clone()).is_err()) {
                self.things.not_written(&write, now);
            }
        }
        Ok(())
    }

    async fn keep(&mut self, rows: Vec<NewRow>, out: Out) -> Result<(), Error> {
        for route in &out.offline {
            let route = *route;
            self.store.run(move |s| s.drop_requests(route)).await?;
        }
        let rows = Arc::new(rows);
        let mut out = Arc::new(out);
        let (mut done, mut size) = (0, rows.len());
        while done < rows.len() || !out.is_empty() {
            let (batch, end) = (Arc::clone(&rows), (done + size).min(rows.len()));
            let first = Arc::clone(&out);
            let kept = self.store.run(move |s| s.commit_all(&batch[done..end], &first.kept, &first.letters));
            match kept.await {
                Ok(_) => {
                    done = end;
                    out = Arc::default();
                    self.stuck("");
                }
                Err(store::Error::Busy(who)) => {
                    tracing::warn!(%who, "the store is busy; the commit is tried again");
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                Err(store::Error::Full) => {
                    // A batch larger than all the room there can be goes in parts.
                    match self.make_room().await? {
                        true => tracing::error!("the store is full; the oldest readings made room"),
                        false if size > 1 => size /= 2,
                        false => {
                            self.stuck("the disk is full");
                            tokio::time::sleep(FULL_PAUSE).await;
                        }
                    }
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Why nothing can be written now; empty: it can. Said when it changes.
    fn stuck(&self, why: &'static str) {
        let before = self.metrics.store.stuck.get();
        if before == why {
            return;
        }
        self.metrics.store.stuck.set(why);
        match why {
            "" => tracing::info!("the store is written again"),
            _ => tracing::error!("{why}: nothing can be kept, so nothing is delivered, and polling waits"),
        }
    }

    /// `false`: nothing was left to drop, or the file system itself is full, in which case
    /// polling has to wait.
    async fn make_room(&self) -> Result<bool, Error> {
        // A gap record that makes room for the next one with its own count made none.
        let before = self.store.tally().rows_waiting();
        match self.drop_rows(Store::make_room).await {
            Ok(()) => Ok(self.store.tally().rows_waiting() < before),
            Err(Error::Store(store::Error::Full | store::Error::Busy(_))) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Once a second: limits by age and size, and what `status` shows.
    async fn maintain(&self) -> Result<(), Error> {
        match self.drop_rows(Store::trim).await {
            Ok(()) => {}
            Err(Error::Store(store::Error::Full | store::Error::Busy(_))) => {}
            Err(e) => return Err(e),
        }
        self.measure().await
    }

    /// Lets the store drop rows its own way, and says what that cost.
    async fn drop_rows(
        &self,
        how: impl FnOnce(&Store, Timestamp, &Render) -> Result<Vec<Dropped>, store::Error> + Send + 'static,
    ) -> Result<(), Error> {
        let (gateway, now, boot) = (self.gateway.clone(), self.clock.now(), self.store.boot().to_string());
        let dropped = self.store.run(move |s| how(s, now, &|d| gap(&gateway, &boot, d))).await?;
        for d in &dropped {
            self.metrics.store.readings_dropped.add(d.readings);
            tracing::error!(
                device = %d.device, reason = %d.reason.as_str(), readings = d.readings,
                from = %d.first, to = %d.last, "readings were dropped and entered in the ledger"
            );
        }
        Ok(())
    }

    async fn measure(&self) -> Result<(), Error> {
        let (shrunk, oldest, bytes) = self.store.run(|s| (s.shrink(), s.oldest(), s.bytes_used())).await;
        match shrunk {
            Ok(()) | Err(store::Error::Full | store::Error::Busy(_)) => {}
            Err(e) => return Err(e.into()),
        }
        self.metrics.store.oldest_ms.set(oldest?.map_or(0, |t| t.0));
        self.metrics.store.bytes_used.set(bytes? as i64);
        self.gauges();
        Ok(())
    }

    fn gauges(&self) {
        let tally = self.store.tally();
        self.metrics.store.rows_waiting.set(tally.rows_waiting());
        self.metrics.store.readings_waiting.set(tally.readings_waiting());
    }
}

/// Somebody waits: no longer than it takes to let others come along.
fn soon(commit_at: Option<Instant>) -> Option<Instant> {
    let soon = Instant::now() + SOON;
    Some(commit_at.map_or(soon, |at| at.min(soon)))
}

fn gap(gateway: &GatewayName, boot: &str, d: &Dropped) -> Vec<u8> {
    payload::gap(gateway, &d.device, boot, d.reason.as_str(), d.readings, (d.first, d.last))
}

/// How long an ask waits for company in its commit.
const SOON: Duration = Duration::from_millis(2);
/// Asks taken from the channel at one go.
const ASKS_AT_ONCE: usize = 16;
/// Observations taken from the channel at one go.
const BATCH_MAX: usize = 256;
/// Readings that are worth a commit of their own without waiting for the batch window.
const READINGS_FULL: usize = 20_000;
/// Readings held in memory at most when commits are made by interval. About 16 MB.
const READINGS_HELD_MAX: usize = 200_000;
const MAINTAIN_EVERY: Duration = Duration::from_secs(1);
const BUSY_PAUSE: Duration = Duration::from_millis(200);
const FULL_PAUSE: Duration = Duration::from_secs(1);
