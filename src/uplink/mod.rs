//! TASK: one MQTT connection as one identity; the gateway has one, and each thing that shall
//! have its own.
//!
//! Constraints: the disk is the only memory. What was in flight when a connection ended is
//! read again on the next; duplicates are bounded by the window, loss by nothing but the
//! counted dead letter. A row or letter leaves by its PUBACK only, and a message that arrived
//! is acknowledged only after the hub's commit. There may be hundreds of connections, so
//! whatever one holds is small, and they open at a common pace.
//!
//! The way of a row: the store says "committed" → `lanes` picks the range → `peek` → JSON →
//! token buckets → `window` → `link` → PUBACK → `window` gives the row back → `store.ack`.
//! A letter goes the same way beside it, from the mail to `mail_done`.
//!
//! The way of a message that arrives: `link` → `inbox` → [`channel::Ask`] → the hub commits →
//! its answer → `inbox` → PUBACK. What is said in reply lies in the mail by then.

pub mod bucket;
pub mod claim;
mod ending;
mod fill;
pub mod inbox;
pub mod lanes;
pub mod link;
pub mod pacer;
pub mod render;
pub mod session;
pub mod suspect;
pub mod window;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use self::link::{Link, LinkError, Message, Opening};
use self::pacer::Pacer;
use self::suspect::{Suspect, Verdict};
use self::window::Item;
use crate::backoff::Backoff;
use crate::channel::{self, Wanted};
use crate::config;
use crate::metrics::{Metrics, UplinkMetrics};
use crate::model::ids::GatewayName;
use crate::model::row::{Dropped, OutboxId, Reason, Route};
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
    /// With the window of this kind of connection.
    pub config: Arc<config::Uplink>,
    pub gateway: GatewayName,
    /// What leaves by this connection.
    pub route: Route,
    /// Whose connection it is, for the log: the name of the gateway or of the thing.
    pub name: Arc<str>,
    pub topic: Template,
    /// `None`: no status and no last will.
    pub status_topic: Option<String>,
    /// What to subscribe to; looked at when there is somebody to ask. New ones are subscribed
    /// on the standing connection.
    pub filters: watch::Receiver<Vec<String>>,
    /// The hub. `None`: nothing is subscribed, and what arrives all the same is nobody's.
    pub asks: Option<mpsc::Sender<channel::Ask>>,
    /// Shared by all connections.
    pub pacer: Arc<Pacer>,
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
    /// In order, because the next connection presents another certificate or receives what
    /// this one does not.
    Renewed,
    Lost {
        why: LinkError,
        head: Option<Item>,
        alone: bool,
        progress: bool,
    },
}

/// What one run of the task remembers from connection to connection.
struct Tries {
    backoff: Backoff,
    /// For a certificate that the broker may just be registering.
    soon: Backoff,
    news: u32,
    short_lives: u32,
    said: String,
}

