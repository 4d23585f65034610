//! Fields out of a line, and values out of fields. PURE.
//!
//! Constraints: a line that is not of the format is noise and costs only itself; a field
//! that is not in the line is `Missing`; a number may have a decimal comma and a unit behind
//! it, but `12:30` is no twelve.

use std::borrow::Cow;

use serde_json::Value as Json;

use crate::model::line::{FieldKind, FieldPoint, LineFormat};
use crate::model::reading::Measured;
use crate::model::transform::{self, whole};
use crate::model::value::{Cause, Value};

/// The fields of one line.
#[derive(Debug)]
pub enum Fields<'a> {
    Json(Json),
    Row { columns: &'a [String], cells: Vec<String> },
    Pairs(Vec<(&'a str, &'a str)>),
    Groups(regex::Captures<'a>),
}

/// One field as the line has it.
#[derive(Clone, Debug, PartialEq)]
pub enum Field<'a> {
    Text(Cow<'a, str>),
    Json(&'a Json),
}

/// `None`: the line is not of this format.
pub fn fields<'a>(format: &'a LineFormat, line: &'a str) -> Option<Fields<'a>> {
    let line = line.trim();
    match format {
        LineFormat::Json => {
            let json: Json = serde_json::from_str(line).ok()?;
            (json.is_object() || json.is_array()).then_some(Fields::Json(json))
        }
        LineFormat::Csv { separator, columns } => {
            Some(Fields::Row { columns, cells: cells(*separator, line)? })
        }
        LineFormat::KeyValue { separators, assign } => {
            let part = line.split(|c: char| u8::try_from(c).is_ok_and(|c| separators.contains(&c)));
            let pairs: Vec<_> = part
                .filter_map(|pair| pair.split_once(char::from(*assign)))
                .map(|(key, value)| (key.trim(), value.trim()))
                .collect();
            (!pairs.is_empty()).then_some(Fields::Pairs(pairs))
        }
        LineFormat::Regex(regex) => regex.captures(line).map(Fields::Groups),
    }
}

impl Fields<'_> {
    pub fn find(&self, name: &str) -> Option<Field<'_>> {
        let text = |text| Field::Text(Cow::Borrowed(text));
        match self {
            Fields::Json(json) => at_path(json, name).filter(|j| !j.is_null()).map(Field::Json),
            Fields::Row { columns, cells } => {
                let at = columns.iter().position(|c| c == name).or_else(|| name.parse().ok())?;
                cells.get(at).map(|cell| cell.trim()).filter(|cell| !cell.is_empty()).map(text)
            }
            Fields::Pairs(pairs) => pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| text(value)),
            Fields::Groups(groups) => groups.name(name).map(|group| text(group.as_str())),
        }
    }
}

/// What the field means for its point.
pub fn measure(point: &FieldPoint, field: Option<&Field>) -> Measured {
    let value = match field {
        None => Err(Cause::Missing),
        Some(Field::Text(text)) => of_text(point, text),
        Some(Field::Json(Json::String(text))) => of_text(point, text),
        Some(Field::Json(json)) => of_json(point, json),
    };
    value.map_or_else(Measured::Bad, |value| transform::apply(&point.transform, value))
}

fn of_text(point: &FieldPoint, text: &str) -> Result<Value, Cause> {
    let text = text.trim();
    match point.kind {
        FieldKind::Text => Ok(Value::Text(text.to_owned())),
        FieldKind::Bool => truth(text).map(Value::Bool).ok_or(Cause::BadText),
        FieldKind::Number => number(text, point.decimal_comma).ok_or_else(|| no_number(text)),
        FieldKind::Auto => {
            Ok(number(text, point.decimal_comma).unwrap_or_else(|| Value::Text(text.to_owned())))
        }
    }
}

fn of_json(point: &FieldPoint, json: &Json) -> Result<Value, Cause> {
    let own = match json {
        Json::Bool(b) => Value::Bool(*b),
        Json::Number(n) => match (n.as_i64(), n.as_u64(), n.as_f64()) {
            (Some(i), _, _) => Value::Int(i),
            (_, Some(u), _) => Value::Uint(u),
            (_, _, Some(x)) => Value::Float(x),
            _ => return Err(Cause::BadText),
        },
        other => Value::Text(other.to_string()),
    };
    match (point.kind, own) {
        (FieldKind::Text, own) => Ok(Value::Text(own.to_string())),
        (FieldKind::Auto, own) => Ok(own),
        (FieldKind::Bool, Value::Bool(b)) => Ok(Value::Bool(b)),
        (FieldKind::Bool, Value::Int(n @ (0 | 1))) => Ok(Value::Bool(n == 1)),
        (FieldKind::Number, Value::Bool(b)) => Ok(Value::Int(b.into())),
        (FieldKind::Number, own @ (Value::Int(_) | Value::Uint(_) | Value::Float(_))) => Ok(own),
        _ => Err(Cause::BadText),
    }
}

