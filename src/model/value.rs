//! What a point can say.

use std::fmt;

/// A decoded value. A float is always finite: NaN and infinity are turned into bad quality
/// where the words are decoded, so that no serialiser ever meets them.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Bool(bool),
    Int(i64),
    Uint(u64),
    Float(f64),
    /// Text, the name of an enum's member, or raw bytes as lower-case hex.
    Text(String),
    /// The names of the flags that are set, in bit order.
    Flags(Vec<String>),
}

impl Value {
    /// The value as a number, for deadbands and clamps; `None` for text and flags.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Bool(b) => Some(f64::from(u8::from(*b))),
            Value::Int(i) => Some(*i as f64),
            Value::Uint(u) => Some(*u as f64),
            Value::Float(x) => Some(*x),
            Value::Text(_) | Value::Flags(_) => None,
        }
    }

    /// The value as JSON.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Value::Bool(b) => (*b).into(),
            Value::Int(i) => (*i).into(),
            Value::Uint(u) => (*u).into(),
            Value::Float(x) => (*x).into(),
            Value::Text(t) => t.as_str().into(),
            Value::Flags(names) => names.iter().map(String::as_str).collect::<Vec<_>>().into(),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Bool(b) => write!(f, "{b}"),
            Value::Int(i) => write!(f, "{i}"),
            Value::Uint(u) => write!(f, "{u}"),
            Value::Float(x) => write!(f, "{x}"),
            Value::Text(t) => f.write_str(t),
            Value::Flags(names) => f.write_str(&names.join("|")),
        }
    }
}

/// How far a value can be believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Quality {
    Good,
    /// There is a value, with a doubt: it was clamped, or it is old.
    Uncertain(Cause),
    /// There is no value.
    Bad(Cause),
}

/// Why a value is not good. The text form is what the payload, the logs and `decode` show.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// No answer within the response timeout.
    Timeout,
    /// The device answered with this Modbus exception code.
    Exception(u8),
    /// The answer was damaged: CRC, length, unit id or function did not fit.
    Garbled,
    /// The line itself is away: port unplugged, connection refused.
    BusGone,
    /// Outside the point's configured range, or clamped to it (then uncertain).
    OutOfRange,
    /// The vendor's mark for "no value".
    Invalid,
    /// A float that is not a number, or infinite.
    NotANumber,
    /// Digits that are no digits: BCD or mod-10000 words out of their range.
    BadDigits,
    /// Bytes that are not text in the point's character set, or text that is no number.
    BadText,
    /// The line of the device had no such field.
    Missing,
    /// Not refreshed for longer than its interval allows.
    Stale,
    /// The scale-factor register that this point depends on is itself bad.
    ScaleFactor,
}

impl Cause {
    /// The inverse of `Display`.
    pub fn parse(text: &str) -> Option<Cause> {
        if let Some(code) = text.strip_prefix("exception ") {
            return code.parse().ok().map(Cause::Exception);
        }
        Cause::PLAIN.iter().find(|c| c.name() == text).cloned()
    }

    /// Every cause without an exception code, in the order of their stored numbers.
    pub const PLAIN: [Cause; 11] = [
        Cause::Timeout,
        Cause::Garbled,
        Cause::BusGone,
        Cause::OutOfRange,
        Cause::Invalid,
        Cause::NotANumber,
        Cause::BadDigits,
        Cause::BadText,
        Cause::Missing,
        Cause::Stale,
        Cause::ScaleFactor,
    ];

    fn name(&self) -> &'static str {
        match self {
            Cause::Timeout => "timeout",
            Cause::Exception(_) => "exception",
            Cause::Garbled => "garbled",
            Cause::BusGone => "bus-gone",
            Cause::OutOfRange => "out-of-range",
            Cause::Invalid => "invalid",
            Cause::NotANumber => "not-a-number",
            Cause::BadDigits => "bad-digits",
            Cause::BadText => "bad-text",
            Cause::Missing => "missing",
            Cause::Stale => "stale",
            Cause::ScaleFactor => "scale-factor",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Exception(code) => write!(f, "exception {code}"),
            other => f.write_str(other.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_reads_back_from_its_text() {
        for cause in Cause::PLAIN.iter().cloned().chain([Cause::Exception(2)]) {
            assert_eq!(Cause::parse(&cause.to_string()), Some(cause));
        }
        assert_eq!(Cause::parse("exception x"), None);
    }
}
