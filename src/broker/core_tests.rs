use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::super::decode::decode;
use super::super::packet::{Ack, Options, RetainHandling, Will};
use super::*;

/// Lets everyone do everything, except what the test has forbidden.
#[derive(Default)]
struct Policy {
    forbidden: Mutex<Vec<&'static str>>,
}

impl Host for Policy {
    fn admit(&self, _: &Principal, connect: &Connect) -> Result<(), Reason> {
        if connect.client_id == "stranger" { Err(Reason::NOT_AUTHORIZED) } else { Ok(()) }
    }

    fn may(&self, _: &Principal, client: &str, act: Act<'_>) -> bool {
        let asked = match act {
            Act::Publish { topic, .. } => format!("{client} publishes {topic}"),
            Act::Subscribe { filter } => format!("{client} subscribes {filter}"),
            Act::Receive { topic } => format!("{client} receives {topic}"),
        };
        !self.forbidden.lock().unwrap().contains(&asked.as_str())
    }

    fn take(&self, _: &Principal, _: &str, message: &Message) -> Taken {
        if message.topic.starts_with("$aws/") { Taken::Consumed } else { Taken::Pass }
    }
}

#[derive(Default)]
struct Ear {
    stopped: AtomicU64,
}

impl Wake for Ear {
    fn data(&self) {}

    fn stop(&self, why: Reason) {
        self.stopped.store(u64::from(why.0), Ordering::Relaxed);
    }
}

/// A broker, a clock and clients that write down what they get.
struct World {
    broker: Broker<Policy>,
    now: Duration,
}

struct Client {
    conn: Conn,
    ear: Arc<Ear>,
}

fn owner(name: u8) -> Principal {
    Principal { certificate: Some(Arc::from([name])) }
}

fn hello(id: &str, clean: bool) -> Connect {
    Connect {
        version: Version::V5,
        client_id: id.into(),
        clean_start: clean,
        keep_alive: 30,
        will: None,
        username: None,
        password: None,
        props: Props { session_expiry: (!clean).then_some(3600), ..Props::default() },
    }
}

impl World {
    fn new(limits: Limits) -> World {
        World { broker: Broker::new(Policy::default(), limits), now: Duration::ZERO }
    }

    /// The connection or the refusal, and the CONNACK.
    fn connect(&self, who: u8, connect: Connect) -> (Option<Client>, Vec<u8>) {
        let ear = Arc::new(Ear::default());
        let mut out = BytesMut::new();
        let conn = self.broker.connect(self.now, owner(who), connect, Arc::clone(&ear) as _, &mut out);
        (conn.map(|conn| Client { conn, ear }), out.to_vec())
    }

    fn client(&self, id: &str) -> Client {
        self.connect(1, hello(id, true)).0.expect("accepted")
    }

    fn send(&self, c: &mut Client, packet: ClientPacket) -> (Result<Next, Reason>, Vec<u8>) {
        let mut out = BytesMut::new();
        let next = self.broker.handle(self.now, &mut c.conn, packet, &mut out);
        (next, out.to_vec())
    }

    fn subscribe(&self, c: &mut Client, filter: &str) -> Vec<u8> {
        let options = Options {
            qos: Qos::AtLeastOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Always,
        };
        let filters = vec![Filter { filter: filter.into(), options }];
        self.send(c, ClientPacket::Subscribe(Subscribe { packet_id: 1, filters, subscription_id: None })).1
    }

    fn publish(&self, c: &mut Client, topic: &str, payload: &str, retain: bool) {
        let (next, ack) = self.try_publish(c, topic, payload, retain);
        assert_eq!((next, &ack[..2]), (Ok(Next::Go), &[0x40, 2][..]), "{topic} is acknowledged");
    }

    fn try_publish(
        &self,
        c: &mut Client,
        topic: &str,
        payload: &str,
        retain: bool,
    ) -> (Result<Next, Reason>, Vec<u8>) {
        let publish = Publish {
            dup: false,
            qos: Qos::AtLeastOnce,
            retain,
            topic: topic.into(),
            packet_id: 7,
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            props: Props::default(),
        };
        self.send(c, ClientPacket::Publish(Box::new(publish)))
    }

    /// What the client gets now: `topic=payload`, with `!` for DUP and `r` for retained.
    fn hears(&self, c: &mut Client) -> Vec<String> {
        self.gets(c).into_iter().map(|(_, text)| text).collect()
    }

