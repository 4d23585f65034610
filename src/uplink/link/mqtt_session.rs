//! One connection of either protocol version, over what its poller tells.
//!
//! The k-th SUBSCRIBE that goes out is the k-th that was queued, as with publishes; the
//! client library says which packet id it got and never which filters are in it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::places::{Delivery, Places};
use super::{FILTERS_MAX, FILTERS_PER_PACKET, LinkError, LinkEvent, Message, Session, Token, v4, v5};

pub struct MqttSession {
    client: Client,
    events: mpsc::Receiver<Result<Raw, LinkError>>,
    limits: Limits,
    task: tokio::task::JoinHandle<()>,
    places: Arc<Places>,
    /// Filters of SUBSCRIBE packets that were not sent yet, and then by packet id: as with
    /// publishes, the k-th packet that goes out is the k-th that was queued.
    subscribing: VecDeque<Vec<String>>,
    subscribed: HashMap<u16, Vec<String>>,
    /// Refused before they were sent.
    refused: Vec<(String, String)>,
    arrived: u64,
    /// In the order of arrival.
    unacked: VecDeque<(Token, Delivery, Receipt)>,
    /// What the way to the broker needs to stay open.
    _holds: Option<Box<dyn Send + Sync>>,
}

pub(super) enum Client {
    V4(rumqttc::AsyncClient),
    V5(rumqttc::v5::AsyncClient),
}

/// What a broker said of itself.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Limits {
    pub packet_max: Option<usize>,
    pub inflight_max: Option<u16>,
}

/// What the poller tells.
#[derive(Debug)]
pub(super) enum Raw {
    Event(LinkEvent),
    /// A SUBSCRIBE went out under this packet id.
    Subscribing(u16),
    /// For each of its filters why it was refused, or nothing.
    SubAck(u16, Vec<Option<String>>),
    Arrived {
        topic: String,
        payload: Vec<u8>,
        delivery: Delivery,
        receipt: Receipt,
    },
}

/// What an acknowledgement has to name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Receipt {
    pub packet_id: u16,
    pub qos: u8,
}

impl Drop for MqttSession {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Session for MqttSession {
    fn packet_max(&self) -> Option<usize> {
        self.limits.packet_max
    }

    fn inflight_max(&self) -> Option<u16> {
        self.limits.inflight_max
    }

    fn publish(&mut self, m: Message) -> Result<(), LinkError> {
        use rumqttc::{QoS, v5::mqttbytes::QoS as QoS5};
        match &self.client {
            Client::V4(c) => c.try_publish(m.topic, QoS::AtLeastOnce, m.retain, m.payload).map_err(full),
            Client::V5(c) => c.try_publish(m.topic, QoS5::AtLeastOnce, m.retain, m.payload).map_err(full),
        }
    }

    fn subscribe(&mut self, filters: &[String]) -> Result<(), LinkError> {
        let (taken, rest) = filters.split_at(filters.len().min(FILTERS_MAX));
        let why = format!("a connection has at most {FILTERS_MAX} filters");
        self.refused.extend(rest.iter().map(|filter| (filter.clone(), why.clone())));
        for packet in taken.chunks(FILTERS_PER_PACKET) {
            match &self.client {
                Client::V4(c) => c.try_subscribe_many(v4::filters(packet)).map_err(full)?,
                Client::V5(c) => c.try_subscribe_many(v5::filters(packet)).map_err(full)?,
            }
            self.subscribing.push_back(packet.to_vec());
        }
        Ok(())
    }

    fn ack(&mut self, token: Token) -> Result<(), LinkError> {
        let Some(at) = self.unacked.iter().position(|(t, ..)| *t == token) else { return Ok(()) };
        let Some((_, delivery, receipt)) = self.unacked.remove(at) else { return Ok(()) };
        // The library does nothing for QoS 0.
        match &self.client {
            Client::V4(c) => c.try_ack(&v4::answered(receipt)).map_err(full)?,
            Client::V5(c) => c.try_ack(&v5::answered(receipt)).map_err(full)?,
        }
        self.places.give_back(delivery);
        Ok(())
    }

    fn disconnect(&mut self) {
        // Without room for it the connection just ends: the last will then tells.
        let _ = match &self.client {
            Client::V4(c) => c.try_disconnect().map_err(drop),
            Client::V5(c) => c.try_disconnect().map_err(drop),
        };
    }

    async fn events(&mut self, into: &mut Vec<LinkEvent>) -> Result<(), LinkError> {
        loop {
            match self.events.recv().await {
                Some(Ok(raw)) => self.translate(raw, into),
                // Delivered alone, behind everything that came before it.
                Some(Err(e)) => return Err(e),
                None => return Err(LinkError::Stuck),
            }
            loop {
                match self.events.try_recv() {
                    Ok(Ok(raw)) => self.translate(raw, into),
                    Ok(Err(e)) if into.is_empty() => return Err(e),
                    Ok(Err(e)) => {
                        self.events.close();
                        let (last, events) = mpsc::channel(1);
                        let _ = last.try_send(Err(e));
                        self.events = events;
                        return Ok(());
                    }
                    Err(_) => break,
                }
            }
            if !into.is_empty() {
                return Ok(());
            }
        }
    }
}

impl MqttSession {
    pub(super) fn new(
        client: Client,
        events: mpsc::Receiver<Result<Raw, LinkError>>,
        limits: Limits,
        task: tokio::task::JoinHandle<()>,
        places: Arc<Places>,
        holds: Option<Box<dyn Send + Sync>>,
    ) -> MqttSession {
        MqttSession {
            client,
            events,
            limits,
            task,
            places,
            subscribing: VecDeque::new(),
            subscribed: HashMap::new(),
            refused: Vec::new(),
            arrived: 0,
            unacked: VecDeque::new(),
            _holds: holds,
        }
    }

    fn translate(&mut self, raw: Raw, into: &mut Vec<LinkEvent>) {
        match raw {
            Raw::Event(event) => into.push(event),
            Raw::Subscribing(packet_id) => {
                let filters = self.subscribing.pop_front().unwrap_or_default();
                self.subscribed.insert(packet_id, filters);
            }
            Raw::SubAck(packet_id, answers) => {
                let filters = self.subscribed.remove(&packet_id).unwrap_or_default();
                let refused = filters.into_iter().zip(answers).filter_map(|(f, why)| Some((f, why?)));
                into.extend(
                    self.refused.drain(..).chain(refused).map(|(f, why)| LinkEvent::SubscribeRefused(f, why)),
                );
                if self.subscribing.is_empty() && self.subscribed.is_empty() {
                    into.push(LinkEvent::Subscribed);
                }
            }
            Raw::Arrived { topic, payload, delivery, receipt } => {
                self.arrived += 1;
                let token = Token(self.arrived);
                self.unacked.push_back((token, delivery, receipt));
                into.push(LinkEvent::Arrived { topic, payload, token });
            }
        }
    }
}

fn full(e: impl std::fmt::Display) -> LinkError {
    LinkError::HungUp(format!("the client takes no more: {e}"))
}
