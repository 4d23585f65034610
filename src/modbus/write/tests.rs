use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;
use crate::modbus::codec::{bare, decode};
use crate::modbus::order;
use crate::model::device::RequestLimits;
use crate::model::register::{Encoding, Half, Padding, Range, TextBytes, Transform};

const SECOND: Duration = Duration::from_secs(1);

fn device() -> ModbusDevice {
    ModbusDevice {
        unit_id: 1,
        limits: RequestLimits::default(),
        response_timeout: SECOND,
        late_window: SECOND,
        retries: 1,
        busy_retries: 3,
        busy_pause: SECOND,
        pause_after_write: Duration::ZERO,
        silent_after: 3,
        backoff_min: SECOND,
        backoff_max: SECOND,
        hole_retry: SECOND,
        write_function: WriteFunction::Auto,
    }
}

fn encoding(kind: Kind, letters: &str) -> Encoding {
    Encoding { order: order::parse(letters, order::byte_len(&kind)).unwrap(), kind }
}

fn register(kind: Kind, letters: &str, transform: Transform) -> RegisterPoint {
    RegisterPoint { address: 7, transform, ..bare(Table::Holding, encoding(kind, letters)) }
}

fn rules() -> WriteRules {
    WriteRules {
        readable: true,
        min: None,
        max: None,
        step: None,
        interval: SECOND,
        expiry: None,
        retry_min: SECOND,
        retry_max: SECOND,
        verify_within: SECOND,
    }
}

fn point(register: RegisterPoint, rules: WriteRules) -> Point {
    Point {
        name: "p".into(),
        unit: None,
        source: Source::Register(register),
        interval: SECOND,
        report: Default::default(),
        write: Some(rules),
        shadow: None,
        fingerprint: false,
    }
}

/// The words that are written, or why none are.
fn check(register: &RegisterPoint, rules: WriteRules, wanted: Json, expected: Result<&[u16], &str>) {
    let planned = plan(&device(), &point(register.clone(), rules), &wanted);
    let what = format!("{wanted} to {register:?}");
    match (planned, expected) {
        (Ok(plan), Ok(words)) => {
            assert_eq!(plan.expect, words, "{what}");
            let read = decode(register, words, None);
            assert!(plan.is_met(&read), "{what}: not met by its own words, {read:?}");
            assert!(satisfied(register, &wanted, words), "{what}: not satisfied by its own words");
        }
        (Err(refusal), Err(text)) => assert_eq!(refusal.to_string(), text),
        (planned, expected) => panic!("{what}: {planned:?}, expected {expected:?}"),
    }
}

fn scaled(scale: f64) -> Transform {
    Transform { scale: Some(scale), ..Transform::default() }
}

#[test]
fn a_value_is_written_as_it_is_or_not_at_all() {
    let tenths = register(Kind::Int16, "AB", scaled(0.1));
    check(&tenths, rules(), json!(21.5), Ok(&[215]));
    check(&tenths, rules(), json!(-21), Ok(&[0xFF2E]));
    check(&tenths, rules(), json!(21.0), Ok(&[210]));
    let inexact = "p = 21.55: the point cannot show exactly that; nearest is 21.5 and 21.6";
    check(&tenths, rules(), json!(21.55), Err(inexact));
    check(&tenths, rules(), json!(3276.8), Err("p = 3276.8: the value is outside what the point can hold"));
    let whole = register(Kind::Uint16, "AB", Transform::default());
    check(&whole, rules(), json!(65535), Ok(&[65535]));
    check(&whole, rules(), json!(7.0), Ok(&[7]));
    check(
        &whole,
        rules(),
        json!(7.5),
        Err("p = 7.5: the point cannot show exactly that; nearest is 7 and 8"),
    );
    check(&whole, rules(), json!(-1), Err("p = -1: the value is outside what the point can hold"));
    let top = "p = 65535.5: the value is outside what the point can hold";
    check(&whole, rules(), json!(65535.5), Err(top));
    // Finer than what `decimals` lets through would be reported as something else.
    let shown = Transform { decimals: Some(1), ..scaled(0.01) };
    let shown = register(Kind::Int16, "AB", shown);
    check(&shown, rules(), json!(21.5), Ok(&[2150]));
    check(
        &shown,
        rules(),
        json!(21.55),
        Err("p = 21.55: the point cannot show exactly that; nearest is 21.5 and 21.6"),
    );
}

