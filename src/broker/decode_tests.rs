use bytes::{BufMut, BytesMut};
use proptest::prelude::*;

use super::*;

const MAX: usize = 64 * 1024;

struct Case {
    state: Option<Version>,
    bytes: Vec<u8>,
    why: &'static str,
}

/// Reads the notation that the head of `malformed.txt` explains.
fn cases(text: &'static str) -> Vec<Case> {
    let lines = text.lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
    lines
        .map(|line| {
            let [state, packet, why] = line.split(" | ").collect::<Vec<_>>()[..] else { panic!("{line}") };
            let state = match state {
                "first" => None,
                "3" => Some(Version::V3_1_1),
                "5" => Some(Version::V5),
                other => panic!("{other}"),
            };
            Case { state, bytes: bytes_of(packet), why }
        })
        .collect()
}

fn bytes_of(notation: &str) -> Vec<u8> {
    let mut open: Vec<Vec<u8>> = vec![Vec::new()];
    let mut rest = notation.trim();
    while let Some(c) = rest.chars().next() {
        let mut used = 1;
        match c {
            ' ' => {}
            '[' | '(' => open.push(Vec::new()),
            ']' | ')' => {
                let inner = open.pop().unwrap();
                let outer = open.last_mut().unwrap();
                let (low, high) = ((inner.len() & 0x7f) as u8, (inner.len() >> 7) as u8);
                outer.extend(if high == 0 { vec![low] } else { vec![low | 0x80, high] });
                outer.extend(inner);
            }
            '\'' => {
                let text = rest[1..].split('\'').next().unwrap();
                used = text.len() + 2;
                let top = open.last_mut().unwrap();
                top.put_u16(text.len() as u16);
                top.put_slice(text.as_bytes());
            }
            _ => {
                used = 2;
                open.last_mut().unwrap().push(u8::from_str_radix(&rest[..2], 16).expect(notation));
            }
        }
        rest = &rest[used..];
    }
    assert_eq!(open.len(), 1, "{notation}");
    open.remove(0)
}

fn malformed() -> Vec<Case> {
    cases(include_str!("../../tests/cases/broker/malformed.txt"))
}

fn wellformed() -> Vec<Case> {
    cases(include_str!("../../tests/cases/broker/wellformed.txt"))
}

#[test]
fn every_malformed_packet_is_refused() {
    let accepted: Vec<String> = malformed()
        .into_iter()
        .filter_map(|case| {
            let mut buf = BytesMut::from(&case.bytes[..]);
            let seen = decode(&mut buf, case.state, MAX);
            seen.is_ok().then(|| format!("{} ({:02x?}): {seen:?}", case.why, case.bytes))
        })
        .collect();
    assert!(accepted.is_empty(), "{accepted:#?}");
}

#[test]
fn a_good_packet_is_taken_when_its_last_byte_is_there_and_not_before() {
    for case in wellformed() {
        for cut in 0..case.bytes.len() {
            let mut buf = BytesMut::from(&case.bytes[..cut]);
            assert_eq!(decode(&mut buf, case.state, MAX), Ok(None), "{} cut at {cut}", case.why);
            assert_eq!(buf.len(), cut, "{}: nothing is taken from half a packet", case.why);
        }
        let mut buf = BytesMut::from(&case.bytes[..]);
        buf.put_u8(0xc0);
        let packet = decode(&mut buf, case.state, MAX);
        assert!(matches!(packet, Ok(Some(_))), "{}: {packet:?}", case.why);
        assert_eq!(&buf[..], [0xc0], "{}: what follows stays", case.why);
    }
}

#[test]
fn the_limit_counts_the_whole_packet() {
    let bytes = bytes_of("30 ['a/b' 01 02 03]");
    for (max, expected) in [(10, true), (9, false)] {
        let seen = decode(&mut BytesMut::from(&bytes[..]), Some(Version::V3_1_1), max);
        assert_eq!(seen.is_ok(), expected, "limit {max}: {seen:?}");
    }
    // The length alone is enough; nobody waits for the body.
    let seen = decode(&mut BytesMut::from(&[0x30u8, 0x90, 0x4e][..]), Some(Version::V5), 1000);
    assert_eq!(seen, Err(Reason::PACKET_TOO_LARGE));
}

