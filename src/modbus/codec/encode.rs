//! From a value to the words that a write sends: the codec backwards.
//!
//! [`encode`] rounds a value between two steps of the register to the nearer one, as a person
//! who tries 21.55 on a register of tenths expects; [`encode_exact`], for what is written to a
//! device, refuses it. Everything else that the register cannot hold is refused by both, and
//! so is the pattern that the vendor reserved for "no value".

use super::{decode, decode_bit, half, low_bits, power_of_ten, text, value_words};
use crate::model::decimal::{self, Decimal};
use crate::model::reading::Measured;
use crate::model::register::{Encoding, Half, Kind, Names, RegisterPoint, Transform};
use crate::model::transform::Raw;
use crate::model::value::Value;

/// Why a value cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("the point takes {expected}")]
    WrongType { expected: &'static str },
    #[error("the value is outside what the point can hold")]
    OutOfRange,
    #[error("not a finite number")]
    NotANumber,
    #[error("the register's pattern for this value means \"no value\"")]
    Invalid,
    #[error("the point has no name {0:?}")]
    UnknownName(String),
    #[error("{bytes} bytes do not fit, the point has room for {room}")]
    TooLong { bytes: usize, room: usize },
    #[error("the scale factor of the point is not known")]
    ScaleFactor,
    /// `nearest` may be empty.
    #[error("the point cannot show exactly that{}{nearest}", if nearest.is_empty() { "" } else { "; nearest is " })]
    Inexact { nearest: String },
}

/// The words for `value`. Bits of a register that do not belong to the point are zero: the
/// writer masks them in (function 22) or reads the register first.
pub fn encode(point: &RegisterPoint, value: &Value) -> Result<Vec<u16>, EncodeError> {
    encode_scaled(point, value, None)
}

/// [`encode`] for a point with a scale-factor register, whose content is `scale_factor`.
pub fn encode_scaled(
    point: &RegisterPoint,
    value: &Value,
    scale_factor: Option<u16>,
) -> Result<Vec<u16>, EncodeError> {
    let encoding = &point.encoding;
    match &encoding.kind {
        Kind::Text { registers, bytes, padding } => match value {
            Value::Text(t) => text::encode(t, *registers, &encoding.order, *bytes, *padding),
            _ => Err(EncodeError::WrongType { expected: "text" }),
        },
        Kind::Bytes { registers } => match value {
            Value::Text(t) => text::unhex(t, *registers, &encoding.order),
            _ => Err(EncodeError::WrongType { expected: "hex digits" }),
        },
        kind => {
            let factor = match point.scale_factor {
                None => 0,
                Some(_) => scale_factor.and_then(power_of_ten).ok_or(EncodeError::ScaleFactor)?,
            };
            let pattern = pattern(kind, value, &point.transform, factor)?;
            if point.transform.invalid.contains(&pattern) {
                return Err(EncodeError::Invalid);
            }
            Ok(value_words(encoding, placed(kind, pattern)))
        }
    }
}

/// [`encode`] without rounding: whoever reads the words sees the value. A float's last digits
/// are its own: what is read is the value again, rounded to the digits it was given with.
pub fn encode_exact(point: &RegisterPoint, value: &Value) -> Result<Vec<u16>, EncodeError> {
    let words = encode(point, value)?;
    let is_float = matches!(point.encoding.kind, Kind::Float16 | Kind::Float32 | Kind::Float64);
    match shown(point, &words) {
        Some(shown) if same(value, &shown, is_float) => Ok(words),
        _ => Err(EncodeError::Inexact { nearest: nearest(point, value, &words) }),
    }
}

/// The bits of its one register that belong to the point, where not all of them do.
pub fn own_bits(encoding: &Encoding) -> Option<u16> {
    let width = match &encoding.kind {
        Kind::Bit(_) => 1,
        Kind::BitField { length, .. } => *length,
        Kind::Int8(_) | Kind::Uint8(_) => 8,
        _ => return None,
    };
    let bits = value_words(encoding, placed(&encoding.kind, low_bits(width)));
    bits.first().copied().filter(|bits| *bits != u16::MAX)
}

/// What these words mean, if they are a good value.
fn shown(point: &RegisterPoint, words: &[u16]) -> Option<Value> {
    let measured = match words {
        [word] if point.table.is_bits() => decode_bit(point, *word != 0),
        words => decode(point, words, None),
    };
    match measured {
        Measured::Good(value) => Some(value),
        _ => None,
    }
}

