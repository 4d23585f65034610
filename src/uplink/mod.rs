//! TASK: one MQTT connection as one identity.
//!
//! Constraints: the outbox is the only memory. What was in flight when a connection ended is
//! read again from the disk on the next; duplicates are bounded by the window, loss by
//! nothing but the counted dead letter. A row leaves by its PUBACK only.
//!
//! The way of a row: the store says "committed" → `lanes` picks the range → `peek` → JSON →
//! token buckets → `window` → `link` → PUBACK → `window` gives the row back → `store.ack`.

pub mod bucket;
pub mod lanes;
pub mod link;
pub mod render;
pub mod session;
pub mod suspect;
pub mod window;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use self::link::{Link, LinkError, Message, Opening};
use self::suspect::{Suspect, Verdict};
use crate::backoff::Backoff;
use crate::config;
use crate::metrics::Metrics;
use crate::model::ids::GatewayName;
use crate::model::row::{Dropped, OutboxId, Reason};
use crate::model::time::Clock;
use crate::store::{self, Store};
use crate::wire::payload::{self, Status};
use crate::wire::topics::Template;

/// Expected trouble is handled inside; only the disk ends the task.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
}

pub struct Uplink<L> {
    pub config: Arc<config::Uplink>,
    pub gateway: GatewayName,
    pub topic: Template,
    pub status_topic: String,
    pub store: Arc<Store>,
    pub link: L,
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    pub seed: u64,
    /// How long the window may take to empty when the process stops.
    pub grace: Duration,
}

/// How a session ended.
enum Ended {
    Stopped,
    Lost { why: LinkError, head: Option<OutboxId>, alone: bool, progress: bool },
}

impl<L: Link> Uplink<L> {
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Error> {
        let mut backoff = Backoff::new(self.config.reconnect_min, self.config.reconnect_max, self.seed);
        let mut suspect = Suspect::default();
        let mut said = String::new();
        let mut short_lives = 0;
        loop {
            self.metrics.uplink.state.set(if said.is_empty() {
                "connecting".to_owned()
            } else {
                format!("offline: {said}")
            });
            let will = Some(self.status(false));
            let opening = Opening { will, persistent: false, window: self.config.window };
            let begun = Instant::now();
            let why = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                connected = self.link.connect(opening) => match connected {
                    Err(why) => why,
                    Ok(session) => {
                        self.metrics.uplink.connects.add(1);
                        self.metrics.uplink.state.set("online");
                        tracing::info!(broker = %self.config.host, port = self.config.port, "uplink online");
                        said.clear();
                        let ended = self.session(session, &mut suspect, &stop).await?;
                        self.metrics.uplink.window_used.set(0);
                        match ended {
                            Ended::Stopped => return Ok(()),
                            Ended::Lost { why, head, alone, progress } => {
                                self.metrics.uplink.disconnects.add(1);
                                if progress {
                                    backoff.reset();
                                }
                                self.judge(&mut suspect, &why, head, alone).await?;
                                why
                            }
                        }
                    }
                },
            };
            let hung_up = matches!(why, LinkError::HungUp(_));
            short_lives = if hung_up && begun.elapsed() < SHORT_LIFE { short_lives + 1 } else { 0 };
            self.report(&why, &mut said);
            let mut wait = backoff.next();
            match why {
                LinkError::TlsRefused(_) | LinkError::AuthRefused(_) | LinkError::TakenOver => {
                    wait = wait.max(self.config.reconnect_max / 2);
                }
                LinkError::Overrun => wait = Duration::ZERO,
                // MQTT 3.1.1 has no word for a take-over: two clients with one id throw each
                // other out, and what both see is a broker that hangs up at once.
                LinkError::HungUp(_) if short_lives >= SHORT_LIVES => {
                    wait = wait.max(self.config.reconnect_max / 2);
                }
                _ => {}
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = sleep(wait) => {}
            }
        }
    }

    /// Says it once per reason, not once per try.
    fn report(&self, why: &LinkError, said: &mut String) {
        let text = why.to_string();
        if *said != text {
            tracing::warn!(
                broker = %self.config.host, port = self.config.port,
                "uplink offline: {text}; readings wait on the disk"
            );
        }
        *said = text;
    }

    async fn judge(
        &self,
        suspect: &mut Suspect,
        why: &LinkError,
        head: Option<OutboxId>,
        alone: bool,
    ) -> Result<(), Error> {
        if !matches!(why, LinkError::HungUp(_)) {
            return Ok(());
        }
        if let Verdict::Dead(id) = suspect.hung_up(head, alone) {
            suspect.settled(id);
            self.dead_letter(id, Reason::DeadLetter, &why.to_string()).await?;
        }
        Ok(())
    }

    async fn dead_letter(&self, id: OutboxId, reason: Reason, why: &str) -> Result<(), Error> {
        let (gateway, boot, now) = (self.gateway.clone(), self.store.boot().to_string(), self.clock.now());
        let dropped =
            self.store.run(move |s| s.dead_letter(id, reason, now, &|d| gap(&gateway, &boot, d))).await?;
        self.metrics.uplink.dead_lettered.add(1);
        for d in dropped {
            self.metrics.store.readings_dropped.add(d.readings);
            tracing::error!(
                device = %d.device, readings = d.readings, from = %d.first, to = %d.last, why,
                "a message cannot be delivered; its readings were entered in the ledger"
            );
        }
        Ok(())
    }

    fn status(&self, online: bool) -> Message {
        let oldest = Some(self.metrics.store.oldest_ms.get()).filter(|ms| *ms > 0);
        let status = Status {
            online,
            boot: &self.store.boot().to_string(),
            readings_waiting: self.store.tally().readings_waiting(),
            oldest: oldest.map(crate::model::time::Timestamp),
        };
        let payload = payload::status(&self.gateway, status);
        Message { topic: self.status_topic.clone(), payload, retain: true }
    }
}

fn gap(gateway: &GatewayName, boot: &str, d: &Dropped) -> Vec<u8> {
    payload::gap(gateway, &d.device, boot, d.reason.as_str(), d.readings, (d.first, d.last))
}

/// A connection that the broker closed sooner than this after it began was a short one.
const SHORT_LIFE: Duration = Duration::from_secs(5);
/// So many short ones in a row look like a client id that is in use twice.
const SHORT_LIVES: u32 = 5;
