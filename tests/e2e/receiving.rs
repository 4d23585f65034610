//! Messages from a real broker, over mutual TLS: acknowledged after the answer, kept while
//! we are away, and repeated until we acknowledge them.

use std::sync::Arc;
use std::time::Duration;

use fieldgate::config::{self, MqttVersion, Security, Tls};
use fieldgate::uplink::link::mqtt_session::MqttSession;
use fieldgate::uplink::link::{
    Credential, Identity, Link, LinkEvent, Message, MqttLink, Opening, Session, Token,
};
use tokio::time::timeout;

use super::certs::{Authority, Server};
use super::mosquitto::Mosquitto;
use super::wait::PATIENCE;

struct Door {
    _dir: tempfile::TempDir,
    broker: Mosquitto,
    authority: Authority,
}

impl Door {
    fn new() -> Door {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new(dir.path(), "cloud");
        let broker = Mosquitto::start(dir.path(), &authority, &authority.server(Server::Right));
        Door { _dir: dir, broker, authority }
    }

    fn link(&self, protocol: MqttVersion) -> MqttLink {
        let client = self.authority.client("meter");
        let tls = Tls {
            ca: Some(self.authority.certificate.clone()),
            certificate: Some(client.certificate),
            key: Some(client.key),
            server_name: "localhost".into(),
            alpn: Vec::new(),
        };
        let second = Duration::from_secs(1);
        let config = config::Uplink {
            host: "127.0.0.1".into(),
            port: self.broker.tls_port,
            protocol,
            client_id: "unused".into(),
            security: Security::Tls(tls.clone()),
            login: None,
            websocket: None,
            keep_alive: 30 * second,
            connect_timeout: 10 * second,
            window: 8,
            topic: "dt/{device}/telemetry".into(),
            status_topic: "s".into(),
            status_interval: 60 * second,
            payload_max: 128 << 10,
            messages_per_second: None,
            bytes_per_second: None,
            backlog_messages_per_second: None,
            reconnect_min: second,
            reconnect_max: second,
            session_expiry: 3600 * second,
            connects_per_second: 10,
        };
        let identity =
            Identity { client_id: "meter".into(), login: None, credential: Credential::Files(tls) };
        MqttLink::new(Arc::new(config), identity)
    }

    fn publish(&self, topic: &str, n: usize, qos: rumqttc::QoS) {
        let (port, topic) = (self.broker.plain_port, topic.to_owned());
        // The library brings a runtime of its own, which cannot be within ours.
        std::thread::spawn(move || publish(port, &topic, n, qos)).join().unwrap();
    }
}

/// `n` messages with their number as payload; returns when the broker has all of them.
fn publish(port: u16, topic: &str, n: usize, qos: rumqttc::QoS) {
    let (client, mut connection) =
        rumqttc::Client::new(rumqttc::MqttOptions::new("the-cloud", "127.0.0.1", port), n + 2);
    (1..=n).for_each(|n| client.publish(topic, qos, false, n.to_string()).unwrap());
    // Behind the others, and acknowledged whatever they are.
    client.publish("the/end", rumqttc::QoS::AtLeastOnce, false, "").unwrap();
    let mut acks = 1 + if qos == rumqttc::QoS::AtMostOnce { 0 } else { n };
    while acks > 0 {
        let event = connection.recv_timeout(PATIENCE).unwrap().unwrap();
        acks -= usize::from(matches!(event, rumqttc::Event::Incoming(rumqttc::Packet::PubAck(_))));
    }
}

const RECEIVES: Opening = Opening { will: None, receives: true };

async fn subscribed(link: &mut MqttLink, filters: &[&str]) -> (MqttSession, Vec<LinkEvent>) {
    let mut session = link.connect(RECEIVES).await.unwrap();
    let filters: Vec<String> = filters.iter().map(|f| f.to_string()).collect();
    session.subscribe(&filters).unwrap();
    let mut events = Vec::new();
    while !events.contains(&LinkEvent::Subscribed) {
        more(&mut session, &mut events).await;
    }
    (session, events)
}

async fn more(session: &mut MqttSession, events: &mut Vec<LinkEvent>) {
    timeout(PATIENCE, session.events(events)).await.expect("an event").unwrap();
}

fn arrivals(events: &[LinkEvent]) -> Vec<(String, Token)> {
    let arrival = |event: &LinkEvent| match event {
        LinkEvent::Arrived { payload, token, .. } => {
            Some((String::from_utf8_lossy(payload).into_owned(), *token))
        }
        _ => None,
    };
    events.iter().filter_map(arrival).collect()
}

/// Waits until `n` messages came.
async fn take(session: &mut MqttSession, events: &mut Vec<LinkEvent>, n: usize) -> Vec<(String, Token)> {
    while arrivals(events).len() < n {
        more(session, events).await;
    }
    arrivals(events)
}

