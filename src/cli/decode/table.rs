//! Registers without a type: every reading side by side, or ranked by the expected number.

use std::fmt::Write;

use crate::modbus::guess::{Guess, Match, guesses, ranked};
use crate::modbus::kind::spelling;
use crate::modbus::order;
use crate::model::register::Kind;
use crate::model::value::Value;

/// How many matches are worth reading.
const MATCHES_SHOWN: usize = 8;
/// Farther off than this share is no match but chance.
const ERROR_SHOWN: f64 = 0.05;

pub fn text(words: &[u16], expect: Option<f64>) -> String {
    match expect {
        None => overview(words),
        Some(expected) => nearest(words, expected),
    }
}

/// All guesses, or all matches, as one JSON object.
pub fn json(words: &[u16], expect: Option<f64>) -> String {
    let entry = |guess: &Guess| {
        let mut entry = serde_json::json!({
            "type": guess.type_name,
            "order": guess.order_name,
            "plausible": guess.plausible,
        });
        merge(&mut entry, super::json(&guess.measured));
        entry
    };
    let list: Vec<serde_json::Value> = match expect {
        None => guesses(words).iter().map(entry).collect(),
        Some(expected) => matches(words, expected)
            .iter()
            .map(|m| {
                let mut entry = entry(&m.guess);
                merge(&mut entry, serde_json::json!({ "value": m.value.to_json(), "error_share": m.error }));
                if let Some(scale) = m.scale {
                    merge(&mut entry, serde_json::json!({ "scale": scale }));
                }
                entry
            })
            .collect(),
    };
    serde_json::json!({ "readings": list }).to_string()
}

/// A row per type, a column per order. A reading that no device would mean stands in brackets;
/// a type that has no reading at all is left out.
fn overview(words: &[u16]) -> String {
    let all = guesses(words);
    let columns = |a: &Guess, b: &Guess| a.encoding.order.len == b.encoding.order.len;
    let by_type = |a: &Guess, b: &Guess| a.type_name == b.type_name;
    let mut out = raw(words);
    for block in all.chunk_by(columns) {
        let width = |order: &str| {
            let cells = block.iter().filter(|g| g.order_name == order).map(|g| cell(g).chars().count());
            cells.max().unwrap_or(0).max(order.len())
        };
        let mut line = format!("{:<12}", "");
        for order in order::common(block[0].encoding.order.len) {
            let _ = write!(line, "  {order:>width$}", width = width(order));
        }
        for row in block.chunk_by(by_type).filter(|row| row.iter().any(|g| g.measured.value().is_some())) {
            out.push('\n');
            out.push_str(std::mem::take(&mut line).trim_end());
            if !out.ends_with('\n') {
                out.push('\n');
            }
            let _ = write!(out, "{:<12}", row[0].type_name);
            for guess in row {
                let _ = write!(out, "  {:>width$}", cell(guess), width = width(guess.order_name));
            }
        }
    }
    out.push_str("\n\n(…): improbable   -: no value of this type");
    out.push_str("\n--expect NUMBER ranks them by what the device's display shows");
    out
}

fn nearest(words: &[u16], expected: f64) -> String {
    let matches = matches(words, expected);
    let mut out = raw(words);
    let Some(best) = matches.first() else {
        let _ = write!(out, "\nno type and order comes near {expected}");
        return out;
    };
    let _ = write!(out, "\n{:<12} {:<9} {:>7}  {:>20}  {:>8}", "type", "order", "scale", "value", "off by");
    for m in &matches {
        let scale = m.scale.map_or(String::new(), |scale| scale.to_string());
        let (type_name, order) = (m.guess.type_name, m.guess.order_name);
        let off = format!("{:.3} %", m.error * 100.0);
        let value = shown(&m.guess.encoding.kind, &m.value);
        let _ = write!(out, "\n{type_name:<12} {order:<9} {scale:>7}  {value:>20}  {off:>8}");
    }
    let _ = write!(out, "\n\nfor the configuration:\n{}", toml(best));
    out
}

fn matches(words: &[u16], expected: f64) -> Vec<Match> {
    ranked(words, expected).into_iter().filter(|m| m.error <= ERROR_SHOWN).take(MATCHES_SHOWN).collect()
}

