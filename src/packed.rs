//! PURE: how readings are spelled in the outbox.
//!
//! Constraints: a gateway writes the same few numbers for years to a flash card, so a
//! reading of a 16-bit counter takes about four bytes; it is read back exactly as it was
//! written; and a row can be read years later with nothing but its list of point names
//! (the *layout*), whatever the configuration says by then.
//!
//! A row is a sequence of groups; a group is one moment:
//! ```text
//! row     = group*
//! group   = zigzag(ms since the row's first ms)  varint(number of readings)  reading*
//! reading = varint((point - previous point - 1, modulo 2^16) << 4 | tag)  body(tag)
//! ```
//! `previous point` starts at -1 in each group, so points polled in order cost one byte.

use crate::model::ids::PointIndex;
use crate::model::reading::{Measured, Reading};
use crate::model::time::Timestamp;
use crate::model::value::{Cause, Value};

const FALSE: u8 = 0;
const TRUE: u8 = 1;
const UINT: u8 = 2;
/// `-1 - n` as a varint.
const NEGATIVE: u8 = 3;
/// A float that is exactly `mantissa / 10^digits`: one byte of digits, zigzag mantissa.
const DECIMAL: u8 = 4;
const FLOAT32: u8 = 5;
const FLOAT64: u8 = 6;
const TEXT: u8 = 7;
const FLAGS: u8 = 8;
/// A signed integer that is not negative (`Value::Int`, kept apart from `Value::Uint`).
const INT: u8 = 9;
const BAD: u8 = 10;
/// Two bytes, little-endian: most registers, and a byte less than their varint.
const UINT16: u8 = 12;
/// Cause, then a nested reading body with its own tag byte.
const UNCERTAIN: u8 = 11;

/// What the bytes of a row do not hold although their form says so: the row is damaged.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("outbox row is damaged at byte {at}")]
pub struct Damaged {
    pub at: usize,
}

/// A row under construction.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
    first: Option<Timestamp>,
    last: Timestamp,
    readings: u32,
}