#[test]
fn a_float_takes_the_digits_that_it_can_show() {
    let float = register(Kind::Float32, "CDAB", Transform::default());
    check(&float, rules(), json!(231.4), Ok(&[0x6666, 0x4367]));
    check(&float, rules(), json!(0.1), Ok(&[0xCCCD, 0x3DCC]));
    check(&float, rules(), json!(16777216), Ok(&[0, 0x4B80]));
    check(
        &float,
        rules(),
        json!(16777217),
        Err("p = 16777217: the point cannot show exactly that; nearest is 16777216 and 16777218"),
    );
    let refused = plan(&device(), &point(float.clone(), rules()), &json!(231.4000001)).unwrap_err();
    assert!(matches!(refused.why, Why::Encode(EncodeError::Inexact { .. })), "{refused}");
    check(&float, rules(), json!(1e39), Err("p = 1e+39: the value is outside what the point can hold"));
    // Equal words, not equal floats: the device shows 231.39999389648438.
    assert!(satisfied(&float, &json!(231.4), &[0x6666, 0x4367]));
    assert!(holds(&float, &json!(231.4), &Value::Float(231.39999389648438)));
    assert!(!holds(&float, &json!(231.4), &Value::Float(231.3999786376953)));
    assert!(!satisfied(&float, &json!(231.4), &[0x6665, 0x4367]));
    let half = register(Kind::Float16, "AB", Transform::default());
    check(&half, rules(), json!(21.6), Ok(&[0x4D66]));
    let text = "p = 21.55: the point cannot show exactly that; nearest is 21.546875 and 21.5625";
    check(&half, rules(), json!(21.55), Err(text));
    let coarse = register(Kind::Float16, "AB", scaled(0.1));
    check(&coarse, rules(), json!(1520), Ok(&[0x736C]));
    let text = "p = -1522: the point cannot show exactly that; nearest is -1522.4 and -1521.6";
    check(&coarse, rules(), json!(-1522), Err(text));
    // What scale and offset leave behind in the last places of a float is no difference.
    let shifted = Transform { offset: Some(-40.0), ..scaled(0.1) };
    let shifted = register(Kind::Float64, "ABCD", shifted);
    check(&shifted, rules(), json!(-95.819), Ok(&[0xC081, 0x7185, 0x1EB8, 0x51EB]));
    let kilo = register(Kind::Float32, "ABCD", scaled(0.001));
    check(&kilo, rules(), json!(1.234), Ok(&[0x449A, 0x4000]));
    let double = register(Kind::Float64, "ABCD", Transform::default());
    check(&double, rules(), json!(9007199254740993_i64), {
        let text = "p = 9007199254740993: the point cannot show exactly that; \
                    nearest is 9007199254740992 and 9007199254740994";
        Err(text)
    });
}

#[test]
fn whole_numbers_keep_all_their_digits() {
    let wide = register(Kind::Uint64, "ABCDEFGH", Transform::default());
    check(&wide, rules(), json!(u64::MAX), Ok(&[0xFFFF; 4]));
    check(&wide, rules(), json!(9007199254740993_u64), Ok(&[0x20, 0, 0, 1]));
    let bcd = register(Kind::Bcd { registers: 1 }, "AB", Transform::default());
    check(&bcd, rules(), json!(1234), Ok(&[0x1234]));
    check(&bcd, rules(), json!(10000), Err("p = 10000: the value is outside what the point can hold"));
    let marked = Transform { invalid: vec![0x8000], ..Transform::default() };
    let marked = register(Kind::Int16, "AB", marked);
    let text = "p = -32768: the register's pattern for this value means \"no value\"";
    check(&marked, rules(), json!(-32768), Err(text));
}

