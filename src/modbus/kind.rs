//! The names of value types, as the configuration and `fieldgate decode` spell them.

use crate::model::register::{Half, Kind, Padding, TextBytes};

/// Every name that [`kind`] knows, for messages and documentation.
pub const NAMES: &str = "bool, bit, bitfield, int8, uint8, int16, uint16, int24, uint24, int32, uint32, int48, \
     uint48, int64, uint64, float16, float32, float64, bcd16, bcd32, bcd64, mod10k32, mod10k48, mod10k64, \
     string, bytes";

/// What some types need besides their name. The default is what the configuration leaves out.
#[derive(Clone, Debug)]
pub struct Details {
    /// The bit of `bit`, 0 = least significant.
    pub bit: Option<u8>,
    /// Where `bitfield` starts, and how many bits it has (1 if left out).
    pub start: Option<u8>,
    pub length: Option<u8>,
    /// Which byte `int8` and `uint8` take; the low one if left out.
    pub half: Option<Half>,
    /// How many registers `string` and `bytes` cover.
    pub registers: Option<u16>,
    pub text_bytes: TextBytes,
    pub padding: Padding,
}

impl Default for Details {
    fn default() -> Self {
        Details {
            bit: None,
            start: None,
            length: None,
            half: None,
            registers: None,
            text_bytes: TextBytes::Both,
            padding: Padding::Nul,
        }
    }
}

/// The kind that `name` means, letters of either case; Telegraf's `INT8L`, `UINT8H` too. The
/// error says what would be right.
pub fn kind(name: &str, details: &Details) -> Result<Kind, String> {
    let lower = name.trim().to_ascii_lowercase();
    Ok(match lower.as_str() {
        "bool" => Kind::Bool,
        "bit" => Kind::Bit(bit(details)?),
        "bitfield" => bit_field(details)?,
        "int8" => Kind::Int8(details.half.unwrap_or(Half::Low)),
        "int8l" => Kind::Int8(Half::Low),
        "int8h" => Kind::Int8(Half::High),
        "uint8" => Kind::Uint8(details.half.unwrap_or(Half::Low)),
        "uint8l" => Kind::Uint8(Half::Low),
        "uint8h" => Kind::Uint8(Half::High),
        "int16" => Kind::Int16,
        "uint16" => Kind::Uint16,
        "int24" => Kind::Int24,
        "uint24" => Kind::Uint24,
        "int32" => Kind::Int32,
        "uint32" => Kind::Uint32,
        "int48" => Kind::Int48,
        "uint48" => Kind::Uint48,
        "int64" => Kind::Int64,
        "uint64" => Kind::Uint64,
        "float16" => Kind::Float16,
        "float32" => Kind::Float32,
        "float64" => Kind::Float64,
        "bcd16" => Kind::Bcd { registers: 1 },
        "bcd32" => Kind::Bcd { registers: 2 },
        "bcd64" => Kind::Bcd { registers: 4 },
        "mod10k32" => Kind::Mod10k { registers: 2 },
        "mod10k48" => Kind::Mod10k { registers: 3 },
        "mod10k64" => Kind::Mod10k { registers: 4 },
        "string" => {
            Kind::Text { registers: registers(details)?, bytes: details.text_bytes, padding: details.padding }
        }
        "bytes" => Kind::Bytes { registers: registers(details)? },
        _ => return Err(format!("{name:?} is no type; right would be one of {NAMES}")),
    })
}

/// `both`, `low`, `high`; Telegraf's `lower` and `upper` too.
pub fn text_bytes(name: &str) -> Result<TextBytes, String> {
    match name.trim().to_ascii_lowercase().as_str() {
        "both" | "" => Ok(TextBytes::Both),
        "low" | "lower" => Ok(TextBytes::Low),
        "high" | "upper" => Ok(TextBytes::High),
        _ => Err(format!(
            "{name:?} names no bytes of a register; right would be \"both\", \"low\" or \"high\""
        )),
    }
}

