use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::super::decode::decode;
use super::super::packet::ClientPacket;
use super::*;

const MAX: usize = 1 << 20;

fn text() -> impl Strategy<Value = String> {
    "[a-zäé日/ ]{1,20}"
}

fn props() -> impl Strategy<Value = Props> {
    (
        prop::option::of(0u8..2),
        prop::option::of(any::<u32>()),
        prop::option::of(text()),
        prop::option::of(text()),
        prop::option::of(prop::collection::vec(any::<u8>(), 0..20)),
        prop::collection::vec((text(), text()), 0..3),
    )
        .prop_map(|(payload_format, message_expiry, content_type, response_topic, data, user)| Props {
            payload_format,
            message_expiry,
            content_type,
            response_topic,
            correlation_data: data.map(Bytes::from),
            user,
            ..Props::default()
        })
}

fn message() -> impl Strategy<Value = Message> {
    (text(), prop::collection::vec(any::<u8>(), 0..300), any::<bool>(), any::<bool>(), props()).prop_map(
        |(topic, payload, at_least_once, retain, props)| Message {
            topic: Arc::from(topic),
            payload: Bytes::from(payload),
            qos: if at_least_once { Qos::AtLeastOnce } else { Qos::AtMostOnce },
            retain,
            props,
        },
    )
}

fn delivery(message: &Message, dup: bool, id: u16) -> Delivery<'_> {
    let acknowledged = message.qos != Qos::AtMostOnce;
    Delivery {
        message,
        dup: dup && acknowledged,
        qos: message.qos,
        retain: message.retain,
        packet_id: if acknowledged { id } else { 0 },
        expiry: message.props.message_expiry,
        subscription_ids: &[],
    }
}

proptest! {
    #[test]
    fn a_publish_reads_back(mut message in message(), dup: bool, id in 1u16.., five: bool) {
        let version = if five { Version::V5 } else { Version::V3_1_1 };
        if !five {
            message.props = Props::default();
        }
        let mut out = BytesMut::new();
        let sent = delivery(&message, dup, id);
        prop_assert!(publish(&mut out, version, MAX, &sent));
        let size = out.len();
        let Ok(Some(ClientPacket::Publish(read))) = decode(&mut out, Some(version), MAX) else {
            return Err(TestCaseError::fail("not taken"));
        };
        prop_assert!(out.is_empty());
        prop_assert_eq!((read.dup, read.qos, read.retain, read.packet_id),
                        (sent.dup, sent.qos, sent.retain, sent.packet_id));
        prop_assert_eq!((&*read.topic, &read.payload, &read.props), (&*message.topic, &message.payload, &message.props));

        // One byte below its size it is not sent, and nothing of it is left in the buffer.
        prop_assert!(!publish(&mut out, version, size - 1, &sent));
        prop_assert!(out.is_empty());
        prop_assert!(publish(&mut out, version, size, &sent));
    }
}

#[test]
fn the_server_packets_look_as_the_specification_draws_them() {
    fn check(written: impl Fn(&mut BytesMut), expected: &[u8]) {
        let mut out = BytesMut::new();
        written(&mut out);
        assert_eq!(&out[..], expected);
    }
    use Version::{V3_1_1, V5};
    check(|o| connack(o, V3_1_1, true, &Offer::default()), &[0x20, 2, 1, 0]);
    check(|o| refuse(o, V3_1_1, Reason::NOT_AUTHORIZED), &[0x20, 2, 0, 5]);
    check(|o| refuse(o, V3_1_1, Reason::SERVER_BUSY), &[0x20, 2, 0, 3]);
    check(|o| refuse(o, V5, Reason::NOT_AUTHORIZED), &[0x20, 3, 0, 0x87, 0]);
    check(|o| puback(o, V3_1_1, 0x1234, Reason::SUCCESS), &[0x40, 2, 0x12, 0x34]);
    check(|o| puback(o, V5, 0x1234, Reason::NOT_AUTHORIZED), &[0x40, 3, 0x12, 0x34, 0x87]);
    let granted = [Reason(1), Reason::NOT_AUTHORIZED];
    check(|o| suback(o, V3_1_1, 5, &granted), &[0x90, 4, 0, 5, 1, 0x80]);
    check(|o| suback(o, V5, 5, &granted), &[0x90, 5, 0, 5, 0, 1, 0x87]);
    check(|o| unsuback(o, V3_1_1, 5, &granted), &[0xb0, 2, 0, 5]);
    check(|o| unsuback(o, V5, 5, &[Reason::NO_SUBSCRIPTION]), &[0xb0, 4, 0, 5, 0, 0x11]);
    check(pingresp, &[0xd0, 0]);
    check(|o| disconnect(o, V3_1_1, Reason::TAKEN_OVER), &[]);
    check(|o| disconnect(o, V5, Reason::TAKEN_OVER), &[0xe0, 1, 0x8e]);
    let offer = Offer {
        receive_maximum: 100,
        maximum_packet_size: 0x0004_0000,
        topic_alias_maximum: 10,
        assigned_client_id: Some("x".into()),
        ..Offer::default()
    };
    check(
        |o| connack(o, V5, false, &offer),
        &[
            0x20, 22, 0, 0, 19, 0x21, 0, 100, 0x24, 1, 0x27, 0, 4, 0, 0, 0x12, 0, 1, b'x', 0x22, 0, 10, 0x2a,
            0,
        ],
    );
}
