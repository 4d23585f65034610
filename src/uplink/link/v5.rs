//! MQTT 5: the broker says why it refuses, obeys our Receive Maximum and tells us its own.

use std::sync::Arc;
use std::time::Duration;

use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, LastWill, Packet, PubAckReason, Publish, SubscribeReasonCode};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::mqtt_session::{Limits, Raw, Receipt};
use super::places::{Delivery, Places};
use super::way::Way;
use super::{INCOMING_MAX, LinkError, LinkEvent, OWN_MESSAGES, Opening, RECEIVE_MAX, reason};
use crate::config;

pub fn client(
    c: &config::Uplink,
    client_id: &str,
    login: Option<&config::Login>,
    way: &Way,
    opening: Opening,
    channel: usize,
) -> (AsyncClient, EventLoop) {
    let mut o = MqttOptions::new(client_id, way.host.clone(), way.port);
    // Without the property the session ends with the connection.
    let expiry = opening.receives.then(|| u32::try_from(c.session_expiry.as_secs()).unwrap_or(u32::MAX));
    o.set_keep_alive(c.keep_alive)
        .set_clean_start(!opening.receives)
        .set_session_expiry_interval(expiry)
        .set_manual_acks(true)
        .set_receive_maximum(Some(RECEIVE_MAX))
        .set_outgoing_inflight_upper_limit(c.window.saturating_add(OWN_MESSAGES))
        .set_max_packet_size(Some(INCOMING_MAX as u32))
        .set_connection_timeout(c.connect_timeout.as_secs().max(1))
        .set_transport(way.transport.clone());
    if let Some(will) = opening.will {
        o.set_last_will(LastWill::new(will.topic, will.payload, QoS::AtLeastOnce, will.retain, None));
    }
    if let Some(login) = login {
        o.set_credentials(login.username.clone(), login.password.clone());
    }
    o.set_network_options(super::network(c));
    AsyncClient::new(o, channel)
}

pub fn filters(filters: &[String]) -> Vec<Filter> {
    filters.iter().map(|f| Filter::new(f.clone(), QoS::AtLeastOnce)).collect()
}

/// What `try_ack` needs to know of a message.
pub fn answered(receipt: Receipt) -> Publish {
    let qos = match receipt.qos {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    };
    Publish { qos, pkid: receipt.packet_id, ..Publish::default() }
}

/// Waits for the CONNACK and returns what the broker takes.
pub async fn opened(poller: &mut EventLoop) -> Result<Limits, ConnectionError> {
    let Event::Incoming(Packet::ConnAck(ack)) = poller.poll().await? else { return Ok(Limits::default()) };
    Ok(ack.properties.map_or(Limits::default(), |p| Limits {
        packet_max: p.max_packet_size.map(|n| n as usize),
        inflight_max: p.receive_max,
    }))
}

pub async fn poll(
    mut poller: EventLoop,
    events: mpsc::Sender<Result<Raw, LinkError>>,
    places: Arc<Places>,
    watchdog: Duration,
) {
    let end = loop {
        match timeout(watchdog, poller.poll()).await {
            Ok(Ok(event)) => match translate(event, &places) {
                Ok(event) => {
                    if !super::forward(&events, event).await {
                        return;
                    }
                }
                Err(why) => break why,
            },
            Ok(Err(e)) => {
                // Acknowledgements that were read before the line broke are as good as any.
                for event in std::mem::take(&mut poller.state.events) {
                    super::forward(&events, translate(event, &places).unwrap_or_default()).await;
                }
                break reason::of_v5(&e, false);
            }
            Err(_) => break LinkError::Stuck,
        }
    };
    let _ = events.send(Err(end)).await;
}

fn translate(event: Event, places: &Places) -> Result<Option<Raw>, LinkError> {
    Ok(match event {
        Event::Outgoing(Outgoing::Publish(id)) if id != 0 => Some(Raw::Event(LinkEvent::Sent(id))),
        Event::Outgoing(Outgoing::Subscribe(id)) => Some(Raw::Subscribing(id)),
        Event::Outgoing(Outgoing::Disconnect) => Some(Raw::Event(LinkEvent::Disconnected)),
        Event::Incoming(Packet::PubAck(ack)) => Some(Raw::Event(match ack.reason {
            PubAckReason::Success | PubAckReason::NoMatchingSubscribers => LinkEvent::Acked(ack.pkid),
            refused => LinkEvent::Refused(ack.pkid, format!("{refused:?}")),
        })),
        Event::Incoming(Packet::SubAck(ack)) => {
            let refused = |code: &SubscribeReasonCode| match code {
                SubscribeReasonCode::Success(_) => None,
                why => Some(format!("the broker refused it: {why:?}")),
            };
            Some(Raw::SubAck(ack.pkid, ack.return_codes.iter().map(refused).collect()))
        }
        Event::Incoming(Packet::Publish(p)) => {
            let receipt = Receipt { packet_id: p.pkid, qos: p.qos as u8 };
            let delivery = if receipt.qos == 0 { Delivery::Loose } else { Delivery::Held };
            super::arrived(places, delivery)?.then(|| Raw::Arrived {
                // The library does not look whether it is text; what is none fits no filter.
                topic: String::from_utf8_lossy(&p.topic).into_owned(),
                payload: p.payload.to_vec(),
                delivery,
                receipt,
            })
        }
        _ => None,
    })
}
