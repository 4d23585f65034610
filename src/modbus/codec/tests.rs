use proptest::prelude::*;

use super::*;
use crate::modbus::{kind, order};
use crate::model::register::{Names, Order, Padding, Range, TextBytes, Transform};

fn words(hex: &str) -> Vec<u16> {
    let hex: String = hex.chars().filter(|c| !c.is_whitespace()).collect();
    (0..hex.len()).step_by(4).map(|at| u16::from_str_radix(&hex[at..at + 4], 16).unwrap()).collect()
}

fn point(type_name: &str, order_name: &str, registers: usize) -> RegisterPoint {
    let details = kind::Details {
        bit: Some(3),
        start: Some(4),
        length: Some(5),
        registers: Some(registers as u16),
        ..kind::Details::default()
    };
    let kind = kind::kind(type_name, &details).unwrap();
    let order = order::parse(order_name, order::byte_len(&kind)).unwrap();
    bare(Table::Holding, Encoding { kind, order })
}

/// What the reader sees: the value, or the cause in brackets.
fn shown(measured: &Measured) -> String {
    match measured {
        Measured::Good(v) => v.to_json().to_string(),
        Measured::Uncertain(v, cause) => format!("{} [{cause}]", v.to_json()),
        Measured::Bad(cause) => format!("[{cause}]"),
    }
}

fn check(type_name: &str, order_name: &str, wire: &str, expected: &str) {
    let words = words(wire);
    let seen = shown(&decode(&point(type_name, order_name, words.len()), &words, None));
    assert_eq!(seen, expected, "{type_name} {order_name} {wire}");
}

fn check_transform(type_name: &str, wire: &str, transform: Transform, expected: &str) {
    let words = words(wire);
    let mut point = point(type_name, "ABCD", words.len());
    let note = format!("{type_name} {wire} {transform:?}");
    point.transform = transform;
    assert_eq!(shown(&decode(&point, &words, None)), expected, "{note}");
}

#[test]
fn every_type_in_the_wire_s_own_order() {
    for (type_name, wire, expected) in [
        ("bool", "0000", "false"),
        ("bool", "0100", "true"),
        ("bit", "0008", "true"),
        ("bit", "fff7", "false"),
        ("bitfield", "0150", "21"),
        ("int8", "7f80", "-128"),
        ("int8l", "01ff", "-1"),
        ("int8h", "80ff", "-128"),
        ("uint8", "01ff", "255"),
        ("uint8h", "fe01", "254"),
        ("int16", "8000", "-32768"),
        ("int16", "7fff", "32767"),
        ("uint16", "ffff", "65535"),
        ("int24", "00800000", "-8388608"),
        ("int24", "ff7fffff", "8388607"),
        ("uint24", "12ffffff", "16777215"),
        ("int32", "80000000", "-2147483648"),
        ("uint32", "deadbeef", "3735928559"),
        ("int48", "800000000000", "-140737488355328"),
        ("uint48", "ffffffffffff", "281474976710655"),
        ("int64", "8000000000000000", "-9223372036854775808"),
        ("int64", "0020000000000001", "9007199254740993"),
        ("uint64", "ffffffffffffffff", "18446744073709551615"),
        ("float16", "3c00", "1.0"),
        ("float16", "0001", "5.960464477539063e-8"),
        ("float32", "43662666", "230.14999389648438"),
        ("float32", "42f6e979", "123.45600128173828"),
        ("float64", "405edd2f1a9fbe77", "123.456"),
        ("bcd16", "1234", "1234"),
        ("bcd32", "12345678", "12345678"),
        ("bcd64", "1234567890123456", "1234567890123456"),
        ("mod10k32", "0001270f", "19999"),
        ("mod10k48", "000104d2162e", "112345678"),
        ("mod10k64", "270f270f270f270f", "9999999999999999"),
        ("string", "41424344", "\"ABCD\""),
        ("bytes", "DEADBEEF", "\"deadbeef\""),
    ] {
        check(type_name, "ABCD", wire, expected);
    }
}