impl<L: Link> Uplink<L> {
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Error> {
        let mut tries = Tries {
            backoff: Backoff::new(self.config.reconnect_min, self.config.reconnect_max, self.seed),
            soon: Backoff::new(SOON.0, SOON.1, self.seed),
            news: 0,
            short_lives: 0,
            said: String::new(),
        };
        let metrics = Arc::clone(&self.metrics);
        let mut presence = Presence::new(&metrics.uplink, self.route);
        let mut random = fastrand::Rng::with_seed(self.seed);
        let mut suspect = Suspect::default();
        let mut changes = self.link.changes();
        loop {
            presence.offline(&tries.said);
            let opening = Opening { will: self.status(false), receives: self.receives() };
            let pacer = Arc::clone(&self.pacer);
            let begun = Instant::now();
            // Who has nothing to present reaches nobody, and must not take a place for it.
            let has_nothing = changes.as_mut().is_some_and(|c| *c.borrow_and_update() == 0);
            let connecting = async {
                if !has_nothing {
                    pacer.turn(&mut random).await;
                }
                self.link.connect(opening).await
            };
            let why = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                connected = connecting => match connected {
                    Err(why) => why,
                    Ok(session) => {
                        presence.online();
                        self.say_online();
                        tries.said.clear();
                        tries.news = 0;
                        let ended = self.session(session, &mut suspect, &mut changes, &stop).await?;
                        presence.ended();
                        match ended {
                            Ended::Stopped => return Ok(()),
                            Ended::Renewed => {
                                tracing::info!(thing = %self.name, "uplink reconnects: its certificate or what it receives changed");
                                continue;
                            }
                            Ended::Lost { why, head, alone, progress } => {
                                if progress {
                                    tries.backoff.reset();
                                }
                                self.judge(&mut suspect, &why, head, alone).await?;
                                why
                            }
                        }
                    }
                },
            };
            let hung_up = matches!(why, LinkError::HungUp(_));
            let short = hung_up && begun.elapsed() < SHORT_LIFE;
            tries.short_lives = if short { tries.short_lives + 1 } else { 0 };
            self.report(&why, &mut tries.said);
            presence.offline(&tries.said);
            let wait = self.pause(&why, &mut tries);
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = changed(&mut changes) => {}
                () = sleep(wait) => {}
            }
        }
    }

    /// How long to leave the broker alone.
    fn pause(&self, why: &LinkError, tries: &mut Tries) -> Duration {
        let long = self.config.reconnect_max / 2;
        match why {
            LinkError::NotYet(_) if tries.news < SOON_TRIES => {
                tries.news += 1;
                tries.soon.next()
            }
            LinkError::TlsRefused(_)
            | LinkError::AuthRefused(_)
            | LinkError::TakenOver
            | LinkError::NotYet(_) => tries.backoff.next().max(long),
            // MQTT 3.1.1 has no word for a take-over: two clients with one id throw each
            // other out, and what both see is a broker that hangs up at once.
            LinkError::HungUp(_) if tries.short_lives >= SHORT_LIVES => tries.backoff.next().max(long),
            _ => tries.backoff.next(),
        }
    }

    fn receives(&self) -> bool {
        self.asks.is_some() && !self.filters.borrow().is_empty()
    }

    fn say_online(&self) {
        let (broker, port) = (&self.config.host, self.config.port);
        if self.route == Route::GATEWAY {
            tracing::info!(%broker, port, thing = %self.name, "uplink online");
        } else {
            tracing::debug!(%broker, port, thing = %self.name, "thing online");
        }
    }

    /// Says it once per reason, not once per try.
    fn report(&self, why: &LinkError, said: &mut String) {
        let text = why.to_string();
        if *said != text {
            tracing::warn!(
                broker = %self.config.host, port = self.config.port, thing = %self.name,
                "uplink offline: {text}; readings wait on the disk"
            );
        }
        *said = text;
    }

    async fn judge(
        &self,
        suspect: &mut Suspect,
        why: &LinkError,
        head: Option<Item>,
        alone: bool,
    ) -> Result<(), Error> {
        if !matches!(why, LinkError::HungUp(_)) {
            return Ok(());
        }
        if let Verdict::Dead(id) = suspect.hung_up(head, alone) {
            suspect.settled(id);
            self.give_up(id, &why.to_string()).await?;
        }
        Ok(())
    }

    /// The broker will never take it.
    async fn give_up(&self, item: Item, why: &str) -> Result<(), Error> {
        match item {
            Item::Row(id) => self.dead_letter(id, Reason::DeadLetter, why).await,
            Item::Mail(id) => {
                self.store.mail_done(&[id]);
                self.metrics.uplink.mail_dropped.add(1);
                tracing::warn!(thing = %self.name, mail = id, %why, "a letter cannot be delivered and is dropped");
                Ok(())
            }
        }
    }

    /// The connection is gone, and with it whatever the cloud was asked on it.
    async fn forget_requests(&self) -> Result<(), Error> {
        let route = self.route;
        match self.store.run(move |s| s.drop_requests(route)).await {
            // The next session begins with it, too.
            Ok(()) | Err(store::Error::Busy(_) | store::Error::Full) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Tells the hub that nobody listens; waits for a place, because nothing else is to do.
    async fn say_offline(&self, stop: &CancellationToken) {
        let Some(asks) = &self.asks else { return };
        let (answer, _) = tokio::sync::oneshot::channel();
        let ask = channel::Ask {
            from: channel::Origin::Uplink(self.route),
            what: Wanted::Offline(self.route),
            answer,
        };
        tokio::select! {
            biased;
            // A hub that stops needs not know.
            () = stop.cancelled() => {}
            _ = asks.send(ask) => {}
        }
    }

    async fn dead_letter(&self, id: OutboxId, reason: Reason, why: &str) -> Result<(), Error> {
        let (gateway, boot, now) = (self.gateway.clone(), self.store.boot().to_string(), self.clock.now());
        let dropped =
            self.store.run(move |s| s.dead_letter(id, reason, now, &|d| gap(&gateway, &boot, d))).await?;
        self.metrics.uplink.dead_lettered.add(1);
        for d in dropped {
            self.metrics.store.readings_dropped.add(d.readings);
            tracing::error!(
                thing = %self.name, device = %d.device, readings = d.readings, from = %d.first, to = %d.last,
                %why,
                "a message cannot be delivered; its readings were entered in the ledger"
            );
        }
        Ok(())
    }

    fn status(&self, online: bool) -> Option<Message> {
        let topic = self.status_topic.clone()?;
        let oldest = Some(self.metrics.store.oldest_ms.get()).filter(|ms| *ms > 0);
        let status = Status {
            online,
            boot: &self.store.boot().to_string(),
            readings_waiting: self.store.tally().readings_waiting(),
            oldest: oldest.map(crate::model::time::Timestamp),
        };
        Some(Message { topic, payload: payload::status(&self.gateway, status), retain: true })
    }
}

/// Wakes when another certificate is to be presented.
async fn changed(changes: &mut Option<watch::Receiver<u64>>) {
    let gone = match changes {
        Some(changes) => changes.changed().await.is_err(),
        None => true,
    };
    if gone {
        std::future::pending::<()>().await;
    }
}

/// What `status` tells of this connection: that of the gateway in words, those of the things
/// in numbers.
struct Presence<'a> {
    metrics: &'a UplinkMetrics,
    is_thing: bool,
    is_online: bool,
}

