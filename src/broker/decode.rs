//! Bytes to packets, strictly.
//!
//! Constraints: everything behind this file believes what it is given, so whatever the
//! specification does not allow a client to send is refused here, before policy looks at
//! it: wildcards in a topic, packet id 0, reserved bits, a property in the wrong packet or
//! twice, a byte too many. Nothing is allocated for a length that has not arrived and
//! passed the limit. What is kept is copied, for a slice would hold the whole read buffer.
//!
//! The way of a packet: first byte, length and limit are judged as soon as they are there;
//! the body only when it is complete; then a `Reader` walks it and must end at its end.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};

use super::packet::{
    Ack, ClientPacket, Connect, Filter, Options, Props, Publish, Qos, Reason, RetainHandling, Subscribe,
    Unsubscribe, Version, Will,
};
use super::topic::{share, valid_filter, valid_topic};

/// Takes one packet from the front of `buf`. `version` is `None` until a CONNECT was taken,
/// and then only a CONNECT is allowed; `max` is the longest packet in bytes, header
/// included. `Ok(None)`: it has not arrived in full yet.
pub fn decode(
    buf: &mut BytesMut,
    version: Option<Version>,
    max: usize,
) -> Result<Option<ClientPacket>, Reason> {
    let Some(&first) = buf.first() else { return Ok(None) };
    check_first(first, version)?;
    let Some((length, header)) = remaining_length(&buf[1..])? else { return Ok(None) };
    let total = 1 + header + length;
    if total > max {
        return Err(Reason::PACKET_TOO_LARGE);
    }
    if buf.len() < total {
        return Ok(None);
    }
    let mut reader = Reader { left: &buf[1 + header..total] };
    let packet = body(first, version, &mut reader)?;
    if !reader.left.is_empty() {
        return Err(Reason::MALFORMED);
    }
    buf.advance(total);
    Ok(Some(packet))
}

/// Kinds and flags that can never become good are refused before anything else arrives.
fn check_first(first: u8, version: Option<Version>) -> Result<(), Reason> {
    let flags = first & 0x0f;
    let flags_good = match first >> 4 {
        1 | 4 | 5 | 7 | 12 | 14 => flags == 0,
        3 => flags & 0b0110 != 0b0110 && (flags & 0b1000 == 0 || flags & 0b0110 != 0),
        6 | 8 | 10 => flags == 0b0010,
        15 if version == Some(Version::V5) => flags == 0,
        0 | 15 => false,
        // CONNACK, SUBACK, UNSUBACK and PINGRESP come from a server only.
        _ => return Err(Reason::PROTOCOL_ERROR),
    };
    if !flags_good {
        return Err(Reason::MALFORMED);
    }
    if (first >> 4 == 1) == version.is_some() {
        return Err(Reason::PROTOCOL_ERROR);
    }
    Ok(())
}

/// The length and how many bytes it took; `None` if it is not there yet.
fn remaining_length(bytes: &[u8]) -> Result<Option<(usize, usize)>, Reason> {
    let mut value = 0usize;
    for (i, &byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            // The shortest form is the only one.
            return if i > 0 && byte == 0 { Err(Reason::MALFORMED) } else { Ok(Some((value, i + 1))) };
        }
    }
    if bytes.len() >= 4 { Err(Reason::MALFORMED) } else { Ok(None) }
}

fn body(first: u8, version: Option<Version>, r: &mut Reader<'_>) -> Result<ClientPacket, Reason> {
    let Some(version) = version else {
        return connect(r).map(|c| ClientPacket::Connect(Box::new(c)));
    };
    Ok(match first >> 4 {
        3 => ClientPacket::Publish(Box::new(publish(first, version, r)?)),
        4 => ClientPacket::PubAck(ack(r, version, &RECEIVED)?),
        5 => ClientPacket::PubRec(ack(r, version, &RECEIVED)?),
        6 => ClientPacket::PubRel(ack(r, version, &RELEASED)?),
        7 => ClientPacket::PubComp(ack(r, version, &RELEASED)?),
        8 => ClientPacket::Subscribe(subscribe(r, version)?),
        10 => ClientPacket::Unsubscribe(unsubscribe(r, version)?),
        12 => ClientPacket::PingReq,
        14 => disconnect(r, version)?,
        // AUTH: legal only in an exchange that CONNECT began, and that one is refused.
        _ => return Err(Reason::PROTOCOL_ERROR),
    })
}

