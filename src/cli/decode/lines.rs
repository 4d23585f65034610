//! `decode --json`: a question per line, an answer per line, in the same order.

use std::io::{self, BufRead, Write};

use super::{Question, hex_words, json};

/// A line of standard input. Keys that nobody asks for are left alone, so that a program may
/// keep its own beside them.
#[derive(serde::Deserialize)]
struct Line {
    #[serde(rename = "type")]
    type_name: String,
    order: Option<String>,
    /// Hex of the bytes as they came over the wire.
    registers: String,
    scale: Option<f64>,
    offset: Option<f64>,
    decimals: Option<u8>,
    bit: Option<u8>,
    start: Option<u8>,
    /// The bits of a bit field. Of a text it says nothing that `registers` does not.
    length: Option<u16>,
    string_bytes: Option<String>,
}

/// Answers every line that is not blank, and flushes after each, because a program may wait
/// for the answer before it asks again. A reader that went away ends it quietly.
pub fn answer_all(mut questions: impl BufRead, mut answers: impl Write) -> io::Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        if questions.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let written = writeln!(answers, "{}", answer(&line)).and_then(|()| answers.flush());
        match written {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            other => other?,
        }
    }
}

fn answer(line: &[u8]) -> serde_json::Value {
    let answer = serde_json::from_slice::<Line>(line).map_err(|e| e.to_string()).and_then(decode);
    answer.unwrap_or_else(|problem| serde_json::json!({ "error": problem }))
}

fn decode(line: Line) -> Result<serde_json::Value, String> {
    let words = match one_byte(&line) {
        Some(byte) => vec![u16::from(byte & 1)],
        None => hex_words(&line.registers)?,
    };
    let question = Question {
        type_name: &line.type_name,
        order: line.order.as_deref(),
        words: &words,
        scale: line.scale,
        offset: line.offset,
        decimals: line.decimals,
        bit: line.bit,
        start: line.start,
        length: line.length.map(|n| u8::try_from(n).unwrap_or(u8::MAX)),
        string_bytes: line.string_bytes.as_deref(),
    };
    question.answer().map(|measured| json(&measured))
}

/// A coil's answer is a single byte with the coil in its lowest bit.
fn one_byte(line: &Line) -> Option<u8> {
    let digits = line.registers.trim();
    (line.type_name.eq_ignore_ascii_case("bool") && digits.len() == 2)
        .then(|| u8::from_str_radix(digits, 16).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(questions: &str, expected: &str) {
        let mut answers = Vec::new();
        answer_all(questions.as_bytes(), &mut answers).unwrap();
        assert_eq!(String::from_utf8(answers).unwrap(), expected);
    }

    #[test]
    fn one_answer_per_line() {
        for (question, expected) in [
            (
                r#"{"type":"float32","order":"ABCD","registers":"42f6e979"}"#,
                r#"{"value":123.45600128173828}"#,
            ),
            (r#"{"type":"UINT16","order":"AB","registers":"09 0A","scale":0.1}"#, r#"{"value":231.4}"#),
            (r#"{"type":"uint16","order":"BA","registers":"0a09","scale":null}"#, r#"{"value":2314}"#),
            (
                r#"{"type":"uint64","order":"ABCDEFGH","registers":"ffffffffffffffff"}"#,
                r#"{"value":18446744073709551615}"#,
            ),
            (
                r#"{"type":"int64","order":"CDAB","registers":"0001000000000020"}"#,
                r#"{"value":9007199254740993}"#,
            ),
            (r#"{"type":"bit","order":"AB","registers":"0008","bit":3}"#, r#"{"value":true}"#),
            (r#"{"type":"bitfield","order":"AB","registers":"0150","bit":4,"length":5}"#, r#"{"value":21}"#),
            (r#"{"type":"bool","registers":"01"}"#, r#"{"value":true}"#),
            (
                r#"{"type":"string","order":"AB","registers":"41004200","string_bytes":"upper","length":2}"#,
                r#"{"value":"AB"}"#,
            ),
            (r#"{"type":"bytes","registers":"DE AD"}"#, r#"{"value":"dead"}"#),
            (r#"{"type":"float32","registers":"7fc00000"}"#, r#"{"quality":"bad","cause":"not-a-number"}"#),
            (r#"{"type":"bcd16","registers":"00a0"}"#, r#"{"quality":"bad","cause":"bad-digits"}"#),
            (
                r#"{"type":"uint16","order":"ABBA","registers":"0001"}"#,
                r#"{"error":"\"ABBA\" is no byte order; right would be AB, BA, or ABCD, CDAB, BADC, DCBA for every width"}"#,
            ),
            (
                r#"{"type":"bitfield","registers":"0001","length":300}"#,
                r#"{"error":"255 bits from bit 0 on are no part of a register; right would be at least 1 bit, and start + length at most 16"}"#,
            ),
            (r#"{"type":"uint32","registers":"0001"}"#, r#"{"error":"uint32 has 2 registers, 1 is given"}"#),
            (r#"{"registers":"0001"}"#, r#"{"error":"missing field `type` at line 1 column 20"}"#),
        ] {
            check(question, &format!("{expected}\n"));
        }
    }

    #[test]
    fn a_bad_line_costs_only_its_own_answer() {
        let questions = "{\n\n\u{fffd}\n{\"type\":\"uint16\",\"registers\":\"0001\"}\n{\"type\":\"int16\",\"registers\":\"ffff\"}";
        let mut answers = Vec::new();
        answer_all(questions.as_bytes(), &mut answers).unwrap();
        let answers = String::from_utf8(answers).unwrap();
        let lines: Vec<&str> = answers.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[0].starts_with("{\"error\":"), "{}", lines[0]);
        assert!(lines[1].starts_with("{\"error\":"), "{}", lines[1]);
        assert_eq!(lines[2..], ["{\"value\":1}", "{\"value\":-1}"]);
    }
}