fn at_path<'a>(json: &'a Json, path: &str) -> Option<&'a Json> {
    // A key may itself have dots in it.
    if let Some(found) = json.get(path) {
        return Some(found);
    }
    path.split('.').try_fold(json, |json, step| match json {
        Json::Array(items) => items.get(step.parse::<usize>().ok()?),
        other => other.get(step),
    })
}

fn cells(separator: u8, line: &str) -> Option<Vec<String>> {
    let mut reader = csv_core::ReaderBuilder::new().delimiter(separator).build();
    // No cell is longer than its line, and there is at most one more cell than bytes.
    let (mut text, mut ends) = (vec![0; line.len() + 1], vec![0; line.len() + 2]);
    let (mut input, mut written, mut ended) = (line.as_bytes(), 0, 0);
    loop {
        let (result, read, wrote, ends_now) =
            reader.read_record(input, &mut text[written..], &mut ends[ended..]);
        input = &input[read..];
        written += wrote;
        ended += ends_now;
        match result {
            // An empty input tells the reader that the line is over.
            csv_core::ReadRecordResult::InputEmpty => {}
            csv_core::ReadRecordResult::Record => break,
            _ => return None,
        }
    }
    let mut from = 0;
    let cell = |end: &usize| {
        let cell = std::str::from_utf8(&text[from..*end]).ok().map(str::to_owned);
        from = *end;
        cell
    };
    ends[..ended].iter().map(cell).collect()
}

fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "on" | "yes" => Some(true),
        "0" | "false" | "off" | "no" => Some(false),
        _ => None,
    }
}

fn no_number(text: &str) -> Cause {
    let bare = text.trim_start_matches(['+', '-']).to_ascii_lowercase();
    if matches!(bare.as_str(), "nan" | "inf" | "infinity") { Cause::NotANumber } else { Cause::BadText }
}

/// A number with perhaps a unit behind it.
fn number(text: &str, decimal_comma: bool) -> Option<Value> {
    let text = match decimal_comma {
        // Dots only group digits where the comma is the decimal sign.
        true => Cow::Owned(text.replace('.', "").replacen(',', ".", 1)),
        false => Cow::Borrowed(text),
    };
    let (digits, unit) = text.split_at(number_length(&text)?);
    let unit = unit.trim_start();
    if !unit.is_empty() && !unit.starts_with(|c: char| c.is_alphabetic() || "%‰°\"'".contains(c)) {
        return None;
    }
    let digits = digits.trim_start_matches('+');
    match digits.parse::<i128>() {
        Ok(integer) => whole(integer).or_else(|| digits.parse().ok().map(Value::Float)),
        Err(_) => digits.parse().ok().map(Value::Float),
    }
}