/// What to paste into `[[device.point]]`.
fn toml(m: &Match) -> String {
    let (type_name, details) = spelling(&m.guess.encoding.kind);
    let mut out = format!("type = \"{type_name}\"\norder = \"{}\"", m.guess.order_name);
    for (key, value) in details {
        let _ = write!(out, "\n{key} = {value}");
    }
    if let Some(scale) = m.scale {
        let _ = write!(out, "\nscale = {scale:?}");
    }
    out
}

fn raw(words: &[u16]) -> String {
    let list = |show: &dyn Fn(&u16) -> String| words.iter().map(show).collect::<Vec<_>>().join(" ");
    let mut out = format!("hex      {}", list(&|w| format!("{w:04x}")));
    let _ = write!(out, "\ndecimal  {}", list(&|w| w.to_string()));
    if let [word] = words {
        let set: Vec<String> =
            (0..16).filter(|bit| word >> bit & 1 == 1).map(|bit| bit.to_string()).collect();
        let _ = write!(out, "\nbits set {}", set.join(" "));
    }
    out.push('\n');
    out
}

fn cell(guess: &Guess) -> String {
    match guess.measured.value() {
        None => "-".into(),
        Some(value) if guess.plausible => shown(&guess.encoding.kind, value),
        Some(value) => format!("({})", shown(&guess.encoding.kind, value)),
    }
}

/// Short enough for a table: a float32 in its own seven digits, far exponents as such, and no
/// character that moves the cursor.
fn shown(kind: &Kind, value: &Value) -> String {
    match value {
        Value::Float(x) if *x != 0.0 && !(1e-6..1e15).contains(&x.abs()) => match kind {
            Kind::Float32 => format!("{:e}", *x as f32),
            _ => format!("{x:e}"),
        },
        Value::Float(x) if *kind == Kind::Float32 => (*x as f32).to_string(),
        Value::Text(text) => text.escape_debug().to_string(),
        other => other.to_string(),
    }
}

fn merge(into: &mut serde_json::Value, from: serde_json::Value) {
    if let (serde_json::Value::Object(into), serde_json::Value::Object(from)) = (into, from) {
        into.extend(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_overview_shows_every_type_in_every_order() {
        let seen = text(&[0x4367, 0x6666], None);
        let line = |start: &str| seen.lines().find(|l| l.starts_with(start)).unwrap_or_default().to_owned();
        assert_eq!(line("hex").split_whitespace().skip(1).collect::<Vec<_>>(), ["4367", "6666"]);
        let float: Vec<String> = line("float32").split_whitespace().map(str::to_owned).collect();
        assert_eq!(float[1], "231.4");
        assert_eq!(float.len(), 5);
        assert_eq!(line("mod10k32"), "");
        assert_eq!(
            line("bcd32").split_whitespace().collect::<Vec<_>>(),
            ["bcd32", "43676666", "66664367", "67436666", "66666743"]
        );
        assert!(line("string").contains("Cgff"), "{seen}");
        // Far exponents and control characters do not tear the table apart.
        let wild = text(&[0xbe77, 0x1a9f, 0xdd2f, 0x405e], None) + &text(&[0x090a], None);
        assert!(wild.lines().all(|l| l.len() < 180), "{wild}");
        assert!(wild.contains("string low") && wild.contains("\\n"), "{wild}");
    }

    #[test]
    fn the_best_match_can_be_pasted() {
        let seen = text(&[0x6666, 0x4367], Some(231.4));
        assert!(seen.ends_with("for the configuration:\ntype = \"float32\"\norder = \"CDAB\""), "{seen}");
        let seen = text(&[0x00e6], Some(23.0));
        assert!(seen.ends_with("type = \"uint16\"\norder = \"AB\"\nscale = 0.1"), "{seen}");
        assert!(text(&[1], Some(77.7)).ends_with("no type and order comes near 77.7"));
    }

    #[test]
    fn json_for_programs() {
        let all: serde_json::Value = serde_json::from_str(&json(&[2314], Some(231.4))).unwrap();
        let best = &all["readings"][0];
        assert_eq!(best["type"], "uint16");
        assert_eq!(best["scale"], 0.1);
        assert_eq!(best["value"], 231.4);
    }
}