/// The inverse of [`kind`] and what to write beside the type: pairs of key and TOML value.
pub fn spelling(kind: &Kind) -> (&'static str, Vec<(&'static str, String)>) {
    let half = |half: &Half| vec![("half", quoted(if *half == Half::Low { "low" } else { "high" }))];
    match kind {
        Kind::Bool => ("bool", vec![]),
        Kind::Bit(n) => ("bit", vec![("bit", n.to_string())]),
        Kind::BitField { start, length } => {
            ("bitfield", vec![("start", start.to_string()), ("length", length.to_string())])
        }
        Kind::Int8(h) => ("int8", half(h)),
        Kind::Uint8(h) => ("uint8", half(h)),
        Kind::Int16 => ("int16", vec![]),
        Kind::Uint16 => ("uint16", vec![]),
        Kind::Int24 => ("int24", vec![]),
        Kind::Uint24 => ("uint24", vec![]),
        Kind::Int32 => ("int32", vec![]),
        Kind::Uint32 => ("uint32", vec![]),
        Kind::Int48 => ("int48", vec![]),
        Kind::Uint48 => ("uint48", vec![]),
        Kind::Int64 => ("int64", vec![]),
        Kind::Uint64 => ("uint64", vec![]),
        Kind::Float16 => ("float16", vec![]),
        Kind::Float32 => ("float32", vec![]),
        Kind::Float64 => ("float64", vec![]),
        Kind::Bcd { registers: 1 } => ("bcd16", vec![]),
        Kind::Bcd { registers: 2 } => ("bcd32", vec![]),
        Kind::Bcd { .. } => ("bcd64", vec![]),
        Kind::Mod10k { registers: 2 } => ("mod10k32", vec![]),
        Kind::Mod10k { registers: 3 } => ("mod10k48", vec![]),
        Kind::Mod10k { .. } => ("mod10k64", vec![]),
        Kind::Text { registers, bytes, padding } => {
            let mut keys = vec![("registers", registers.to_string())];
            match bytes {
                TextBytes::Both => {}
                TextBytes::Low => keys.push(("bytes", quoted("low"))),
                TextBytes::High => keys.push(("bytes", quoted("high"))),
            }
            match padding {
                Padding::Nul => {}
                Padding::Trailing => keys.push(("padding", quoted("trailing"))),
                Padding::Keep => keys.push(("padding", quoted("keep"))),
            }
            ("string", keys)
        }
        Kind::Bytes { registers } => ("bytes", vec![("registers", registers.to_string())]),
    }
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

fn bit(details: &Details) -> Result<u8, String> {
    match details.bit {
        Some(n @ 0..=15) => Ok(n),
        Some(n) => Err(format!("a register has no bit {n}; right would be 0 to 15")),
        None => Err("type \"bit\" needs the number of its bit, 0 (least significant) to 15".into()),
    }
}

fn bit_field(details: &Details) -> Result<Kind, String> {
    let start = details.start.or(details.bit).unwrap_or(0);
    let length = details.length.unwrap_or(1);
    if length == 0 || u16::from(start) + u16::from(length) > 16 {
        return Err(format!(
            "{length} bits from bit {start} on are no part of a register; right would be at least 1 bit, \
             and start + length at most 16"
        ));
    }
    Ok(Kind::BitField { start, length })
}

fn registers(details: &Details) -> Result<u16, String> {
    match details.registers {
        Some(n @ 1..=125) => Ok(n),
        Some(n) => Err(format!("{n} registers cannot be read at once; right would be 1 to 125")),
        None => Err("the type needs the number of its registers, 1 to 125".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back_from_its_spelling() {
        let details = Details {
            bit: Some(3),
            start: Some(4),
            length: Some(5),
            registers: Some(6),
            ..Details::default()
        };
        for name in NAMES.split(", ") {
            let known = kind(name, &details).unwrap();
            assert_eq!(spelling(&known).0, name);
            assert_eq!(kind(&name.to_uppercase(), &details), Ok(known));
        }
    }

    #[test]
    fn an_error_says_what_would_be_right() {
        let with =
            |bit, start, length, registers| Details { bit, start, length, registers, ..Details::default() };
        for (name, details, expected) in [
            ("int17", with(None, None, None, None), "\"int17\" is no type; right would be one of bool, bit"),
            ("bit", with(None, None, None, None), "needs the number of its bit, 0 (least significant) to 15"),
            ("bit", with(Some(16), None, None, None), "no bit 16; right would be 0 to 15"),
            ("bitfield", with(None, Some(12), Some(5), None), "5 bits from bit 12 on are no part"),
            ("bitfield", with(None, Some(1), Some(0), None), "at least 1 bit"),
            ("string", with(None, None, None, None), "number of its registers, 1 to 125"),
            ("bytes", with(None, None, None, Some(126)), "126 registers cannot be read at once"),
        ] {
            let error = kind(name, &details).unwrap_err();
            assert!(error.contains(expected), "{name}: {error}");
        }
    }
}
