//! A link whose other end is the test: it reads like a trace.
//!
//! The uplink asks for a connection → the test answers with [`Far::accept`] or [`Far::refuse`]
//! → what the uplink publishes comes out of [`Conn::next`], and the test says `sent`, `acked`,
//! `refused` or `cut`.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use fieldgate::uplink::link::{Link, LinkError, LinkEvent, Message, Opening, Session, Token};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

pub struct NearLink {
    asks: mpsc::UnboundedSender<Ask>,
}

pub struct NearSession {
    out: mpsc::UnboundedSender<Out>,
    events: mpsc::UnboundedReceiver<Result<LinkEvent, LinkError>>,
    packet_max: Option<usize>,
}

struct Ask {
    opening: Opening,
    answer: oneshot::Sender<Result<NearSession, LinkError>>,
}

enum Out {
    Publish(Message),
    Subscribe(Vec<String>),
    Ack(u16),
    Disconnect,
}

impl Link for NearLink {
    type Session = NearSession;

    async fn connect(&mut self, opening: Opening) -> Result<NearSession, LinkError> {
        let (answer, answered) = oneshot::channel();
        self.asks.send(Ask { opening, answer }).expect("the test is there");
        match answered.await {
            Ok(answer) => answer,
            Err(_) => std::future::pending().await,
        }
    }
}

impl Session for NearSession {
    fn packet_max(&self) -> Option<usize> {
        self.packet_max
    }

    fn publish(&mut self, message: Message) -> Result<(), LinkError> {
        self.out.send(Out::Publish(message)).map_err(|_| LinkError::HungUp("closed".into()))
    }

    fn subscribe(&mut self, filters: &[String]) -> Result<usize, LinkError> {
        let out = Out::Subscribe(filters.to_vec());
        self.out.send(out).map(|()| 1).map_err(|_| LinkError::HungUp("closed".into()))
    }

    fn ack(&mut self, token: Token) -> Result<(), LinkError> {
        self.out.send(Out::Ack(token.packet_id)).map_err(|_| LinkError::HungUp("closed".into()))
    }

    fn disconnect(&mut self) {
        let _ = self.out.send(Out::Disconnect);
    }

    async fn events(&mut self, into: &mut Vec<LinkEvent>) -> Result<(), LinkError> {
        let mut next = self.events.recv().await;
        loop {
            match next {
                Some(Ok(event)) => into.push(event),
                Some(Err(why)) => return Err(why),
                None => return Err(LinkError::HungUp("connection reset".into())),
            }
            match self.events.try_recv() {
                Ok(event) => next = Some(event),
                Err(_) => return Ok(()),
            }
        }
    }
}

pub struct Far {
    asks: mpsc::UnboundedReceiver<Ask>,
    pub packet_max: Option<usize>,
}

pub fn link() -> (NearLink, Far) {
    let (asks, asked) = mpsc::unbounded_channel();
    (NearLink { asks }, Far { asks: asked, packet_max: None })
}

impl Far {
    /// Waits until the uplink wants a connection, however long that takes on its clock.
    pub async fn accept(&mut self) -> Conn {
        let ask = self.asks.recv().await.expect("the uplink runs");
        let (out, published) = mpsc::unbounded_channel();
        let (events, received) = mpsc::unbounded_channel();
        let session = NearSession { out, events: received, packet_max: self.packet_max };
        assert!(ask.answer.send(Ok(session)).is_ok(), "the uplink waits for its connection");
        Conn { opening: ask.opening, published, events, packet_id: 0 }
    }

    pub async fn refuse(&mut self, why: LinkError) {
        let ask = self.asks.recv().await.expect("the uplink runs");
        assert!(ask.answer.send(Err(why)).is_ok(), "the uplink waits for its connection");
    }

    /// The uplink asks for nothing for this long.
    pub async fn quiet(&mut self, time: Duration) {
        assert!(timeout(time, self.asks.recv()).await.is_err(), "the uplink connects");
    }
}

/// The broker's end of one connection.
pub struct Conn {
    pub opening: Opening,
    published: mpsc::UnboundedReceiver<Out>,
    events: mpsc::UnboundedSender<Result<LinkEvent, LinkError>>,
    packet_id: u16,
}

