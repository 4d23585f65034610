//! The seam to MQTT, and the only importer of rumqttc.
//!
//! Constraints, found by running rumqttc 0.25.1: it must not own the queue (a long-lived
//! event loop loses and falsely acknowledges after a lost session), so each connection gets
//! a fresh client and event loop, also when the broker kept our session; `poll` is not
//! cancel-safe, so it runs in a task of its own and is only ever cancelled to throw everything
//! away; the MQTT 5 loop has no flush timeout, so a watchdog around `poll` ends a connection
//! that is stuck.
//!
//! The way of a publish: `publish` puts it into the client's channel (which is wider than the
//! window, so it never waits) → the poller sends it → `Sent(packet id)` → `Acked(packet id)`.
//!
//! The way of an arrival: `subscribe` → the poller reads it, counts it into the `intake` and
//! hands it on → `Arrived` → whoever wants it → `ack(token)` → PUBACK, through the same channel
//! as the publishes. Nothing waits for the acknowledgement: the poller reads on, so our own
//! PUBACKs never stand behind an arrival. What keeps the intake bounded is said in `intake`.

mod intake;
#[cfg(feature = "websocket")]
mod keys;
mod poll;
mod reason;
#[cfg(feature = "websocket")]
mod websocket;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use rumqttc::{Transport, v5};
use rustls::ClientConfig;
use tokio::sync::mpsc;
use tokio::time::timeout;

use self::intake::{ARRIVALS_MAX, Intake};
use self::poll::{Filters, Told};
use crate::config::{self, MqttVersion, Security};
use crate::identity::tls;

/// What ended a connection, named by what the uplink does next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Back off.
    #[error("{0}")]
    Unreachable(String),
    /// Back off long; the operator has to act (or a renewal).
    #[error("TLS refused: {0}")]
    TlsRefused(String),
    #[error("the broker refused the login: {0}")]
    AuthRefused(String),
    /// Do not fight: whoever has the client id now keeps it for a while.
    #[error("another client took over the client id")]
    TakenOver,
    /// The broker closed the connection while it was up; maybe it choked on a message.
    #[error("the broker closed the connection: {0}")]
    HungUp(String),
    /// Nothing moved for longer than the keep-alive allows.
    #[error("the connection stands still: no acknowledgement, no answer")]
    Stuck,
    /// Connect again at once: the broker sent more than was acknowledged, and sends the rest
    /// on the next connection.
    #[error("more messages arrived than are taken at one time")]
    Overrun,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// The next queued publish went out under this packet id.
    Sent(u16),
    /// The broker took it.
    Acked(u16),
    /// The broker answered with a reason that is no success; only MQTT 5 can.
    Refused(u16, String),
    /// The broker answered to one SUBSCRIBE: so many filters of it hold, these do not, and why.
    Subscribed { held: usize, refused: Vec<(String, String)> },
    /// A message for us. It counts against the intake until its token comes back by
    /// [`Session::ack`], in the order of arrival.
    Arrived { topic: String, payload: Vec<u8>, token: Token },
    /// The broker answered a ping: all that was sent before has been read by it.
    Alive,
    /// Our own DISCONNECT is on the wire.
    Disconnected,
}

/// What an arrival is acknowledged by. Worth nothing on another connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// 0: QoS 0, the broker expects nothing.
    pub packet_id: u16,
    /// What it takes of the intake.
    pub bytes: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub topic: String,
    pub payload: Vec<u8>,
    pub retain: bool,
}

/// How a connection is to begin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    pub will: Option<Message>,
    /// The broker is to keep what arrives for us while we are away, for
    /// `uplink.session_expiry`. Only worth it with subscriptions.
    pub persistent: bool,
    /// Publishes without their PUBACK at one time.
    pub window: u16,
}

/// Who a connection is.
#[derive(Clone)]
pub struct Identity {
    pub client_id: String,
    pub credential: Credential,
}

/// What a connection shows for it.
#[derive(Clone)]
pub enum Credential {
    /// What stands in `[uplink]`; read anew for each connection, so that a certificate that was
    /// exchanged on disk is picked up.
    Config,
    /// This one, without a user name.
    Tls(Arc<ClientConfig>),
}

/// Makes connections. Scripted in tests.
pub trait Link: Send + Sync + 'static {
    type Session: Session;
    /// Resolves after CONNACK.
    fn connect(&mut self, opening: Opening) -> impl Future<Output = Result<Self::Session, LinkError>> + Send;
}