#[test]
fn every_order_of_every_width() {
    for (order_name, wire) in [("AB", "0102"), ("BA", "0201"), ("DCBA", "0201"), ("CDAB", "0102")] {
        check("uint16", order_name, wire, "258");
        check("int16", order_name, wire, "258");
        check("bytes", order_name, wire, "\"0102\"");
    }
    for (order_name, wire) in [
        ("ABCD", "01020304"),
        ("DCBA", "04030201"),
        ("BADC", "02010403"),
        ("CDAB", "03040102"),
        ("MSW-BE", "01020304"),
        ("LSW-LE", "04030201"),
        ("MSW-LE", "02010403"),
        ("LSW-BE", "03040102"),
        ("BCDA", "02030401"),
    ] {
        check("uint32", order_name, wire, "16909060");
        check("uint24", order_name, wire, "131844");
    }
    for (order_name, wire) in [
        ("ABCDEF", "010203040506"),
        ("FEDCBA", "060504030201"),
        ("BADC", "020104030605"),
        ("CDAB", "050603040102"),
        ("CDEFAB", "030405060102"),
    ] {
        check("uint48", order_name, wire, "1108152157446");
    }
    for (order_name, wire) in [
        ("ABCDEFGH", "0102030405060708"),
        ("HGFEDCBA", "0807060504030201"),
        ("BADCFEHG", "0201040306050807"),
        ("GHEFCDAB", "0708050603040102"),
        ("CDABGHEF", "0304010207080506"),
        ("EFGHABCD", "0506070801020304"),
        ("DCBA", "0807060504030201"),
        ("BADC", "0201040306050807"),
        ("CDAB", "0708050603040102"),
        ("HABCDEFG", "0801020304050607"),
        ("CAEBGDHF", "0301050207040806"),
    ] {
        check("uint64", order_name, wire, "72623859790382856");
    }
    // The device of the Modbus world's favourite surprise: a float with its words exchanged.
    check("float32", "CDAB", "26664366", "230.14999389648438");
    check("float64", "GHEFCDAB", "be771a9fdd2f405e", "123.456");
    check("float16", "BA", "003c", "1.0");
    check("bcd32", "CDAB", "56781234", "12345678");
    check("mod10k32", "CDAB", "270f0001", "19999");
    check("mod10k32", "BADC", "01000f27", "19999");
    check("bit", "BA", "0800", "true");
    check("int8l", "BA", "ff01", "-1");
}

#[test]
fn what_is_no_number_is_bad() {
    for (type_name, wire, expected) in [
        ("float16", "7c00", "[not-a-number]"),
        ("float16", "7e00", "[not-a-number]"),
        ("float32", "7f800000", "[not-a-number]"),
        ("float32", "7fc00000", "[not-a-number]"),
        ("float64", "fff0000000000000", "[not-a-number]"),
        ("float64", "7ff8000000000000", "[not-a-number]"),
        ("bcd16", "12a4", "[bad-digits]"),
        ("bcd32", "f2345678", "[bad-digits]"),
        ("bcd64", "123456789012345b", "[bad-digits]"),
        ("mod10k32", "00012710", "[bad-digits]"),
        ("mod10k64", "2710000000000000", "[bad-digits]"),
        ("string", "41014243", "[bad-text]"),
    ] {
        check(type_name, "ABCD", wire, expected);
    }
    let short = decode(&point("int32", "ABCD", 2), &[1], None);
    assert_eq!(shown(&short), "[garbled]");
}

#[test]
fn invalid_marks_come_first() {
    let marked = |mark| Transform { invalid: vec![mark], ..Transform::default() };
    for (type_name, wire, mark, expected) in [
        ("int16", "8000", 0x8000, "[invalid]"),
        ("int16", "8001", 0x8000, "-32767"),
        ("uint32", "ffffffff", 0xffff_ffff, "[invalid]"),
        ("float32", "7fc00000", 0x7fc0_0000, "[invalid]"),
        ("float32", "7fc00001", 0x7fc0_0000, "[not-a-number]"),
        ("int8h", "80ff", 0x80, "[invalid]"),
        ("int24", "ff800000", 0x80_0000, "[invalid]"),
        ("bcd16", "ffff", 0xffff, "[invalid]"),
        ("int64", "8000000000000000", 0x8000_0000_0000_0000, "[invalid]"),
    ] {
        check_transform(type_name, wire, marked(mark), expected);
    }
}

