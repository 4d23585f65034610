//! What happens to a raw value: invalid marks, scale, range, names.

use super::values::Reader;
use crate::config::errors::{Place, Report};
use crate::config::raw;
use crate::config::text::NumberOrText;
use crate::model::register::{Kind, Names, Range, Transform};

pub fn transform(raw: &raw::Point, kind: Option<&Kind>, place: &Place, report: &mut Report) -> Transform {
    for (key, value) in [("scale", raw.scale), ("offset", raw.offset), ("min", raw.min), ("max", raw.max)] {
        if value.is_some_and(|x| !x.is_finite()) {
            report.error(place, key, "is not a finite number", "write a number such as 0.1");
        }
    }
    if raw.scale == Some(0.0) {
        report.error(place, "scale", "would make every value 0", "leave it out for no scaling");
    }
    Reader { place, report }.number("decimals", raw.decimals, 0, 0..=15);
    let is_text = matches!(kind, Some(Kind::Text { .. } | Kind::Bytes { .. }));
    if is_text {
        let keys = [
            ("scale", raw.scale.is_some()),
            ("offset", raw.offset.is_some()),
            ("decimals", raw.decimals.is_some()),
            ("min", raw.min.is_some()),
            ("max", raw.max.is_some()),
            ("enum", raw.r#enum.is_some()),
            ("flags", raw.flags.is_some()),
            ("scale_factor", raw.scale_factor.is_some()),
        ];
        Reader { place, report }.refuse("has no meaning for text", "remove it", &keys);
    }
    Transform {
        invalid: invalid(raw, kind, place, report),
        scale: raw.scale.filter(|s| *s != 1.0),
        offset: raw.offset.filter(|o| *o != 0.0),
        decimals: raw.decimals,
        range: range(raw, place, report),
        names: value_names(raw, kind, place, report),
    }
}

fn range(raw: &raw::Point, place: &Place, report: &mut Report) -> Option<Range> {
    let clamp = raw.clamp.unwrap_or(false);
    let (min, max) = (raw.min.unwrap_or(f64::NEG_INFINITY), raw.max.unwrap_or(f64::INFINITY));
    if raw.min.is_none() && raw.max.is_none() {
        if clamp {
            report.error(place, "clamp", "there is nothing to clamp to", "write min, max or both");
        }
        return None;
    }
    if min > max {
        report.error(place, "max", format!("{max} is less than min ({min})"), "max is at least min");
    }
    Some(Range { min, max, clamp })
}

/// Bit patterns that fit the width of the type.
fn invalid(raw: &raw::Point, kind: Option<&Kind>, place: &Place, report: &mut Report) -> Vec<u64> {
    let bits = match kind {
        Some(Kind::Int8(_) | Kind::Uint8(_)) => 8,
        Some(Kind::Int24 | Kind::Uint24) => 24,
        Some(kind) => (u32::from(kind.registers()) * 16).min(64),
        None => 64,
    };
    let mask = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
    let mut patterns = Vec::new();
    for (index, mark) in raw.invalid.iter().flatten().enumerate() {
        let pattern = match mark {
            NumberOrText::Whole(n) if *n >= 0 => u64::try_from(*n).ok().filter(|n| *n <= mask),
            NumberOrText::Whole(n) if bits == 64 || *n >= -(1 << (bits - 1)) => {
                Some(n.cast_unsigned() & mask)
            }
            NumberOrText::Whole(_) | NumberOrText::Real(_) => None,
            NumberOrText::Text(text) => bit_pattern(text).filter(|n| *n <= mask),
        };
        match pattern {
            Some(pattern) => patterns.push(pattern),
            None => {
                let help = format!("the raw bits as hex text of at most {} digits: \"0x8000\"", bits / 4);
                report.error(place, &format!("invalid[{index}]"), format!("{mark} is no bit pattern"), help);
            }
        }
    }
    patterns
}

fn bit_pattern(text: &str) -> Option<u64> {
    let text = text.trim().replace('_', "");
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn value_names(raw: &raw::Point, kind: Option<&Kind>, place: &Place, report: &mut Report) -> Option<Names> {
    let members = raw.r#enum.as_ref().filter(|e| !e.is_empty());
    let flags = raw.flags.as_ref().filter(|f| !f.is_empty());
    if members.is_some() && flags.is_some() {
        report.error(place, "flags", "is given beside enum", "a value has either names or flags");
    }
    let key = if members.is_some() { "enum" } else { "flags" };
    let written = members.or(flags)?;
    let is_float = matches!(kind, Some(Kind::Float16 | Kind::Float32 | Kind::Float64));
    if is_float || raw.scale.is_some_and(|s| s != 1.0) || raw.offset.is_some_and(|o| o != 0.0) {
        report.error(
            place,
            key,
            "names stand for raw whole numbers",
            "use a whole-number type without scale and offset",
        );
    }
    let mut numbers = Vec::with_capacity(written.len());
    for (number, name) in written {
        let highest = if key == "flags" { 63 } else { i64::MAX };
        match number.parse::<i64>() {
            Ok(n) if key == "enum" || (0..=highest).contains(&n) => numbers.push((n, name.clone())),
            _ => {
                let help =
                    if key == "enum" { "{ 0 = \"off\", 1 = \"on\" }" } else { "bit numbers from 0 to 63" };
                report.error(place, &format!("{key}.{number}"), format!("\"{number}\" does not fit"), help);
            }
        }
    }
    numbers.sort();
    Some(match key {
        "enum" => Names::Enum(numbers),
        _ => Names::Flags(numbers.into_iter().map(|(n, t)| (u8::try_from(n).unwrap_or(63), t)).collect()),
    })
}
