//! Names: they become topic levels, payload keys and file names, so their alphabet is small.

use std::collections::HashMap;

use crate::config::errors::{Place, Report};

const NAME_HELP: &str = "1 to 64 of the characters A-Z a-z 0-9 . _ -";

/// `[A-Za-z0-9._-]{1,64}`, and neither `.` nor `..`.
pub fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && !matches!(text, "." | "..")
}

/// A name that has to be there.
pub fn required(name: Option<&str>, of: &str, place: &Place, report: &mut Report) -> Option<String> {
    match name {
        None => report.error(
            place,
            "name",
            format!("{of} has no name"),
            format!("write name = \"...\": {NAME_HELP}"),
        ),
        Some(name) if !is_name(name) => {
            report.error(place, "name", format!("\"{name}\" is not a name"), NAME_HELP)
        }
        Some(name) => return Some(name.to_owned()),
    }
    None
}

/// Reports each name that stands twice, with both places.
pub fn unique<'a>(
    names: impl Iterator<Item = (Option<&'a str>, &'a Place)>,
    what: &str,
    report: &mut Report,
) {
    let mut seen: HashMap<&str, &Place> = HashMap::new();
    for (name, place) in names {
        let Some(name) = name else { continue };
        match seen.get(name) {
            Some(first) => {
                let elsewhere = first.mistake("name", "", "");
                let line = elsewhere.line.map(|l| format!(":{l}")).unwrap_or_default();
                let message = format!(
                    "the {what} \"{name}\" is already defined in {}{line} ({})",
                    elsewhere.file, first.path
                );
                report.error(place, "name", message, format!("give each {what} its own name"));
            }
            None => {
                seen.insert(name, place);
            }
        }
    }
}
