//! The nouns of MQTT, for both protocol versions.
//!
//! Constraints: no I/O, no clock, no validation; whoever holds one of these got it from
//! `decode`, which has refused everything that is not allowed. Both versions share the
//! types: a 3.1.1 packet is one whose properties are empty. Reasons use the numbers of
//! MQTT 5 everywhere; `encode` folds them into what 3.1.1 can say.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V3_1_1,
    V5,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Qos {
    AtMostOnce,
    AtLeastOnce,
    ExactlyOnce,
}

impl Qos {
    pub fn from_bits(bits: u8) -> Option<Qos> {
        match bits {
            0 => Some(Qos::AtMostOnce),
            1 => Some(Qos::AtLeastOnce),
            2 => Some(Qos::ExactlyOnce),
            _ => None,
        }
    }

    pub fn bits(self) -> u8 {
        self as u8
    }
}

/// A reason code in the numbering of MQTT 5.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reason(pub u8);

impl Reason {
    pub const SUCCESS: Reason = Reason(0x00);
    pub const DISCONNECT_WITH_WILL: Reason = Reason(0x04);
    pub const NO_SUBSCRIPTION: Reason = Reason(0x11);
    pub const UNSPECIFIED: Reason = Reason(0x80);
    pub const MALFORMED: Reason = Reason(0x81);
    pub const PROTOCOL_ERROR: Reason = Reason(0x82);
    pub const UNSUPPORTED_VERSION: Reason = Reason(0x84);
    pub const CLIENT_ID_NOT_VALID: Reason = Reason(0x85);
    pub const BAD_LOGIN: Reason = Reason(0x86);
    pub const NOT_AUTHORIZED: Reason = Reason(0x87);
    pub const SERVER_UNAVAILABLE: Reason = Reason(0x88);
    pub const SERVER_BUSY: Reason = Reason(0x89);
    pub const SHUTTING_DOWN: Reason = Reason(0x8B);
    pub const BAD_AUTH_METHOD: Reason = Reason(0x8C);
    pub const KEEP_ALIVE_TIMEOUT: Reason = Reason(0x8D);
    pub const TAKEN_OVER: Reason = Reason(0x8E);
    pub const FILTER_INVALID: Reason = Reason(0x8F);
    pub const TOPIC_INVALID: Reason = Reason(0x90);
    pub const RECEIVE_MAXIMUM: Reason = Reason(0x93);
    pub const TOPIC_ALIAS_INVALID: Reason = Reason(0x94);
    pub const PACKET_TOO_LARGE: Reason = Reason(0x95);
    pub const QUOTA_EXCEEDED: Reason = Reason(0x97);
    pub const ADMINISTRATIVE: Reason = Reason(0x98);
    pub const QOS_NOT_SUPPORTED: Reason = Reason(0x9B);
    pub const SHARED_NOT_SUPPORTED: Reason = Reason(0x9E);

    pub fn is_refusal(self) -> bool {
        self.0 >= 0x80
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reason({self})")
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match *self {
            Reason::SUCCESS => "success",
            Reason::DISCONNECT_WITH_WILL => "disconnect with will",
            Reason::NO_SUBSCRIPTION => "no subscription existed",
            Reason::UNSPECIFIED => "unspecified error",
            Reason::MALFORMED => "malformed packet",
            Reason::PROTOCOL_ERROR => "protocol error",
            Reason::UNSUPPORTED_VERSION => "unsupported protocol version",
            Reason::CLIENT_ID_NOT_VALID => "client identifier not valid",
            Reason::BAD_LOGIN => "bad user name or password",
            Reason::NOT_AUTHORIZED => "not authorized",
            Reason::SERVER_UNAVAILABLE => "server unavailable",
            Reason::SERVER_BUSY => "server busy",
            Reason::SHUTTING_DOWN => "server shutting down",
            Reason::BAD_AUTH_METHOD => "bad authentication method",
            Reason::KEEP_ALIVE_TIMEOUT => "keep-alive timeout",
            Reason::TAKEN_OVER => "session taken over",
            Reason::FILTER_INVALID => "topic filter invalid",
            Reason::TOPIC_INVALID => "topic name invalid",
            Reason::RECEIVE_MAXIMUM => "receive maximum exceeded",
            Reason::TOPIC_ALIAS_INVALID => "topic alias invalid",
            Reason::PACKET_TOO_LARGE => "packet too large",
            Reason::QUOTA_EXCEEDED => "quota exceeded",
            Reason::ADMINISTRATIVE => "administrative action",
            Reason::QOS_NOT_SUPPORTED => "QoS not supported",
            Reason::SHARED_NOT_SUPPORTED => "shared subscriptions not supported",
            Reason(other) => return write!(f, "0x{other:02x}"),
        };
        f.write_str(text)
    }
}