impl Presence<'_> {
    fn new(metrics: &UplinkMetrics, route: Route) -> Presence<'_> {
        let is_thing = route != Route::GATEWAY;
        metrics.things_offline.shift(i64::from(is_thing));
        Presence { metrics, is_thing, is_online: false }
    }

    fn offline(&self, why: &str) {
        if !self.is_thing {
            let state = if why.is_empty() { "connecting".to_owned() } else { format!("offline: {why}") };
            self.metrics.state.set(state);
        }
    }

    fn online(&mut self) {
        self.metrics.connects.add(1);
        self.turn(true);
        if !self.is_thing {
            self.metrics.state.set("online");
        }
    }

    fn ended(&mut self) {
        self.metrics.disconnects.add(1);
        self.turn(false);
        if !self.is_thing {
            self.metrics.window_used.set(0);
        }
    }

    fn turn(&mut self, online: bool) {
        if self.is_thing && self.is_online != online {
            let one = if online { 1 } else { -1 };
            self.metrics.things_online.shift(one);
            self.metrics.things_offline.shift(-one);
        }
        self.is_online = online;
    }
}

impl Drop for Presence<'_> {
    fn drop(&mut self) {
        let mine = if self.is_online { &self.metrics.things_online } else { &self.metrics.things_offline };
        mine.shift(-i64::from(self.is_thing));
    }
}

fn gap(gateway: &GatewayName, boot: &str, d: &Dropped) -> Vec<u8> {
    payload::gap(gateway, &d.device, boot, d.reason.as_str(), d.readings, (d.first, d.last))
}

/// A connection that the broker closed sooner than this after it began was a short one.
const SHORT_LIFE: Duration = Duration::from_secs(5);
/// So many short ones in a row look like a client id that is in use twice.
const SHORT_LIVES: u32 = 5;
/// Pauses while a broker may be registering a new certificate, and how many of them.
const SOON: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
const SOON_TRIES: u32 = 10;