fn connect(r: &mut Reader<'_>) -> Result<Connect, Reason> {
    let version = match (r.string()?, r.u8()?) {
        ("MQTT", 4) => Version::V3_1_1,
        ("MQTT", 5) => Version::V5,
        ("MQTT" | "MQIsdp", _) => return Err(Reason::UNSUPPORTED_VERSION),
        _ => return Err(Reason::MALFORMED),
    };
    let flags = r.u8()?;
    let has = |bit: u8| flags & (1 << bit) != 0;
    let will_qos = Qos::from_bits(flags >> 3 & 3).ok_or(Reason::MALFORMED)?;
    let lone_password = version == Version::V3_1_1 && has(6) && !has(7);
    if has(0) || lone_password || (!has(2) && flags & 0b0011_1000 != 0) {
        return Err(Reason::MALFORMED);
    }
    let keep_alive = r.u16()?;
    let props = r.props(version, In::CONNECT)?;
    if props.auth_data.is_some() && props.auth_method.is_none() {
        return Err(Reason::PROTOCOL_ERROR);
    }
    let client_id = r.string()?.to_owned();
    let will = if has(2) { Some(will(r, version, will_qos, has(5))?) } else { None };
    let username = if has(7) { Some(r.string()?.to_owned()) } else { None };
    let password = if has(6) { Some(r.binary()?) } else { None };
    Ok(Connect { version, client_id, clean_start: has(1), keep_alive, will, username, password, props })
}

fn will(r: &mut Reader<'_>, version: Version, qos: Qos, retain: bool) -> Result<Will, Reason> {
    let props = r.props(version, In::WILL)?;
    let topic = r.string()?;
    if !valid_topic(topic) {
        return Err(Reason::TOPIC_INVALID);
    }
    Ok(Will { topic: Arc::from(topic), payload: r.binary()?, qos, retain, props })
}

fn publish(first: u8, version: Version, r: &mut Reader<'_>) -> Result<Publish, Reason> {
    let qos = Qos::from_bits(first >> 1 & 3).ok_or(Reason::MALFORMED)?;
    let topic = r.string()?.to_owned();
    let packet_id = if qos == Qos::AtMostOnce { 0 } else { r.packet_id()? };
    let props = r.props(version, In::PUBLISH)?;
    let aliased = topic.is_empty() && props.topic_alias.is_some();
    if !aliased && !valid_topic(&topic) {
        return Err(if topic.is_empty() { Reason::PROTOCOL_ERROR } else { Reason::TOPIC_INVALID });
    }
    let payload = Bytes::copy_from_slice(std::mem::take(&mut r.left));
    Ok(Publish { dup: first & 8 != 0, qos, retain: first & 1 != 0, topic, packet_id, payload, props })
}

