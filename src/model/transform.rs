//! From a number that somebody wrote to the value of its point: invalid marks, scale and
//! offset, range, decimals, names.
//!
//! The numbers here were text, so they have no width and no bit pattern: an invalid mark
//! matches the integer of that value. Integers stay integers while scale and offset are
//! whole.

use super::reading::Measured;
use super::register::{Names, Range, Transform};
use super::value::{Cause, Value};

/// Text, flags and truth values pass as they are, but for their names.
pub fn apply(transform: &Transform, raw: Value) -> Measured {
    if let Some(integer) = integer(&raw)
        && transform.invalid.iter().any(|mark| i128::from(*mark) == integer)
    {
        return Measured::Bad(Cause::Invalid);
    }
    let name = transform.names.as_ref().and_then(|names| named(names, &raw));
    let number = match &raw {
        Value::Int(_) | Value::Uint(_) | Value::Float(_) => scaled(transform, &raw),
        Value::Bool(_) | Value::Text(_) | Value::Flags(_) => return Measured::Good(name.unwrap_or(raw)),
    };
    if number.as_f64().is_some_and(|x| !x.is_finite()) {
        return Measured::Bad(Cause::NotANumber);
    }
    let (number, clamped) = match &transform.range {
        None => (number, false),
        Some(range) => match within(range, number) {
            Some(inside) => inside,
            None => return Measured::Bad(Cause::OutOfRange),
        },
    };
    let value = name.unwrap_or_else(|| rounded(transform.decimals, number));
    if clamped { Measured::Uncertain(value, Cause::OutOfRange) } else { Measured::Good(value) }
}

fn integer(value: &Value) -> Option<i128> {
    match value {
        Value::Int(i) => Some(i128::from(*i)),
        Value::Uint(u) => Some(i128::from(*u)),
        _ => None,
    }
}

/// The smallest type that holds the integer.
pub fn whole(integer: i128) -> Option<Value> {
    i64::try_from(integer).map(Value::Int).or_else(|_| u64::try_from(integer).map(Value::Uint)).ok()
}

fn scaled(transform: &Transform, raw: &Value) -> Value {
    if transform.scale.is_none() && transform.offset.is_none() {
        return raw.clone();
    }
    let (scale, offset) = (transform.scale.unwrap_or(1.0), transform.offset.unwrap_or(0.0));
    let small_and_whole = |x: f64| x == x.trunc() && x.abs() < 9e15;
    if let Some(integer) = integer(raw)
        && small_and_whole(scale)
        && small_and_whole(offset)
        && let Some(value) =
            integer.checked_mul(scale as i128).and_then(|n| n.checked_add(offset as i128)).and_then(whole)
    {
        return value;
    }
    Value::Float(raw.as_f64().unwrap_or(f64::NAN) * scale + offset)
}

/// The number and whether it was clamped; `None`: outside, and not to be clamped.
fn within(range: &Range, number: Value) -> Option<(Value, bool)> {
    let x = number.as_f64().unwrap_or(f64::NAN);
    let bound = match () {
        () if x < range.min => range.min,
        () if x > range.max => range.max,
        () => return Some((number, false)),
    };
    let value = match number {
        Value::Float(_) => Value::Float(bound),
        // A whole number stays one when the bound is whole.
        _ if bound == bound.trunc() => whole(bound as i128).unwrap_or(Value::Float(bound)),
        _ => Value::Float(bound),
    };
    range.clamp.then_some((value, true))
}

fn rounded(decimals: Option<u8>, number: Value) -> Value {
    match (decimals, &number) {
        // By way of the decimal text, because that is where the digits are counted.
        (Some(n), Value::Float(x)) => format!("{x:.*}", usize::from(n)).parse().map_or(number, Value::Float),
        _ => number,
    }
}

fn named(names: &Names, raw: &Value) -> Option<Value> {
    let number = match raw {
        Value::Bool(b) => i64::from(*b),
        Value::Int(i) => *i,
        Value::Uint(u) => i64::try_from(*u).ok()?,
        Value::Float(x) if *x == x.trunc() && x.abs() < 9e15 => *x as i64,
        Value::Float(_) | Value::Text(_) | Value::Flags(_) => return None,
    };
    match names {
        Names::Enum(names) => {
            names.iter().find(|(n, _)| *n == number).map(|(_, name)| Value::Text(name.clone()))
        }
        Names::Flags(names) => {
            let set = (0..64_u8).filter(|bit| number >> bit & 1 == 1);
            let name = |bit: u8| {
                let known = names.iter().find(|(n, _)| *n == bit);
                known.map_or_else(|| format!("bit{bit}"), |(_, name)| name.clone())
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
        check(Transform { decimals: Some(1), ..plain() }, Value::Float(3.14), good(Value::Float(3.1)));
        check(Transform { invalid: vec![9999], ..plain() }, Value::Int(9999), Measured::Bad(Cause::Invalid));
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