#[test]
fn scaled_numbers_are_what_a_person_expects() {
    let scaled = |scale: f64, offset: f64, decimals| Transform {
        scale: (scale != 1.0).then_some(scale),
        offset: (offset != 0.0).then_some(offset),
        decimals,
        ..Transform::default()
    };
    for (type_name, wire, transform, expected) in [
        ("uint16", "090a", scaled(0.1, 0.0, None), "231.4"),
        ("uint16", "0003", scaled(0.1, 0.0, None), "0.3"),
        ("uint16", "0003", scaled(0.1, 0.2, None), "0.5"),
        ("uint16", "08fc", scaled(0.1, 0.0, None), "230.0"),
        ("int16", "ff38", scaled(0.01, -40.0, None), "-42.0"),
        ("uint16", "7530", scaled(0.01, -273.15, None), "26.85"),
        ("uint16", "0007", scaled(10.0, 0.0, None), "70"),
        ("uint16", "0007", scaled(1.0, -40.0, None), "-33"),
        ("int16", "ffff", scaled(2.5, 0.0, None), "-2.5"),
        ("uint16", "0001", scaled(1.0 / 3.0, 0.0, None), "0.3333333333333333"),
        ("uint16", "0001", scaled(1.0 / 3.0, 0.0, Some(2)), "0.33"),
        // 2.675 as a float lies below the half; as the decimal it is, it rounds up.
        ("uint16", "0a73", scaled(0.001, 0.0, Some(2)), "2.68"),
        ("uint16", "0a73", scaled(0.001, 0.0, Some(0)), "3"),
        ("float32", "43662666", scaled(1.0, 0.0, Some(2)), "230.15"),
        ("float32", "43662666", scaled(0.001, 0.0, Some(3)), "0.23"),
        ("float32", "43662666", scaled(1.0 / 3.0, 0.0, Some(2)), "76.72"),
        ("float32", "40400000", scaled(0.1, 0.0, None), "0.3"),
        ("float32", "40400000", scaled(10.0, 0.0, None), "30.0"),
        // All 64 bits, and beyond them a float.
        ("uint64", "ffffffffffffffff", scaled(1.0, -1.0, None), "18446744073709551614"),
        ("int64", "0020000000000001", scaled(1000.0, 0.0, None), "9007199254740993000"),
        ("uint64", "ffffffffffffffff", scaled(10.0, 0.0, None), "1.844674407370955e+20"),
        ("uint64", "ffffffffffffffff", scaled(0.1, 0.0, None), "1.8446744073709553e+18"),
    ] {
        check_transform(type_name, wire, transform, expected);
    }
}

#[test]
fn ranges_clamp_or_make_bad() {
    let range = |min, max, clamp| Transform {
        scale: Some(0.1),
        range: Some(Range { min, max, clamp }),
        ..Transform::default()
    };
    check_transform("uint16", "090a", range(0.0, 300.0, false), "231.4");
    check_transform("uint16", "090a", range(0.0, 231.4, false), "231.4");
    check_transform("uint16", "090a", range(0.0, 231.3, false), "[out-of-range]");
    check_transform("uint16", "090a", range(0.0, 200.5, true), "200.5 [out-of-range]");
    check_transform("int16", "ff00", range(-1.5, 1.5, true), "-1.5 [out-of-range]");
}

#[test]
fn names_belong_to_the_raw_value() {
    let names = |names| Transform { names: Some(names), scale: Some(0.5), ..Transform::default() };
    let modes = || Names::Enum(vec![(0, "off".into()), (1, "on".into()), (-1, "fault".into())]);
    let alarms = || Names::Flags(vec![(0, "over-temperature".into()), (15, "door".into())]);
    check_transform("uint16", "0001", names(modes()), "\"on\"");
    check_transform("int16", "ffff", names(modes()), "\"fault\"");
    check_transform("uint16", "0005", names(modes()), "2.5");
    check_transform("bit", "0008", names(modes()), "\"on\"");
    check_transform("uint16", "8001", names(alarms()), "[\"over-temperature\",\"door\"]");
    check_transform("uint16", "0006", names(alarms()), "[\"bit1\",\"bit2\"]");
    check_transform("uint16", "0000", names(alarms()), "[]");
    check_transform("int16", "8000", names(alarms()), "[\"door\"]");
}

#[test]
fn scale_factor_registers() {
    let mut point = point("int16", "AB", 1);
    point.scale_factor = Some(10);
    for (factor, expected) in [
        (Some(0xffff), "231.4"),
        (Some(0xfffe), "23.14"),
        (Some(0), "2314"),
        (Some(2), "231400"),
        (Some(10), "23140000000000"),
        (Some(0xfff6), "2.314e-7"),
        (Some(0x8000), "[scale-factor]"),
        (Some(11), "[scale-factor]"),
        (Some(0xfff5), "[scale-factor]"),
        (None, "[scale-factor]"),
    ] {
        assert_eq!(shown(&decode(&point, &[2314], factor)), expected, "{factor:?}");
    }
    let mut float = super::bare(Table::Holding, self::point("float32", "ABCD", 2).encoding);
    float.scale_factor = Some(10);
    assert_eq!(shown(&decode(&float, &[0x4040, 0], Some(0xffff))), "0.3");
    assert_eq!(shown(&decode(&float, &[0x4366, 0x2666], Some(3))), "230149.99389648438");
    assert_eq!(encode(&point, &Value::Float(231.4)), Err(EncodeError::ScaleFactor));
    assert_eq!(encode_scaled(&point, &Value::Float(231.4), Some(0xffff)), Ok(vec![2314]));
}