const RECEIVED: [u8; 9] = [0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
const RELEASED: [u8; 2] = [0x00, 0x92];

fn ack(r: &mut Reader<'_>, version: Version, known: &[u8]) -> Result<Ack, Reason> {
    let packet_id = r.packet_id()?;
    let mut reason = Reason::SUCCESS;
    if version == Version::V5 && !r.left.is_empty() {
        reason = Reason(r.u8()?);
        if !known.contains(&reason.0) {
            return Err(Reason::PROTOCOL_ERROR);
        }
        if !r.left.is_empty() {
            r.props(version, In::ACK)?;
        }
    }
    Ok(Ack { packet_id, reason })
}

fn subscribe(r: &mut Reader<'_>, version: Version) -> Result<Subscribe, Reason> {
    let packet_id = r.packet_id()?;
    let props = r.props(version, In::SUBSCRIBE)?;
    let mut filters = Vec::new();
    while !r.left.is_empty() {
        let filter = r.string()?.to_owned();
        if !valid_filter(&filter) {
            return Err(Reason::FILTER_INVALID);
        }
        let options = options(r.u8()?, version)?;
        if options.no_local && share(&filter).is_some() {
            return Err(Reason::PROTOCOL_ERROR);
        }
        filters.push(Filter { filter, options });
    }
    if filters.is_empty() {
        return Err(Reason::PROTOCOL_ERROR);
    }
    Ok(Subscribe { packet_id, filters, subscription_id: props.subscription_id })
}

fn options(byte: u8, version: Version) -> Result<Options, Reason> {
    let reserved = if version == Version::V5 { 0b1100_0000 } else { 0b1111_1100 };
    let qos = Qos::from_bits(byte & 3);
    let handling = match byte >> 4 & 3 {
        0 => Some(RetainHandling::Always),
        1 => Some(RetainHandling::IfNew),
        2 => Some(RetainHandling::Never),
        _ => None,
    };
    match (qos, handling) {
        (Some(qos), Some(retain_handling)) if byte & reserved == 0 => {
            Ok(Options { qos, no_local: byte & 4 != 0, retain_as_published: byte & 8 != 0, retain_handling })
        }
        _ => Err(Reason::MALFORMED),
    }
}

fn unsubscribe(r: &mut Reader<'_>, version: Version) -> Result<Unsubscribe, Reason> {
    let packet_id = r.packet_id()?;
    r.props(version, In::UNSUBSCRIBE)?;
    let mut filters = Vec::new();
    while !r.left.is_empty() {
        let filter = r.string()?.to_owned();
        if !valid_filter(&filter) {
            return Err(Reason::FILTER_INVALID);
        }
        filters.push(filter);
    }
    if filters.is_empty() {
        return Err(Reason::PROTOCOL_ERROR);
    }
    Ok(Unsubscribe { packet_id, filters })
}

/// The reasons a client may give for leaving.
const LEAVING: [u8; 14] =
    [0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99];

fn disconnect(r: &mut Reader<'_>, version: Version) -> Result<ClientPacket, Reason> {
    let (mut reason, mut session_expiry) = (Reason::SUCCESS, None);
    if version == Version::V5 && !r.left.is_empty() {
        reason = Reason(r.u8()?);
        if !LEAVING.contains(&reason.0) {
            return Err(Reason::PROTOCOL_ERROR);
        }
        if !r.left.is_empty() {
            session_expiry = r.props(version, In::DISCONNECT)?.session_expiry;
        }
    }
    Ok(ClientPacket::Disconnect { reason, session_expiry })
}

/// Which packet a property may stand in, as a set of bits.
struct In;

impl In {
    const CONNECT: u8 = 1;
    const WILL: u8 = 2;
    const PUBLISH: u8 = 4;
    const ACK: u8 = 8;
    const SUBSCRIBE: u8 = 16;
    const UNSUBSCRIBE: u8 = 32;
    const DISCONNECT: u8 = 64;
    const MESSAGE: u8 = Self::WILL | Self::PUBLISH;
    const ANY: u8 = 0xff;

    /// The packets from a client that may carry property `id`; none for an unknown one.
    fn allowed(id: u32) -> u8 {
        match id {
            0x01 | 0x02 | 0x03 | 0x08 | 0x09 => Self::MESSAGE,
            0x0b => Self::SUBSCRIBE,
            0x11 => Self::CONNECT | Self::DISCONNECT,
            0x15 | 0x16 | 0x17 | 0x19 | 0x21 | 0x22 | 0x27 => Self::CONNECT,
            0x18 => Self::WILL,
            0x1f => Self::ACK | Self::DISCONNECT,
            0x23 => Self::PUBLISH,
            0x26 => Self::ANY,
            _ => 0,
        }
    }
}

struct Reader<'a> {
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Reason> {
        let (taken, left) = self.left.split_at_checked(n).ok_or(Reason::MALFORMED)?;
        self.left = left;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, Reason> {
        self.take(1).map(|b| b[0])
    }

    fn u16(&mut self) -> Result<u16, Reason> {
        self.take(2).map(|b| u16::from_be_bytes([b[0], b[1]]))
    }

    fn u32(&mut self) -> Result<u32, Reason> {
        self.take(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }

    fn varint(&mut self) -> Result<u32, Reason> {
        let (value, took) = remaining_length(self.left)?.ok_or(Reason::MALFORMED)?;
        self.take(took)?;
        u32::try_from(value).map_err(|_| Reason::MALFORMED)
    }

    fn bytes(&mut self) -> Result<&'a [u8], Reason> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    fn binary(&mut self) -> Result<Bytes, Reason> {
        self.bytes().map(Bytes::copy_from_slice)
    }

    /// UTF-8 without U+0000; surrogates and overlong forms are no UTF-8.
    fn string(&mut self) -> Result<&'a str, Reason> {
        let text = std::str::from_utf8(self.bytes()?).map_err(|_| Reason::MALFORMED)?;
        if text.contains('\0') { Err(Reason::MALFORMED) } else { Ok(text) }
    }

    fn packet_id(&mut self) -> Result<u16, Reason> {
        match self.u16()? {
            0 => Err(Reason::PROTOCOL_ERROR),
            id => Ok(id),
        }
    }

    fn flag(&mut self) -> Result<u8, Reason> {
        self.u8().and_then(|v| if v > 1 { Err(Reason::PROTOCOL_ERROR) } else { Ok(v) })
    }

    fn props(&mut self, version: Version, place: u8) -> Result<Props, Reason> {
        let mut props = Props::default();
        if version == Version::V3_1_1 {
            return Ok(props);
        }
        let length = self.varint()?;
        let mut inner = Reader { left: self.take(usize::try_from(length).map_err(|_| Reason::MALFORMED)?)? };
        while !inner.left.is_empty() {
            let id = inner.varint()?;
            match In::allowed(id) {
                0 => return Err(Reason::MALFORMED),
                places if places & place == 0 => return Err(Reason::PROTOCOL_ERROR),
                _ => inner.prop(id, &mut props)?,
            }
        }
        Ok(props)
    }

    fn prop(&mut self, id: u32, p: &mut Props) -> Result<(), Reason> {
        match id {
            0x01 => once(&mut p.payload_format, self.flag()?),
            0x02 => once(&mut p.message_expiry, self.u32()?),
            0x03 => once(&mut p.content_type, self.string()?.to_owned()),
            0x08 => {
                let topic = self.string()?;
                if !valid_topic(topic) {
                    return Err(Reason::TOPIC_INVALID);
                }
                once(&mut p.response_topic, topic.to_owned())
            }
            0x09 => once(&mut p.correlation_data, self.binary()?),
            0x0b => once(&mut p.subscription_id, not_zero(self.varint()?)?),
            0x11 => once(&mut p.session_expiry, self.u32()?),
            0x15 => once(&mut p.auth_method, self.string()?.to_owned()),
            0x16 => once(&mut p.auth_data, self.binary()?),
            0x17 => once(&mut p.request_problem, self.flag()?),
            0x18 => once(&mut p.will_delay, self.u32()?),
            0x19 => once(&mut p.request_response, self.flag()?),
            0x1f => once(&mut p.reason_string, self.string()?.to_owned()),
            0x21 => once(&mut p.receive_maximum, not_zero(self.u16()?)?),
            0x22 => once(&mut p.topic_alias_maximum, self.u16()?),
            0x23 => match self.u16()? {
                0 => Err(Reason::TOPIC_ALIAS_INVALID),
                alias => once(&mut p.topic_alias, alias),
            },
            0x27 => once(&mut p.maximum_packet_size, not_zero(self.u32()?)?),
            _ => {
                p.user.push((self.string()?.to_owned(), self.string()?.to_owned()));
                Ok(())
            }
        }
    }
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), Reason> {
    if slot.replace(value).is_some() { Err(Reason::PROTOCOL_ERROR) } else { Ok(()) }
}

fn not_zero<T: PartialEq + From<u8>>(value: T) -> Result<T, Reason> {
    if value == T::from(0) { Err(Reason::PROTOCOL_ERROR) } else { Ok(value) }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
