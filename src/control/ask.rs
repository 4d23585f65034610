//! The words on the status socket: one line of JSON each way. PURE.
//!
//! `{"ask":"status"}` is answered by `{"status":{…}}`,
//! `{"ask":"read","device":"meter-1","point":"voltage"}` and
//! `{"ask":"read","bus":"line-1","unit":1,"table":"holding","address":0,"type":"float32"}`
//! by `{"read":{…}}`, and anything that fails by `{"error":"…","why":"failed|refused|unreachable"}`.

use serde::{Deserialize, Serialize};

use super::snapshot::Status;
use super::spec::Spec;
use crate::channel::What;
use crate::config::Config;
use crate::model::device::{Protocol, Source};
use crate::model::ids::DeviceIndex;
use crate::model::reading::Measured;
use crate::model::value::Quality;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "lowercase")]
pub enum Ask {
    Status,
    Read(Read),
    Shadow(Shadow),
    /// The device behind this thing is the right one.
    Approve {
        thing: String,
    },
    Identity(Identity),
    /// Read the configuration again; answered by `{"done":"…"}` when it is in force.
    Reload,
}

/// What is asked about identities: `{"ask":"identity","verb":"renew","thing":"meter-1"}`,
/// answered by `{"done":"…"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "lowercase")]
pub enum Identity {
    /// A new key and certificate before it is due.
    Renew { thing: String },
    /// Somebody changed the files.
    Reload,
    /// What the broker and the enroller had against it; empty: nothing.
    Trouble { thing: String },
}

/// An operation of the Device Shadow REST API: `get`, `update`, `delete`, `list`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shadow {
    pub operation: String,
    pub thing: String,
    /// Empty: the classic one.
    #[serde(default)]
    pub shadow: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<serde_json::Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Read {
    Point { device: String, point: String },
    Address(Address),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Address {
    pub bus: String,
    pub unit: u8,
    #[serde(flatten)]
    pub spec: Spec,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    Status(Box<Status>),
    Read(Shown),
    /// What a shadow operation answers; null if there is nothing to say.
    Shadow(serde_json::Value),
    /// What was done, for people.
    Done(String),
    #[serde(untagged)]
    Error {
        error: String,
        why: Why,
    },
}

/// What the asker can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Why {
    /// Ask something else.
    Failed,
    /// Become somebody else.
    Refused,
    /// Look after the line.
    Unreachable,
}

impl Answer {
    pub fn error(why: Why, text: impl Into<String>) -> Answer {
        Answer::Error { error: text.into(), why }
    }
}

/// A reading as people and programs see it; the fields of `decode`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// `good`, `uncertain` or `bad`.
    pub quality: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

impl Shown {
    pub fn new(measured: &Measured, unit: Option<String>) -> Shown {
        let (quality, cause) = match measured.quality() {
            Quality::Good => ("good", None),
            Quality::Uncertain(cause) => ("uncertain", Some(cause)),
            Quality::Bad(cause) => ("bad", Some(cause)),
        };
        Shown {
            value: measured.value().map(|v| v.to_json()),
            unit,
            quality: quality.into(),
            cause: cause.map(|c| c.to_string()),
        }
    }
}

/// What has to be read, and where.
#[derive(Debug)]
pub struct Resolved {
    /// The place of the bus in the configuration.
    pub bus: usize,
    pub what: What,
    pub unit: Option<String>,
}

/// Finds what was asked for in the configuration; the error says what would have been right.
pub fn resolve(config: &Config, read: &Read) -> Result<Resolved, String> {
    match read {
        Read::Point { device, point } => resolve_point(config, device, point),
        Read::Address(address) => resolve_address(config, address),
    }
}

fn resolve_point(config: &Config, name: &str, point: &str) -> Result<Resolved, String> {
    let names = || list(config.devices.iter().map(|d| d.name.as_str()));
    let at = config
        .devices
        .iter()
        .position(|d| d.name.as_str() == name)
        .ok_or_else(|| format!("no device {name:?}; there are {}", names()))?;
    let device = &config.devices[at];
    let point = device
        .points
        .iter()
        .find(|p| p.name.as_str() == point)
        .ok_or_else(|| format!("no point {point:?} of {name:?}; there are {}", points(device)))?;
    let Source::Register(register) = &point.source else {
        return Err(format!("{name:?} sends lines when it wants to; it cannot be asked"));
    };
    let index = DeviceIndex(u32::try_from(at).map_err(|e| e.to_string())?);
    let bus = config
        .buses
        .iter()
        .position(|b| b.devices.contains(&index))
        .ok_or_else(|| format!("{name:?} is on no bus"))?;
    Ok(Resolved { bus, what: What::Point(index, register.clone()), unit: point.unit.clone() })
}