impl Writer {
    /// Appends one moment's readings.
    pub fn push<'a>(&mut self, at: Timestamp, readings: impl ExactSizeIterator<Item = &'a Reading>) {
        if readings.len() == 0 {
            return;
        }
        let first = *self.first.get_or_insert(at);
        self.last = self.last.max(at).max(first);
        self.readings += readings.len() as u32;
        varint(&mut self.bytes, zigzag(at.0.wrapping_sub(first.0)));
        varint(&mut self.bytes, readings.len() as u64);
        let mut next = 0u16;
        for reading in readings {
            let delta = reading.point.0.wrapping_sub(next);
            next = reading.point.0.wrapping_add(1);
            measured(&mut self.bytes, u64::from(delta), &reading.measured);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.readings == 0
    }

    pub fn readings(&self) -> u32 {
        self.readings
    }

    pub fn first(&self) -> Timestamp {
        self.first.unwrap_or_default()
    }

    pub fn last(&self) -> Timestamp {
        self.last
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Reads a row group by group.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    first: Timestamp,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8], first: Timestamp) -> Reader<'a> {
        Reader { bytes, at: 0, first }
    }

    /// The next moment and how many readings it has, or `None` at the end of the row.
    pub fn group(&mut self) -> Result<Option<(Timestamp, u32)>, Damaged> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let delta = unzigzag(self.varint()?);
        let readings = u32::try_from(self.varint()?).map_err(|_| Damaged { at: self.at })?;
        Ok(Some((Timestamp(self.first.0.wrapping_add(delta)), readings)))
    }

    /// One reading of the group; `next` starts at 0 in each group and is kept by the caller.
    pub fn reading(&mut self, next: &mut u16) -> Result<Reading, Damaged> {
        let head = self.varint()?;
        let point = next.wrapping_add((head >> 4) as u16);
        *next = point.wrapping_add(1);
        let measured = self.body((head & 15) as u8)?;
        Ok(Reading { point: PointIndex(point), measured })
    }

    fn body(&mut self, tag: u8) -> Result<Measured, Damaged> {
        let value = match tag {
            FALSE => Value::Bool(false),
            TRUE => Value::Bool(true),
            UINT => Value::Uint(self.varint()?),
            UINT16 => Value::Uint(u64::from(u16::from_le_bytes(self.take()?))),
            INT => Value::Int(self.varint()? as i64),
            NEGATIVE => Value::Int(!(self.varint()? as i64)),
            DECIMAL => {
                let digits = usize::from(self.byte()?);
                let power = *POWERS.get(digits).ok_or(Damaged { at: self.at })?;
                Value::Float(unzigzag(self.varint()?) as f64 / power)
            }
            FLOAT32 => Value::Float(f64::from(f32::from_le_bytes(self.take()?))),
            FLOAT64 => Value::Float(f64::from_le_bytes(self.take()?)),
            TEXT => Value::Text(self.text()?),
            FLAGS => {
                let n = self.varint()?;
                Value::Flags((0..n).map(|_| self.text()).collect::<Result<_, _>>()?)
            }
            BAD => return Ok(Measured::Bad(self.cause()?)),
            UNCERTAIN => {
                let cause = self.cause()?;
                let tag = self.byte()?;
                return match self.body(tag)? {
                    Measured::Good(value) => Ok(Measured::Uncertain(value, cause)),
                    _ => Err(Damaged { at: self.at }),
                };
            }
            _ => return Err(Damaged { at: self.at }),
        };
        Ok(Measured::Good(value))
    }

    fn cause(&mut self) -> Result<Cause, Damaged> {
        let n = self.byte()?;
        match n.checked_sub(EXCEPTION_FROM) {
            Some(code) => Ok(Cause::Exception(code)),
            None => Cause::PLAIN.get(usize::from(n)).cloned().ok_or(Damaged { at: self.at }),
        }
    }

    fn text(&mut self) -> Result<String, Damaged> {
        let damaged = Damaged { at: self.at };
        let n = self.varint()? as usize;
        let bytes = self.bytes.get(self.at..self.at.saturating_add(n)).ok_or(damaged)?;
        self.at += n;
        String::from_utf8(bytes.to_vec()).map_err(|_| Damaged { at: self.at })
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Damaged> {
        let bytes = self.bytes.get(self.at..self.at + N).ok_or(Damaged { at: self.at })?;
        self.at += N;
        bytes.try_into().map_err(|_| Damaged { at: self.at })
    }

    fn byte(&mut self) -> Result<u8, Damaged> {
        self.take::<1>().map(|[b]| b)
    }

    fn varint(&mut self) -> Result<u64, Damaged> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let b = self.byte()?;
            n |= u64::from(b & 0x7F) << shift;
            if b < 0x80 {
                return Ok(n);
            }
        }
        Err(Damaged { at: self.at })
    }
}

/// Causes with an exception code are stored as this number plus the code; codes above
/// 127 do not exist in Modbus (the wire has seven bits for them).
const EXCEPTION_FROM: u8 = 128;

const POWERS: [f64; 7] = [1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6];

fn measured(out: &mut Vec<u8>, delta: u64, measured: &Measured) {
    let head = |out: &mut Vec<u8>, tag: u8| varint(out, delta << 4 | u64::from(tag));
    match measured {
        Measured::Good(v) => value(out, v, head),
        Measured::Uncertain(v, c) => {
            head(out, UNCERTAIN);
            cause(out, c);
            value(out, v, |out, tag| out.push(tag));
        }
        Measured::Bad(c) => {
            head(out, BAD);
            cause(out, c);
        }
    }
}

fn cause(out: &mut Vec<u8>, cause: &Cause) {
    out.push(match cause {
        Cause::Exception(code) => EXCEPTION_FROM | code,
        plain => Cause::PLAIN.iter().position(|c| c == plain).unwrap_or_default() as u8,
    });
}

fn value(out: &mut Vec<u8>, value: &Value, head: impl Fn(&mut Vec<u8>, u8)) {
    match value {
        Value::Bool(b) => head(out, if *b { TRUE } else { FALSE }),
        Value::Uint(u @ 0x4000..=0xFFFF) => {
            head(out, UINT16);
            out.extend_from_slice(&(*u as u16).to_le_bytes());
        }
        Value::Uint(u) => {
            head(out, UINT);
            varint(out, *u);
        }
        Value::Int(i) if *i < 0 => {
            head(out, NEGATIVE);
            varint(out, (!*i) as u64);
        }
        Value::Int(i) => {
            head(out, INT);
            varint(out, *i as u64);
        }
        Value::Float(x) => float(out, *x, head),
        Value::Text(t) => {
            head(out, TEXT);
            text(out, t);
        }
        Value::Flags(names) => {
            head(out, FLAGS);
            varint(out, names.len() as u64);
            names.iter().for_each(|n| text(out, n));
        }
    }
}