fn same(wanted: &Value, shown: &Value, is_float: bool) -> bool {
    match (integer(wanted), integer(shown)) {
        (Some(a), Some(b)) => return a == b,
        (Some(a), None) | (None, Some(a)) if !is_float => {
            // Compared as integers: beyond 2^53 a float would equal its neighbours.
            let other = if integer(wanted).is_some() { shown } else { wanted };
            return matches!(other, Value::Float(x) if *x == x.trunc() && *x as i128 == a);
        }
        _ => {}
    }
    match (wanted, shown) {
        (Value::Flags(a), Value::Flags(b)) => {
            a.iter().all(|n| b.contains(n)) && b.iter().all(|n| a.contains(n))
        }
        (Value::Float(_) | Value::Int(_) | Value::Uint(_), Value::Float(y)) => {
            let Some(x) = wanted.as_f64() else { return false };
            if integer(wanted).is_some_and(|i| *y as i128 != i) {
                return false;
            }
            let places = Decimal::of(x).map(|d| d.places);
            x == *y || is_float && places.is_some_and(|places| decimal::round(*y, places) == x)
        }
        (wanted, shown) => wanted == shown,
    }
}

fn integer(value: &Value) -> Option<i128> {
    match value {
        Value::Int(i) => Some(i128::from(*i)),
        Value::Uint(u) => Some(i128::from(*u)),
        _ => None,
    }
}

/// The values beside `value` that the point can show, as text: `21.5 and 21.6`.
fn nearest(point: &RegisterPoint, value: &Value, words: &[u16]) -> String {
    let (Some(x), kind) = (value.as_f64(), &point.encoding.kind) else { return String::new() };
    let bits = super::value_bits(&point.encoding, words);
    let beside = |step: i8| {
        let pattern = match super::read(kind, bits)? {
            Raw::Int(i) => integer_pattern(kind, i128::from(i) + i128::from(step)).ok()?,
            Raw::Uint(u) => integer_pattern(kind, i128::from(u) + i128::from(step)).ok()?,
            Raw::Float(_) => bits.wrapping_add_signed(i64::from(step)),
            Raw::Bool(_) => return None,
        };
        shown(point, &value_words(&point.encoding, placed(kind, pattern)))
    };
    let near: Vec<Value> = (-1..=1).filter_map(beside).filter(|v| v.as_f64().is_some()).collect();
    let number = |v: &Value| v.as_f64().unwrap_or(f64::NAN);
    let below = near.iter().filter(|v| number(v) < x).max_by(|a, b| number(a).total_cmp(&number(b)));
    let above = near.iter().filter(|v| number(v) > x).min_by(|a, b| number(a).total_cmp(&number(b)));
    let both: Vec<String> = below.into_iter().chain(above).map(Value::to_string).collect();
    both.join(" and ")
}

/// The pattern of the value's own width.
fn pattern(kind: &Kind, value: &Value, t: &Transform, factor: i8) -> Result<u64, EncodeError> {
    let named = raw_of_name(value, t)?;
    if let Some(range) = t.range
        && named.is_none()
        && let Some(x) = value.as_f64()
        && !matches!(kind, Kind::Bool | Kind::Bit(_))
        && !(range.min..=range.max).contains(&x)
    {
        return Err(EncodeError::OutOfRange);
    }
    if matches!(kind, Kind::Float16 | Kind::Float32 | Kind::Float64) {
        let x = match named {
            Some(raw) => raw as f64,
            None => unscaled_float(value, t, factor)?,
        };
        return float_pattern(kind, x);
    }
    let raw = match named {
        Some(raw) => raw,
        None if matches!(kind, Kind::Bool | Kind::Bit(_)) => whole(value)?,
        None => unscaled_integer(value, t, factor)?,
    };
    integer_pattern(kind, raw)
}

/// The raw value of an enum's name or of a set of flags.
fn raw_of_name(value: &Value, t: &Transform) -> Result<Option<i128>, EncodeError> {
    match (value, &t.names) {
        (Value::Text(text), Some(Names::Enum(names))) => match names.iter().find(|(_, n)| n == text) {
            Some((raw, _)) => Ok(Some(i128::from(*raw))),
            None => Err(EncodeError::UnknownName(text.clone())),
        },
        (Value::Flags(set), Some(Names::Flags(names))) => {
            let bit = |name: &String| {
                let known = names.iter().find(|(_, n)| n == name).map(|(bit, _)| *bit);
                let spelt = || name.strip_prefix("bit").and_then(|n| n.parse().ok());
                let bit = known.or_else(spelt).filter(|bit| *bit < 64);
                bit.ok_or_else(|| EncodeError::UnknownName(name.clone()))
            };
            let bits = set.iter().try_fold(0u64, |all, name| Ok(all | 1 << bit(name)?))?;
            Ok(Some(i128::from(bits)))
        }
        (Value::Text(_) | Value::Flags(_), _) => Err(EncodeError::WrongType { expected: "a number" }),
        _ => Ok(None),
    }
}

