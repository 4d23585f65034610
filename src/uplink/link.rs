//! The seam to MQTT, and the only importer of rumqttc.
//!
//! Constraints, found by running rumqttc 0.25.1: it must not own the queue (a long-lived
//! event loop loses and falsely acknowledges after a lost session), so each connection gets
//! a fresh client and event loop; `poll` is not cancel-safe, so it runs in a task of its own
//! and is only ever cancelled to throw everything away; the MQTT 5 loop has no flush timeout,
//! so a watchdog around `poll` ends a connection that is stuck.
//!
//! The way of a publish: `publish` puts it into the client's channel (which is wider than the
//! window, so it never waits) → the poller sends it → `Sent(packet id)` → `Acked(packet id)`.
//!
//! The way of an arrival: the poller finds a place for it in [`Places`] → `Arrived` with a
//! token → the uplink asks the hub → `ack(token)` → PUBACK, and the place is free. The poller
//! never waits for a place, because the PUBACKs of our own publishes come by the same way and
//! a wait for the hub would hold them up. So the bound must be kept by others: an MQTT 5
//! broker obeys our Receive Maximum ([`RECEIVE_MAX`]); one of 3.1.1 has its own limit
//! (mosquitto 20, AWS IoT 100); who sends more than [`places::HELD_MAX`] loses the connection
//! and with it nothing, since what was not acknowledged comes again. QoS 0 has no limit in
//! the protocol and no promise either: beyond its places it is dropped and counted. A PUBACK
//! goes through the client's channel, which rumqttc leaves alone while its window is full; the
//! session therefore keeps its own window below what the broker takes ([`Session::inflight_max`]).

#[cfg(feature = "websocket")]
mod keys;
pub mod mqtt_session;
pub mod places;
mod reason;
mod v4;
mod v5;
mod way;
#[cfg(feature = "websocket")]
mod websocket;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use self::mqtt_session::{Client, Limits, MqttSession, Raw};
use self::places::{Delivery, Places};
use self::reason::Blame;
use self::way::{Way, Ways};
use crate::config::{self, MqttVersion, Security};
use crate::identity::files;
use crate::identity::tls;
use crate::identity::wallet::{Presented, Wallet};

/// What ended a connection, named by what the uplink does next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Back off.
    #[error("{0}")]
    Unreachable(String),
    /// Back off long; the operator has to act, or a renewal.
    #[error("TLS refused: {0}")]
    TlsRefused(String),
    #[error("the broker refused the login: {0}")]
    AuthRefused(String),
    /// Try again soon, for a while: a cloud that registers a certificate at first sight drops
    /// its first connection.
    #[error("the broker does not know the new certificate yet: {0}")]
    NotYet(String),
    /// Do not fight: whoever has the client id now keeps it for a while.
    #[error("another client took over the client id")]
    TakenOver,
    /// The broker closed the connection while it was up; maybe it choked on a message.
    #[error("the broker closed the connection: {0}")]
    HungUp(String),
    /// Nothing moved for longer than the keep-alive allows.
    #[error("the connection stands still: no acknowledgement, no answer")]
    Stuck,
    /// Back off: more came than may wait here. It comes again.
    #[error("the broker sent more than {0} messages without waiting for their acknowledgement")]
    Overrun(usize),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// The next queued publish went out under this packet id.
    Sent(u16),
    /// The broker took it.
    Acked(u16),
    /// The broker answered with a reason that is no success; only MQTT 5 can.
    Refused(u16, String),
    /// All filters were answered; those that were refused have been told before.
    Subscribed,
    /// This filter was refused, and why. The others are as good as ever.
    SubscribeRefused(String, String),
    /// A message. The broker keeps it until [`Session::ack`], which comes in this order.
    Arrived { topic: String, payload: Vec<u8>, token: Token },
    /// Our own DISCONNECT is on the wire.
    Disconnected,
}

/// Names an arrival within its connection; the k-th has the number k.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub topic: String,
    pub payload: Vec<u8>,
    pub retain: bool,
}

/// How a connection opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    pub will: Option<Message>,
    /// It will subscribe, so the broker keeps its session and what arrives while it is away.
    pub receives: bool,
}

/// Makes connections. Scripted in tests.
pub trait Link: Send + Sync + 'static {
    type Session: Session;
    /// Resolves after CONNACK.
    fn connect(&mut self, opening: Opening) -> impl Future<Output = Result<Self::Session, LinkError>> + Send;
    /// Wakes when the next connection would present something else than this one; 0: there is
    /// nothing to present. `None`: never.
    fn changes(&self) -> Option<watch::Receiver<u64>> {
        None
    }
}