#[test]
fn bounds_and_steps_are_named() {
    let plain = register(Kind::Int16, "AB", scaled(0.1));
    let of = |min, max, step| WriteRules { min, max, step, ..rules() };
    check(&plain, of(Some(5.0), Some(30.0), None), json!(5), Ok(&[50]));
    check(&plain, of(Some(5.0), Some(30.0), None), json!(30.0), Ok(&[300]));
    check(&plain, of(Some(5.0), Some(30.0), None), json!(30.1), Err("p = 30.1: it is outside of 5 to 30"));
    check(&plain, of(Some(5.0), None, None), json!(4.9), Err("p = 4.9: it is outside of 5 and above"));
    check(&plain, of(None, Some(1.0), None), json!(2), Err("p = 2: it is outside of 1 and below"));
    // Three tenths are three steps, though 0.3 / 0.1 is none in floats.
    check(&plain, of(None, None, Some(0.1)), json!(0.3), Ok(&[3]));
    check(&plain, of(Some(0.2), None, Some(0.5)), json!(1.2), Ok(&[12]));
    let text = "p = 1.5: it is not on the step of 0.5 from 0.2; nearest is 1.2 and 1.7";
    check(&plain, of(Some(0.2), None, Some(0.5)), json!(1.5), Err(text));
    let text = "p = -1.7: it is not on the step of 0.5 from 0; nearest is -2 and -1.5";
    check(&plain, of(None, None, Some(0.5)), json!(-1.7), Err(text));
    // The range of the point holds as well.
    let range = Some(Range { min: 0.0, max: 10.0, clamp: true });
    let ranged = register(Kind::Int16, "AB", Transform { range, ..Transform::default() });
    check(&ranged, rules(), json!(11), Err("p = 11: the value is outside what the point can hold"));
}

#[test]
fn names_switches_and_texts_take_their_own_type() {
    let names = Some(Names::Enum(vec![(0, "off".into()), (1, "heat".into())]));
    let mode =
        register(Kind::BitField { start: 4, length: 2 }, "AB", Transform { names, ..Transform::default() });
    check(&mode, rules(), json!("heat"), Ok(&[0x10]));
    check(&mode, rules(), json!("cool"), Err("p = \"cool\": the point has no name \"cool\""));
    check(&mode, rules(), json!(1), Err("p = 1: the point takes one of \"off\", \"heat\""));
    let names = Some(Names::Flags(vec![(0, "a".into()), (3, "b".into())]));
    let flags = register(Kind::Uint16, "AB", Transform { names, ..Transform::default() });
    check(&flags, rules(), json!(["b", "a"]), Ok(&[9]));
    check(&flags, rules(), json!([]), Ok(&[0]));
    check(&flags, rules(), json!(["c"]), Err("p = [\"c\"]: the point has no name \"c\""));
    check(&flags, rules(), json!([1]), Err("p = [1]: the point takes a list of \"a\", \"b\""));
    let switch = register(Kind::Bool, "AB", Transform::default());
    check(&switch, rules(), json!(true), Ok(&[1]));
    check(&switch, rules(), json!(1), Err("p = 1: the point takes true or false"));
    assert!(satisfied(&switch, &json!(true), &[0xFF00]), "any bit of it is true");
    let text = Kind::Text { registers: 2, bytes: TextBytes::Both, padding: Padding::Nul };
    let text = register(text, "AB", Transform::default());
    check(&text, rules(), json!("abc"), Ok(&[0x6162, 0x6300]));
    check(&text, rules(), json!("abcde"), Err("p = \"abcde\": 5 bytes do not fit, the point has room for 4"));
    check(&text, rules(), json!("ab "), Err("p = \"ab \": the point cannot show exactly that"));
    check(&text, rules(), json!(5), Err("p = 5: the point takes text"));
    assert!(satisfied(&text, &json!("a"), &[0x6100, 0x7A7A]), "what stands behind the end is nothing");
    let number = register(Kind::Uint16, "AB", Transform::default());
    for (wanted, shown) in [(json!(null), "null"), (json!({"a": 1}), "{\"a\":1}"), (json!(true), "true")] {
        check(&number, rules(), wanted, Err(&format!("p = {shown}: the point takes a number")));
    }
    let long = "x".repeat(100);
    let refused = plan(&device(), &point(number, rules()), &json!(long)).unwrap_err().to_string();
    assert!(refused.len() < 120 && refused.contains('…'), "{refused}");
}

