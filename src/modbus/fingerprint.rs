//! PURE: a text that says which device this is, from what functions 17 and 43/14 tell.
//!
//! It must be the same whenever the same device is asked, and different for another one; so
//! what a device changes by itself (whether it runs, its firmware) has no part in it.

use std::fmt::Write;

/// Object ids of the basic category: MODBUS Application Protocol V1.1b3, 6.21.
const REVISION: u8 = 2;

/// Of function 17, all behind the byte count: server id, run indicator and more, of which
/// only the vendor knows where each ends. The run indicator is 0x00 or 0xFF, so these two are
/// taken for one.
pub fn of_server_id(data: &[u8]) -> Option<String> {
    let quiet: Vec<u8> = data.iter().map(|b| if *b == 0xFF { 0 } else { *b }).collect();
    let parts: Vec<&[u8]> = quiet.split(|b| *b == 0).collect();
    if parts.iter().all(|part| part.iter().all(is_printable)) {
        let words: Vec<String> = parts.into_iter().filter_map(text).collect();
        return joined(words);
    }
    Some(hex(&quiet))
}

/// Of function 43/14, objects by their ids: vendor and product. The revision is that of the
/// firmware.
pub fn of_device_id(objects: &[(u8, Vec<u8>)]) -> Option<String> {
    let mut objects: Vec<&(u8, Vec<u8>)> = objects.iter().filter(|(id, _)| *id != REVISION).collect();
    objects.sort_by_key(|(id, _)| *id);
    joined(objects.into_iter().filter_map(|(_, value)| text(value)).collect())
}

fn joined(words: Vec<String>) -> Option<String> {
    (!words.is_empty()).then(|| words.join("/"))
}

/// Text without its padding, or hex digits; `None`: empty.
fn text(bytes: &[u8]) -> Option<String> {
    let padding = |b: &&u8| !matches!(b, b' ' | 0);
    let first = bytes.iter().position(|b| padding(&b))?;
    let last = bytes.iter().rposition(|b| padding(&b))?;
    let bytes = &bytes[first..=last];
    match std::str::from_utf8(bytes) {
        Ok(text) if bytes.iter().all(is_printable) => Some(text.to_owned()),
        _ => Some(hex(bytes)),
    }
}

fn is_printable(byte: &u8) -> bool {
    (b' '..=b'~').contains(byte)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_says_the_same_whether_it_runs_or_not() {
        let check = |data: &[u8], expected: Option<&str>| {
            assert_eq!(of_server_id(data).as_deref(), expected, "{data:x?}");
        };
        check(b"PM5110\xFF", Some("PM5110"));
        check(b"PM5110\x00", Some("PM5110"));
        check(b"PM5110 \x00SN 123\0", Some("PM5110/SN 123"));
        check(&[0x11, 0xFF, 0x02, b'A'], Some("11000241"));
        check(&[0x11, 0x00, 0x02, b'A'], Some("11000241"));
        check(&[0xFF, 0x00], None);
        check(b"", None);
    }

    #[test]
    fn a_device_is_its_vendor_and_product_whatever_its_firmware() {
        let check = |objects: &[(u8, &[u8])], expected: Option<&str>| {
            let owned: Vec<(u8, Vec<u8>)> = objects.iter().map(|(id, v)| (*id, v.to_vec())).collect();
            assert_eq!(of_device_id(&owned).as_deref(), expected, "{objects:?}");
        };
        check(&[(0, b"Acme"), (1, b"M1 \0"), (2, b"V1.0")], Some("Acme/M1"));
        check(&[(1, b"M1"), (0, b"Acme"), (2, b"V2.0")], Some("Acme/M1"));
        check(&[(0, b"Acme"), (1, &[1, 0xFE])], Some("Acme/01fe"));
        check(&[(0, b""), (2, b"V1")], None);
        check(&[], None);
    }
}
