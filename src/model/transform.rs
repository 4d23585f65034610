//! From the raw number to the value: invalid marks, scale and offset, range, decimals, names.
//!
//! Constraints: registers and written numbers become values in the same way; a scale that a
//! person wrote gives the decimal that a person expects; integers stay integers while scale
//! and offset are whole; what is not a finite number never leaves as one.
//!
//! The way of a number: where it comes from says how it reads ([`Raw`]) and which bits it
//! has → marks → scale factor, scale, offset → range → decimals, or the name of the raw one.

use super::decimal::{self, Decimal};
use super::reading::Measured;
use super::register::{Names, Range, Transform};
use super::value::{Cause, Value};

/// What the words say before anybody scales it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Raw {
    Bool(bool),
    Int(i64),
    Uint(u64),
    Float(f64),
}

/// Nothing to do: the raw value is the value.
#[inline]
pub fn is_plain(t: &Transform) -> bool {
    t.scale.is_none()
        && t.offset.is_none()
        && t.decimals.is_none()
        && t.range.is_none()
        && t.names.is_none()
        && t.invalid.is_empty()
}

/// `bits` is the raw pattern of the value's width, if it has one; `factor` the power of ten that came from a
/// scale-factor register. The order is scale factor, scale, offset.
///
/// Integers with integer scale and offset stay integers while they fit into 64 bits. True
/// and false are neither scaled nor ranged.
pub fn finish(raw: Raw, bits: Option<u64>, t: &Transform, factor: Option<i8>) -> Measured {
    if bits.is_some_and(|bits| t.invalid.contains(&bits)) {
        return Measured::Bad(Cause::Invalid);
    }
    let number = match raw {
        Raw::Bool(b) => return Measured::Good(named(raw, bits, t).unwrap_or(Value::Bool(b))),
        Raw::Int(i) => scale_integer(i128::from(i), t, factor),
        Raw::Uint(u) => scale_integer(i128::from(u), t, factor),
        Raw::Float(x) => Number::Float(scale_float(x, t, factor)),
    };
    if !number.to_f64().is_finite() {
        return Measured::Bad(Cause::NotANumber);
    }
    let (number, clamped) = match t.range {
        None => (number, false),
        Some(range) => match within(number, range) {
            Some(inside) => inside,
            None => return Measured::Bad(Cause::OutOfRange),
        },
    };
    let number = t.decimals.map_or(number, |places| number.rounded(places));
    let value = named(raw, bits, t).unwrap_or_else(|| number.into_value(matches!(raw, Raw::Uint(_))));
    if clamped { Measured::Uncertain(value, Cause::OutOfRange) } else { Measured::Good(value) }
}

/// The same for a number that was written as text. An integer has the pattern of its 64 bits,
/// a fraction has none. Texts and flags pass as they are.
pub fn apply(t: &Transform, written: Value) -> Measured {
    let (raw, bits) = match written {
        Value::Bool(b) => (Raw::Bool(b), Some(u64::from(b))),
        Value::Int(i) => (Raw::Int(i), Some(i as u64)),
        Value::Uint(u) => (Raw::Uint(u), Some(u)),
        Value::Float(x) => (Raw::Float(x), (x == x.trunc() && x.abs() < 9e15).then_some(x as i64 as u64)),
        Value::Text(_) | Value::Flags(_) => return Measured::Good(written),
    };
    finish(raw, bits, t, None)
}

/// The smallest type that holds the integer.
pub fn whole(integer: i128) -> Option<Value> {
    i64::try_from(integer).map(Value::Int).or_else(|_| u64::try_from(integer).map(Value::Uint)).ok()
}

#[derive(Clone, Copy)]
enum Number {
    Exact(Decimal),
    Float(f64),
}

impl Number {
    fn to_f64(self) -> f64 {
        match self {
            Number::Exact(d) => d.to_f64(),
            Number::Float(x) => x,
        }
    }

    fn rounded(self, places: u8) -> Number {
        match self {
            Number::Exact(d) => Number::Exact(d.rounded(places)),
            Number::Float(x) => Number::Float(decimal::round(x, places)),
        }
    }

    fn into_value(self, unsigned: bool) -> Value {
        let Number::Exact(d) = self else { return Value::Float(self.to_f64()) };
        if d.places > 0 {
            return Value::Float(d.to_f64());
        }
        match (i64::try_from(d.digits), u64::try_from(d.digits)) {
            (_, Ok(u)) if unsigned => Value::Uint(u),
            (Ok(i), _) => Value::Int(i),
            (_, Ok(u)) => Value::Uint(u),
            _ => Value::Float(d.to_f64()),
        }
    }
}

fn scale_integer(n: i128, t: &Transform, factor: Option<i8>) -> Number {
    match exact(Decimal::integer(n), t, factor) {
        Some(d) => Number::Exact(d),
        None => Number::Float(inexact(n as f64, t, factor)),
    }
}