#[test]
fn each_point_goes_by_the_function_that_touches_only_itself() {
    let check = |register: &RegisterPoint, wanted: Json, function: WriteFunction, expected: u8| {
        let device = ModbusDevice { write_function: function, ..device() };
        let plan = plan(&device, &point(register.clone(), rules()), &wanted).unwrap();
        assert_eq!(plan.command.function(), expected, "{register:?}");
    };
    let one = register(Kind::Uint16, "AB", Transform::default());
    let two = register(Kind::Uint32, "ABCD", Transform::default());
    let coil = RegisterPoint { table: Table::Coil, ..register(Kind::Bool, "AB", Transform::default()) };
    let bit = register(Kind::Bit(3), "AB", Transform::default());
    let half = register(Kind::Uint8(Half::High), "AB", Transform::default());
    let whole = register(Kind::BitField { start: 0, length: 16 }, "AB", Transform::default());
    use WriteFunction::{Auto, Multiple, Single};
    for (register, wanted, auto, multiple) in [
        (&one, json!(1), 6, 16),
        (&two, json!(1), 16, 16),
        (&coil, json!(true), 5, 15),
        (&bit, json!(true), 22, 22),
        (&half, json!(9), 22, 22),
        (&whole, json!(9), 6, 16),
    ] {
        check(register, wanted.clone(), Auto, auto);
        check(register, wanted.clone(), Multiple, multiple);
        if register.count() == 1 {
            check(register, wanted, Single, auto);
        }
    }
    let device_with = |unit_id, write_function| ModbusDevice { unit_id, write_function, ..device() };
    let refuse = |device: ModbusDevice, point: Point, expected: Why| {
        assert_eq!(plan(&device, &point, &json!(1)).unwrap_err().why, expected);
    };
    refuse(device_with(1, Single), point(two, rules()), Why::TooLong { registers: 2, max: 1 });
    refuse(device_with(0, Auto), point(one.clone(), rules()), Why::Broadcast);
    refuse(device(), Point { write: None, ..point(one.clone(), rules()) }, Why::ReadOnly);
    let input = RegisterPoint { table: Table::Input, ..one.clone() };
    refuse(device(), point(input, rules()), Why::ReadOnly);
    let factor = RegisterPoint { scale_factor: Some(3), ..one };
    refuse(device(), point(factor, rules()), Why::ReadOnly);
}

/// What a unit makes of the command: eight registers from 7 on, and one coil.
fn execute(command: &Command, words: &mut [u16; 8], coil: &mut bool) {
    match command {
        Command::WriteRegisters { words: new, .. } => words[..new.len()].copy_from_slice(new),
        // As the specification says it, in the words of the frame.
        Command::WriteBits { mask, bits, .. } => {
            let (and, or) = (!mask, bits & mask);
            words[0] = words[0] & and | or & !and;
        }
        Command::WriteCoils { coils, .. } => *coil = coils[0],
        other => panic!("{other:?} writes nothing"),
    }
}

fn any_kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        (0u8..16).prop_map(Kind::Bit),
        (0u8..16)
            .prop_flat_map(|start| (Just(start), 1..=16 - start))
            .prop_map(|(start, length)| Kind::BitField { start, length }),
        prop_oneof![Just(Half::Low), Just(Half::High)].prop_map(Kind::Uint8),
        prop_oneof![Just(Half::Low), Just(Half::High)].prop_map(Kind::Int8),
        prop_oneof![Just(Kind::Bool), Just(Kind::Int16), Just(Kind::Uint16), Just(Kind::Float16)],
        prop_oneof![Just(Kind::Int24), Just(Kind::Uint24), Just(Kind::Int32), Just(Kind::Uint32)],
        prop_oneof![Just(Kind::Float32), Just(Kind::Int48), Just(Kind::Uint48), Just(Kind::Float64)],
        prop_oneof![Just(Kind::Int64), Just(Kind::Uint64)],
        Just(Kind::Bcd { registers: 2 }),
        Just(Kind::Mod10k { registers: 3 }),
    ]
}

