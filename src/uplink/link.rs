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

mod reason;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use rumqttc::{Transport, v5};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::config::{self, MqttVersion, Security};
use crate::identity::tls;

/// What ended a connection, named by what the uplink does next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Back off.
    #[error("{0}")]
    Unreachable(String),
    /// Back off long; the operator has to act (or, later, a renewal).
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
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// The next queued publish went out under this packet id.
    Sent(u16),
    /// The broker took it.
    Acked(u16),
    /// The broker answered with a reason that is no success; only MQTT 5 can.
    Refused(u16, String),
    /// Our own DISCONNECT is on the wire.
    Disconnected,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub topic: String,
    pub payload: Vec<u8>,
    pub retain: bool,
}

/// Makes connections. Scripted in tests.
pub trait Link: Send + Sync + 'static {
    type Session: Session;
    /// Resolves after CONNACK.
    fn connect(&mut self, will: Message) -> impl Future<Output = Result<Self::Session, LinkError>> + Send;
}

/// One connection. Dropping it ends it.
pub trait Session: Send {
    /// The largest payload with its topic that the broker takes, if it said so. Bytes.
    fn packet_max(&self) -> Option<usize>;
    /// Queues a QoS 1 publish. Never waits: there is room for a window and more.
    fn publish(&mut self, message: Message) -> Result<(), LinkError>;
    /// Says goodbye; `Disconnected` follows when it is sent.
    fn disconnect(&mut self);
    /// Waits for at least one event. After an error the session is over; events that arrived
    /// before the error are delivered before it.
    fn events(&mut self, into: &mut Vec<LinkEvent>) -> impl Future<Output = Result<(), LinkError>> + Send;
}

pub struct MqttLink {
    config: Arc<config::Uplink>,
}

impl MqttLink {
    pub fn new(config: Arc<config::Uplink>) -> MqttLink {
        MqttLink { config }
    }

    fn transport(&self) -> Result<Transport, LinkError> {
        match &self.config.security {
            Security::Plain => Ok(Transport::Tcp),
            // Read anew for each connection, so that a certificate that was exchanged on disk
            // is picked up.
            Security::Tls(tls) => {
                let config = tls::client_config(tls).map_err(|e| LinkError::TlsRefused(e.to_string()))?;
                Ok(Transport::tls_with_config(rumqttc::TlsConfiguration::Rustls(config)))
            }
        }
    }

    fn v4(&self, will: Message) -> Result<(rumqttc::AsyncClient, rumqttc::EventLoop), LinkError> {
        let c = &*self.config;
        let mut o = rumqttc::MqttOptions::new(c.client_id.clone(), c.host.clone(), c.port);
        o.set_keep_alive(c.keep_alive)
            .set_clean_session(true)
            .set_inflight(c.window.saturating_add(OWN_MESSAGES))
            .set_max_packet_size(INCOMING_MAX, c.payload_max + HEADER_MAX)
            .set_last_will(rumqttc::LastWill::new(will.topic, will.payload, rumqttc::QoS::AtLeastOnce, true))
            .set_transport(self.transport()?);
        if let Some(login) = &c.login {
            o.set_credentials(login.username.clone(), login.password.clone());
        }
        let (client, mut poller) = rumqttc::AsyncClient::new(o, self.channel());
        poller.set_network_options(self.network());
        Ok((client, poller))
    }

    fn v5(&self, will: Message) -> Result<(v5::AsyncClient, v5::EventLoop), LinkError> {
        use v5::mqttbytes::{QoS, v5::LastWill};
        let c = &*self.config;
        let mut o = v5::MqttOptions::new(c.client_id.clone(), c.host.clone(), c.port);
        o.set_keep_alive(c.keep_alive)
            .set_clean_start(true)
            .set_outgoing_inflight_upper_limit(c.window.saturating_add(OWN_MESSAGES))
            .set_max_packet_size(Some(INCOMING_MAX as u32))
            .set_last_will(LastWill::new(will.topic, will.payload, QoS::AtLeastOnce, true, None))
            .set_connection_timeout(c.connect_timeout.as_secs().max(1))
            .set_transport(self.transport()?);
        o.set_network_options(self.network());
        if let Some(login) = &c.login {
            o.set_credentials(login.username.clone(), login.password.clone());
        }
        Ok(v5::AsyncClient::new(o, self.channel()))
    }

    fn network(&self) -> rumqttc::NetworkOptions {
        let mut network = rumqttc::NetworkOptions::new();
        network.set_tcp_nodelay(true);
        // This also bounds one slow write of the 3.1.1 loop.
        network.set_connection_timeout(self.config.connect_timeout.as_secs().max(1));
        network
    }

    fn channel(&self) -> usize {
        2 * usize::from(self.config.window) + 64
    }

    /// A PINGREQ goes out each keep-alive, so `poll` returns at least that often.
    fn watchdog(&self) -> Duration {
        self.config.keep_alive * 2 + self.config.connect_timeout
    }
}

impl Link for MqttLink {
    type Session = MqttSession;