/// A float that is a short decimal itself (a counter kept in a float32, say) is scaled like
/// an integer, and stays a float.
fn scale_float(x: f64, t: &Transform, factor: Option<i8>) -> f64 {
    if t.scale.is_none() && t.offset.is_none() && factor.is_none() {
        return x;
    }
    let short = Decimal::of(x).and_then(|d| exact(d, t, factor));
    short.map_or_else(|| inexact(x, t, factor), Decimal::to_f64)
}

/// `None` when scale or offset is no short decimal, or the digits outgrow 128 bits.
fn exact(raw: Decimal, t: &Transform, factor: Option<i8>) -> Option<Decimal> {
    let mut d = raw.shifted(factor.unwrap_or(0))?;
    if let Some(scale) = t.scale {
        d = d.times(Decimal::of(scale)?)?;
    }
    if let Some(offset) = t.offset {
        d = d.plus(Decimal::of(offset)?)?;
    }
    Some(d)
}

fn inexact(x: f64, t: &Transform, factor: Option<i8>) -> f64 {
    let power = 10f64.powi(i32::from(factor.unwrap_or(0)));
    x * power * t.scale.unwrap_or(1.0) + t.offset.unwrap_or(0.0)
}

/// The number and whether it was clamped; `None`: outside and not to be clamped.
fn within(number: Number, range: Range) -> Option<(Number, bool)> {
    let x = number.to_f64();
    let bound = if x < range.min {
        range.min
    } else if x > range.max {
        range.max
    } else {
        return Some((number, false));
    };
    if !range.clamp {
        return None;
    }
    // A whole number stays one when the bound is whole.
    let clamped = match (number, Decimal::of(bound)) {
        (Number::Exact(_), Some(d)) => Number::Exact(d),
        _ => Number::Float(bound),
    };
    Some((clamped, true))
}

/// Names belong to the raw value, whatever the scale says.
fn named(raw: Raw, bits: Option<u64>, t: &Transform) -> Option<Value> {
    match t.names.as_ref()? {
        Names::Enum(names) => {
            let raw = match raw {
                Raw::Bool(b) => i64::from(b),
                Raw::Int(i) => i,
                Raw::Uint(u) => i64::try_from(u).ok()?,
                Raw::Float(x) if x == x.trunc() && x.abs() < 9e15 => x as i64,
                Raw::Float(_) => return None,
            };
            names.iter().find(|(n, _)| *n == raw).map(|(_, name)| Value::Text(name.clone()))
        }
        Names::Flags(names) => {
            let bits = bits?;
            let set = (0..64u8).filter(|n| bits >> n & 1 == 1);
            let name = |n: u8| match names.iter().find(|(bit, _)| *bit == n) {
                Some((_, name)) => name.clone(),
                None => format!("bit{n}"),
            };
            Some(Value::Flags(set.map(name).collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(transform: Transform, raw: Value, expected: Measured) {
        assert_eq!(apply(&transform, raw.clone()), expected, "{raw:?} by {transform:?}");
    }

    #[test]
    fn numbers_become_what_a_person_expects() {
        let plain = Transform::default;
        let good = Measured::Good;
        check(plain(), Value::Int(7), good(Value::Int(7)));
        check(plain(), Value::Uint(u64::MAX), good(Value::Uint(u64::MAX)));
        check(
            Transform { scale: Some(2.0), offset: Some(1.0), ..plain() },
            Value::Int(7),
            good(Value::Int(15)),
        );
        check(Transform { scale: Some(0.5), ..plain() }, Value::Int(7), good(Value::Float(3.5)));
        check(Transform { scale: Some(0.1), ..plain() }, Value::Int(2314), good(Value::Float(231.4)));
        check(Transform { decimals: Some(1), ..plain() }, Value::Float(3.17), good(Value::Float(3.2)));
        check(Transform { invalid: vec![9999], ..plain() }, Value::Int(9999), Measured::Bad(Cause::Invalid));
        check(Transform { invalid: vec![0], ..plain() }, Value::Float(0.5), good(Value::Float(0.5)));
        check(plain(), Value::Float(f64::INFINITY), Measured::Bad(Cause::NotANumber));
    }

    #[test]
    fn ranges_refuse_or_clamp() {
        let range =
            |clamp| Transform { range: Some(Range { min: 0.0, max: 10.0, clamp }), ..Transform::default() };
        check(range(false), Value::Int(10), Measured::Good(Value::Int(10)));
        check(range(false), Value::Int(11), Measured::Bad(Cause::OutOfRange));
        check(range(true), Value::Int(11), Measured::Uncertain(Value::Int(10), Cause::OutOfRange));
        check(range(true), Value::Float(-0.5), Measured::Uncertain(Value::Float(0.0), Cause::OutOfRange));
    }

    #[test]
    fn names_belong_to_the_raw_number() {
        let on = Names::Enum(vec![(1, "on".to_owned())]);
        let named = Transform { names: Some(on), scale: Some(10.0), ..Transform::default() };
        check(named.clone(), Value::Int(1), Measured::Good(Value::Text("on".to_owned())));
        check(named.clone(), Value::Bool(true), Measured::Good(Value::Text("on".to_owned())));
        check(named, Value::Int(2), Measured::Good(Value::Int(20)));
    }
}
