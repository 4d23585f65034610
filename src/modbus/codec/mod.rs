//! From words to a value and back.
//!
//! Constraints: a plain `uint16` or `float32` costs a few nanoseconds and no allocation,
//! because a busy gateway decodes hundreds of thousands of them per second; nothing in here
//! panics, whatever a device sends; 64-bit integers stay exact; a value that is not a finite
//! number never leaves as one.
//!
//! The way of one datum: the words of the answer are laid side by side (first register
//! first, high byte first, as Modbus sends them: MODBUS Application Protocol V1.1b3, 4.2),
//! the byte order puts the most significant byte in front, the kind reads that pattern as a
//! [`Raw`] number, and [`finish`] applies invalid marks, scale, range, decimals
//! and names. `encode` walks the same way back.
//!
//! A float32 is widened to a float64 without a change: 231.4 on the wire is
//! 231.39999389648438 here, which is what the device said. `decimals` rounds it.

mod encode;
mod half;
mod text;

pub use encode::{EncodeError, encode, encode_exact, encode_scaled, own_bits, shown};

use crate::model::reading::Measured;
use crate::model::register::{Encoding, Half, Kind, RegisterPoint, Table};
use crate::model::transform::{Raw, finish, is_plain};
use crate::model::value::{Cause, Value};

/// What `words` mean for `point`. `scale_factor` is the content of the point's scale-factor
/// register, where it has one. Fewer words than the point covers are a damaged answer.
pub fn decode(point: &RegisterPoint, words: &[u16], scale_factor: Option<u16>) -> Measured {
    let Some(words) = words.get(..usize::from(point.encoding.registers())) else {
        return Measured::Bad(Cause::Garbled);
    };
    match &point.encoding.kind {
        Kind::Text { bytes, padding, .. } => text::decode(words, &point.encoding.order, *bytes, *padding),
        Kind::Bytes { .. } => Measured::Good(Value::Text(text::hex(words, &point.encoding.order))),
        _ => decode_number(point, words, scale_factor),
    }
}

/// What a coil or discrete input means for `point`: true or false (or the name that an enum
/// gives them); points of a number type see 0 or 1.
pub fn decode_bit(point: &RegisterPoint, bit: bool) -> Measured {
    let raw = match point.encoding.kind {
        Kind::Bool | Kind::Bit(_) => Raw::Bool(bit),
        _ => Raw::Uint(u64::from(bit)),
    };
    finish(raw, Some(u64::from(bit)), &point.transform, None)
}

fn decode_number(point: &RegisterPoint, words: &[u16], scale_factor: Option<u16>) -> Measured {
    let bits = value_bits(&point.encoding, words);
    let Some(raw) = read(&point.encoding.kind, bits) else {
        // A vendor's mark for "no value" is often no valid BCD, so it is asked first.
        let marked = point.transform.invalid.contains(&bits);
        return Measured::Bad(if marked { Cause::Invalid } else { Cause::BadDigits });
    };
    let factor = match point.scale_factor {
        None => None,
        Some(_) => match scale_factor.and_then(power_of_ten) {
            Some(power) => Some(power),
            None => return Measured::Bad(Cause::ScaleFactor),
        },
    };
    if factor.is_none() && is_plain(&point.transform) {
        return match raw {
            Raw::Bool(b) => Measured::Good(Value::Bool(b)),
            Raw::Int(i) => Measured::Good(Value::Int(i)),
            Raw::Uint(u) => Measured::Good(Value::Uint(u)),
            Raw::Float(x) if x.is_finite() => Measured::Good(Value::Float(x)),
            Raw::Float(_) => Measured::Bad(Cause::NotANumber),
        };
    }
    finish(raw, Some(pattern(&point.encoding.kind, bits)), &point.transform, factor)
}

/// What a scale-factor register says. SunSpec's `sunssf` is an int16 from -10 to 10, and
/// 0x8000 where it is not implemented (SunSpec Device Information Model Specification).
fn power_of_ten(word: u16) -> Option<i8> {
    i8::try_from(word as i16).ok().filter(|power| (-10..=10).contains(power))
}