/// One connection. Dropping it ends it.
pub trait Session: Send {
    /// The largest payload with its topic that the broker takes, if it said so. Bytes.
    fn packet_max(&self) -> Option<usize>;
    /// Publishes without their PUBACK that the broker takes, if it said so.
    fn inflight_max(&self) -> Option<u16> {
        None
    }
    /// Queues a QoS 1 publish. Never waits: there is room for a window and more.
    fn publish(&mut self, message: Message) -> Result<(), LinkError>;
    /// Asks for QoS 1; once per connection. At most [`FILTERS_MAX`] filters, the rest is
    /// refused here. `Subscribed` follows, also when there is none.
    fn subscribe(&mut self, filters: &[String]) -> Result<(), LinkError>;
    /// What arrived under this token is kept for ever: the broker may forget it. In the order
    /// of arrival. Never waits.
    fn ack(&mut self, token: Token) -> Result<(), LinkError>;
    /// Says goodbye; `Disconnected` follows when it is sent.
    fn disconnect(&mut self);
    /// Waits for at least one event. After an error the session is over; events that arrived
    /// before the error are delivered before it. May be cancelled: nothing is lost.
    fn events(&mut self, into: &mut Vec<LinkEvent>) -> impl Future<Output = Result<(), LinkError>> + Send;
}

/// Who connects.
#[derive(Clone, Debug)]
pub struct Identity {
    /// One per account of the broker: another client with it throws this one out.
    pub client_id: String,
    pub login: Option<config::Login>,
    pub credential: Credential,
}

/// Where the client certificate comes from. A broker without TLS asks for none.
#[derive(Clone, Debug)]
pub enum Credential {
    /// No certificate; at most a login.
    None,
    /// Read anew for each connection, so that a certificate that was exchanged on disk is
    /// picked up.
    Files(config::Tls),
    Wallet(Arc<Wallet>),
}

impl Identity {
    /// The gateway's own, by the files of `[uplink]`.
    pub fn gateway(config: &config::Uplink) -> Identity {
        let credential = match &config.security {
            Security::Tls(tls) => Credential::Files(tls.clone()),
            Security::Plain => Credential::None,
        };
        Identity { client_id: config.client_id.clone(), login: config.login.clone(), credential }
    }
}

pub struct MqttLink {
    config: Arc<config::Uplink>,
    identity: Identity,
    ways: Ways,
}

/// Why there is no connection, and what that says about what we presented.
struct Failed {
    why: LinkError,
    blame: Blame,
}

impl MqttLink {
    pub fn new(config: Arc<config::Uplink>, identity: Identity) -> MqttLink {
        MqttLink { ways: Ways::new(Arc::clone(&config)), config, identity }
    }

    async fn open(&self, way: Way, opening: Opening) -> Result<MqttSession, Failed> {
        let c = &*self.config;
        let (id, login) = (self.identity.client_id.as_str(), self.identity.login.as_ref());
        // TCP, TLS and CONNACK each have their own share; together they never take longer.
        let patience = c.connect_timeout * 2;
        // A PINGREQ goes out each keep-alive, so `poll` returns at least that often.
        let watchdog = c.keep_alive * 2 + c.connect_timeout;
        let channel = 2 * usize::from(c.window) + usize::from(OWN_MESSAGES) + places::HELD_MAX;
        let (events, received) = mpsc::channel(EVENTS_MAX);
        let places = Arc::new(Places::default());
        let (client, limits, task) = match c.protocol {
            MqttVersion::V3_1_1 => {
                let (client, mut poller) = v4::client(c, id, login, &way, opening, channel);
                match timeout(patience, v4::opened(&mut poller)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(e)) => return Err(Failed::new(reason::of_v4(&e, true), &e)),
                    Err(_) => return Err(unanswered(patience)),
                }
                let task = tokio::spawn(v4::poll(poller, events, Arc::clone(&places), watchdog));
                (Client::V4(client), Limits::default(), task)
            }
            MqttVersion::V5 => {
                let (client, mut poller) = v5::client(c, id, login, &way, opening, channel);
                let limits = match timeout(patience, v5::opened(&mut poller)).await {
                    Ok(Ok(limits)) => limits,
                    Ok(Err(e)) => return Err(Failed::new(reason::of_v5(&e, true), &e)),
                    Err(_) => return Err(unanswered(patience)),
                };
                let task = tokio::spawn(v5::poll(poller, events, Arc::clone(&places), watchdog));
                (Client::V5(client), limits, task)
            }
        };
        Ok(MqttSession::new(client, received, limits, task, places, way.holds))
    }

    /// How TLS is spoken, if at all, and what of a wallet is presented by it.
    async fn tls(&self) -> Result<(Option<Arc<ClientConfig>>, Option<(Arc<Wallet>, Presented)>), LinkError> {
        match (&self.config.security, &self.identity.credential) {
            (Security::Plain, _) => Ok((None, None)),
            (Security::Tls(tls), Credential::None) => {
                let tls = config::Tls { certificate: None, key: None, ..tls.clone() };
                let config = tls::client_config(&tls).map_err(|e| LinkError::TlsRefused(e.to_string()))?;
                Ok((Some(config), None))
            }
            (Security::Tls(_), Credential::Files(tls)) => {
                let config = tls::client_config(tls).map_err(|e| LinkError::TlsRefused(e.to_string()))?;
                Ok((Some(config), None))
            }
            (Security::Tls(_), Credential::Wallet(wallet)) => {
                let presented = on_disk(wallet, |w| w.present()).await;
                match presented.map_err(|e| LinkError::TlsRefused(e.to_string()))? {
                    None => Err(LinkError::Unreachable("there is no certificate yet".into())),
                    Some(p) => Ok((Some(Arc::clone(&p.config)), Some((Arc::clone(wallet), p)))),
                }
            }
        }
    }
}