fn whole(value: &Value) -> Result<i128, EncodeError> {
    match value {
        Value::Bool(b) => Ok(i128::from(*b)),
        Value::Int(i) => Ok(i128::from(*i)),
        Value::Uint(u) => Ok(i128::from(*u)),
        Value::Float(x) if x.is_finite() => Ok(x.round() as i128),
        Value::Float(_) => Err(EncodeError::NotANumber),
        Value::Text(_) | Value::Flags(_) => Err(EncodeError::WrongType { expected: "a number" }),
    }
}

fn unscaled_integer(value: &Value, t: &Transform, factor: i8) -> Result<i128, EncodeError> {
    if t.scale.is_none() && t.offset.is_none() && factor == 0 {
        return whole(value);
    }
    let exact = || {
        let number = match value {
            Value::Float(x) => Decimal::of(*x)?,
            other => Decimal::integer(whole(other).ok()?),
        };
        let offset = t.offset.map_or(Some(Decimal::ZERO), Decimal::of)?;
        let scale = t.scale.map_or(Some(Decimal::ONE), Decimal::of)?.shifted(factor)?;
        number.minus(offset)?.over(scale)
    };
    match exact() {
        Some(raw) => Ok(raw),
        None => Ok(unscaled_float(value, t, factor)?.round() as i128),
    }
}

fn unscaled_float(value: &Value, t: &Transform, factor: i8) -> Result<f64, EncodeError> {
    let x = value.as_f64().ok_or(EncodeError::WrongType { expected: "a number" })?;
    let raw = (x - t.offset.unwrap_or(0.0)) / t.scale.unwrap_or(1.0) / 10f64.powi(i32::from(factor));
    if raw.is_finite() { Ok(raw) } else { Err(EncodeError::NotANumber) }
}

fn float_pattern(kind: &Kind, x: f64) -> Result<u64, EncodeError> {
    match kind {
        Kind::Float16 => half::from_f64(x).map(u64::from).ok_or(EncodeError::OutOfRange),
        Kind::Float32 if (x as f32).is_infinite() => Err(EncodeError::OutOfRange),
        Kind::Float32 => Ok(u64::from((x as f32).to_bits())),
        _ => Ok(x.to_bits()),
    }
}

fn integer_pattern(kind: &Kind, raw: i128) -> Result<u64, EncodeError> {
    let (signed, width) = match kind {
        Kind::Bool | Kind::Bit(_) => (false, 1),
        Kind::BitField { length, .. } => (false, *length),
        Kind::Int8(_) => (true, 8),
        Kind::Uint8(_) => (false, 8),
        Kind::Int16 => (true, 16),
        Kind::Int24 => (true, 24),
        Kind::Uint24 => (false, 24),
        Kind::Int32 => (true, 32),
        Kind::Uint32 => (false, 32),
        Kind::Int48 => (true, 48),
        Kind::Uint48 => (false, 48),
        Kind::Int64 => (true, 64),
        Kind::Uint64 => (false, 64),
        Kind::Bcd { registers } => return digits(raw, u32::from(*registers) * 4, 4, 10),
        Kind::Mod10k { registers } => return digits(raw, u32::from(*registers), 16, 10_000),
        _ => (false, 16),
    };
    let limit = 1i128 << if signed { width - 1 } else { width };
    let range = if signed { -limit..limit } else { 0..limit };
    if !range.contains(&raw) {
        return Err(EncodeError::OutOfRange);
    }
    Ok(raw as u64 & low_bits(width))
}

fn digits(raw: i128, count: u32, width: u32, base: i128) -> Result<u64, EncodeError> {
    if raw < 0 {
        return Err(EncodeError::OutOfRange);
    }
    let (mut rest, mut pattern) = (raw, 0u64);
    for at in 0..count {
        pattern |= ((rest % base) as u64) << (at * width);
        rest /= base;
    }
    if rest == 0 { Ok(pattern) } else { Err(EncodeError::OutOfRange) }
}

/// The pattern at its place in the register.
fn placed(kind: &Kind, pattern: u64) -> u64 {
    match kind {
        Kind::Bit(n) => pattern << (n & 15),
        Kind::BitField { start, .. } => pattern << (start & 15),
        Kind::Int8(Half::High) | Kind::Uint8(Half::High) => pattern << 8,
        _ => pattern,
    }
}
