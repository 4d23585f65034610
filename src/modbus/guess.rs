//! What a set of registers may mean, when the manual is silent about it.
//!
//! Every type that fits the number of registers, in every order that devices use, is decoded
//! side by side; somebody who stands in front of the device and reads 231.4 V off its display
//! gives that number, and the readings are ranked by how near they come, scaled by the powers
//! of ten that vendors use.

use crate::model::reading::Measured;
use crate::model::register::{Encoding, Kind, Padding, Table, TextBytes};
use crate::model::value::Value;

use super::codec::{bare, decode};
use super::kind::{self, Details};
use super::order;

/// One way to read the registers.
#[derive(Clone, Debug, PartialEq)]
pub struct Guess {
    pub type_name: &'static str,
    pub order_name: &'static str,
    pub encoding: Encoding,
    pub measured: Measured,
    /// A number or a text that a device may well mean.
    pub plausible: bool,
}

/// A guess that comes near the number that somebody expects.
#[derive(Clone, Debug, PartialEq)]
pub struct Match {
    pub guess: Guess,
    /// `None`: the raw value as it is.
    pub scale: Option<f64>,
    pub value: Value,
    /// How far off, as a share of the expected number (absolute where that is zero).
    pub error: f64,
}

/// The scales of integers that vendors use, the usual ones first.
const SCALES: [Option<f64>; 6] = [None, Some(0.1), Some(0.01), Some(0.001), Some(0.0001), Some(10.0)];

/// Types worth a guess, the most frequent first. `bool` and the bits say nothing by themselves.
const TYPES: [&str; 25] = [
    "uint16", "int16", "uint32", "int32", "float32", "uint64", "int64", "float64", "float16", "uint8l",
    "uint8h", "int8l", "int8h", "uint24", "int24", "uint48", "int48", "bcd16", "bcd32", "bcd64", "mod10k32",
    "mod10k48", "mod10k64", "string", "bytes",
];

/// Every reading of exactly these registers, by type, then order.
pub fn guesses(words: &[u16]) -> Vec<Guess> {
    let registers = u16::try_from(words.len()).ok();
    let details = Details { registers, ..Details::default() };
    let of_type = |name: &'static str| kind::kind(name, &details).ok().map(|kind| (name, kind));
    let mut all = Vec::new();
    for (type_name, kind) in TYPES.into_iter().filter_map(of_type) {
        if Some(kind.registers()) == registers {
            all.extend(in_every_order(type_name, &kind, words));
        }
        if let Kind::Text { registers, .. } = kind {
            for (name, bytes) in [("string low", TextBytes::Low), ("string high", TextBytes::High)] {
                let kind = Kind::Text { registers, bytes, padding: Padding::Nul };
                all.extend(in_every_order(name, &kind, words).take(1));
            }
        }
    }
    all
}

/// The readings that come nearest to `expected`, best first.
pub fn ranked(words: &[u16], expected: f64) -> Vec<Match> {
    let mut all: Vec<Match> = Vec::new();
    for guess in guesses(words) {
        let whole = !matches!(guess.measured, Measured::Good(Value::Float(_)));
        for scale in SCALES.into_iter().filter(|scale| whole || scale.is_none()) {
            let mut point = bare(Table::Holding, guess.encoding.clone());
            point.transform.scale = scale;
            let measured = decode(&point, words, None);
            let Some((value, x)) = measured.value().and_then(|v| Some((v.clone(), v.as_f64()?))) else {
                continue;
            };
            let far = (x - expected).abs();
            let error = if expected == 0.0 { far } else { far / expected.abs() };
            all.push(Match { guess: guess.clone(), scale, value, error });
        }
    }
    // A stable sort: what is equally near stays in the order of how frequent it is.
    all.sort_by(|a, b| a.error.total_cmp(&b.error));
    all
}

fn in_every_order<'a>(
    type_name: &'static str,
    kind: &'a Kind,
    words: &'a [u16],
) -> impl Iterator<Item = Guess> + 'a {
    let len = order::byte_len(kind);
    order::common(len).iter().filter_map(move |order_name| {
        let encoding = Encoding { kind: kind.clone(), order: order::parse(order_name, len).ok()? };
        let measured = decode(&bare(Table::Holding, encoding.clone()), words, None);
        let plausible = measured.value().is_some_and(is_plausible);
        Some(Guess { type_name, order_name, encoding, measured, plausible })
    })
}

/// Physical quantities in the units of their trade lie between a millionth and a thousand
/// million; counters go further. Bytes in a wrong order make numbers far outside.
fn is_plausible(value: &Value) -> bool {
    match value {
        Value::Float(x) => *x == 0.0 || (1e-6..1e9).contains(&x.abs()),
        Value::Int(i) => i.unsigned_abs() < 1_000_000_000_000_000,
        Value::Uint(u) => *u < 1_000_000_000_000_000,
        Value::Text(t) => t.len() > 1 && t.chars().all(|c| !c.is_control()),
        Value::Bool(_) | Value::Flags(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The best match as the configuration would say it.
    fn check(words: &[u16], expected: f64, best: &str) {
        let ranked = ranked(words, expected);
        let m = &ranked[0];
        assert_eq!(format!("{} {} {:?}", m.guess.type_name, m.guess.order_name, m.scale), best);
    }

    #[test]
    fn the_number_on_the_display_finds_its_type() {
        check(&[2314], 231.4, "uint16 AB Some(0.1)");
        check(&[0x0a09], 231.4, "uint16 BA Some(0.1)");
        check(&[0x6666, 0x4367], 231.4, "float32 CDAB None");
        check(&[0xfc18, 0xffff], -1.0, "int32 CDAB Some(0.001)");
        check(&[0x1234, 0x5678], 12_345_678.0, "bcd32 ABCD None");
        check(&[0xbe77, 0x1a9f, 0xdd2f, 0x405e], 123.456, "float64 GHEFCDAB None");
        check(&[0, 0, 0], 0.0, "uint48 ABCDEF None");
    }

    #[test]
    fn every_reading_covers_exactly_the_registers() {
        for count in 1..=6 {
            let words = vec![0x4142; count];
            let all = guesses(&words);
            assert!(all.iter().all(|g| usize::from(g.encoding.registers()) == count));
            assert!(all.iter().any(|g| g.type_name == "string" && g.plausible), "{count}");
        }
        assert!(guesses(&[]).is_empty());
    }
}