fn any_register() -> impl Strategy<Value = RegisterPoint> {
    let letters = prop_oneof![Just("ABCD"), Just("CDAB"), Just("BADC"), Just("DCBA")];
    let scale = prop_oneof![Just(None), Just(Some(0.1)), Just(Some(0.01)), Just(Some(2.0))];
    let offset = prop_oneof![Just(None), Just(Some(-40.0))];
    let decimals = prop_oneof![4 => Just(None), 1 => Just(Some(1))];
    (any_kind(), letters, scale, offset, decimals).prop_map(|(kind, letters, scale, offset, decimals)| {
        register(kind, letters, Transform { scale, offset, decimals, ..Transform::default() })
    })
}

fn any_wanted() -> impl Strategy<Value = Json> {
    prop_oneof![
        any::<bool>().prop_map(Json::from),
        (-300i64..300).prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<u64>().prop_map(Json::from),
        (-30_000i64..30_000).prop_map(|n| json!(n as f64 / 10.0)),
        (-300_000i64..300_000).prop_map(|n| json!(n as f64 / 1000.0)),
        prop::num::f64::NORMAL.prop_map(Json::from),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// What is written reads back as what was wanted, to its own digits; neighbours keep
    /// their bits; and what is refused names point and value.
    #[test]
    fn what_is_written_is_what_was_wanted(
        register in any_register(), wanted in any_wanted(), before in any::<[u16; 8]>(),
    ) {
        match plan(&device(), &point(register.clone(), rules()), &wanted) {
            Err(refusal) => prop_assert!(refusal.to_string().starts_with("p = "), "{}", refusal),
            Ok(plan) => {
                let mut words = before;
                execute(&plan.command, &mut words, &mut false);
                let count = usize::from(register.count());
                prop_assert_eq!(&words[count..], &before[count..], "registers behind the point");
                let read = decode(&register, &words[..count], None);
                prop_assert!(plan.is_met(&read), "{:?} is not met by {:?}", plan, read);
                prop_assert!(satisfied(&register, &wanted, &words[..count]));
                let shown = read.value().unwrap().to_json();
                let (shown, asked) = (shown.as_f64(), wanted.as_f64());
                if let (Some(shown), Some(asked)) = (shown, asked) {
                    let most = match register.encoding.kind {
                        Kind::Float16 => 5e-3,
                        Kind::Float32 => 5e-7,
                        _ => 1e-14,
                    };
                    let near = (shown - asked).abs() <= asked.abs() * most;
                    prop_assert!(near, "{} for {}", shown, asked);
                }
            }
        }
    }

    /// Function 22 changes the point's bits, all of them as wanted, and no other.
    #[test]
    fn a_part_of_a_register_leaves_the_rest_alone(
        kind in any_kind().prop_filter("whole registers", |k| own_bits(&encoding(k.clone(), "ABCD")).is_some()),
        swapped in any::<bool>(), raw in any::<u16>(), before in any::<u16>(),
    ) {
        let register = register(kind.clone(), if swapped { "BADC" } else { "ABCD" }, Transform::default());
        let wanted = decode(&register, &[raw], None).value().unwrap().to_json();
        let plan = plan(&device(), &point(register.clone(), rules()), &wanted).unwrap();
        prop_assert_eq!(plan.command.function(), 22);
        let mut words = [before; 8];
        execute(&plan.command, &mut words, &mut false);
        // The same bits as if they came from `raw`, and only the point's.
        let mask = own_bits(&register.encoding).unwrap();
        prop_assert_eq!(words[0], before & !mask | raw & mask);
        prop_assert_eq!(decode(&register, &words[..1], None).value().unwrap().to_json(), wanted);
        let width = match kind { Kind::Bit(_) => 1, Kind::BitField { length, .. } => u32::from(length), _ => 8 };
        prop_assert_eq!(mask.count_ones(), width);
    }
}