/// The words as one number, most significant byte first. At most four words.
fn value_bits(encoding: &Encoding, words: &[u16]) -> u64 {
    let wire = words.iter().fold(0u64, |all, word| (all << 16) | u64::from(*word));
    let order = &encoding.order;
    let len = words.len() * 2;
    if u64::from_le_bytes(order.from) == u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7]) {
        return wire;
    }
    let bytes = wire.to_be_bytes();
    // Byte `p` of the wire is byte `8 - len + p` of the eight.
    let first = 8 - len;
    order.from[..len].iter().fold(0u64, |all, from| {
        let at = (first + usize::from(*from)) & 7;
        (all << 8) | u64::from(bytes[at])
    })
}

/// The inverse of [`value_bits`].
fn value_words(encoding: &Encoding, bits: u64) -> Vec<u16> {
    let len = usize::from(encoding.registers()) * 2;
    let value = bits.to_be_bytes();
    let first = 8 - len;
    let mut wire = [0u8; 8];
    for (at, from) in encoding.order.from[..len].iter().enumerate() {
        wire[usize::from(*from) & 7] = value[first + at];
    }
    wire[..len].chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect()
}

/// The part of the pattern that is the value: what invalid marks and flags look at.
fn pattern(kind: &Kind, bits: u64) -> u64 {
    match kind {
        Kind::Bit(n) => (bits >> (n & 15)) & 1,
        Kind::BitField { start, length } => (bits >> (start & 15)) & low_bits(*length),
        Kind::Int8(Half::High) | Kind::Uint8(Half::High) => bits >> 8,
        Kind::Int8(Half::Low) | Kind::Uint8(Half::Low) => bits & 0xff,
        Kind::Int24 | Kind::Uint24 => bits & 0xff_ffff,
        _ => bits,
    }
}

/// The raw value of a pattern; `None` for digits that are none.
fn read(kind: &Kind, bits: u64) -> Option<Raw> {
    let value = pattern(kind, bits);
    Some(match kind {
        Kind::Bool => Raw::Bool(value != 0),
        Kind::Bit(_) => Raw::Bool(value != 0),
        Kind::BitField { .. } | Kind::Uint8(_) => Raw::Uint(value),
        Kind::Uint16 | Kind::Uint24 | Kind::Uint32 | Kind::Uint48 | Kind::Uint64 => Raw::Uint(value),
        Kind::Int8(_) => Raw::Int(i64::from(value as i8)),
        Kind::Int16 => Raw::Int(i64::from(value as i16)),
        Kind::Int24 => Raw::Int(sign_extend(value, 24)),
        Kind::Int32 => Raw::Int(i64::from(value as i32)),
        Kind::Int48 => Raw::Int(sign_extend(value, 48)),
        Kind::Int64 => Raw::Int(value as i64),
        Kind::Float16 => Raw::Float(half::to_f64(value as u16)),
        Kind::Float32 => Raw::Float(f64::from(f32::from_bits(value as u32))),
        Kind::Float64 => Raw::Float(f64::from_bits(value)),
        Kind::Bcd { registers } => Raw::Uint(digits(value, u32::from(*registers) * 4, 4, 10)?),
        Kind::Mod10k { registers } => Raw::Uint(digits(value, u32::from(*registers), 16, 10_000)?),
        // Handled before a number is looked for.
        Kind::Text { .. } | Kind::Bytes { .. } => return None,
    })
}

fn sign_extend(value: u64, width: u32) -> i64 {
    let unused = 64 - width;
    ((value << unused) as i64) >> unused
}

/// `count` digits of `width` bits, each below `base`, most significant first.
fn digits(value: u64, count: u32, width: u32, base: u64) -> Option<u64> {
    (0..count.min(64 / width)).rev().try_fold(0u64, |all, at| {
        let digit = (value >> (at * width)) & low_bits(width as u8);
        (digit < base).then_some(all * base + digit)
    })
}

fn low_bits(count: u8) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}

/// A point of a table without a transform, for `decode` and for tests.
pub fn bare(table: Table, encoding: Encoding) -> RegisterPoint {
    RegisterPoint {
        table,
        address: 0,
        encoding,
        transform: crate::model::register::Transform::default(),
        scale_factor: None,
    }
}

#[cfg(test)]
mod tests;