#[test]
fn texts_and_their_ends() {
    let text = |bytes, padding, order: &str, wire: &str| {
        let words = words(wire);
        let kind = Kind::Text { registers: words.len() as u16, bytes, padding };
        let order = order::parse(order, 2).unwrap();
        shown(&decode(&bare(Table::Holding, Encoding { kind, order }), &words, None))
    };
    use {Padding::*, TextBytes::*};
    for (bytes, padding, order, wire, expected) in [
        (Both, Nul, "AB", "4d6f64656c204100", "\"Model A\""),
        (Both, Nul, "BA", "6f4d65640020", "\"Mode\""),
        (Both, Nul, "AB", "4142004344452020", "\"AB\""),
        (Both, Trailing, "AB", "4142004344002020", "\"AB\\u0000CD\""),
        (Both, Keep, "AB", "41422000", "\"AB \\u0000\""),
        (Low, Nul, "AB", "004100420000", "\"AB\""),
        (High, Nul, "AB", "410042000000", "\"AB\""),
        (Low, Nul, "BA", "410042000000", "\"AB\""),
        (Both, Nul, "AB", "c2b04300", "\"°C\""),
        // Latin-1: no valid UTF-8.
        (Both, Nul, "AB", "b043", "\"°C\""),
        (Both, Nul, "AB", "0000", "\"\""),
        (Both, Nul, "AB", "410d", "\"A\\r\""),
        (Both, Nul, "AB", "4107", "[bad-text]"),
        (Both, Nul, "AB", "8541", "[bad-text]"),
    ] {
        assert_eq!(text(bytes, padding, order, wire), expected, "{bytes:?} {padding:?} {order} {wire}");
    }
}

#[test]
fn coils_are_true_or_false() {
    let mut coil = bare(Table::Coil, Encoding { kind: Kind::Bool, order: Order::big(2) });
    assert_eq!(shown(&decode_bit(&coil, true)), "true");
    coil.encoding.kind = Kind::Uint16;
    assert_eq!(shown(&decode_bit(&coil, true)), "1");
    coil.encoding.kind = Kind::Bool;
    coil.transform.names = Some(Names::Enum(vec![(0, "open".into()), (1, "closed".into())]));
    assert_eq!(shown(&decode_bit(&coil, false)), "\"open\"");
}

#[test]
fn what_cannot_be_written_is_refused() {
    use EncodeError::*;
    let scaled = |mut p: RegisterPoint| {
        p.transform.scale = Some(0.1);
        p.transform.range = Some(Range { min: 0.0, max: 300.0, clamp: true });
        p.transform.invalid = vec![0];
        p
    };
    let uint16 = || point("uint16", "AB", 1);
    for (point, value, expected) in [
        (uint16(), Value::Int(-1), Err(OutOfRange)),
        (uint16(), Value::Uint(65536), Err(OutOfRange)),
        (uint16(), Value::Float(f64::NAN), Err(NotANumber)),
        (uint16(), Value::Float(20.6), Ok(vec![21])),
        (uint16(), Value::Text("on".into()), Err(WrongType { expected: "a number" })),
        (scaled(uint16()), Value::Float(231.4), Ok(vec![2314])),
        (scaled(uint16()), Value::Float(21.55), Ok(vec![216])),
        (scaled(uint16()), Value::Int(300), Ok(vec![3000])),
        (scaled(uint16()), Value::Float(300.1), Err(OutOfRange)),
        (scaled(uint16()), Value::Int(0), Err(Invalid)),
        (point("bcd16", "AB", 1), Value::Uint(10_000), Err(OutOfRange)),
        (point("mod10k32", "ABCD", 2), Value::Int(-1), Err(OutOfRange)),
        (point("float16", "AB", 1), Value::Float(70_000.0), Err(OutOfRange)),
        (point("float32", "ABCD", 2), Value::Float(1e39), Err(OutOfRange)),
        (point("string", "AB", 1), Value::Text("ABC".into()), Err(TooLong { bytes: 3, room: 2 })),
        (point("string", "BA", 2), Value::Text("ABC".into()), Ok(vec![0x4241, 0x0043])),
        (point("bit", "AB", 1), Value::Bool(true), Ok(vec![8])),
        (point("bit", "AB", 1), Value::Int(2), Err(OutOfRange)),
        (point("bitfield", "AB", 1), Value::Int(21), Ok(vec![0x0150])),
        (point("bitfield", "AB", 1), Value::Int(32), Err(OutOfRange)),
    ] {
        assert_eq!(encode(&point, &value), expected, "{point:?} {value:?}");
    }
    let mut mode = uint16();
    mode.transform.names = Some(Names::Enum(vec![(7, "eco".into())]));
    assert_eq!(encode(&mode, &Value::Text("eco".into())), Ok(vec![7]));
    assert_eq!(encode(&mode, &Value::Text("max".into())), Err(UnknownName("max".into())));
}

