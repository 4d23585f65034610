//! The names of byte orders.
//!
//! A name lists, in the order of the wire, which byte of the value arrives: `A` is the most
//! significant one. `CDAB` says that the first byte on the wire is byte C of the value.
//!
//! Modbus fixes only the order of the two bytes of a register; how a vendor lays a longer
//! value over registers is his own choice, so any permutation can be written. A name of four
//! letters also serves other widths, as Telegraf's `byte_order` does
//! (telegraf, plugins/inputs/modbus/README.md): ABCD keeps everything, DCBA turns all bytes
//! round, BADC swaps the bytes in each register, CDAB turns the registers round and keeps
//! their bytes.

use crate::model::register::{Kind, Order};

/// The names of Telegraf for the four orders.
const ALIASES: [(&str, &str); 4] =
    [("MSW-BE", "ABCD"), ("LSW-LE", "DCBA"), ("MSW-LE", "BADC"), ("LSW-BE", "CDAB")];

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    #[error("{text:?} is no byte order; right would be {}", examples(*.byte_len))]
    Unknown { text: String, byte_len: u8 },
    #[error("{text:?} names {letters} bytes, the value has {byte_len}; right would be {}", examples(*.byte_len))]
    WrongLength { text: String, letters: usize, byte_len: u8 },
}

/// How many bytes an order of this kind has. Texts and raw bytes are ordered register by
/// register: `AB` or `BA`.
pub fn byte_len(kind: &Kind) -> u8 {
    match kind {
        Kind::Text { .. } | Kind::Bytes { .. } => 2,
        // At most four registers.
        other => (other.registers() * 2) as u8,
    }
}

/// The order that `text` names, for a value of `byte_len` (2, 4, 6 or 8) bytes on the wire.
/// Letters of either case.
pub fn parse(text: &str, byte_len: u8) -> Result<Order, OrderError> {
    let name = text.trim().to_ascii_uppercase();
    let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name.as_str(), |(_, letters)| letters);
    let wire = letters(name).ok_or_else(|| OrderError::Unknown { text: text.to_owned(), byte_len })?;
    if wire.len() == usize::from(byte_len) {
        return Ok(inverse(&wire));
    }
    projected(name, byte_len).ok_or_else(|| OrderError::WrongLength {
        text: text.to_owned(),
        letters: wire.len(),
        byte_len,
    })
}

/// The name of an order: the letters as they arrive.
pub fn name(order: &Order) -> String {
    let mut letters = [b'?'; 8];
    for (value, wire) in (b'A'..).zip(&order.from[..usize::from(order.len)]) {
        letters[usize::from(*wire) & 7] = value;
    }
    letters[..usize::from(order.len)].iter().map(|b| char::from(*b)).collect()
}

/// The orders that devices really use, for a value of `byte_len` bytes.
pub fn common(byte_len: u8) -> &'static [&'static str] {
    match byte_len {
        2 => &["AB", "BA"],
        4 => &["ABCD", "CDAB", "BADC", "DCBA"],
        6 => &["ABCDEF", "EFCDAB", "BADCFE", "FEDCBA"],
        _ => &["ABCDEFGH", "GHEFCDAB", "BADCFEHG", "HGFEDCBA", "CDABGHEF", "EFGHABCD"],
    }
}

fn examples(byte_len: u8) -> String {
    let common = common(byte_len).join(", ");
    if byte_len == 4 { common } else { format!("{common}, or ABCD, CDAB, BADC, DCBA for every width") }
}

/// Which byte of the value stands at each place of the wire; `None` if the letters are no
/// permutation of 2, 4, 6 or 8.
fn letters(name: &str) -> Option<Vec<u8>> {
    let wire: Vec<u8> = name.bytes().map(|b| b.wrapping_sub(b'A')).collect();
    let whole = (0..wire.len() as u8).all(|value| wire.contains(&value));
    (whole && matches!(wire.len(), 2 | 4 | 6 | 8)).then_some(wire)
}

/// The name says wire → value, the codec wants value → wire.
fn inverse(wire: &[u8]) -> Order {
    let mut order = Order::big(wire.len() as u8);
    for (place, value) in (0u8..).zip(wire) {
        order.from[usize::from(*value)] = place;
    }
    order
}