fn points(device: &crate::model::device::Device) -> String {
    list(device.points.iter().map(|p| p.name.as_str()))
}

fn resolve_address(config: &Config, address: &Address) -> Result<Resolved, String> {
    let bus = config.buses.iter().position(|b| b.name.as_str() == address.bus).ok_or_else(|| {
        let names = list(config.buses.iter().map(|b| b.name.as_str()));
        format!("no bus {:?}; there are {names}", address.bus)
    })?;
    let talks_lines = |at: &DeviceIndex| {
        config.devices.get(at.at()).is_some_and(|d| matches!(d.protocol, Protocol::Line(_)))
    };
    let on_it = &config.buses[bus].devices;
    if !on_it.is_empty() && on_it.iter().all(talks_lines) {
        return Err(format!("{:?} carries lines of text, not Modbus", address.bus));
    }
    Ok(Resolved { bus, what: What::Unit(address.unit, address.spec.to_point()?), unit: None })
}

/// Names of a thing that was not found are helpful up to a handful.
const NAMES_SHOWN_MAX: usize = 20;

fn list<'a>(names: impl Iterator<Item = &'a str> + Clone) -> String {
    let more = names.clone().count().saturating_sub(NAMES_SHOWN_MAX);
    let mut text = names.take(NAMES_SHOWN_MAX).collect::<Vec<_>>().join(", ");
    if text.is_empty() {
        text.push_str("none");
    }
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::fixture::config;
    use super::*;
    use crate::model::value::{Cause, Value};

    #[test]
    fn the_words_on_the_socket_stay_as_they_are() {
        let check = |text: &str| {
            let ask: Ask = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&ask).unwrap(), text);
        };
        check(r#"{"ask":"status"}"#);
        check(r#"{"ask":"read","device":"meter-1","point":"voltage"}"#);
        check(
            r#"{"ask":"read","bus":"line-1","unit":1,"table":"holding","address":0,"type":"float32","order":"CDAB"}"#,
        );
        check(r#"{"ask":"identity","verb":"renew","thing":"meter-1"}"#);
        check(r#"{"ask":"identity","verb":"reload"}"#);
        let answers = [
            Answer::Done("x".into()),
            Answer::error(Why::Failed, "x"),
            Answer::Read(Shown::new(&Measured::Good(Value::Float(230.5)), Some("V".into()))),
            Answer::Read(Shown::new(&Measured::Uncertain(Value::Int(3), Cause::OutOfRange), None)),
            Answer::Read(Shown::new(&Measured::Bad(Cause::Exception(2)), None)),
        ];
        let expected = [
            r#"{"done":"x"}"#,
            r#"{"error":"x","why":"failed"}"#,
            r#"{"read":{"value":230.5,"unit":"V","quality":"good"}}"#,
            r#"{"read":{"value":3,"quality":"uncertain","cause":"out-of-range"}}"#,
            r#"{"read":{"quality":"bad","cause":"exception 2"}}"#,
        ];
        for (answer, expected) in answers.iter().zip(expected) {
            assert_eq!(serde_json::to_string(answer).unwrap(), expected);
            assert_eq!(serde_json::from_str::<Answer>(expected).unwrap(), *answer);
        }
    }

    #[test]
    fn what_is_not_there_is_named_with_what_is() {
        let check = |ask: &str, expected: Result<usize, &str>| {
            let Ask::Read(read) = serde_json::from_str(ask).unwrap() else { panic!("not a read: {ask}") };
            let found = resolve(&config(), &read).map(|r| r.bus);
            assert_eq!(found, expected.map_err(String::from), "{ask}");
        };
        let point = |d: &str, p: &str| format!(r#"{{"ask":"read","device":"{d}","point":"{p}"}}"#);
        check(&point("meter-1", "voltage"), Ok(0));
        check(&point("meter-1", "amps"), Err(r#"no point "amps" of "meter-1"; there are voltage"#));
        check(&point("meter", "x"), Err(r#"no device "meter"; there are meter-1, scale-1"#));
        check(
            &point("scale-1", "weight"),
            Err(r#""scale-1" sends lines when it wants to; it cannot be asked"#),
        );
        let address = |bus: &str, kind: &str| {
            format!(r#"{{"ask":"read","bus":"{bus}","unit":1,"table":"input","address":0,"type":"{kind}"}}"#)
        };
        check(&address("line-1", "uint16"), Ok(0));
        check(&address("line-2", "uint16"), Err(r#""line-2" carries lines of text, not Modbus"#));
        check(&address("line-9", "uint16"), Err(r#"no bus "line-9"; there are line-1, line-2"#));
    }
}