/// A number type and an order of its width.
fn numbers() -> impl Strategy<Value = RegisterPoint> {
    let names: Vec<&str> =
        kind::NAMES.split(", ").filter(|name| !matches!(*name, "string" | "bytes" | "bool")).collect();
    (prop::sample::select(names), Just([0u8, 1, 2, 3, 4, 5, 6, 7]).prop_shuffle()).prop_map(|(name, from)| {
        let mut point = point(name, "ABCD", 1);
        let len = order::byte_len(&point.encoding.kind);
        let mut kept: Vec<u8> = from.into_iter().filter(|p| *p < len).collect();
        kept.extend(len..8);
        point.encoding.order = Order { len, from: kept.try_into().unwrap() };
        point
    })
}

proptest! {
    #[test]
    fn what_was_decoded_encodes_back(point in numbers(), words in prop::array::uniform4(any::<u16>())) {
        let words = &words[..usize::from(point.count())];
        if let Measured::Good(value) = decode(&point, words, None) {
            let written = encode(&point, &value).unwrap();
            prop_assert_eq!(decode(&point, &written, None), Measured::Good(value));
            // Where every bit belongs to the value, the very words come back. (The payload of
            // a NaN never gets here.)
            let all = point.encoding.kind != Kind::Int24 && point.encoding.kind != Kind::Uint24;
            if all && !matches!(point.encoding.kind, Kind::Bit(_) | Kind::BitField { .. } | Kind::Int8(_) | Kind::Uint8(_)) {
                prop_assert_eq!(written, words);
            }
        }
    }

    #[test]
    fn scaled_integers_encode_back(raw: i32, scale in prop::sample::select(vec![0.1, 0.01, 0.001, 2.5, 10.0, 1.0/3.0, -0.5]), offset in -1000i32..1000) {
        let mut point = point("int32", "ABCD", 2);
        point.transform.scale = Some(scale);
        point.transform.offset = Some(f64::from(offset) / 4.0);
        let words = [(raw as u32 >> 16) as u16, raw as u16];
        let Measured::Good(value) = decode(&point, &words, None) else { panic!("not good") };
        prop_assert_eq!(encode(&point, &value).unwrap(), words);
    }

    #[test]
    fn nothing_a_device_sends_panics(words in prop::collection::vec(any::<u16>(), 0..6), factor: Option<u16>, scale: Option<f64>, offset: Option<f64>, decimals: Option<u8>, p in numbers()) {
        let mut p = p;
        p.transform = Transform { scale, offset, decimals, ..Transform::default() };
        p.scale_factor = factor;
        if let Measured::Good(Value::Float(x)) = decode(&p, &words, factor) {
            prop_assert!(x.is_finite());
        }
    }

    #[test]
    fn texts_come_back(text in "[ -~äöüß°µ]{0,10}[!-~]", swap: bool) {
        let order = order::parse(if swap { "BA" } else { "AB" }, 2).unwrap();
        for padding in [Padding::Nul, Padding::Trailing] {
            for bytes in [TextBytes::Both, TextBytes::Low, TextBytes::High] {
                let kind = Kind::Text { registers: 30, bytes, padding };
                let point = bare(Table::Holding, Encoding { kind, order });
                let words = encode(&point, &Value::Text(text.clone())).unwrap();
                prop_assert_eq!(decode(&point, &words, None), Measured::Good(Value::Text(text.clone())));
            }
        }
    }
}