    fn gets(&self, c: &mut Client) -> Vec<(u16, String)> {
        let mut out = BytesMut::new();
        self.broker.drain(self.now, &mut c.conn, usize::MAX, &mut out).expect("a live connection");
        let mut heard = vec![];
        while let Some(ClientPacket::Publish(p)) = decode(&mut out, Some(c.conn.version), 1 << 20).unwrap() {
            let marks = format!("{}{}", if p.dup { "!" } else { "" }, if p.retain { "r" } else { "" });
            heard.push((p.packet_id, format!("{marks}{}={}", p.topic, String::from_utf8_lossy(&p.payload))));
        }
        heard
    }

    fn ack(&self, c: &mut Client, packet_id: u16) {
        let ack = ClientPacket::PubAck(Ack { packet_id, reason: Reason::SUCCESS });
        assert_eq!(self.send(c, ack).0, Ok(Next::Go));
    }

    fn lose(&self, c: &Client) {
        self.broker.closed(self.now, &c.conn);
    }
}

fn will(topic: &str, delay: Option<u32>) -> Option<Will> {
    Some(Will {
        topic: topic.into(),
        payload: Bytes::from_static(b"gone"),
        qos: Qos::AtLeastOnce,
        retain: false,
        props: Props { will_delay: delay, ..Props::default() },
    })
}

#[test]
fn a_message_reaches_who_wants_it_once() {
    let w = World::new(Limits::default());
    let (mut a, mut b, mut other) = (w.client("a"), w.client("b"), w.client("c"));
    assert_eq!(w.subscribe(&mut a, "dt/#"), [0x90, 4, 0, 1, 0, 1]);
    w.subscribe(&mut a, "dt/+/x");
    w.subscribe(&mut other, "other");
    assert_eq!(w.try_publish(&mut b, "dt/1/x", "hi", false), (Ok(Next::Go), vec![0x40, 2, 0, 7]));
    assert_eq!(w.hears(&mut a), ["dt/1/x=hi"]);
    assert_eq!(w.hears(&mut a), [""; 0]);
    assert_eq!(w.hears(&mut other), [""; 0]);
    let unsubscribe =
        Unsubscribe { packet_id: 2, filters: vec!["dt/#".into(), "dt/+/x".into(), "no".into()] };
    let answer = w.send(&mut a, ClientPacket::Unsubscribe(unsubscribe)).1;
    assert_eq!(answer, [0xb0, 6, 0, 2, 0, 0, 0, 0x11]);
    w.publish(&mut b, "dt/1/x", "again", false);
    assert_eq!(w.hears(&mut a), [""; 0]);
}

#[test]
fn what_the_policy_forbids_is_neither_taken_nor_given() {
    let w = World::new(Limits::default());
    assert_eq!(w.connect(1, hello("stranger", true)).1, [0x20, 3, 0, 0x87, 0]);
    let (mut a, mut b) = (w.client("a"), w.client("b"));
    *w.broker.host.forbidden.lock().unwrap() =
        vec!["b publishes secret", "a subscribes no/#", "a receives late", "b publishes w"];
    w.subscribe(&mut a, "#");
    w.subscribe(&mut a, "$aws/#");
    assert_eq!(w.subscribe(&mut a, "no/#"), [0x90, 4, 0, 1, 0, 0x87]);
    assert_eq!(w.try_publish(&mut b, "secret", "x", false), (Ok(Next::Go), vec![0x40, 3, 0, 7, 0x87]));
    w.publish(&mut b, "late", "x", false);
    w.publish(&mut b, "$aws/things/a/shadow/get", "x", false);
    w.publish(&mut b, "fine", "x", false);
    assert_eq!(w.hears(&mut a), ["fine=x"]);
    // 3.1.1 has no way to refuse: it hangs up, and does not acknowledge.
    let mut old = w.connect(1, Connect { version: Version::V3_1_1, ..hello("b", true) }).0.expect("accepted");
    assert_eq!(w.try_publish(&mut old, "secret", "x", false), (Err(Reason::NOT_AUTHORIZED), vec![]));
    let forbidden = Connect { will: will("w", None), ..hello("b", true) };
    assert_eq!(w.connect(1, forbidden).1, [0x20, 3, 0, 0x87, 0]);
}

