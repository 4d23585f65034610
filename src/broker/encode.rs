//! Packets of the server to bytes.
//!
//! Constraints: appends to the connection's output buffer and never fails; what a client
//! has said it cannot take is not written (a PUBLISH above its maximum) or written shorter.
//! MQTT 3.1.1 cannot say most reasons: CONNACK has five, PUBACK none, and there is no
//! DISCONNECT from a server at all.

use bytes::{BufMut, BytesMut};

use super::packet::{Message, Props, Qos, Reason, Version};

/// What CONNACK of MQTT 5 tells about this server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Offer {
    pub session_expiry: Option<u32>,
    pub receive_maximum: u16,
    pub maximum_packet_size: u32,
    pub topic_alias_maximum: u16,
    pub assigned_client_id: Option<String>,
    pub server_keep_alive: Option<u16>,
}

/// An accepting CONNACK.
pub fn connack(out: &mut BytesMut, version: Version, session_present: bool, offer: &Offer) {
    let mut body = BytesMut::with_capacity(64);
    body.put_u8(u8::from(session_present));
    body.put_u8(0);
    if version == Version::V5 {
        let mut props = BytesMut::with_capacity(48);
        if let Some(seconds) = offer.session_expiry {
            props.put_u8(0x11);
            props.put_u32(seconds);
        }
        props.put_u8(0x21);
        props.put_u16(offer.receive_maximum);
        // Maximum QoS 1: exactly-once is not offered yet.
        props.put_slice(&[0x24, 1]);
        props.put_u8(0x27);
        props.put_u32(offer.maximum_packet_size);
        if let Some(id) = &offer.assigned_client_id {
            props.put_u8(0x12);
            string(&mut props, id);
        }
        props.put_u8(0x22);
        props.put_u16(offer.topic_alias_maximum);
        // No shared subscriptions yet.
        props.put_slice(&[0x2a, 0]);
        if let Some(seconds) = offer.server_keep_alive {
            props.put_u8(0x13);
            props.put_u16(seconds);
        }
        varint(&mut body, props.len());
        body.put_slice(&props);
    }
    frame(out, 0x20, &body);
}

/// A CONNACK that refuses.
pub fn refuse(out: &mut BytesMut, version: Version, reason: Reason) {
    match version {
        Version::V3_1_1 => frame(out, 0x20, &[0, return_code(reason)]),
        Version::V5 => frame(out, 0x20, &[0, reason.0, 0]),
    }
}

/// How a message goes to one receiver.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery<'a> {
    pub message: &'a Message,
    pub dup: bool,
    pub qos: Qos,
    pub retain: bool,
    /// 0 exactly at QoS 0.
    pub packet_id: u16,
    /// Seconds that are left of the message's life.
    pub expiry: Option<u32>,
    pub subscription_ids: &'a [u32],
}

/// A PUBLISH, unless it would be longer than `limit` bytes: then nothing, and `false`.
pub fn publish(out: &mut BytesMut, version: Version, limit: usize, d: &Delivery<'_>) -> bool {
    let mut props = BytesMut::new();
    if version == Version::V5 {
        message_props(&mut props, d);
    }
    let id = if d.qos == Qos::AtMostOnce { 0 } else { 2 };
    let head = if version == Version::V5 { varint_len(props.len()) + props.len() } else { 0 };
    let length = 2 + d.message.topic.len() + id + head + d.message.payload.len();
    if length > LENGTH_MAX || 1 + varint_len(length) + length > limit {
        return false;
    }
    out.reserve(5 + length);
    out.put_u8(0x30 | u8::from(d.dup) << 3 | d.qos.bits() << 1 | u8::from(d.retain));
    varint(out, length);
    string(out, &d.message.topic);
    if id != 0 {
        out.put_u16(d.packet_id);
    }
    if version == Version::V5 {
        varint(out, props.len());
        out.put_slice(&props);
    }
    out.put_slice(&d.message.payload);
    true
}