#[test]
fn what_a_packet_says_is_what_is_read() {
    let bytes = bytes_of("10 ['MQTT' 05 ee 00 3c (11 00 00 00 0a) 'c' (18 00 00 00 05) 't' 'm' 'u' 'p']");
    let Ok(Some(ClientPacket::Connect(c))) = decode(&mut BytesMut::from(&bytes[..]), None, MAX) else {
        panic!("not taken")
    };
    assert_eq!((c.version, c.client_id.as_str(), c.clean_start, c.keep_alive), (Version::V5, "c", true, 60));
    assert_eq!((c.username.as_deref(), c.password.as_deref()), (Some("u"), Some(&b"p"[..])));
    assert_eq!(c.props.session_expiry, Some(10));
    let will = c.will.expect("a will");
    assert_eq!(
        (&*will.topic, &will.payload[..], will.qos, will.retain),
        ("t", &b"m"[..], Qos::AtLeastOnce, true)
    );
    assert_eq!(will.props.will_delay, Some(5));

    let bytes = bytes_of("82 [00 09 (0b ff 7f) 'a' 2d '+/c' 02]");
    let packet = decode(&mut BytesMut::from(&bytes[..]), Some(Version::V5), MAX);
    let Ok(Some(ClientPacket::Subscribe(s))) = packet else { panic!("{packet:?}") };
    assert_eq!((s.packet_id, s.subscription_id), (9, Some(16_383)));
    let options = s.filters[0].options;
    assert_eq!((options.qos, options.no_local, options.retain_as_published), (Qos::AtLeastOnce, true, true));
    assert_eq!(options.retain_handling, RetainHandling::Never);
    assert_eq!((s.filters[1].filter.as_str(), s.filters[1].options.qos), ("+/c", Qos::ExactlyOnce));
}

/// Decodes whatever is there, as a connection does.
fn drain(bytes: &[u8], state: Option<Version>) {
    let mut buf = BytesMut::from(bytes);
    let mut left = buf.len();
    while let Ok(Some(_)) = decode(&mut buf, state, MAX) {
        assert!(buf.len() < left, "a packet of no bytes");
        left = buf.len();
    }
}

#[derive(Clone, Debug)]
enum Mutation {
    Set(prop::sample::Index, u8),
    Flip(prop::sample::Index, u8),
    Insert(prop::sample::Index, u8),
    Remove(prop::sample::Index),
    Cut(prop::sample::Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(i, b)| Mutation::Set(i, b)),
        (at(), 0u8..8).prop_map(|(i, b)| Mutation::Flip(i, b)),
        (at(), any::<u8>()).prop_map(|(i, b)| Mutation::Insert(i, b)),
        at().prop_map(Mutation::Remove),
        at().prop_map(Mutation::Cut),
    ]
}

fn mutate(bytes: &mut Vec<u8>, mutation: &Mutation) {
    if bytes.is_empty() {
        return;
    }
    let n = bytes.len();
    match mutation {
        Mutation::Set(i, b) => bytes[i.index(n)] = *b,
        Mutation::Flip(i, bit) => bytes[i.index(n)] ^= 1 << bit,
        Mutation::Insert(i, b) => bytes.insert(i.index(n), *b),
        Mutation::Remove(i) => {
            bytes.remove(i.index(n));
        }
        Mutation::Cut(i) => bytes.truncate(i.index(n)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn mutated_packets_neither_panic_nor_loop(
        which in any::<prop::sample::Index>(),
        mutations in prop::collection::vec(mutation(), 1..6),
    ) {
        let corpus = CORPUS.with(Clone::clone);
        let (state, bytes) = &corpus[which.index(corpus.len())];
        let mut bytes = bytes.clone();
        for m in &mutations {
            mutate(&mut bytes, m);
        }
        drain(&bytes, *state);
    }

    #[test]
    fn noise_neither_panics_nor_loops(bytes in prop::collection::vec(any::<u8>(), 0..64), state in 0..3) {
        drain(&bytes, [None, Some(Version::V3_1_1), Some(Version::V5)][state as usize]);
    }
}

thread_local! {
    static CORPUS: std::rc::Rc<Vec<(Option<Version>, Vec<u8>)>> =
        std::rc::Rc::new(wellformed().into_iter().chain(malformed()).map(|c| (c.state, c.bytes)).collect());
}
