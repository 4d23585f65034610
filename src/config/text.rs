//! Values that people write as text with a unit, and the words for what is wrong with them.
//!
//! `Span` and `Size` read themselves from text, so that a bad unit is found key by key in
//! the same pass as a wrong type. A serde error is one text; what would be right follows
//! the mark [`HELP`] and is cut off again where the mistake is written down.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Parts the message from the help inside one error text.
pub const HELP: &str = "\nhelp: ";

/// A duration as text with units: `500ms`, `1h 30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

/// A number of bytes as text with a unit: `64MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

/// A whole number or a text.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum NumberOrText {
    Whole(i64),
    Real(f64),
    Text(String),
}

/// A single JSON value: true or false, a number or a text.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Scalar {
    Bool(bool),
    Other(NumberOrText),
}

impl Scalar {
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Scalar::Bool(b) => (*b).into(),
            Scalar::Other(NumberOrText::Whole(n)) => (*n).into(),
            Scalar::Other(NumberOrText::Real(x)) => (*x).into(),
            Scalar::Other(NumberOrText::Text(t)) => t.as_str().into(),
        }
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match NumberOrText::deserialize(deserializer)? {
            NumberOrText::Text(text) => parse_span(&text).map(Span).map_err(de::Error::custom),
            number => Err(de::Error::custom(format!(
                "the number {number} has no unit{HELP}a duration is text with a unit: \"{number}s\" or \"{number}ms\""
            ))),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match NumberOrText::deserialize(deserializer)? {
            NumberOrText::Text(text) => parse_size(&text).map(Size).map_err(de::Error::custom),
            number => Err(de::Error::custom(format!(
                "the number {number} has no unit{HELP}a size is text with a unit: \"{number}KiB\" or \"{number}MiB\""
            ))),
        }
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(self.0))
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match UNITS.iter().find(|(unit, _)| self.0 >= *unit && self.0.is_multiple_of(*unit)) {
            Some((unit, name)) => serializer.collect_str(&format_args!("{}{name}", self.0 / unit)),
            None => serializer.collect_str(&format_args!("{}B", self.0)),
        }
    }
}

impl std::fmt::Display for NumberOrText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NumberOrText::Whole(n) => write!(f, "{n}"),
            NumberOrText::Real(x) => write!(f, "{x}"),
            NumberOrText::Text(t) => write!(f, "{t}"),
        }
    }
}

impl<'de> Deserialize<'de> for NumberOrText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = NumberOrText;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number or a text")
            }

            fn visit_i64<E: de::Error>(self, v: i64) -> Result<NumberOrText, E> {
                Ok(NumberOrText::Whole(v))
            }

            fn visit_u64<E: de::Error>(self, v: u64) -> Result<NumberOrText, E> {
                i64::try_from(v).map(NumberOrText::Whole).map_err(|_| E::custom("the number is too large"))
            }

            fn visit_f64<E: de::Error>(self, v: f64) -> Result<NumberOrText, E> {
                Ok(NumberOrText::Real(v))
            }

            fn visit_str<E: de::Error>(self, v: &str) -> Result<NumberOrText, E> {
                Ok(NumberOrText::Text(v.to_owned()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Scalar;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("true, false, a number or a text")
            }

            fn visit_bool<E: de::Error>(self, v: bool) -> Result<Scalar, E> {
                Ok(Scalar::Bool(v))
            }

            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Scalar, E> {
                Ok(Scalar::Other(NumberOrText::Whole(v)))
            }

            fn visit_f64<E: de::Error>(self, v: f64) -> Result<Scalar, E> {
                Ok(Scalar::Other(NumberOrText::Real(v)))
            }

            fn visit_str<E: de::Error>(self, v: &str) -> Result<Scalar, E> {
                Ok(Scalar::Other(NumberOrText::Text(v.to_owned())))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// `500ms`, `1h 30m`; a bare number is refused.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    let help = "write a whole number and a unit: \"500ms\", \"10s\", \"5m\", \"2h\", \"1h 30m\", \"7d\"";
    if bare(text) {
        return Err(format!("the duration \"{text}\" has no unit{HELP}write \"{text}s\" or \"{text}ms\""));
    }
    humantime::parse_duration(text.trim()).map_err(|_| format!("\"{text}\" is not a duration{HELP}{help}"))
}

/// `64MiB`; a bare number is refused.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let help = "write a number and a unit: \"512B\", \"128KiB\", \"64MiB\", \"2GiB\"";
    if bare(text) {
        return Err(format!("the size \"{text}\" has no unit{HELP}write \"{text}B\" or \"{text}KiB\""));
    }
    let size: bytesize::ByteSize =
        text.trim().parse().map_err(|_| format!("\"{text}\" is not a size{HELP}{help}"))?;
    Ok(size.as_u64())
}

fn bare(text: &str) -> bool {
    let text = text.trim();
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

/// The known word nearest to a mistyped one, if any is near.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(1) + 1;
    known
        .into_iter()
        .map(|k| (distance(&word.to_lowercase(), &k.to_lowercase()), k))
        .filter(|(d, _)| *d <= limit)
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| k)
}

