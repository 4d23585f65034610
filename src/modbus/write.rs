//! PURE: from a wanted value to the one frame that writes it, or the reason why not.
//!
//! Constraints:
//! - Everything is checked before the wire: type, bounds, step, names, the vendor's mark for
//!   "no value". A value that the registers cannot show exactly is refused, not rounded:
//!   else what is reported would never equal what is desired.
//! - A part of a register goes by function 22, so that its neighbours are not touched, not
//!   even between a read and a write.
//! - Whether a device did it is asked in words, not in floats: what was read is encoded
//!   again, and the words compared. So 231.4 in a float32 is 231.4.
//!
//! The way of a value: JSON → [`Value`] → bounds and step → words → [`WritePlan`] → the bus.

use std::fmt;

use super::codec::{EncodeError, encode, encode_exact, own_bits};
use super::command::Command;
use crate::model::decimal::Decimal;
use crate::model::device::{ModbusDevice, Point, Source, WriteFunction};
use crate::model::ids::PointName;
use crate::model::reading::Measured;
use crate::model::register::{Kind, Names, RegisterPoint, Table};
use crate::model::value::Value;
use crate::model::write::WriteRules;

/// Registers that one write can carry: MODBUS Application Protocol V1.1b3, 6.12.
pub const WRITE_REGISTERS_MAX: u16 = 123;

/// One write: the frame, and how to know that it was taken.
#[derive(Clone, Debug, PartialEq)]
pub struct WritePlan {
    pub command: Command,
    /// What is read after the write; `None`: the point cannot be read.
    pub read_back: Option<RegisterPoint>,
    /// The words that the point then shows, bits of others zero; of a coil 0 or 1.
    pub expect: Vec<u16>,
}

impl WritePlan {
    /// What was read back is what was written.
    pub fn is_met(&self, read: &Measured) -> bool {
        match (&self.read_back, read) {
            (Some(point), Measured::Good(value)) => {
                encode(point, value).is_ok_and(|words| words == self.expect)
            }
            _ => false,
        }
    }
}