/// One connection. Dropping it ends it.
pub trait Session: Send {
    /// The largest payload with its topic that the broker takes, if it said so. Bytes.
    fn packet_max(&self) -> Option<usize>;
    /// Queues a QoS 1 publish. Never waits: there is room for a window and more.
    fn publish(&mut self, message: Message) -> Result<(), LinkError>;
    /// Queues SUBSCRIBEs of at most 8 filters each, QoS 1, and returns how many answers
    /// ([`LinkEvent::Subscribed`]) will follow. A filter that is refused, by us or by the
    /// broker, is told there and ends nothing. At most 50 filters a connection.
    fn subscribe(&mut self, filters: &[String]) -> Result<usize, LinkError>;
    /// Queues the PUBACK of an arrival. To be called in the order of arrival.
    fn ack(&mut self, token: Token) -> Result<(), LinkError>;
    /// Says goodbye; `Disconnected` follows when it is sent.
    fn disconnect(&mut self);
    /// Waits for at least one event. After an error the session is over; events that arrived
    /// before the error are delivered before it. May be dropped while it waits.
    fn events(&mut self, into: &mut Vec<LinkEvent>) -> impl Future<Output = Result<(), LinkError>> + Send;
}

pub struct MqttLink {
    config: Arc<config::Uplink>,
    identity: Identity,
    /// What signs the URL, if it is signed.
    #[cfg(feature = "websocket")]
    keys: Option<keys::Keyring>,
}

/// What the client dials, and what has to live as long as its connection.
struct Way {
    host: String,
    port: u16,
    transport: Transport,
    #[cfg(feature = "websocket")]
    bridge: Option<websocket::Bridge>,
}

impl MqttLink {
    pub fn new(config: Arc<config::Uplink>, identity: Identity) -> MqttLink {
        #[cfg(feature = "websocket")]
        let keys = {
            let sigv4 = config.websocket.as_ref().and_then(|w| w.sigv4.as_ref());
            sigv4.map(|s| keys::Keyring::new(s.source.clone()))
        };
        MqttLink {
            config,
            identity,
            #[cfg(feature = "websocket")]
            keys,
        }
    }

    /// The gateway's own connection, as `[uplink]` describes it.
    pub fn gateway(config: Arc<config::Uplink>) -> MqttLink {
        let identity = Identity { client_id: config.client_id.clone(), credential: Credential::Config };
        MqttLink::new(config, identity)
    }

    /// `None`: without TLS.
    fn tls(&self) -> Result<Option<Arc<ClientConfig>>, LinkError> {
        Ok(Some(match (&self.config.security, &self.identity.credential) {
            (Security::Plain, _) => return Ok(None),
            (Security::Tls(_), Credential::Tls(config)) => Arc::clone(config),
            (Security::Tls(tls), Credential::Config) => {
                tls::client_config(tls).map_err(|e| LinkError::TlsRefused(e.to_string()))?
            }
        }))
    }

    async fn way(&mut self) -> Result<Way, LinkError> {
        let tls = self.tls()?;
        #[cfg(feature = "websocket")]
        if self.config.websocket.is_some() {
            return self.websocket(tls).await;
        }
        let transport = match tls {
            None => Transport::Tcp,
            Some(tls) => Transport::tls_with_config(rumqttc::TlsConfiguration::Rustls(tls)),
        };
        Ok(Way {
            host: self.config.host.clone(),
            port: self.config.port,
            transport,
            #[cfg(feature = "websocket")]
            bridge: None,
        })
    }

    /// Opens the WebSocket, signed if there are keys; the client dials its near end.
    #[cfg(feature = "websocket")]
    async fn websocket(&mut self, tls: Option<Arc<ClientConfig>>) -> Result<Way, LinkError> {
        let c = Arc::clone(&self.config);
        let patience = c.connect_timeout;
        let url = keys::url(&c, self.keys.as_mut()).await?;
        let server_name = match &c.security {
            Security::Tls(tls) => tls.server_name.as_str(),
            Security::Plain => c.host.as_str(),
        };
        let opened = websocket::open(&c.host, c.port, server_name, tls, &url);
        let bridge = timeout(patience, opened).await.map_err(|_| unanswered(patience))??;
        let host = bridge.place.to_string_lossy().into_owned();
        Ok(Way { host, port: c.port, transport: Transport::Unix, bridge: Some(bridge) })
    }

    /// A user name belongs to the gateway; who has a certificate of its own needs none.
    fn login(&self) -> Option<&config::Login> {
        self.config.login.as_ref().filter(|_| matches!(self.identity.credential, Credential::Config))
    }

