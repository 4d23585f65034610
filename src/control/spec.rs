//! A register described on the command line. PURE.
//!
//! The few keys that a technician types; whoever needs more describes the point in the
//! configuration and reads it by its name.

use serde::{Deserialize, Serialize};

use crate::model::register::{
    Encoding, Half, Kind, Order, Padding, RegisterPoint, Table, TextBytes, Transform,
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// `coil`, `discrete`, `holding` or `input`.
    pub table: String,
    pub address: u16,
    /// As in the configuration, for instance `float32`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Byte order, for instance `CDAB`; without: big-endian.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<String>,
    /// Length of a `string` or of `bytes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registers: Option<u16>,
    /// For `bit`: 0 is the least significant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bit: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
}

/// More registers do not fit into one request.
const REGISTERS_MAX: u16 = 125;

impl Spec {
    pub fn to_point(&self) -> Result<RegisterPoint, String> {
        let table = table(&self.table)?;
        let kind = if table.is_bits() { Kind::Bool } else { self.kind()? };
        let registers = kind.registers();
        if u32::from(self.address) + u32::from(registers) > 65_536 {
            return Err(format!("address {} and {registers} registers reach beyond 65535", self.address));
        }
        Ok(RegisterPoint {
            table,
            address: self.address,
            encoding: Encoding { order: self.order(&kind)?, kind },
            transform: Transform { scale: self.scale, ..Transform::default() },
            scale_factor: None,
        })
    }

    fn kind(&self) -> Result<Kind, String> {
        Ok(match self.kind.as_str() {
            "bool" => Kind::Bool,
            "bit" => Kind::Bit(self.bit.filter(|b| *b < 16).ok_or("type bit needs bit 0 to 15")?),
            "int8" => Kind::Int8(Half::Low),
            "uint8" => Kind::Uint8(Half::Low),
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
                Kind::Text { registers: self.length()?, bytes: TextBytes::Both, padding: Padding::Nul }
            }
            "bytes" => Kind::Bytes { registers: self.length()? },
            other => return Err(format!("no type {other:?}; for instance uint16, int32, float32, string")),
        })
    }

    fn length(&self) -> Result<u16, String> {
        self.registers
            .filter(|n| (1..=REGISTERS_MAX).contains(n))
            .ok_or_else(|| format!("type {} needs registers 1 to {REGISTERS_MAX}", self.kind))
    }

    fn order(&self, kind: &Kind) -> Result<Order, String> {
        // Text and bytes are ordered within each register.
        let len = match kind {
            Kind::Text { .. } | Kind::Bytes { .. } => 2,
            kind => u8::try_from(kind.registers() * 2).map_err(|e| e.to_string())?,
        };
        match &self.order {
            None => Ok(Order::big(len)),
            Some(text) => parse_order(text, len),
        }
    }
}

/// `CDAB` and the like: for each byte, most significant first, its position on the wire.
fn parse_order(text: &str, len: u8) -> Result<Order, String> {
    let example = &"ABCDEFGH"[..usize::from(len)];
    let wrong = || format!("order {text:?} is no permutation of {example}");
    let letters: Vec<u8> = text.bytes().map(|b| b.to_ascii_uppercase().wrapping_sub(b'A')).collect();
    if letters.len() != usize::from(len) {
        return Err(wrong());
    }
    let mut from = Order::big(len).from;
    for value in 0..len {
        // Letter X at wire position p: byte X of the value is taken from p.
        let wire = letters.iter().position(|l| *l == value).ok_or_else(wrong)?;
        from[usize::from(value)] = wire as u8;
    }
    Ok(Order { len, from })
}

fn table(text: &str) -> Result<Table, String> {
    [Table::Coil, Table::Discrete, Table::Holding, Table::Input]
        .into_iter()
        .find(|t| t.as_str() == text)
        .ok_or_else(|| format!("no table {text:?}; coil, discrete, holding or input"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> Spec {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_register_is_what_was_typed() {
        let check = |json: &str, kind: Kind, from: [u8; 8]| {
            let point = spec(json).to_point().unwrap();
            assert_eq!((point.encoding.kind, point.encoding.order.from), (kind, from), "{json}");
        };
        let big = [0, 1, 2, 3, 4, 5, 6, 7];
        check(r#"{"table":"coil","address":3,"type":"uint16"}"#, Kind::Bool, big);
        check(r#"{"table":"input","address":3,"type":"float32"}"#, Kind::Float32, big);
        check(
            r#"{"table":"input","address":3,"type":"int32","order":"cdab"}"#,
            Kind::Int32,
            [2, 3, 0, 1, 4, 5, 6, 7],
        );
        // Not its own inverse: A stands third on the wire.
        check(
            r#"{"table":"input","address":3,"type":"int32","order":"BCAD"}"#,
            Kind::Int32,
            [2, 0, 1, 3, 4, 5, 6, 7],
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_would() {
        let check = |json: &str, expected: &str| {
            let error = spec(json).to_point().unwrap_err();
            assert!(error.contains(expected), "{json}: {error}");
        };
        check(r#"{"table":"coils","address":3,"type":"bool"}"#, "coil, discrete, holding or input");
        check(r#"{"table":"input","address":3,"type":"float"}"#, "for instance uint16");
        check(r#"{"table":"input","address":3,"type":"string"}"#, "needs registers 1 to 125");
        check(r#"{"table":"input","address":3,"type":"bit","bit":16}"#, "bit 0 to 15");
        check(r#"{"table":"input","address":3,"type":"int32","order":"AABC"}"#, "permutation of ABCD");
        check(r#"{"table":"input","address":65535,"type":"int32"}"#, "beyond 65535");
    }
}