#[test]
fn qos_2_is_refused_with_its_reason() {
    let w = World::new(Limits::default());
    let mut a = w.client("a");
    let publish = Publish {
        dup: false,
        qos: Qos::ExactlyOnce,
        retain: false,
        topic: "t".into(),
        packet_id: 1,
        payload: Bytes::new(),
        props: Props::default(),
    };
    assert_eq!(w.send(&mut a, ClientPacket::Publish(Box::new(publish))).0, Err(Reason(0x9b)));
}

#[test]
fn a_session_keeps_what_was_not_acknowledged_and_resends_it_in_order() {
    let w = World::new(Limits { in_flight: 3, ..Limits::default() });
    let mut a = w.connect(1, hello("a", false)).0.expect("accepted");
    let mut b = w.client("b");
    w.subscribe(&mut a, "#");
    for i in 1..=5 {
        w.publish(&mut b, "t", &i.to_string(), false);
    }
    let first = w.gets(&mut a);
    assert_eq!(first.iter().map(|(_, t)| t.as_str()).collect::<Vec<_>>(), ["t=1", "t=2", "t=3"]);
    w.ack(&mut a, first[1].0);
    w.lose(&a);
    w.publish(&mut b, "t", "6", false);
    let (again, connack) = w.connect(1, hello("a", false));
    let mut again = again.expect("accepted");
    assert_eq!(connack[2], 1, "the session is present");
    assert_eq!(w.hears(&mut again), ["!t=1", "!t=3", "t=4"]);
    // The old connection is no longer heard.
    assert_eq!(w.try_publish(&mut a, "t", "old", false).0, Err(Reason::TAKEN_OVER));
    // A clean start forgets it all.
    let (fresh, connack) = w.connect(1, hello("a", true));
    assert_eq!(connack[2], 0);
    w.publish(&mut b, "t", "7", false);
    assert_eq!(w.hears(&mut fresh.expect("accepted")), [""; 0]);
}

#[test]
fn a_take_over_needs_the_same_certificate() {
    let w = World::new(Limits::default());
    let (a, _) = w.connect(1, hello("a", false));
    let a = a.expect("accepted");
    assert_eq!(w.connect(2, hello("a", true)).1, [0x20, 3, 0, 0x87, 0]);
    assert_eq!(a.ear.stopped.load(Ordering::Relaxed), 0);
    assert!(w.connect(1, hello("a", false)).0.is_some());
    assert_eq!(a.ear.stopped.load(Ordering::Relaxed), 0x8e);
}

#[test]
fn retained_messages_come_at_once_and_can_be_cleared() {
    let w = World::new(Limits::default());
    let (mut a, mut b) = (w.client("a"), w.client("b"));
    w.publish(&mut a, "s/1", "old", true);
    w.publish(&mut a, "s/1", "new", true);
    w.publish(&mut a, "s/2", "x", true);
    w.publish(&mut a, "s/2", "", true);
    w.subscribe(&mut b, "s/#");
    assert_eq!(w.hears(&mut b), ["rs/1=new"]);
    w.publish(&mut a, "s/1", "live", true);
    assert_eq!(w.hears(&mut b), ["s/1=live"]);
}

#[test]
fn a_will_is_published_when_the_client_is_lost_and_not_when_it_leaves() {
    let mut w = World::new(Limits::default());
    let mut b = w.client("b");
    w.subscribe(&mut b, "w");
    let with_will = |delay| Connect { will: will("w", delay), ..hello("a", false) };
    let a = w.connect(1, with_will(None)).0.expect("accepted");
    w.lose(&a);
    assert_eq!(w.hears(&mut b), ["w=gone"]);

    let mut a = w.connect(1, with_will(None)).0.expect("accepted");
    let goodbye = ClientPacket::Disconnect { reason: Reason::SUCCESS, session_expiry: None };
    assert_eq!(w.send(&mut a, goodbye).0, Ok(Next::Close));
    w.lose(&a);
    assert_eq!(w.hears(&mut b), [""; 0]);

    // A delayed will waits, and a client that is back in time withdraws it.
    let a = w.connect(1, with_will(Some(10))).0.expect("accepted");
    w.lose(&a);
    assert_eq!(w.broker.tick(w.now), Some(Duration::from_secs(10)));
    w.now = Duration::from_secs(9);
    w.broker.tick(w.now);
    assert_eq!(w.hears(&mut b), [""; 0]);
    let a = w.connect(1, with_will(Some(10))).0.expect("accepted");
    w.now = Duration::from_secs(30);
    w.broker.tick(w.now);
    assert_eq!(w.hears(&mut b), [""; 0]);
    w.lose(&a);
    w.now = Duration::from_secs(41);
    w.broker.tick(w.now);
    assert_eq!(w.hears(&mut b), ["w=gone"]);
}