/// A PUBACK. In 3.1.1 the reason is lost, so the caller must not refuse by it.
pub fn puback(out: &mut BytesMut, version: Version, packet_id: u16, reason: Reason) {
    let [high, low] = packet_id.to_be_bytes();
    if version == Version::V3_1_1 || reason == Reason::SUCCESS {
        out.put_slice(&[0x40, 2, high, low]);
    } else {
        out.put_slice(&[0x40, 3, high, low, reason.0]);
    }
}

/// A SUBACK; a reason below 0x80 is the granted QoS.
pub fn suback(out: &mut BytesMut, version: Version, packet_id: u16, reasons: &[Reason]) {
    let fold = |r: &Reason| match version {
        Version::V3_1_1 if r.is_refusal() => 0x80,
        _ => r.0,
    };
    acknowledge(out, 0x90, version, packet_id, reasons.iter().map(fold));
}

/// An UNSUBACK; 3.1.1 has no reasons in it.
pub fn unsuback(out: &mut BytesMut, version: Version, packet_id: u16, reasons: &[Reason]) {
    let said = if version == Version::V5 { reasons } else { &[] };
    acknowledge(out, 0xb0, version, packet_id, said.iter().map(|r| r.0));
}

pub fn pingresp(out: &mut BytesMut) {
    out.put_slice(&[0xd0, 0]);
}

/// A DISCONNECT; nothing in 3.1.1, where a server just hangs up.
pub fn disconnect(out: &mut BytesMut, version: Version, reason: Reason) {
    if version == Version::V5 {
        out.put_slice(&[0xe0, 1, reason.0]);
    }
}

/// The largest remaining length that four bytes can say.
const LENGTH_MAX: usize = 268_435_455;

/// The five things that a CONNACK of 3.1.1 can say.
fn return_code(reason: Reason) -> u8 {
    match reason {
        Reason::UNSUPPORTED_VERSION => 1,
        Reason::CLIENT_ID_NOT_VALID => 2,
        Reason::BAD_LOGIN => 4,
        Reason::NOT_AUTHORIZED | Reason::TOPIC_INVALID => 5,
        _ => 3,
    }
}

fn acknowledge(
    out: &mut BytesMut,
    first: u8,
    version: Version,
    packet_id: u16,
    codes: impl Iterator<Item = u8>,
) {
    let mut body = BytesMut::with_capacity(16);
    body.put_u16(packet_id);
    if version == Version::V5 {
        body.put_u8(0);
    }
    body.extend(codes);
    frame(out, first, &body);
}

fn message_props(out: &mut BytesMut, d: &Delivery<'_>) {
    let p: &Props = &d.message.props;
    if let Some(format) = p.payload_format {
        out.put_slice(&[0x01, format]);
    }
    if let Some(seconds) = d.expiry {
        out.put_u8(0x02);
        out.put_u32(seconds);
    }
    for (id, text) in [(0x03, &p.content_type), (0x08, &p.response_topic)] {
        if let Some(text) = text {
            out.put_u8(id);
            string(out, text);
        }
    }
    if let Some(data) = &p.correlation_data {
        out.put_u8(0x09);
        binary(out, data);
    }
    for id in d.subscription_ids {
        out.put_u8(0x0b);
        varint(out, *id as usize);
    }
    for (key, value) in &p.user {
        out.put_u8(0x26);
        string(out, key);
        string(out, value);
    }
}

fn frame(out: &mut BytesMut, first: u8, body: &[u8]) {
    out.put_u8(first);
    varint(out, body.len());
    out.put_slice(body);
}

fn string(out: &mut BytesMut, text: &str) {
    binary(out, text.as_bytes());
}

/// Texts and data come from a decoder that counted them in 16 bits, or are written here.
fn binary(out: &mut BytesMut, data: &[u8]) {
    let length = u16::try_from(data.len()).expect("every text and datum of a packet is below 64 KiB");
    out.put_u16(length);
    out.put_slice(data);
}

fn varint(out: &mut BytesMut, mut value: usize) {
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        out.put_u8(if value == 0 { byte } else { byte | 0x80 });
        if value == 0 {
            return;
        }
    }
}

fn varint_len(value: usize) -> usize {
    match value {
        0..=0x7f => 1,
        0x80..=0x3fff => 2,
        0x4000..=0x1f_ffff => 3,
        _ => 4,
    }
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
