//! Points of devices that speak lines of text.

/// How the bytes of a port become lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Framing {
    /// Never empty. Bytes between two delimiters are one line.
    pub delimiter: Vec<u8>,
    /// Longer lines are noise: dropped up to the next delimiter and counted. Bytes.
    pub line_max: usize,
}

/// How a line becomes fields.
#[derive(Clone, Debug)]
pub enum LineFormat {
    Json,
    /// Fields by position, or by name when the columns are named.
    Csv {
        separator: u8,
        columns: Vec<String>,
    },
    /// `a=1;b=2`: pairs cut at any of `separators`, key and value at `assign`.
    KeyValue {
        separators: Vec<u8>,
        assign: u8,
    },
    /// Named groups.
    Regex(regex::Regex),
}

impl PartialEq for LineFormat {
    /// Expressions are equal when they are written alike.
    fn eq(&self, other: &LineFormat) -> bool {
        use LineFormat::{Csv, Json, KeyValue, Regex};
        match (self, other) {
            (Json, Json) => true,
            (Csv { separator: a, columns: b }, Csv { separator: c, columns: d }) => (a, b) == (c, d),
            (KeyValue { separators: a, assign: b }, KeyValue { separators: c, assign: d }) => {
                (a, b) == (c, d)
            }
            (Regex(a), Regex(b)) => a.as_str() == b.as_str(),
            _ => false,
        }
    }
}

/// Where in the line's fields a point is found, and how its text becomes a value.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldPoint {
    /// JSON: a dotted path (`a.b.0`); CSV: column name or position from 0; else the name.
    pub field: String,
    pub kind: FieldKind,
    pub decimal_comma: bool,
    pub transform: super::register::Transform,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// Takes JSON's own type; of text: a number if it is one (a unit behind it is cut), else text.
    Auto,
    Number,
    Text,
    Bool,
}