/// A publish as the broker sees it: the packet id it came under, and in short what it was.
#[derive(Clone, Debug)]
pub struct Got {
    pub packet_id: u16,
    pub what: String,
    pub topic: String,
    pub json: serde_json::Value,
}

impl Conn {
    /// The next publish, announced to the uplink as sent. `None`: silence for ten seconds, or
    /// the uplink said goodbye.
    pub async fn next(&mut self) -> Option<Got> {
        self.within(Duration::from_secs(10)).await
    }

    pub async fn within(&mut self, time: Duration) -> Option<Got> {
        match timeout(time, self.published.recv()).await {
            Ok(Some(Out::Publish(message))) => {
                self.packet_id = self.packet_id % u16::MAX + 1;
                self.say(LinkEvent::Sent(self.packet_id));
                Some(got(self.packet_id, &message))
            }
            Ok(Some(Out::Disconnect)) => {
                self.say(LinkEvent::Disconnected);
                None
            }
            // Whoever wants to see these asks for them.
            Ok(Some(Out::Subscribe(_) | Out::Ack(_)) | None) | Err(_) => None,
        }
    }

    /// The filters of the next SUBSCRIBE.
    pub async fn filters(&mut self) -> Vec<String> {
        match timeout(Duration::from_secs(10), self.published.recv()).await {
            Ok(Some(Out::Subscribe(filters))) => filters,
            _ => panic!("no SUBSCRIBE"),
        }
    }

    /// The broker took so many filters of it, and refused these.
    pub fn subscribed(&self, held: usize, refused: &[(&str, &str)]) {
        let refused = refused.iter().map(|(f, why)| (f.to_string(), why.to_string())).collect();
        self.say(LinkEvent::Subscribed { held, refused });
    }

    pub fn arrive(&self, packet_id: u16, topic: &str, payload: &[u8]) {
        let token = Token { packet_id, bytes: payload.len() };
        self.say(LinkEvent::Arrived { topic: topic.into(), payload: payload.to_vec(), token });
    }

    /// The packet id of the next PUBACK from the uplink. `None`: silence for ten seconds.
    pub async fn ack(&mut self) -> Option<u16> {
        match timeout(Duration::from_secs(10), self.published.recv()).await {
            Ok(Some(Out::Ack(packet_id))) => Some(packet_id),
            Ok(Some(Out::Publish(message))) => panic!("a publish instead: {message:?}"),
            _ => None,
        }
    }

    /// What there is to take without an answer, in short.
    pub async fn take(&mut self, n: usize) -> Vec<String> {
        let mut taken = Vec::new();
        while taken.len() < n {
            match self.next().await {
                Some(got) => taken.push(got.what),
                None => break,
            }
        }
        taken
    }

    pub fn acked(&self, packet_id: u16) {
        self.say(LinkEvent::Acked(packet_id));
    }

    pub fn refused(&self, packet_id: u16, why: &str) {
        self.say(LinkEvent::Refused(packet_id, why.into()));
    }

    pub fn cut(self, why: LinkError) {
        let _ = self.events.send(Err(why));
    }

    /// Acknowledges everything until nothing more comes. In short, what came.
    pub async fn drain(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(got) = self.next().await {
            // The status comes again and again; the silence between is what is waited for.
            self.acked(got.packet_id);
            all.push(got.what);
        }
        all
    }

    fn say(&self, event: LinkEvent) {
        // An uplink that has ended hears nothing.
        let _ = self.events.send(Ok(event));
    }
}

pub fn got(packet_id: u16, message: &Message) -> Got {
    let json: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
    let what = match message.topic.rsplit('/').next().unwrap() {
        "telemetry" => format!("row {}", json["seq"][0]),
        "gap" => format!("gap {} {}", json["reason"].as_str().unwrap(), json["readings"]),
        "fault" => format!("fault {}", json["fault"].as_str().unwrap()),
        "status" => json["state"].as_str().unwrap().to_owned(),
        other => panic!("topic .../{other}"),
    };
    Got { packet_id, what, topic: message.topic.clone(), json }
}

/// How a broker hangs up.
pub fn hung_up() -> LinkError {
    LinkError::HungUp("connection reset".into())
}