/// Publishes one of ours and waits for its PUBACK; because both directions keep their order,
/// the broker has seen by then whatever we acknowledged before.
async fn puback(session: &mut MqttSession, events: &mut Vec<LinkEvent>) {
    let acks = |events: &[LinkEvent]| events.iter().filter(|e| matches!(e, LinkEvent::Acked(_))).count();
    let before = acks(events);
    session.publish(Message { topic: "dt/own".into(), payload: b"{}".to_vec(), retain: false }).unwrap();
    while acks(events) == before {
        more(session, events).await;
    }
}

fn numbers(arrived: &[(String, Token)]) -> Vec<&str> {
    arrived.iter().map(|(n, _)| n.as_str()).collect()
}

async fn unanswered_messages_come_again(protocol: MqttVersion) {
    let door = Door::new();
    let mut link = door.link(protocol);
    let (mut session, mut events) = subscribed(&mut link, &["cmd/meter"]).await;
    door.publish("cmd/meter", 3, rumqttc::QoS::AtLeastOnce);
    let arrived = take(&mut session, &mut events, 3).await;
    assert_eq!(numbers(&arrived), ["1", "2", "3"]);
    // The hub answers the first and holds the others back; our own publishes go on.
    session.ack(arrived[0].1).unwrap();
    puback(&mut session, &mut events).await;
    assert_eq!(arrivals(&events).len(), 3);
    drop(session);

    let (mut session, mut events) = subscribed(&mut link, &["cmd/meter"]).await;
    let arrived = take(&mut session, &mut events, 2).await;
    assert_eq!(numbers(&arrived), ["2", "3"]);
    arrived.iter().for_each(|(_, token)| session.ack(*token).unwrap());
    puback(&mut session, &mut events).await;
    drop(session);

    let (mut session, mut events) = subscribed(&mut link, &["cmd/meter"]).await;
    puback(&mut session, &mut events).await;
    assert_eq!(numbers(&arrivals(&events)), Vec::<&str>::new());
}

async fn what_came_while_we_were_away_is_delivered(protocol: MqttVersion) {
    let door = Door::new();
    let mut link = door.link(protocol);
    drop(subscribed(&mut link, &["cmd/#"]).await);
    // More than the broker has in flight at one time.
    door.publish("cmd/meter", 50, rumqttc::QoS::AtLeastOnce);
    let (mut session, mut events) = subscribed(&mut link, &["cmd/#"]).await;
    let mut acked = 0;
    while acked < 50 {
        let arrived = take(&mut session, &mut events, acked + 1).await;
        for (_, token) in &arrived[acked..] {
            session.ack(*token).unwrap();
        }
        acked = arrived.len();
        // None of ours is acknowledged by anything that came.
        puback(&mut session, &mut events).await;
    }
    let expected: Vec<String> = (1..=50).map(|n| n.to_string()).collect();
    assert_eq!(numbers(&arrivals(&events)), expected);
    drop(session);

    // Whoever does not subscribe any more leaves nothing behind.
    let mut session = link.connect(Opening { will: None, receives: false }).await.unwrap();
    door.publish("cmd/meter", 1, rumqttc::QoS::AtLeastOnce);
    let mut events = Vec::new();
    puback(&mut session, &mut events).await;
    assert_eq!(arrivals(&events), []);
}

fn run(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
}

#[test]
fn unanswered_messages_come_again_mqtt_5() {
    run(unanswered_messages_come_again(MqttVersion::V5));
}

#[test]
fn unanswered_messages_come_again_mqtt_3() {
    run(unanswered_messages_come_again(MqttVersion::V3_1_1));
}

#[test]
fn what_came_while_we_were_away_is_delivered_mqtt_5() {
    run(what_came_while_we_were_away_is_delivered(MqttVersion::V5));
}

#[test]
fn what_came_while_we_were_away_is_delivered_mqtt_3() {
    run(what_came_while_we_were_away_is_delivered(MqttVersion::V3_1_1));
}

#[test]
fn a_flood_of_qos_0_is_thinned_and_many_filters_are_packed() {
    run(async {
        let door = Door::new();
        let mut link = door.link(MqttVersion::V5);
        let filters: Vec<String> = (0..52).map(|n| format!("cmd/{n}")).collect();
        let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
        let (mut session, mut events) = subscribed(&mut link, &filters).await;
        let refused = events.iter().filter_map(|e| match e {
            LinkEvent::SubscribeRefused(filter, _) => Some(filter.as_str()),
            _ => None,
        });
        assert_eq!(refused.collect::<Vec<_>>(), ["cmd/50", "cmd/51"]);
        door.publish("cmd/49", 500, rumqttc::QoS::AtMostOnce);
        door.publish("cmd/48", 1, rumqttc::QoS::AtLeastOnce);
        while !arrivals(&events).iter().any(|(n, token)| n == "1" && token.0 > 1) {
            more(&mut session, &mut events).await;
        }
        let came = arrivals(&events).len();
        assert!((2..=33).contains(&came), "{came} without an acknowledgement");
    });
}
