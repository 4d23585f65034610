//! Everything that goes over the wire is what `config/payload.schema.json` says.
#![allow(clippy::unwrap_used)]

mod kit;

use fieldgate::model::ids::{DeviceName, GatewayName, PointIndex, PointName};
use fieldgate::model::reading::{Measured, Reading};
use fieldgate::model::row::Reason;
use fieldgate::model::time::Timestamp;
use fieldgate::model::value::{Cause, Value};
use fieldgate::wire::payload::{self, Head, Status, Telemetry};
use kit::NOW;

fn validator() -> jsonschema::Validator {
    let text = std::fs::read_to_string("config/payload.schema.json").unwrap();
    jsonschema::validator_for(&serde_json::from_str(&text).unwrap()).unwrap()
}

fn check(what: &str, payload: &[u8], valid: bool) {
    let json: serde_json::Value = serde_json::from_slice(payload).unwrap();
    assert_eq!(validator().is_valid(&json), valid, "{what}: {json}");
}

fn names() -> (GatewayName, DeviceName) {
    ("gw-1".into(), "meter \"ß\"".into())
}

fn telemetry(readings: &[Measured]) -> Vec<u8> {
    let (gateway, device) = names();
    let points: Vec<(PointName, Option<String>)> = (0..readings.len())
        .map(|n| (PointName::new(&format!("point\n{n}")), (n % 2 == 0).then(|| "°C".to_owned())))
        .collect();
    let head =
        Head { gateway: &gateway, device: &device, boot: "0badcafe-7", seq: (1, readings.len() as u64) };
    let mut telemetry = Telemetry::new(head, &points, 0);
    for at in [NOW, Timestamp(NOW.0 + 1)] {
        let readings = readings.iter().enumerate();
        telemetry
            .group(at, readings.map(|(n, m)| Reading { point: PointIndex(n as u16), measured: m.clone() }));
    }
    telemetry.finish()
}

fn every_value() -> Vec<Value> {
    vec![
        Value::Bool(true),
        Value::Int(i64::MIN),
        Value::Uint(u64::MAX),
        Value::Float(-2.2250738585072014e-308),
        Value::Float(231.4),
        Value::Text("a \"quoted\" \u{1} text".into()),
        Value::Flags(vec![]),
        Value::Flags(vec!["alarm".into(), "door".into()]),
    ]
}

fn every_cause() -> Vec<Cause> {
    Cause::PLAIN.into_iter().chain([Cause::Exception(2), Cause::Exception(127)]).collect()
}

#[test]
fn telemetry_of_every_kind_of_value_is_valid() {
    let good: Vec<_> = every_value().into_iter().map(Measured::Good).collect();
    let bad: Vec<_> = every_cause().into_iter().map(Measured::Bad).collect();
    let uncertain: Vec<_> = every_cause()
        .into_iter()
        .zip(every_value().into_iter().cycle())
        .map(|(cause, value)| Measured::Uncertain(value, cause))
        .collect();
    let mut mixed = Vec::new();
    for n in 0..bad.len() {
        mixed.extend([bad[n].clone(), good[n % good.len()].clone(), uncertain[n].clone()]);
    }
    for readings in [good, bad, uncertain, mixed] {
        check("telemetry", &telemetry(&readings), true);
    }
}

#[test]
fn faults_gaps_and_status_are_valid() {
    let (gateway, device) = names();
    for cause in every_cause() {
        check("fault", &payload::fault(&gateway, &device, "0-1", NOW, Some(&cause)), true);
    }
    check("back", &payload::fault(&gateway, &device, "0-1", NOW, None), true);
    for reason in [Reason::Expired, Reason::StoreFull, Reason::DeadLetter, Reason::Corrupt] {
        check("gap", &payload::gap(&gateway, &device, "0-1", reason.as_str(), 3, (NOW, NOW)), true);
    }
    for (online, oldest) in [(true, Some(NOW)), (true, None), (false, None)] {
        let status = Status { online, boot: "0-1", readings_waiting: 0, oldest };
        check("status", &payload::status(&gateway, status), true);
    }
}

#[test]
fn the_schema_refuses_what_is_not_ours() {
    let text = String::from_utf8(telemetry(&[Measured::Good(Value::Uint(1))])).unwrap();
    check("as it is", text.as_bytes(), true);
    for (from, to) in [
        ("\"v\":1", "\"v\":2"),
        ("\"device\":", "\"thing\":"),
        ("\"values\":{", "\"valeus\":{"),
        ("\"seq\":[1,1]", "\"seq\":[1]"),
        ("\"seq\":[1,1]", "\"seq\":[1,-1]"),
        (":1}}", ":null}}"),
        (":1}}", ":{}}}"),
        ("\"readings\":[", "\"extra\":0,\"readings\":["),
    ] {
        let wrong = text.replace(from, to);
        assert_ne!(wrong, text, "{from}");
        check(to, wrong.as_bytes(), false);
    }
    let (gateway, device) = names();
    let bad = telemetry(&[Measured::Bad(Cause::Timeout)]);
    let unknown = String::from_utf8(bad).unwrap().replace("timeout", "tired");
    check("unknown cause", unknown.as_bytes(), false);
    let nothing = payload::gap(&gateway, &device, "0-1", "expired", 0, (NOW, NOW));
    check("a gap of nothing", &nothing, false);
}
