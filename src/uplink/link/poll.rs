//! The tasks that poll the client library, and what its packet ids mean.
//!
//! The way of an event: `poll` → [`Told`] → the session's channel → [`Filters::event`], which
//! knows what was subscribed → [`LinkEvent`].

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::intake::Intake;
use super::{LinkError, LinkEvent, Token, reason};

/// What a poller says.
pub enum Told {
    Event(LinkEvent),
    /// The next queued SUBSCRIBE went out under this packet id.
    Subscribing(u16),
    /// The answers to its filters, in their order; `None`: it holds.
    Subscribed(u16, Vec<Option<String>>),
}

type Events = mpsc::Sender<Result<Told, LinkError>>;

pub async fn v4(mut poller: rumqttc::EventLoop, events: Events, intake: Arc<Intake>, watchdog: Duration) {
    use rumqttc::{Event, Outgoing, Packet, QoS, SubscribeReasonCode as Code};
    let translate = |event| match event {
        Event::Outgoing(Outgoing::Publish(id)) if id != 0 => Some(Told::Event(LinkEvent::Sent(id))),
        Event::Outgoing(Outgoing::Subscribe(id)) => Some(Told::Subscribing(id)),
        Event::Outgoing(Outgoing::PubAck(_)) => {
            intake.acknowledged();
            None
        }
        Event::Outgoing(Outgoing::Disconnect) => Some(Told::Event(LinkEvent::Disconnected)),
        Event::Incoming(Packet::PubAck(ack)) => Some(Told::Event(LinkEvent::Acked(ack.pkid))),
        Event::Incoming(Packet::PingResp) => Some(Told::Event(LinkEvent::Alive)),
        Event::Incoming(Packet::SubAck(ack)) => {
            let why = |code| match code {
                Code::Success(_) => None,
                Code::Failure => Some("refused".to_owned()),
            };
            Some(Told::Subscribed(ack.pkid, ack.return_codes.into_iter().map(why).collect()))
        }
        Event::Incoming(Packet::Publish(p)) => {
            arrived(&intake, p.topic, &p.payload, p.pkid, p.qos != QoS::AtMostOnce)
        }
        _ => None,
    };
    let end = loop {
        match timeout(watchdog, poller.poll()).await {
            Ok(Ok(event)) => {
                if !forward(&events, translate(event)).await {
                    return;
                }
                // After what stood before it, as that may hold PUBACKs.
                if intake.is_over() && poller.state.events.is_empty() {
                    break LinkError::Overrun;
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

pub async fn v5(mut poller: rumqttc::v5::EventLoop, events: Events, intake: Arc<Intake>, watchdog: Duration) {
    use rumqttc::Outgoing;
    use rumqttc::v5::Event;
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::{Packet, PubAckReason, SubscribeReasonCode as Code};
    let translate = |event| match event {
        Event::Outgoing(Outgoing::Publish(id)) if id != 0 => Some(Told::Event(LinkEvent::Sent(id))),
        Event::Outgoing(Outgoing::Subscribe(id)) => Some(Told::Subscribing(id)),
        Event::Outgoing(Outgoing::PubAck(_)) => {
            intake.acknowledged();
            None
        }
        Event::Outgoing(Outgoing::Disconnect) => Some(Told::Event(LinkEvent::Disconnected)),
        Event::Incoming(Packet::PubAck(ack)) => Some(Told::Event(match ack.reason {
            PubAckReason::Success | PubAckReason::NoMatchingSubscribers => LinkEvent::Acked(ack.pkid),
            refused => LinkEvent::Refused(ack.pkid, format!("{refused:?}")),
        })),
        Event::Incoming(Packet::PingResp(_)) => Some(Told::Event(LinkEvent::Alive)),
        Event::Incoming(Packet::SubAck(ack)) => {
            let why = |code| match code {
                Code::Success(_) => None,
                refused => Some(format!("{refused:?}")),
            };
            Some(Told::Subscribed(ack.pkid, ack.return_codes.into_iter().map(why).collect()))
        }
        Event::Incoming(Packet::Publish(p)) => {
            // The library has already put the topic of an alias in its place.
            let topic = String::from_utf8_lossy(&p.topic).into_owned();
            arrived(&intake, topic, &p.payload, p.pkid, p.qos != QoS::AtMostOnce)
        }
        _ => None,
    };
    let end = loop {
        match timeout(watchdog, poller.poll()).await {
            Ok(Ok(event)) => {
                if !forward(&events, translate(event)).await {
                    return;
                }
                if intake.is_over() && poller.state.events.is_empty() {
                    break LinkError::Overrun;
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

fn arrived(intake: &Intake, topic: String, payload: &[u8], packet_id: u16, qos1: bool) -> Option<Told> {
    let bytes = topic.len() + payload.len();
    if !intake.take(bytes, qos1) {
        tracing::debug!(topic, qos1, "a message was passed over: too many wait");
        return None;
    }
    let token = Token { packet_id: if qos1 { packet_id } else { 0 }, bytes };
    Some(Told::Event(LinkEvent::Arrived { topic, payload: payload.to_vec(), token }))
}

/// `false`: nobody listens any more.
async fn forward(events: &Events, told: Option<Told>) -> bool {
    match told {
        Some(told) => events.send(Ok(told)).await.is_ok(),
        None => true,
    }
}

/// Which SUBSCRIBE holds which filters. As with publishes, the k-th announcement of a fresh
/// connection is the k-th packet that was queued.
#[derive(Default)]
pub struct Filters {
    queued: VecDeque<Vec<String>>,
    sent: HashMap<u16, Vec<String>>,
    /// Refused without asking the broker, and not told yet.
    refused: Vec<(String, String)>,
    asked: usize,
}

impl Filters {
    /// The packets to send, and what is not worth sending.
    pub fn split(&mut self, filters: &[String]) -> (Vec<Vec<String>>, Vec<(String, String)>) {
        let (mut good, mut refused) = (Vec::new(), Vec::new());
        for filter in filters {
            if filter.is_empty() || !rumqttc::valid_filter(filter) {
                refused.push((filter.clone(), "is no topic filter".into()));
            } else if self.asked >= FILTERS_MAX {
                refused.push((filter.clone(), format!("more than {FILTERS_MAX} filters")));
            } else {
                self.asked += 1;
                good.push(filter.clone());
            }
        }
        (good.chunks(FILTERS_PER_PACKET).map(<[String]>::to_vec).collect(), refused)
    }

    pub fn refuse(&mut self, refused: Vec<(String, String)>) {
        self.refused.extend(refused);
    }

    pub fn queue(&mut self, packet: Vec<String>) {
        self.queued.push_back(packet);
    }

    /// What need not be waited for.
    pub fn told(&mut self) -> Option<LinkEvent> {
        let refused = std::mem::take(&mut self.refused);
        (!refused.is_empty()).then_some(LinkEvent::Subscribed { held: 0, refused })
    }

    pub fn event(&mut self, told: Told) -> Option<LinkEvent> {
        match told {
            Told::Event(event) => Some(event),
            Told::Subscribing(packet_id) => {
                let filters = self.queued.pop_front().unwrap_or_default();
                self.sent.insert(packet_id, filters);
                None
            }
            Told::Subscribed(packet_id, answers) => {
                let filters = self.sent.remove(&packet_id)?;
                let n = filters.len();
                let answers = answers.into_iter().chain(std::iter::repeat(Some("not answered".into())));
                let refused: Vec<(String, String)> =
                    filters.into_iter().zip(answers).filter_map(|(f, why)| Some((f, why?))).collect();
                Some(LinkEvent::Subscribed { held: n - refused.len(), refused })
            }
        }
    }
}

/// Brokers of clouds take no more in one SUBSCRIBE, and no more on one connection.
const FILTERS_PER_PACKET: usize = 8;
const FILTERS_MAX: usize = 50;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_go_by_eights_and_each_refusal_names_its_filter() {
        let mut filters = Filters::default();
        let all: Vec<String> = (0..52).map(|n| format!("a/{n}")).chain(["a/#/b".into()]).collect();
        let (packets, refused) = filters.split(&all);
        assert_eq!(packets.iter().map(Vec::len).collect::<Vec<_>>(), [8, 8, 8, 8, 8, 8, 2]);
        let names: Vec<&str> = refused.iter().map(|(f, _)| f.as_str()).collect();
        assert_eq!(names, ["a/50", "a/51", "a/#/b"]);

        packets.into_iter().take(2).for_each(|p| filters.queue(p));
        assert_eq!(filters.event(Told::Subscribing(7)), None);
        assert_eq!(filters.event(Told::Subscribing(8)), None);
        let mut answers = vec![None; 8];
        answers[3] = Some("NotAuthorized".to_owned());
        let refused = vec![("a/11".to_owned(), "NotAuthorized".to_owned())];
        assert_eq!(
            filters.event(Told::Subscribed(8, answers)),
            Some(LinkEvent::Subscribed { held: 7, refused })
        );
        assert_eq!(filters.event(Told::Subscribed(9, vec![])), None);
    }
}