/// "did you mean …?" or the list of what is known.
pub fn suggest<'a>(word: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> String {
    match nearest(word, known.clone()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("known: {}", known.into_iter().collect::<Vec<_>>().join(", ")),
    }
}

/// Edits (insert, delete, replace, swap of neighbours) between two words.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            let mut least = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + same);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = least;
        }
    }
    rows[a.len()][b.len()]
}

/// serde's words for a wrong type or word, in ours: the message and what would be right.
pub fn explain(message: &str) -> (String, String) {
    let message = message.trim();
    if let Some((message, help)) = message.split_once(HELP) {
        return (message.to_owned(), help.to_owned());
    }
    if let Some(rest) = message.strip_prefix("unknown field ") {
        let words: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
        if let Some((word, known)) = words.split_first() {
            return (format!("the key \"{word}\" is not known here"), suggest(word, known.iter().copied()));
        }
    }
    if let Some(rest) = message.strip_prefix("unknown variant ") {
        let words: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
        if let Some((word, known)) = words.split_first() {
            let list = known.iter().map(|k| format!("\"{k}\"")).collect::<Vec<_>>().join(", ");
            let help = match nearest(word, known.iter().copied()) {
                Some(near) => format!("did you mean \"{near}\"? one of {list}"),
                None => format!("one of {list}"),
            };
            return (format!("\"{word}\" is not known here"), help);
        }
    }
    let cut = message
        .strip_prefix("invalid type: ")
        .or_else(|| message.strip_prefix("invalid value: "))
        .and_then(|m| m.split_once(", expected "));
    match cut {
        Some((found, expected)) => {
            let kinds = ["integer ", "floating point ", "string ", "boolean "];
            let found = kinds.iter().find_map(|k| found.strip_prefix(k)).unwrap_or(found).replace('`', "");
            (format!("{found} does not fit"), format!("expected {}", wanted(expected)))
        }
        None => (message.to_owned(), String::new()),
    }
}

fn wanted(expected: &str) -> String {
    match expected {
        "u8" => "a whole number from 0 to 255".into(),
        "u16" => "a whole number from 0 to 65535".into(),
        "u32" => "a whole number from 0 to 4294967295".into(),
        "i64" | "u64" => "a whole number".into(),
        "f64" => "a number".into(),
        "a string" => "text in quotes".into(),
        "an integer" | "an unsigned integer" => "a whole number".into(),
        "a boolean" => "true or false".into(),
        "a sequence" => "a list in [ ]".into(),
        "a map" => "a table { key = value }".into(),
        "string or table" | "enum" => "text in quotes".into(),
        other => other.to_owned(),
    }
}