/// How many bytes of the beginning are a number: sign, digits, fraction, exponent.
fn number_length(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let digits = |from: usize| bytes[from..].iter().take_while(|b| b.is_ascii_digit()).count();
    let sign = usize::from(matches!(bytes.first(), Some(b'+' | b'-')));
    let mut end = sign + digits(sign);
    let mut any = end > sign;
    if bytes.get(end) == Some(&b'.') {
        let fraction = digits(end + 1);
        any |= fraction > 0;
        end += 1 + fraction;
    }
    if any && matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let exponent = digits((end + 1 + sign).min(bytes.len()));
        // `5e` is five of something.
        end += if exponent > 0 { 1 + sign + exponent } else { 0 };
    }
    any.then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(field: &str, kind: FieldKind) -> FieldPoint {
        FieldPoint { field: field.to_owned(), kind, decimal_comma: false, transform: Default::default() }
    }

    /// `field -> what a person would read`, or `noise`.
    fn check(format: &LineFormat, line: &str, field: &str, expected: &str) {
        let said = match fields(format, line) {
            None => "noise".to_owned(),
            Some(fields) => show(measure(&point(field, FieldKind::Auto), fields.find(field).as_ref())),
        };
        assert_eq!(said, expected, "{field} of {line:?}");
    }

    fn show(measured: Measured) -> String {
        match measured {
            Measured::Good(value) => format!("{value:?}"),
            Measured::Uncertain(value, cause) => format!("{value:?}? {cause}"),
            Measured::Bad(cause) => format!("bad {cause}"),
        }
    }

    #[test]
    fn json_lines() {
        let check = |line, field, expected| check(&LineFormat::Json, line, field, expected);
        let line = r#"{"a":{"b":[1,2.5]},"s":"12 kg","t":true,"n":null,"x.y":7,"big":18446744073709551615}"#;
        check(line, "a.b.0", "Int(1)");
        check(line, "a.b.1", "Float(2.5)");
        check(line, "s", "Int(12)");
        check(line, "t", "Bool(true)");
        check(line, "n", "bad missing");
        check(line, "x.y", "Int(7)");
        check(line, "big", "Uint(18446744073709551615)");
        check(line, "no", "bad missing");
        check("[3]", "0", "Int(3)");
        check("{\"a\":", "a", "noise");
        check("17", "a", "noise");
    }

    #[test]
    fn csv_lines() {
        let columns = vec!["time".to_owned(), "weight".to_owned(), "note".to_owned()];
        let named = LineFormat::Csv { separator: b';', columns };
        check(&named, "12:30;5.5 kg;\"a;b\"\r", "weight", "Float(5.5)");
        check(&named, "12:30;5.5 kg;\"a;b\"\r", "note", "Text(\"a;b\")");
        check(&named, "12:30;5.5 kg", "note", "bad missing");
        check(&named, "12:30;;x", "weight", "bad missing");
        check(&named, "12:30;7", "time", "Text(\"12:30\")");
        let plain = LineFormat::Csv { separator: b',', columns: Vec::new() };
        check(&plain, "1,2,3", "2", "Int(3)");
        check(&plain, "1,2,3", "3", "bad missing");
    }

    #[test]
    fn key_value_lines() {
        let format = LineFormat::KeyValue { separators: b";,".to_vec(), assign: b'=' };
        check(&format, "a=1; b = 2.5V,c=on", "a", "Int(1)");
        check(&format, "a=1; b = 2.5V,c=on", "b", "Float(2.5)");
        check(&format, "a=1; b = 2.5V,c=on", "c", "Text(\"on\")");
        check(&format, "a=1", "b", "bad missing");
        check(&format, "hello", "a", "noise");
    }

    #[test]
    fn regex_lines() {
        let format =
            LineFormat::Regex(regex::Regex::new(r"(?P<weight>[-+]?\d+\.\d+)\s*kg( (?P<tare>\d+))?").unwrap());
        check(&format, "ST,GS,+ 12.50 kg", "weight", "Float(12.5)");
        check(&format, "ST,GS,+ 12.50 kg", "tare", "bad missing");
        check(&format, "ST,GS,+ 12.50 kg 3", "tare", "Int(3)");
        check(&format, "%&/", "weight", "noise");
    }

    #[test]
    fn numbers_in_text() {
        let check = |text: &str, comma: bool, expected: &str| {
            let point = FieldPoint { decimal_comma: comma, ..point("x", FieldKind::Number) };
            let said = show(measure(&point, Some(&Field::Text(text.into()))));
            assert_eq!(said, expected, "{text:?} decimal_comma={comma}");
        };
        check("12", false, "Int(12)");
        check("+12", false, "Int(12)");
        check("-0.5 °C", false, "Float(-0.5)");
        check("12,5", true, "Float(12.5)");
        check("1.234,5 kg", true, "Float(1234.5)");
        check("12,5", false, "bad bad-text");
        check("12:30", false, "bad bad-text");
        check("1.2.3", false, "bad bad-text");
        check("1e3", false, "Float(1000.0)");
        check("5e", false, "Int(5)");
        check("5e-", false, "Int(5)");
        check("85 %", false, "Int(85)");
        check(".5", false, "Float(0.5)");
        check("kg", false, "bad bad-text");
        check("", false, "bad bad-text");
        check("nan", false, "bad not-a-number");
        check("18446744073709551615", false, "Uint(18446744073709551615)");
        check("1e999", false, "bad not-a-number");
    }

    #[test]
    fn kinds_of_json() {
        let check = |json: Json, kind: FieldKind, expected: &str| {
            let said = show(measure(&point("x", kind), Some(&Field::Json(&json))));
            assert_eq!(said, expected, "{json} as {kind:?}");
        };
        check(true.into(), FieldKind::Number, "Int(1)");
        check(1.into(), FieldKind::Bool, "Bool(true)");
        check(2.into(), FieldKind::Bool, "bad bad-text");
        check("on".into(), FieldKind::Bool, "Bool(true)");
        check(1.5.into(), FieldKind::Text, "Text(\"1.5\")");
        check(serde_json::json!([1]), FieldKind::Number, "bad bad-text");
    }
}