/// What a client may send after the bytes were found good.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientPacket {
    Connect(Box<Connect>),
    Publish(Box<Publish>),
    PubAck(Ack),
    PubRec(Ack),
    PubRel(Ack),
    PubComp(Ack),
    Subscribe(Subscribe),
    Unsubscribe(Unsubscribe),
    PingReq,
    Disconnect { reason: Reason, session_expiry: Option<u32> },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Connect {
    pub version: Version,
    pub client_id: String,
    pub clean_start: bool,
    /// Seconds; 0 switches the keep-alive off.
    pub keep_alive: u16,
    pub will: Option<Will>,
    pub username: Option<String>,
    pub password: Option<Bytes>,
    pub props: Props,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Will {
    pub topic: Arc<str>,
    pub payload: Bytes,
    pub qos: Qos,
    pub retain: bool,
    pub props: Props,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Publish {
    pub dup: bool,
    pub qos: Qos,
    pub retain: bool,
    /// Empty only with a topic alias (MQTT 5).
    pub topic: String,
    /// 0 exactly at QoS 0.
    pub packet_id: u16,
    pub payload: Bytes,
    pub props: Props,
}

/// PUBACK, PUBREC, PUBREL and PUBCOMP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    pub packet_id: u16,
    pub reason: Reason,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Subscribe {
    pub packet_id: u16,
    pub filters: Vec<Filter>,
    /// MQTT 5, 1 or more.
    pub subscription_id: Option<u32>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    pub filter: String,
    pub options: Options,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    pub qos: Qos,
    pub no_local: bool,
    pub retain_as_published: bool,
    pub retain_handling: RetainHandling,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetainHandling {
    Always,
    /// Only when the subscription is new.
    IfNew,
    Never,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Unsubscribe {
    pub packet_id: u16,
    pub filters: Vec<String>,
}

/// The properties of MQTT 5 that a client may send or that travel with a message. Which
/// of them a packet may carry is the decoder's knowledge.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Props {
    pub payload_format: Option<u8>,
    /// Seconds.
    pub message_expiry: Option<u32>,
    pub content_type: Option<String>,
    pub response_topic: Option<String>,
    pub correlation_data: Option<Bytes>,
    pub subscription_id: Option<u32>,
    /// Seconds; `u32::MAX` is for ever.
    pub session_expiry: Option<u32>,
    pub auth_method: Option<String>,
    pub auth_data: Option<Bytes>,
    pub request_problem: Option<u8>,
    /// Seconds.
    pub will_delay: Option<u32>,
    pub request_response: Option<u8>,
    pub reason_string: Option<String>,
    pub receive_maximum: Option<u16>,
    pub topic_alias_maximum: Option<u16>,
    pub topic_alias: Option<u16>,
    pub user: Vec<(String, String)>,
    pub maximum_packet_size: Option<u32>,
}

/// A message on its way through the broker: what all receivers share.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub topic: Arc<str>,
    pub payload: Bytes,
    pub qos: Qos,
    pub retain: bool,
    /// Only the properties that are forwarded; never an alias or a subscription id.
    pub props: Props,
}

impl Message {
    /// What a message costs in a queue, in bytes, properties by a rough measure.
    pub fn weight(&self) -> usize {
        let user: usize = self.props.user.iter().map(|(k, v)| k.len() + v.len() + 48).sum();
        let text = |t: &Option<String>| t.as_ref().map_or(0, String::len);
        self.topic.len()
            + self.payload.len()
            + user
            + text(&self.props.content_type)
            + text(&self.props.response_topic)
            + self.props.correlation_data.as_ref().map_or(0, Bytes::len)
    }
}