/// Meters say 231.4: a short decimal costs three bytes, everything else four or eight.
fn float(out: &mut Vec<u8>, x: f64, head: impl Fn(&mut Vec<u8>, u8)) {
    for (digits, power) in POWERS.iter().enumerate() {
        let mantissa = (x * power).round();
        // Only what comes back bit for bit may be shortened (-0.0 does not).
        if mantissa.abs() < 1e15 && (mantissa / power).to_bits() == x.to_bits() {
            head(out, DECIMAL);
            out.push(digits as u8);
            varint(out, zigzag(mantissa as i64));
            return;
        }
    }
    let short = x as f32;
    if f64::from(short).to_bits() == x.to_bits() {
        head(out, FLOAT32);
        out.extend_from_slice(&short.to_le_bytes());
    } else {
        head(out, FLOAT64);
        out.extend_from_slice(&x.to_le_bytes());
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    varint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn zigzag(n: i64) -> u64 {
    (n << 1 ^ n >> 63) as u64
}

fn unzigzag(n: u64) -> i64 {
    (n >> 1) as i64 ^ -((n & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            (0u64..100_000).prop_map(Value::Uint),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Int),
            any::<u64>().prop_map(Value::Uint),
            prop::num::f64::NORMAL.prop_map(Value::Float),
            (-100_000i32..100_000, 0..4).prop_map(|(m, d)| Value::Float(f64::from(m) / 10f64.powi(d))),
            any::<f32>().prop_filter("finite", |x| x.is_finite()).prop_map(|x| Value::Float(f64::from(x))),
            ".{0,12}".prop_map(Value::Text),
            prop::collection::vec("[a-z]{0,5}", 0..3).prop_map(Value::Flags),
        ]
    }

    fn any_measured() -> impl Strategy<Value = Measured> {
        let cause =
            prop_oneof![prop::sample::select(Cause::PLAIN.to_vec()), (0u8..128).prop_map(Cause::Exception)];
        prop_oneof![
            any_value().prop_map(Measured::Good),
            cause.clone().prop_map(Measured::Bad),
            (any_value(), cause).prop_map(|(v, c)| Measured::Uncertain(v, c)),
        ]
    }

    fn read_all(bytes: &[u8], first: Timestamp) -> Result<Vec<(Timestamp, Vec<Reading>)>, Damaged> {
        let mut reader = Reader::new(bytes, first);
        let mut groups = Vec::new();
        while let Some((at, n)) = reader.group()? {
            let mut next = 0;
            let readings = (0..n).map(|_| reader.reading(&mut next)).collect::<Result<_, _>>()?;
            groups.push((at, readings));
        }
        Ok(groups)
    }

    proptest! {
        #[test]
        fn a_row_reads_back_as_it_was_written(
            groups in prop::collection::vec(
                (0i64..4_000_000_000_000, prop::collection::vec((any::<u16>(), any_measured()), 1..6)), 1..4)
        ) {
            let groups: Vec<(Timestamp, Vec<Reading>)> = groups.into_iter().map(|(t, rs)| {
                (Timestamp(t), rs.into_iter()
                    .map(|(p, measured)| Reading { point: PointIndex(p), measured }).collect())
            }).collect();
            let mut writer = Writer::default();
            for (at, readings) in &groups {
                writer.push(*at, readings.iter());
            }
            let first = writer.first();
            prop_assert_eq!(read_all(&writer.into_bytes(), first), Ok(groups));
        }

        #[test]
        fn a_damaged_row_is_refused_or_read_but_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = read_all(&bytes, Timestamp(0));
        }
    }

    #[test]
    fn a_poll_of_fifty_counters_takes_three_bytes_a_reading() {
        let readings: Vec<Reading> = (0..50)
            .map(|i| Reading { point: PointIndex(i), measured: Measured::Good(Value::Uint(54_321)) })
            .collect();
        let mut writer = Writer::default();
        writer.push(Timestamp(1), readings.iter());
        assert_eq!(writer.into_bytes().len(), 2 + 50 * 3);
    }
}