#[test]
fn a_session_dies_at_its_expiry() {
    let mut w = World::new(Limits::default());
    let a = w.connect(1, hello("a", false)).0.expect("accepted");
    w.lose(&a);
    w.now = Duration::from_secs(3601);
    w.broker.tick(w.now);
    assert_eq!(w.connect(1, hello("a", false)).1[2], 0, "no session is present");
}

#[test]
fn a_client_that_does_not_read_costs_bounded_memory() {
    let w = World::new(Limits { queue_messages: 10, in_flight: 5, ..Limits::default() });
    let (mut a, mut b) = (w.client("a"), w.client("b"));
    w.subscribe(&mut a, "#");
    for i in 0..100 {
        w.publish(&mut b, "t", &i.to_string(), false);
    }
    assert_eq!(w.broker.dropped(), 90);
    let heard = w.hears(&mut a);
    assert_eq!(heard, ["t=0", "t=1", "t=2", "t=3", "t=4"], "and no more than the window");
}

#[test]
fn a_message_whose_life_is_over_is_not_given() {
    let mut w = World::new(Limits::default());
    let mut a = w.connect(1, hello("a", false)).0.expect("accepted");
    w.subscribe(&mut a, "#");
    for (payload, life) in [("short", 5), ("long", 50)] {
        w.broker.inject(
            w.now,
            Message {
                topic: "t".into(),
                payload: Bytes::from(payload),
                qos: Qos::AtLeastOnce,
                retain: false,
                props: Props { message_expiry: Some(life), ..Props::default() },
            },
        );
    }
    w.now = Duration::from_secs(20);
    assert_eq!(w.hears(&mut a), ["t=long"]);
}

#[test]
fn a_kick_ends_the_connection_and_forgetting_ends_the_session_and_its_will() {
    let w = World::new(Limits::default());
    let mut b = w.client("b");
    w.subscribe(&mut b, "w");
    let connect = Connect { will: will("w", None), ..hello("a", false) };
    let mut a = w.connect(1, connect).0.expect("accepted");
    assert_eq!(w.broker.kick(w.now, |_, id| id == "a", Reason::ADMINISTRATIVE, true), 1);
    assert_eq!(a.ear.stopped.load(Ordering::Relaxed), 0x98);
    assert_eq!(w.try_publish(&mut a, "t", "x", false).0, Err(Reason::TAKEN_OVER));
    assert_eq!(w.hears(&mut b), [""; 0]);
    assert_eq!(w.connect(1, hello("a", false)).1[2], 0);
}

#[test]
fn aliases_stand_for_topics() {
    let w = World::new(Limits::default());
    let (mut a, mut b) = (w.client("a"), w.client("b"));
    w.subscribe(&mut b, "#");
    let mut publish = |topic: &str, alias: u16| {
        let props = Props { topic_alias: Some(alias), ..Props::default() };
        let publish = Publish {
            dup: false,
            qos: Qos::AtMostOnce,
            retain: false,
            topic: topic.into(),
            packet_id: 0,
            payload: Bytes::new(),
            props,
        };
        w.send(&mut a, ClientPacket::Publish(Box::new(publish))).0
    };
    for (topic, alias, expected) in [
        ("t/1", 3, Ok(Next::Go)),
        ("", 3, Ok(Next::Go)),
        ("t/2", 3, Ok(Next::Go)),
        ("", 3, Ok(Next::Go)),
        ("", 4, Err(Reason::PROTOCOL_ERROR)),
        ("t", 11, Err(Reason::TOPIC_ALIAS_INVALID)),
    ] {
        assert_eq!(publish(topic, alias), expected, "{topic:?} {alias}");
    }
    assert_eq!(w.hears(&mut b), ["t/1=", "t/1=", "t/2=", "t/2="]);
}
