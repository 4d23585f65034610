//! A register described on the command line. PURE.
//!
//! The few keys that a technician types; whoever needs more describes the point in the
//! configuration and reads it by its name.

use serde::{Deserialize, Serialize};

use crate::modbus::kind::{self, Details};
use crate::modbus::order;
use crate::model::register::{Encoding, Kind, Order, RegisterPoint, Table, Transform};

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
        let details =
            Details { bit: self.bit, start: self.bit, registers: self.registers, ..Details::default() };
        kind::kind(&self.kind, &details)
    }

    fn order(&self, kind: &Kind) -> Result<Order, String> {
        let len = order::byte_len(kind);
        match &self.order {
            None => Ok(Order::big(len)),
            Some(text) => order::parse(text, len).map_err(|e| e.to_string()),
        }
    }
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