/// The two-letter names say what they can only mean for one register, so only the four-letter
/// ones spread to other widths. All four are their own inverses at every width.
fn projected(name: &str, byte_len: u8) -> Option<Order> {
    let last = byte_len.checked_sub(1)?;
    let mut order = Order::big(byte_len);
    for at in 0..byte_len {
        order.from[usize::from(at)] = match name {
            "ABCD" => at,
            "DCBA" => last - at,
            "BADC" => at ^ 1,
            "CDAB" => (last - at) ^ 1,
            _ => return None,
        };
    }
    Some(order)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The value whose bytes are A, B, C … must arrive as the name says.
    fn check(name: &str, byte_len: u8, expected: &str) {
        let order = parse(name, byte_len).unwrap();
        assert_eq!(order.len, byte_len);
        assert_eq!(super::name(&order), expected, "{name} for {byte_len} bytes");
        // The other way round: picking the wire's bytes by `from` gives A, B, C …
        let value: String = order.from[..usize::from(byte_len)]
            .iter()
            .map(|wire| expected.chars().nth(usize::from(*wire)).unwrap())
            .collect();
        assert_eq!(value, "ABCDEFGH"[..usize::from(byte_len)]);
    }

    #[test]
    fn names_of_the_right_length() {
        for name in ["AB", "BA"] {
            check(name, 2, name);
        }
        for name in ["ABCD", "DCBA", "BADC", "CDAB", "BCDA", "DABC"] {
            check(name, 4, name);
        }
        for name in ["ABCDEF", "FEDCBA", "BADCFE", "EFCDAB", "CDEFAB"] {
            check(name, 6, name);
        }
        for name in
            ["ABCDEFGH", "HGFEDCBA", "BADCFEHG", "GHEFCDAB", "CDABGHEF", "EFGHABCD", "HABCDEFG", "CAEBGDHF"]
        {
            check(name, 8, name);
        }
        check("cdab", 4, "CDAB");
    }

    #[test]
    fn four_letters_serve_every_width() {
        for (name, two, six, eight) in [
            ("ABCD", "AB", "ABCDEF", "ABCDEFGH"),
            ("DCBA", "BA", "FEDCBA", "HGFEDCBA"),
            ("BADC", "BA", "BADCFE", "BADCFEHG"),
            ("CDAB", "AB", "EFCDAB", "GHEFCDAB"),
            ("MSW-BE", "AB", "ABCDEF", "ABCDEFGH"),
            ("LSW-LE", "BA", "FEDCBA", "HGFEDCBA"),
            ("MSW-LE", "BA", "BADCFE", "BADCFEHG"),
            ("lsw-be", "AB", "EFCDAB", "GHEFCDAB"),
        ] {
            check(name, 2, two);
            check(name, 6, six);
            check(name, 8, eight);
        }
        check("LSW-BE", 4, "CDAB");
    }

    #[test]
    fn an_error_says_what_would_be_right() {
        for (text, byte_len, expected) in [
            ("ABBA", 4, "\"ABBA\" is no byte order; right would be ABCD, CDAB, BADC, DCBA"),
            ("1234", 4, "\"1234\" is no byte order; right would be ABCD, CDAB, BADC, DCBA"),
            (
                "",
                2,
                "\"\" is no byte order; right would be AB, BA, or ABCD, CDAB, BADC, DCBA for every width",
            ),
            ("AB", 4, "\"AB\" names 2 bytes, the value has 4; right would be ABCD, CDAB, BADC, DCBA"),
            (
                "ABCDEFGH",
                2,
                "\"ABCDEFGH\" names 8 bytes, the value has 2; right would be AB, BA, or ABCD, CDAB, BADC, DCBA for every width",
            ),
        ] {
            assert_eq!(parse(text, byte_len).unwrap_err().to_string(), expected);
        }
        // Turned by one byte: it has no meaning at another width.
        assert!(parse("BCDA", 8).is_err());
    }

    proptest! {
        #[test]
        fn any_permutation_comes_back_from_its_name(wire in Just(vec!['A','B','C','D','E','F','G','H']).prop_shuffle()) {
            let text: String = wire.into_iter().collect();
            prop_assert_eq!(name(&parse(&text, 8).unwrap()), text);
        }
    }
}