    fn v4(&self, way: &Way, opening: Opening) -> (rumqttc::AsyncClient, rumqttc::EventLoop) {
        let c = &*self.config;
        let mut o = rumqttc::MqttOptions::new(self.identity.client_id.clone(), way.host.clone(), way.port);
        o.set_keep_alive(c.keep_alive)
            .set_clean_session(!opening.persistent)
            .set_manual_acks(true)
            .set_inflight(opening.window.saturating_add(OWN_MESSAGES))
            .set_max_packet_size(INCOMING_MAX, c.payload_max + HEADER_MAX)
            .set_transport(way.transport.clone());
        if let Some(will) = opening.will {
            let (qos, retain) = (rumqttc::QoS::AtLeastOnce, will.retain);
            o.set_last_will(rumqttc::LastWill::new(will.topic, will.payload, qos, retain));
        }
        if let Some(login) = self.login() {
            o.set_credentials(login.username.clone(), login.password.clone());
        }
        let (client, mut poller) = rumqttc::AsyncClient::new(o, requests(opening.window));
        poller.set_network_options(self.network());
        (client, poller)
    }

    fn v5(&self, way: &Way, opening: Opening) -> (v5::AsyncClient, v5::EventLoop) {
        use v5::mqttbytes::{QoS, v5::LastWill};
        let c = &*self.config;
        let mut o = v5::MqttOptions::new(self.identity.client_id.clone(), way.host.clone(), way.port);
        o.set_keep_alive(c.keep_alive)
            .set_clean_start(!opening.persistent)
            .set_manual_acks(true)
            .set_outgoing_inflight_upper_limit(opening.window.saturating_add(OWN_MESSAGES))
            .set_max_packet_size(Some(INCOMING_MAX as u32))
            .set_receive_maximum(Some(ARRIVALS_MAX as u16))
            .set_connection_timeout(c.connect_timeout.as_secs().max(1))
            .set_transport(way.transport.clone());
        if opening.persistent {
            let seconds = u32::try_from(c.session_expiry.as_secs()).unwrap_or(u32::MAX);
            o.set_session_expiry_interval(Some(seconds));
        }
        o.set_network_options(self.network());
        if let Some(will) = opening.will {
            let (qos, retain) = (QoS::AtLeastOnce, will.retain);
            o.set_last_will(LastWill::new(will.topic, will.payload, qos, retain, None));
        }
        if let Some(login) = self.login() {
            o.set_credentials(login.username.clone(), login.password.clone());
        }
        v5::AsyncClient::new(o, requests(opening.window))
    }

    fn network(&self) -> rumqttc::NetworkOptions {
        let mut network = rumqttc::NetworkOptions::new();
        network.set_tcp_nodelay(true);
        // This also bounds one slow write of the 3.1.1 loop.
        network.set_connection_timeout(self.config.connect_timeout.as_secs().max(1));
        network
    }

    /// A PINGREQ goes out each keep-alive, so `poll` returns at least that often.
    fn watchdog(&self) -> Duration {
        self.config.keep_alive * 2 + self.config.connect_timeout
    }
}

impl Link for MqttLink {
    type Session = MqttSession;

    async fn connect(&mut self, opening: Opening) -> Result<MqttSession, LinkError> {
        // TCP, TLS and CONNACK each have their own share; together they never take longer.
        let patience = self.config.connect_timeout * 2;
        let way = self.way().await?;
        let (events, told) = mpsc::channel(EVENTS_MAX);
        let (watchdog, intake) = (self.watchdog(), Arc::new(Intake::default()));
        let (client, packet_max, task) = match self.config.protocol {
            MqttVersion::V3_1_1 => {
                let (client, mut poller) = self.v4(&way, opening);
                match timeout(patience, poller.poll()).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(e)) => return Err(reason::of_v4(&e, true)),
                    Err(_) => return Err(unanswered(patience)),
                }
                let task = tokio::spawn(poll::v4(poller, events, Arc::clone(&intake), watchdog));
                (Client::V4(client), None, task)
            }
            MqttVersion::V5 => {
                let (client, mut poller) = self.v5(&way, opening);
                let packet_max = match timeout(patience, poller.poll()).await {
                    Ok(Ok(v5::Event::Incoming(v5::Incoming::ConnAck(ack)))) => {
                        ack.properties.and_then(|p| p.max_packet_size)
                    }
                    Ok(Ok(_)) => None,
                    Ok(Err(e)) => return Err(reason::of_v5(&e, true)),
                    Err(_) => return Err(unanswered(patience)),
                };
                let task = tokio::spawn(poll::v5(poller, events, Arc::clone(&intake), watchdog));
                (Client::V5(client), packet_max.map(|n| n as usize), task)
            }
        };
        Ok(MqttSession {
            client,
            told,
            packet_max,
            intake,
            filters: Filters::default(),
            task,
            #[cfg(feature = "websocket")]
            _bridge: way.bridge,
        })
    }
}

pub struct MqttSession {
    client: Client,
    told: mpsc::Receiver<Result<Told, LinkError>>,
    packet_max: Option<usize>,
    intake: Arc<Intake>,
    filters: Filters,
    task: tokio::task::JoinHandle<()>,
    #[cfg(feature = "websocket")]
    _bridge: Option<websocket::Bridge>,
}

