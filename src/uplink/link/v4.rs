//! MQTT 3.1.1. A broker cannot refuse a publish; a filter it can.

use std::sync::Arc;
use std::time::Duration;

use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, LastWill, MqttOptions, Outgoing, Packet, Publish, QoS,
    SubscribeFilter, SubscribeReasonCode,
};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::mqtt_session::{Raw, Receipt};
use super::places::{Delivery, Places};
use super::way::Way;
use super::{HEADER_MAX, INCOMING_MAX, LinkError, LinkEvent, OWN_MESSAGES, Opening, reason};
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
    o.set_keep_alive(c.keep_alive)
        .set_clean_session(!opening.receives)
        .set_manual_acks(true)
        .set_inflight(c.window.saturating_add(OWN_MESSAGES))
        .set_max_packet_size(INCOMING_MAX, c.payload_max + HEADER_MAX)
        .set_transport(way.transport.clone());
    if let Some(will) = opening.will {
        o.set_last_will(LastWill::new(will.topic, will.payload, QoS::AtLeastOnce, will.retain));
    }
    if let Some(login) = login {
        o.set_credentials(login.username.clone(), login.password.clone());
    }
    let (client, mut poller) = AsyncClient::new(o, channel);
    poller.set_network_options(super::network(c));
    (client, poller)
}

pub fn filters(filters: &[String]) -> Vec<SubscribeFilter> {
    filters.iter().map(|f| SubscribeFilter::new(f.clone(), QoS::AtLeastOnce)).collect()
}

/// What `try_ack` needs to know of a message.
pub fn answered(receipt: Receipt) -> Publish {
    let mut publish = Publish::new("", qos(receipt.qos), Vec::new());
    publish.pkid = receipt.packet_id;
    publish
}

fn qos(n: u8) -> QoS {
    match n {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
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
                break reason::of_v4(&e, false);
            }
            Err(_) => break LinkError::Stuck,
        }
    };
    let _ = events.send(Err(end)).await;
}

/// Waits for the CONNACK.
pub async fn opened(poller: &mut EventLoop) -> Result<(), ConnectionError> {
    poller.poll().await.map(drop)
}

fn translate(event: Event, places: &Places) -> Result<Option<Raw>, LinkError> {
    Ok(match event {
        Event::Outgoing(Outgoing::Publish(id)) if id != 0 => Some(Raw::Event(LinkEvent::Sent(id))),
        Event::Outgoing(Outgoing::Subscribe(id)) => Some(Raw::Subscribing(id)),
        Event::Outgoing(Outgoing::Disconnect) => Some(Raw::Event(LinkEvent::Disconnected)),
        Event::Incoming(Packet::PubAck(ack)) => Some(Raw::Event(LinkEvent::Acked(ack.pkid))),
        Event::Incoming(Packet::SubAck(ack)) => {
            let refused = |code: &SubscribeReasonCode| match code {
                SubscribeReasonCode::Success(_) => None,
                SubscribeReasonCode::Failure => Some("the broker refused it without a reason".to_owned()),
            };
            Some(Raw::SubAck(ack.pkid, ack.return_codes.iter().map(refused).collect()))
        }
        Event::Incoming(Packet::Publish(p)) => {
            let receipt = Receipt { packet_id: p.pkid, qos: p.qos as u8 };
            let delivery = if receipt.qos == 0 { Delivery::Loose } else { Delivery::Held };
            super::arrived(places, delivery)?.then(|| Raw::Arrived {
                topic: p.topic,
                payload: p.payload.to_vec(),
                delivery,
                receipt,
            })
        }
        _ => None,
    })
}