    async fn connect(&mut self, will: Message) -> Result<MqttSession, LinkError> {
        // TCP, TLS and CONNACK each have their own share; together they never take longer.
        let patience = self.config.connect_timeout * 2;
        let (events, received) = mpsc::channel(EVENTS_MAX);
        let watchdog = self.watchdog();
        match self.config.protocol {
            MqttVersion::V3_1_1 => {
                let (client, mut poller) = self.v4(will)?;
                match timeout(patience, poller.poll()).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(e)) => return Err(reason::of_v4(&e, true)),
                    Err(_) => return Err(unanswered(patience)),
                }
                let task = tokio::spawn(poll_v4(poller, events, watchdog));
                Ok(MqttSession { client: Client::V4(client), events: received, packet_max: None, task })
            }
            MqttVersion::V5 => {
                let (client, mut poller) = self.v5(will)?;
                let packet_max = match timeout(patience, poller.poll()).await {
                    Ok(Ok(v5::Event::Incoming(v5::Incoming::ConnAck(ack)))) => {
                        ack.properties.and_then(|p| p.max_packet_size)
                    }
                    Ok(Ok(_)) => None,
                    Ok(Err(e)) => return Err(reason::of_v5(&e, true)),
                    Err(_) => return Err(unanswered(patience)),
                };
                let task = tokio::spawn(poll_v5(poller, events, watchdog));
                let packet_max = packet_max.map(|n| n as usize);
                Ok(MqttSession { client: Client::V5(client), events: received, packet_max, task })
            }
        }
    }
}

pub struct MqttSession {
    client: Client,
    events: mpsc::Receiver<Result<LinkEvent, LinkError>>,
    packet_max: Option<usize>,
    task: tokio::task::JoinHandle<()>,
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

impl Session for MqttSession {
    fn packet_max(&self) -> Option<usize> {
        self.packet_max
    }

    fn publish(&mut self, m: Message) -> Result<(), LinkError> {
        let full = |e: &dyn std::fmt::Display| LinkError::HungUp(format!("the client takes no more: {e}"));
        match &self.client {
            Client::V4(c) => {
                c.try_publish(m.topic, rumqttc::QoS::AtLeastOnce, m.retain, m.payload).map_err(|e| full(&e))
            }
            Client::V5(c) => c
                .try_publish(m.topic, v5::mqttbytes::QoS::AtLeastOnce, m.retain, m.payload)
                .map_err(|e| full(&e)),
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
        let mut next = self.events.recv().await;
        loop {
            match next {
                Some(Ok(event)) => into.push(event),
                // Delivered alone, behind everything that came before it.
                Some(Err(e)) if into.is_empty() => return Err(e),
                Some(Err(e)) => {
                    self.events.close();
                    let (last, events) = mpsc::channel(1);
                    let _ = last.try_send(Err(e));
                    self.events = events;
                    return Ok(());
                }
                None if into.is_empty() => return Err(LinkError::Stuck),
                None => return Ok(()),
            }
            match self.events.try_recv() {
                Ok(event) => next = Some(event),
                Err(_) => return Ok(()),
            }
        }
    }
}

async fn poll_v4(
    mut poller: rumqttc::EventLoop,
    events: mpsc::Sender<Result<LinkEvent, LinkError>>,
    watchdog: Duration,
) {
    use rumqttc::{Event, Outgoing, Packet};
    let translate = |event| match event {
        Event::Outgoing(Outgoing::Publish(id)) if id != 0 => Some(LinkEvent::Sent(id)),
        Event::Outgoing(Outgoing::Disconnect) => Some(LinkEvent::Disconnected),
        Event::Incoming(Packet::PubAck(ack)) => Some(LinkEvent::Acked(ack.pkid)),
        _ => None,
    };
    let end = loop {
        match timeout(watchdog, poller.poll()).await {
            Ok(Ok(event)) => {
                if !forward(&events, translate(event)).await {
                    return;
                }
            }
            Ok(Err(e)) => {
                // Acknowledgements that were read before the line broke are as good as any.
                for event in std::mem::take(&mut poller.state.events) {
                    forward(&events, translate(event)).await;
                }
                break reason::of_v4(&e, false);
            }
            Err(_) => break LinkError::Stuck,
        }
    };
    let _ = events.send(Err(end)).await;
}

async fn poll_v5(
    mut poller: v5::EventLoop,
    events: mpsc::Sender<Result<LinkEvent, LinkError>>,
    watchdog: Duration,
) {
    use rumqttc::Outgoing;
    use v5::Event;
    use v5::mqttbytes::v5::{Packet, PubAckReason};
    let translate = |event| match event {
        Event::Outgoing(Outgoing::Publish(id)) if id != 0 => Some(LinkEvent::Sent(id)),
        Event::Outgoing(Outgoing::Disconnect) => Some(LinkEvent::Disconnected),
        Event::Incoming(Packet::PubAck(ack)) => Some(match ack.reason {
            PubAckReason::Success | PubAckReason::NoMatchingSubscribers => LinkEvent::Acked(ack.pkid),
            refused => LinkEvent::Refused(ack.pkid, format!("{refused:?}")),
        }),
        _ => None,
    };
    let end = loop {
        match timeout(watchdog, poller.poll()).await {
            Ok(Ok(event)) => {
                if !forward(&events, translate(event)).await {
                    return;
                }
            }
            Ok(Err(e)) => {
                for event in std::mem::take(&mut poller.state.events) {
                    forward(&events, translate(event)).await;
                }
                break reason::of_v5(&e, false);
            }
            Err(_) => break LinkError::Stuck,
        }
    };
    let _ = events.send(Err(end)).await;
}

/// `false`: nobody listens any more.
async fn forward(events: &mpsc::Sender<Result<LinkEvent, LinkError>>, event: Option<LinkEvent>) -> bool {
    match event {
        Some(event) => events.send(Ok(event)).await.is_ok(),
        None => true,
    }
}

fn unanswered(patience: Duration) -> LinkError {
    LinkError::Unreachable(format!("no answer from the broker within {patience:?}"))
}

/// Room in the client's window for the gateway's own status messages.
const OWN_MESSAGES: u16 = 16;
/// Nothing large comes down. Bytes.
const INCOMING_MAX: usize = 256 * 1024;
/// Topic and MQTT header on top of a payload. Bytes.
const HEADER_MAX: usize = 66 * 1024;
/// Events between the poller and the uplink; when full the poller waits, which is harmless.
const EVENTS_MAX: usize = 1024;