enum Client {
    V4(rumqttc::AsyncClient),
    V5(v5::AsyncClient),
}

impl Drop for MqttSession {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// There is room for whatever may be queued at one time; that there is none is a broken
/// promise, and another connection mends it.
fn full(e: impl std::fmt::Display) -> LinkError {
    LinkError::HungUp(format!("the client takes no more: {e}"))
}

impl Session for MqttSession {
    fn packet_max(&self) -> Option<usize> {
        self.packet_max
    }

    fn publish(&mut self, m: Message) -> Result<(), LinkError> {
        match &self.client {
            Client::V4(c) => {
                c.try_publish(m.topic, rumqttc::QoS::AtLeastOnce, m.retain, m.payload).map_err(full)
            }
            Client::V5(c) => {
                c.try_publish(m.topic, v5::mqttbytes::QoS::AtLeastOnce, m.retain, m.payload).map_err(full)
            }
        }
    }

    fn subscribe(&mut self, filters: &[String]) -> Result<usize, LinkError> {
        let (packets, refused) = self.filters.split(filters);
        let answers = packets.len() + usize::from(!refused.is_empty());
        if !refused.is_empty() {
            self.filters.refuse(refused);
        }
        for packet in packets {
            match &self.client {
                Client::V4(c) => {
                    let filter =
                        |f: &String| rumqttc::SubscribeFilter::new(f.clone(), rumqttc::QoS::AtLeastOnce);
                    c.try_subscribe_many(packet.iter().map(filter)).map_err(full)?;
                }
                Client::V5(c) => {
                    use v5::mqttbytes::{QoS, v5::Filter};
                    let filter = |f: &String| Filter::new(f.clone(), QoS::AtLeastOnce);
                    c.try_subscribe_many(packet.iter().map(filter)).map_err(full)?;
                }
            }
            self.filters.queue(packet);
        }
        Ok(answers)
    }

    fn ack(&mut self, token: Token) -> Result<(), LinkError> {
        self.intake.give_back(token.bytes, token.packet_id != 0);
        if token.packet_id == 0 {
            return Ok(());
        }
        // Only the packet id of it is looked at.
        match &self.client {
            Client::V4(c) => {
                let mut of = rumqttc::Publish::new("", rumqttc::QoS::AtLeastOnce, Vec::new());
                of.pkid = token.packet_id;
                c.try_ack(&of).map_err(full)
            }
            Client::V5(c) => {
                use v5::mqttbytes::{QoS, v5::Publish};
                let mut of = Publish::new("", QoS::AtLeastOnce, Vec::new(), None);
                of.pkid = token.packet_id;
                c.try_ack(&of).map_err(full)
            }
        }
    }

    fn disconnect(&mut self) {
        // Without room for it the connection just ends: the last will then tells.
        let _ = match &self.client {
            Client::V4(c) => c.try_disconnect().map_err(drop),
            Client::V5(c) => c.try_disconnect().map_err(drop),
        };
    }

    async fn events(&mut self, into: &mut Vec<LinkEvent>) -> Result<(), LinkError> {
        if let Some(event) = self.filters.told() {
            into.push(event);
            return Ok(());
        }
        while into.is_empty() {
            let mut next = self.told.recv().await;
            loop {
                match next {
                    Some(Ok(told)) => into.extend(self.filters.event(told)),
                    // Delivered alone, behind everything that came before it.
                    Some(Err(e)) if into.is_empty() => return Err(e),
                    Some(Err(e)) => {
                        self.told.close();
                        let (last, told) = mpsc::channel(1);
                        let _ = last.try_send(Err(e));
                        self.told = told;
                        return Ok(());
                    }
                    None if into.is_empty() => return Err(LinkError::Stuck),
                    None => return Ok(()),
                }
                match self.told.try_recv() {
                    Ok(told) => next = Some(told),
                    Err(_) => break,
                }
            }
        }
        Ok(())
    }
}

fn unanswered(patience: Duration) -> LinkError {
    LinkError::Unreachable(format!("no answer from the broker within {patience:?}"))
}

/// Requests to the client that may wait: whatever the window, the intake and the subscriptions
/// can make at one time. The room is only taken when it is used.
fn requests(window: u16) -> usize {
    2 * usize::from(window) + ARRIVALS_MAX + 64
}

/// Room in the client's window for the gateway's own status messages. It never fills, so the
/// client never stops taking acknowledgements of arrivals from its channel.
const OWN_MESSAGES: u16 = 16;
/// Largest message that may come down. Bytes.
const INCOMING_MAX: usize = 256 * 1024;
/// Topic and MQTT header on top of a payload. Bytes.
const HEADER_MAX: usize = 66 * 1024;
/// Events between the poller and the uplink; when full the poller waits, which is harmless.
const EVENTS_MAX: usize = 1024;