impl Link for MqttLink {
    type Session = MqttSession;

    async fn connect(&mut self, opening: Opening) -> Result<MqttSession, LinkError> {
        let (tls, presented) = self.tls().await?;
        let opened = match self.ways.open(tls).await {
            Ok(way) => self.open(way, opening).await,
            Err(failed) => Err(failed),
        };
        let Some((wallet, presented)) = presented else { return opened.map_err(|failed| failed.why) };
        let generation = presented.generation;
        let (judged, opened) = match opened {
            Ok(session) => (on_disk(&wallet, move |w| w.accepted(generation)).await, Ok(session)),
            Err(Failed { why, blame: Blame::Nobody }) => (Ok(()), Err(why)),
            Err(Failed { why, blame }) => {
                let text = why.to_string();
                let judged = on_disk(&wallet, move |w| match blame {
                    Blame::Dropped => w.dropped(generation, &text),
                    _ => w.refused(generation, &text),
                });
                let soon = presented.is_new;
                (judged.await, Err(if soon { LinkError::NotYet(why.to_string()) } else { why }))
            }
        };
        if let Err(e) = judged {
            tracing::warn!(thing = %wallet.thing(), why = %e, "what the broker said of a certificate was not kept");
        }
        opened
    }

    fn changes(&self) -> Option<watch::Receiver<u64>> {
        match &self.identity.credential {
            Credential::None | Credential::Files(_) => None,
            Credential::Wallet(wallet) => Some(wallet.changes()),
        }
    }
}

/// Wallets live in files.
async fn on_disk<T: Send + 'static>(
    wallet: &Arc<Wallet>,
    work: impl FnOnce(&Wallet) -> Result<T, files::Error> + Send + 'static,
) -> Result<T, files::Error> {
    let wallet = Arc::clone(wallet);
    match tokio::task::spawn_blocking(move || work(&wallet)).await {
        Ok(done) => done,
        Err(e) => match e.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going down, and everything with it.
            Err(_) => std::future::pending().await,
        },
    }
}

impl Failed {
    fn new(why: LinkError, cause: &(dyn std::error::Error + 'static)) -> Failed {
        let blame = match why {
            LinkError::AuthRefused(_) => Blame::Pair,
            _ => reason::blame(cause),
        };
        Failed { why, blame }
    }

    /// Nothing that we presented is to blame.
    #[cfg(feature = "websocket")]
    fn nobodys(why: LinkError) -> Failed {
        Failed { why, blame: Blame::Nobody }
    }
}

/// Whether there is a place for one more: `false`: it is dropped.
fn arrived(places: &Places, delivery: Delivery) -> Result<bool, LinkError> {
    match (places.take(delivery), delivery) {
        (true, _) => Ok(true),
        (false, Delivery::Held) => Err(LinkError::Overrun(places::HELD_MAX)),
        (false, Delivery::Loose) => {
            tracing::debug!("a QoS 0 message was dropped: the hub is behind");
            Ok(false)
        }
    }
}

/// `false`: nobody listens any more.
async fn forward(events: &mpsc::Sender<Result<Raw, LinkError>>, event: Option<Raw>) -> bool {
    match event {
        Some(event) => events.send(Ok(event)).await.is_ok(),
        None => true,
    }
}

fn unanswered(patience: Duration) -> Failed {
    let why = LinkError::Unreachable(format!("no answer from the broker within {patience:?}"));
    Failed { why, blame: Blame::Nobody }
}

fn network(c: &config::Uplink) -> rumqttc::NetworkOptions {
    let mut network = rumqttc::NetworkOptions::new();
    network.set_tcp_nodelay(true);
    // This also bounds one slow write of the 3.1.1 loop.
    network.set_connection_timeout(c.connect_timeout.as_secs().max(1));
    network
}

/// Filters of one connection; a limit of AWS IoT.
pub const FILTERS_MAX: usize = 50;
/// And in one SUBSCRIBE packet; the same.
const FILTERS_PER_PACKET: usize = 8;
/// QoS 1 messages an MQTT 5 broker may send ahead of their acknowledgement. Below
/// [`places::HELD_MAX`], so that a broker which obeys never meets that.
pub const RECEIVE_MAX: u16 = 64;
/// Room in the client's window for the gateway's own status messages.
const OWN_MESSAGES: u16 = 16;
/// Nothing large comes down. Bytes.
const INCOMING_MAX: usize = 256 * 1024;
/// Topic and MQTT header on top of a payload. Bytes.
const HEADER_MAX: usize = 66 * 1024;
/// Events between the poller and the uplink; when full the poller waits, which is harmless:
/// the uplink takes them whatever it waits for itself.
const EVENTS_MAX: usize = 1024;