/// A value that is not written. The text names the point, the value and the limit.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{point} = {value}: {why}")]
pub struct Refusal {
    pub point: PointName,
    /// As JSON, cut to a readable length.
    pub value: String,
    pub why: Why,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Why {
    #[error("the point cannot be written")]
    ReadOnly,
    #[error("unit id 0 is the broadcast address, nobody would answer for it")]
    Broadcast,
    #[error("the point takes {expected}")]
    WrongType { expected: String },
    #[error("it is outside of {}", Bounds(*min, *max))]
    OutOfRange { min: Option<f64>, max: Option<f64> },
    #[error("it is not on the step of {step} from {from}; nearest is {below} and {above}")]
    OffStep { step: f64, from: f64, below: f64, above: f64 },
    #[error("{0}")]
    Encode(#[from] EncodeError),
    #[error("{registers} registers do not fit into one write, at most {max} do")]
    TooLong { registers: u16, max: u16 },
}

/// The one write that makes `point` of `device` show `wanted`.
pub fn plan(device: &ModbusDevice, point: &Point, wanted: &serde_json::Value) -> Result<WritePlan, Refusal> {
    planned(device, point, wanted).map_err(|why| Refusal {
        point: point.name.clone(),
        value: shortened(&wanted.to_string()),
        why,
    })
}

/// Whether these words of the point (of a coil: 0 or 1) are what is wanted. Two values that
/// the registers cannot tell apart are one.
pub fn satisfied(point: &RegisterPoint, wanted: &serde_json::Value, words: &[u16]) -> bool {
    let read = match words {
        [bit] if point.table.is_bits() => super::codec::decode_bit(point, *bit != 0),
        words => super::codec::decode(point, words, None),
    };
    matches!(read, Measured::Good(value) if holds(point, wanted, &value))
}

/// [`satisfied`] for a value that was read already.
pub fn holds(point: &RegisterPoint, wanted: &serde_json::Value, read: &Value) -> bool {
    let Ok(wanted) = value(point, wanted) else { return false };
    encode_exact(point, &wanted).is_ok_and(|wanted| encode(point, read) == Ok(wanted))
}

fn planned(device: &ModbusDevice, point: &Point, wanted: &serde_json::Value) -> Result<WritePlan, Why> {
    let (Some(rules), Source::Register(register)) = (&point.write, &point.source) else {
        return Err(Why::ReadOnly);
    };
    if !matches!(register.table, Table::Coil | Table::Holding) || register.scale_factor.is_some() {
        return Err(Why::ReadOnly);
    }
    if device.unit_id == 0 {
        return Err(Why::Broadcast);
    }
    let wanted = value(register, wanted)?;
    bounds(rules, &wanted)?;
    step(rules, &wanted)?;
    let words = encode_exact(register, &wanted)?;
    let max = if device.write_function == WriteFunction::Single { 1 } else { WRITE_REGISTERS_MAX };
    let registers = register.count();
    if registers > max {
        return Err(Why::TooLong { registers, max });
    }
    let (address, function) = (register.address, device.write_function);
    let command = match (register.table, own_bits(&register.encoding)) {
        (Table::Coil, _) => {
            Command::WriteCoils { address, coils: vec![words.first().is_some_and(|w| *w != 0)], function }
        }
        (_, Some(mask)) => {
            Command::WriteBits { address, mask, bits: words.first().copied().unwrap_or_default() }
        }
        (_, None) => Command::WriteRegisters { address, words: words.clone(), function },
    };
    let read_back = rules.readable.then(|| register.clone());
    Ok(WritePlan { command, read_back, expect: words })
}

/// The JSON value as one of the point's own type.
fn value(point: &RegisterPoint, wanted: &serde_json::Value) -> Result<Value, Why> {
    use serde_json::Value as Json;
    let is_switch = matches!(point.encoding.kind, Kind::Bool | Kind::Bit(_));
    let is_text = matches!(point.encoding.kind, Kind::Text { .. } | Kind::Bytes { .. });
    let wrong = || Why::WrongType { expected: expected(point) };
    match (wanted, &point.transform.names) {
        // A switch may have a name for one of its two sides only.
        (Json::Bool(b), _) if is_switch => Ok(Value::Bool(*b)),
        (Json::String(text), Some(Names::Enum(_))) => Ok(Value::Text(text.clone())),
        (Json::Array(names), Some(Names::Flags(_))) => {
            let name = |n: &Json| n.as_str().map(str::to_owned).ok_or_else(wrong);
            names.iter().map(name).collect::<Result<_, _>>().map(Value::Flags)
        }
        (Json::String(text), None) if is_text => Ok(Value::Text(text.clone())),
        (Json::Number(number), None) if !is_text && !is_switch => {
            let integer = number.as_i64().map(Value::Int).or_else(|| number.as_u64().map(Value::Uint));
            integer.or_else(|| number.as_f64().map(Value::Float)).ok_or_else(wrong)
        }
        _ => Err(wrong()),
    }
}

/// Names in a refusal are helpful up to a handful.
const NAMES_SHOWN_MAX: usize = 20;

fn expected(point: &RegisterPoint) -> String {
    let list = |names: &mut dyn Iterator<Item = &String>| {
        names.take(NAMES_SHOWN_MAX).map(|n| format!("{n:?}")).collect::<Vec<_>>().join(", ")
    };
    match (&point.transform.names, &point.encoding.kind) {
        (Some(Names::Enum(names)), _) => format!("one of {}", list(&mut names.iter().map(|(_, n)| n))),
        (Some(Names::Flags(names)), _) => format!("a list of {}", list(&mut names.iter().map(|(_, n)| n))),
        (None, Kind::Bool | Kind::Bit(_)) => "true or false".to_owned(),
        (None, Kind::Text { .. }) => "text".to_owned(),
        (None, Kind::Bytes { .. }) => "text of hex digits".to_owned(),
        (None, _) => "a number".to_owned(),
    }
}

fn bounds(rules: &WriteRules, wanted: &Value) -> Result<(), Why> {
    let (Value::Int(_) | Value::Uint(_) | Value::Float(_)) = wanted else { return Ok(()) };
    let x = wanted.as_f64().unwrap_or(f64::NAN);
    let inside = rules.min.is_none_or(|min| x >= min) && rules.max.is_none_or(|max| x <= max);
    if inside { Ok(()) } else { Err(Why::OutOfRange { min: rules.min, max: rules.max }) }
}

/// Counted in decimals, so that 0.3 is three steps of 0.1.
fn step(rules: &WriteRules, wanted: &Value) -> Result<(), Why> {
    let (Some(step), Value::Int(_) | Value::Uint(_) | Value::Float(_)) = (rules.step, wanted) else {
        return Ok(());
    };
    let from = rules.min.unwrap_or(0.0);
    let number = match wanted {
        Value::Int(i) => Some(Decimal::integer(i128::from(*i))),
        Value::Uint(u) => Some(Decimal::integer(i128::from(*u))),
        other => other.as_f64().and_then(Decimal::of),
    };
    let exact = || {
        let (step, from) = (Decimal::of(step)?, Decimal::of(from)?);
        let above = number?.minus(from)?;
        let count = above.over(step)?;
        Some(Decimal::integer(count).times(step)?.minus(above)?.digits == 0)
    };
    if exact() == Some(true) {
        return Ok(());
    }
    let x = wanted.as_f64().unwrap_or(f64::NAN);
    let count = ((x - from) / step).floor();
    let at = |count: f64| {
        let short = || Decimal::integer(count as i128).times(Decimal::of(step)?)?.plus(Decimal::of(from)?);
        short().map_or(from + count * step, Decimal::to_f64)
    };
    Err(Why::OffStep { step, from, below: at(count), above: at(count + 1.0) })
}

/// The longest value that a refusal repeats.
const VALUE_SHOWN_MAX: usize = 64;

fn shortened(text: &str) -> String {
    match text.char_indices().nth(VALUE_SHOWN_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

struct Bounds(Option<f64>, Option<f64>);

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0, self.1) {
            (Some(min), Some(max)) => write!(f, "{min} to {max}"),
            (Some(min), None) => write!(f, "{min} and above"),
            (None, Some(max)) => write!(f, "{max} and below"),
            (None, None) => f.write_str("nothing"),
        }
    }
}

#[cfg(test)]
mod tests;
