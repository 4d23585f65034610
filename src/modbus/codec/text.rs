//! Characters in registers.
//!
//! Most devices speak ASCII, some UTF-8, older European ones Latin-1, and none says which.
//! Bytes that are valid UTF-8 are taken as UTF-8, anything else as Latin-1, in which every
//! byte has a meaning: a `°` of an old device arrives as `°`. Control characters show that
//! the register holds no text at all (or is read with the wrong byte order): bad quality,
//! but for tab, line feed, carriage return, and a NUL that the padding rule keeps.

use std::fmt::Write;

use crate::model::reading::Measured;
use crate::model::register::{Order, Padding, TextBytes};
use crate::model::value::{Cause, Value};

use super::encode::EncodeError;

pub fn decode(words: &[u16], order: &Order, bytes: TextBytes, padding: Padding) -> Measured {
    let mut raw = Vec::with_capacity(words.len() * 2);
    for word in words {
        let [high, low] = ordered(*word, order);
        match bytes {
            TextBytes::Both => raw.extend([high, low]),
            TextBytes::Low => raw.push(low),
            TextBytes::High => raw.push(high),
        }
    }
    match padding {
        Padding::Nul => {
            let end = raw.iter().position(|b| *b == 0).unwrap_or(raw.len());
            raw.truncate(end);
            cut(&mut raw, b" ");
        }
        Padding::Trailing => cut(&mut raw, b" \0"),
        Padding::Keep => {}
    }
    let text = match String::from_utf8(raw) {
        Ok(text) => text,
        Err(error) => error.as_bytes().iter().map(|b| char::from(*b)).collect(),
    };
    let strange = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\0');
    if text.chars().any(strange) { Measured::Bad(Cause::BadText) } else { Measured::Good(Value::Text(text)) }
}

/// The inverse of [`decode`], in UTF-8. Padded with NUL, or with spaces where NUL would be
/// taken for content.
pub fn encode(
    text: &str,
    registers: u16,
    order: &Order,
    bytes: TextBytes,
    padding: Padding,
) -> Result<Vec<u16>, EncodeError> {
    let per_word = if bytes == TextBytes::Both { 2 } else { 1 };
    let room = usize::from(registers) * per_word;
    let mut raw = text.as_bytes().to_vec();
    if raw.len() > room {
        return Err(EncodeError::TooLong { bytes: raw.len(), room });
    }
    raw.resize(room, if padding == Padding::Nul { 0 } else { b' ' });
    let word = |chunk: &[u8]| {
        let pair = match bytes {
            TextBytes::Both => [chunk[0], chunk[1]],
            TextBytes::Low => [0, chunk[0]],
            TextBytes::High => [chunk[0], 0],
        };
        swapped(pair, order)
    };
    Ok(raw.chunks_exact(per_word).map(word).collect())
}

/// The bytes as lower-case hex, two digits each.
pub fn hex(words: &[u16], order: &Order) -> String {
    let mut text = String::with_capacity(words.len() * 4);
    for word in words {
        let [high, low] = ordered(*word, order);
        // Writing to a String cannot fail.
        let _ = write!(text, "{high:02x}{low:02x}");
    }
    text
}

/// The inverse of [`hex`]; letters of either case.
pub fn unhex(text: &str, registers: u16, order: &Order) -> Result<Vec<u16>, EncodeError> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect();
    let digits = digits.ok_or(EncodeError::WrongType { expected: "hex digits" })?;
    if digits.len() != usize::from(registers) * 4 {
        return Err(EncodeError::TooLong {
            bytes: digits.len().div_ceil(2),
            room: usize::from(registers) * 2,
        });
    }
    let word = |d: &[u8]| swapped([d[0] << 4 | d[1], d[2] << 4 | d[3]], order);
    Ok(digits.chunks_exact(4).map(word).collect())
}

fn ordered(word: u16, order: &Order) -> [u8; 2] {
    if order.from[0] == 0 { word.to_be_bytes() } else { word.to_le_bytes() }
}

fn swapped(pair: [u8; 2], order: &Order) -> u16 {
    if order.from[0] == 0 { u16::from_be_bytes(pair) } else { u16::from_le_bytes(pair) }
}

fn cut(raw: &mut Vec<u8>, padding: &[u8]) {
    while raw.last().is_some_and(|b| padding.contains(b)) {
        raw.pop();
    }
}
