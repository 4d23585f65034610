//! The walls of the house, read from the source: who may import whom, which crate has which
//! door, what is pure, and what must not stand anywhere.
//!
//! A rule is a function from one file to what is wrong with it. Comments and strings are
//! blanked first, then every path is resolved (`use` trees spread out, `super` and `self`
//! made absolute), so a rule compares plain texts such as `crate::store::outbox`. Tests
//! inside the sources are not held to the walls: they start at the first `#[cfg(test)]`.
//! Each rule is proven by a file that it must refuse.

use std::path::Path;

use regex::Regex;

/// Foreign crates and the only places that may name them.
const DOORS: &[(&str, &[&str])] = &[
    ("rumqttc", &["src/uplink/link"]),
    ("tokio_modbus", &["src/modbus/client.rs", "src/cli/demo"]),
    ("tokio_serial", &["src/serial/port.rs", "src/cli/demo"]),
    ("rusqlite", &["src/store/"]),
    ("clap", &["src/cli/", "src/main.rs"]),
    ("anyhow", &["src/cli/", "src/main.rs"]),
    ("rcgen", &["src/identity/", "src/cli/demo"]),
    ("x509_parser", &["src/identity/"]),
    ("cryptoki", &["src/identity/pkcs11.rs"]),
    ("sd_notify", &["src/notify.rs"]),
    ("tokio_tungstenite", &["src/uplink/link/websocket.rs"]),
    ("hyper", &["src/uplink/link/"]),
];

/// What is pure whether or not its first line says so.
const PURE: &[&str] = &[
    "src/model/",
    "src/wire/",
    "src/backoff.rs",
    "src/packed.rs",
    "src/shadow/",
    "src/modbus/plan",
    "src/modbus/codec",
    "src/serial/frame",
    "src/serial/parse",
    "src/bus/schedule",
    "src/hub/apply",
    "src/hub/report",
    "src/uplink/window",
];

/// The one clock: it must know both times to hide them from everybody else.
const CLOCK: &str = "src/model/time.rs";

const IMPURE: &[&str] =
    &["tokio", "std::net", "std::fs", "std::time::Instant", "std::time::SystemTime", "rusqlite", "rumqttc"];

/// Floors, from below; the longest prefix that fits decides. A pure file inside a task's
/// room stands on the pure floor. The validated configuration is data; reading it is not.
const FLOORS: &[(&str, u8)] = &[
    ("crate::manual", 0),
    ("crate::model", 0),
    ("crate::backoff", 1),
    ("crate::channel", 1),
    ("crate::metrics", 1),
    ("crate::modbus", 1),
    ("crate::packed", 1),
    ("crate::serial", 1),
    ("crate::shadow", 1),
    ("crate::wire", 1),
    ("crate::config", 1),
    ("crate::config::load", 2),
    ("crate::identity", 3),
    ("crate::modbus::client", 3),
    ("crate::notify", 3),
    ("crate::serial::pause", 3),
    ("crate::serial::port", 3),
    ("crate::store", 3),
    ("crate::broker", 4),
    ("crate::bus", 4),
    ("crate::control", 4),
    ("crate::hub", 4),
    ("crate::uplink", 4),
    ("crate::supervise", 5),
    ("crate::app", 6),
    ("crate::cli", 7),
    ("crate::main", 8),
];

const PURE_FLOOR: u8 = 1;

/// Lines of a file before its tests.
const LINES_MAX: usize = 500;

struct File {
    path: String,
    /// As it is written, up to its tests.
    text: String,
    /// The same without comments and strings, line by line.
    code: String,
}

impl File {
    fn new(path: &str, text: &str) -> File {
        let end = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
        let text = text[..end].to_owned();
        let code = blank(&text);
        File { path: path.to_owned(), text, code }
    }

    fn is_pure(&self) -> bool {
        let head = self.text.lines().take_while(|l| l.starts_with("//!")).collect::<String>();
        self.path != CLOCK && (head.contains("PURE") || PURE.iter().any(|p| self.path.starts_with(p)))
    }

    /// `src/bus/mod.rs` is `crate::bus`.
    fn module(&self) -> String {
        let inner = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        let inner = inner.trim_end_matches("/mod");
        if inner == "lib" { "crate".into() } else { format!("crate::{}", inner.replace('/', "::")) }
    }

    fn floor(&self) -> Option<u8> {
        let floor = floor_of(&self.module())?;
        Some(if self.is_pure() { floor.min(PURE_FLOOR) } else { floor })
    }

    /// Every path in the code, absolute where it is relative to the crate.
    fn paths(&self) -> Vec<String> {
        let mut found = Vec::new();
        let uses = Regex::new(r"(?s)\buse\s+([^;]+);").unwrap();
        for capture in uses.captures_iter(&self.code) {
            spread("", &capture[1], &mut found);
        }
        let inline = Regex::new(r"\b[A-Za-z_][A-Za-z0-9_]*(?:::[A-Za-z_][A-Za-z0-9_]*)+").unwrap();
        let rest = uses.replace_all(&self.code, "");
        found.extend(inline.find_iter(&rest).map(|path| path.as_str().to_owned()));
        found.iter().map(|path| self.absolute(path)).collect()
    }

    fn absolute(&self, path: &str) -> String {
        let module = self.module();
        let mut parts: Vec<&str> = module.split("::").collect();
        let mut rest = path;
        loop {
            if let Some(after) = rest.strip_prefix("super::") {
                parts.pop();
                rest = after;
            } else if let Some(after) = rest.strip_prefix("self::") {
                rest = after;
            } else if rest.len() == path.len() {
                return path.to_owned();
            } else {
                return format!("{}::{rest}", parts.join("::"));
            }
        }
    }
}

fn floor_of(path: &str) -> Option<u8> {
    let fits = |prefix: &str| path == prefix || path.starts_with(&format!("{prefix}::"));
    FLOORS.iter().filter(|(prefix, _)| fits(prefix)).max_by_key(|(prefix, _)| prefix.len()).map(|f| f.1)
}

/// `a::{b, c::{d}}` → `a::b`, `a::c::d`.
fn spread(prefix: &str, tree: &str, found: &mut Vec<String>) {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        let name = tree.split(" as ").next().unwrap_or_default().trim();
        found.push(format!("{prefix}{name}").trim_end_matches("::self").to_owned());
        return;
    };
    let prefix = format!("{prefix}{}", &tree[..open]);
    let inner = &tree[open + 1..tree.rfind('}').unwrap_or(tree.len())];
    let (mut depth, mut start) = (0, 0);
    for (i, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                spread(&prefix, &inner[start..i], found);
                start = i + 1;
            }
            _ => {}
        }
    }
    if !inner[start..].trim().is_empty() {
        spread(&prefix, &inner[start..], found);
    }
}

/// Blanks comments, strings and character literals; keeps the lines.
fn blank(text: &str) -> String {
    let noise = Regex::new(
        r##"(?s)//[^\n]*|/\*.*?\*/|b?r#".*?"#|b?r"[^"]*"|b?"(?:\\.|[^"\\])*"|b?'(?:\\[^']+|[^'\\\n])'"##,
    )
    .unwrap();
    noise
        .replace_all(text, |c: &regex::Captures| c[0].chars().filter(|c| *c == '\n').collect::<String>())
        .into_owned()
}

fn begins(path: &str, with: &str) -> bool {
    path == with || path.starts_with(&format!("{with}::"))
}

fn doors(file: &File) -> Vec<String> {
    let paths = file.paths();
    let closed = DOORS.iter().filter(|(_, doors)| !doors.iter().any(|door| file.path.starts_with(door)));
    let through = closed.filter(|(name, _)| paths.iter().any(|path| begins(path, name)));
    through.map(|(name, doors)| format!("{name} is only for {doors:?}")).collect()
}

fn purity(file: &File) -> Vec<String> {
    if !file.is_pure() {
        return Vec::new();
    }
    let paths = file.paths();
    // An address is a value; what is done with it is not.
    let value = |path: &str| path.starts_with("std::net::") && path.contains("Addr");
    let wrong = paths.iter().filter(|p| !value(p) && IMPURE.iter().any(|impure| begins(p, impure)));
    wrong.map(|path| format!("pure, but names {path}")).collect()
}

fn floors(file: &File) -> Vec<String> {
    let module = file.module();
    if module == "crate" {
        return Vec::new();
    }
    let Some(own) = file.floor() else { return vec![format!("{module} stands on no floor: name one here")] };
    let room = |path: &str| path.split("::").nth(1).unwrap_or_default().to_owned();
    let mut wrong = Vec::new();
    for path in file.paths().iter().filter(|path| path.starts_with("crate::")) {
        let Some(other) = floor_of(path) else { continue };
        // A neighbour's pure files are still the neighbour's.
        let down = if room(path) == room(&module) { true } else { other < own || (own, other) == (1, 1) };
        if !down {
            wrong.push(format!("floor {own} reaches up or across to {path}, floor {other}"));
        }
    }
    wrong
}

fn queues(file: &File) -> Vec<String> {
    let unbounded = Regex::new(r"\bunbounded_channel\b|\bUnboundedSender\b|\bmpsc::unbounded\b").unwrap();
    let mut wrong: Vec<_> = unbounded
        .find_iter(&file.code)
        .map(|m| format!("a queue without capacity: {}", m.as_str()))
        .collect();
    if file.paths().iter().any(|path| path == "std::sync::mpsc::channel") {
        wrong.push("a queue without capacity: std::sync::mpsc::channel".into());
    }
    wrong
}

fn selects(file: &File) -> Vec<String> {
    let select = Regex::new(r"\bselect!\s*[\{(]\s*(biased;)?").unwrap();
    let wrong = select.captures_iter(&file.code).filter(|c| c.get(1).is_none());
    wrong.map(|_| "a select! that does not begin with `biased;`".to_owned()).collect()
}

/// What an event is about is found by these fields in the journal: plain values, one spelling.
fn fields(file: &File) -> Vec<String> {
    let event = Regex::new(r"\b(?:error|warn|info|debug|trace|event)!\s*\(").unwrap();
    let field = Regex::new(r"(?s)[(,]\s*(?:([%?])\s*)?(bus|device|thing|name)\b\s*(=\s*[^,)]*)?").unwrap();
    let mut wrong = Vec::new();
    for found in event.find_iter(&file.code) {
        let rest = &file.code[found.end() - 1..];
        let mut depth = 0;
        let close = |c: char| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            depth == 0
        };
        let call = &rest[..=rest.find(close).unwrap_or(rest.len() - 1)];
        for c in field.captures_iter(call) {
            let (sign, name) = (c.get(1).map(|m| m.as_str()), &c[2]);
            let value = c.get(3).map(|m| m.as_str().trim_start_matches('=').trim());
            let fits = match (sign, value) {
                _ if name == "name" && value.is_some() => false,
                (Some(sign), _) => sign == "%",
                (None, Some(value)) => value.starts_with('%'),
                // An optional name that was made plain before.
                (None, None) => true,
            };
            if !fits {
                wrong
                    .push(format!("a field of the log that is not found: {}", c[0].trim_matches([',', '('])));
            }
        }
    }
    wrong
}

fn leftovers(file: &File) -> Vec<String> {
    let left = Regex::new(r"\b(todo|unimplemented|dbg)!").unwrap();
    let mut wrong: Vec<_> =
        left.find_iter(&file.code).map(|m| format!("{} is left over", m.as_str())).collect();
    let print = Regex::new(r"\be?print(ln)?!").unwrap();
    if !file.path.starts_with("src/cli/") && print.is_match(&file.code) {
        wrong.push("only the command line prints".into());
    }
    wrong
}

fn size(file: &File) -> Vec<String> {
    let lines = file.text.lines().count();
    let too_long = lines > LINES_MAX && !file.path.ends_with("tests.rs");
    too_long.then(|| format!("{lines} lines before its tests; {LINES_MAX} is the most")).into_iter().collect()
}

fn notes(file: &File) -> Vec<String> {
    let starts = file.text.starts_with("//!") && !file.text.starts_with("//! (to come)");
    let free = file.path.ends_with("tests.rs");
    (!starts && !free).then(|| "no design note at its head".to_owned()).into_iter().collect()
}

/// A rule, a file that it must accept, and one that it must refuse.
struct Rule {
    name: &'static str,
    finds: fn(&File) -> Vec<String>,
    good: (&'static str, &'static str),
    bad: &'static [(&'static str, &'static str)],
}

const RULES: &[Rule] = &[
    Rule {
        name: "each foreign crate has one door",
        finds: doors,
        good: ("src/store/outbox.rs", "use rusqlite::Connection; // and no rumqttc::Client"),
        bad: &[
            ("src/hub/mod.rs", "use std::{fmt, sync::Arc};\nuse rusqlite::{params, Connection};"),
            ("src/uplink/session.rs", "fn f() { rumqttc::AsyncClient::new() }"),
            ("src/bus/mod.rs", "use {std::fmt, tokio_modbus::client::tcp};"),
            ("src/config/load.rs", "use clap::Parser;"),
        ],
    },
    Rule {
        name: "pure files know no I/O and no clock",
        finds: purity,
        good: ("src/hub/apply.rs", "//! PURE.\nuse std::time::Duration;\nuse std::collections::BTreeMap;"),
        bad: &[
            ("src/wire/topics.rs", "use tokio::time::Instant;"),
            ("src/hub/apply.rs", "use std::{collections::BTreeMap, time::{Duration, SystemTime}};"),
            ("src/uplink/lanes.rs", "//! PURE: lanes.\nfn f() { let _ = std::fs::read(x); }"),
        ],
    },
    Rule {
        name: "an arrow may only point down",
        finds: floors,
        good: (
            "src/bus/mod.rs",
            "use crate::modbus::client::Client;\nuse super::bus::poll;\nuse crate::model::ids::X;",
        ),
        bad: &[
            ("src/bus/mod.rs", "use crate::hub::apply;"),
            ("src/bus/schedule.rs", "//! PURE.\nuse crate::store::Store;"),
            ("src/hub/mod.rs", "use crate::{model::ids::X, uplink::Uplink};"),
            ("src/uplink/mod.rs", "use super::broker::Broker;"),
            ("src/model/ids.rs", "use crate::config::Config;"),
            ("src/store/mod.rs", "fn f() { crate::app::stop() }"),
            ("src/identity/tls.rs", "use crate::store::Store;"),
            ("src/shed/mod.rs", "fn f() {}"),
        ],
    },
    Rule {
        name: "every queue has a capacity",
        finds: queues,
        good: ("src/app.rs", "let (a, b) = tokio::sync::mpsc::channel(OBSERVATIONS_MAX);"),
        bad: &[
            ("src/app.rs", "let (a, b) = mpsc::unbounded_channel();"),
            ("src/app.rs", "use std::sync::mpsc;\nlet (a, b) = std::sync::mpsc::channel();"),
        ],
    },
    Rule {
        name: "every select! is biased",
        finds: selects,
        good: ("src/hub/mod.rs", "tokio::select! {\n    biased;\n    () = stop.cancelled() => {}\n}"),
        bad: &[("src/hub/mod.rs", "tokio::select! {\n    // biased;\n    () = stop.cancelled() => {}\n}")],
    },
    Rule {
        name: "bus, device and thing are plain fields of the log",
        finds: fields,
        good: (
            "src/bus/mod.rs",
            "warn!(bus = %self.bus.name, device = %f(a, b), cause = ?c, \"m\"); info!(%thing, bus, why, \"m\"); f(name = 1)",
        ),
        bad: &[
            ("src/bus/mod.rs", "tracing::warn!(bus = ?self.name, \"m\");"),
            ("src/bus/mod.rs", "tracing::info!(unit_id, device = self.name.as_str(), \"m\");"),
            ("src/uplink/mod.rs", "info!(name = %self.name, \"m\");"),
            ("src/uplink/mod.rs", "debug!(?thing, \"m\");"),
        ],
    },
    Rule {
        name: "nothing is left over",
        finds: leftovers,
        good: ("src/hub/mod.rs", "//! A todo!() in a note, and \"println!\" in a text.\nlet a = \"dbg!\";"),
        bad: &[("src/hub/mod.rs", "fn f() { todo!() }"), ("src/hub/mod.rs", "fn f() { eprintln!(\"x\") }")],
    },
    Rule {
        name: "every file starts with its design note",
        finds: notes,
        good: ("src/hub/mod.rs", "//! What it is for."),
        bad: &[("src/hub/mod.rs", "use std::fmt;"), ("src/hub/mod.rs", "//! (to come)")],
    },
];

fn sources() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut files, mut folders) = (Vec::new(), vec![root.join("src")]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
                files.push(File::new(&name, &std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

#[track_caller]
fn assert_clean(finds: fn(&File) -> Vec<String>) {
    let files = sources();
    assert!(files.len() > 20, "the sources were not found");
    let wrong: Vec<String> = files
        .iter()
        .filter(|file| !file.path.ends_with("tests.rs"))
        .flat_map(|file| finds(file).into_iter().map(|what| format!("{}: {what}", file.path)))
        .collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn every_rule_accepts_the_right_and_refuses_the_wrong() {
    for rule in RULES {
        let (path, text) = rule.good;
        assert_eq!((rule.finds)(&File::new(path, text)), Vec::<String>::new(), "{}: {path}", rule.name);
        for (path, text) in rule.bad {
            assert!(!(rule.finds)(&File::new(path, text)).is_empty(), "{} accepts {path}: {text}", rule.name);
        }
    }
    let long = "//! Long.\n".to_owned() + &"fn f() {}\n".repeat(LINES_MAX);
    assert_eq!(size(&File::new("src/hub/mod.rs", &long)).len(), 1);
    let tested =
        "//! Short.\n#[cfg(test)]\nmod tests {\n".to_owned() + &"fn f() {}\n".repeat(LINES_MAX) + "}\n";
    assert_eq!(size(&File::new("src/hub/mod.rs", &tested)).len(), 0);
}

#[test]
fn each_foreign_crate_has_one_door() {
    assert_clean(doors);
}

#[test]
fn pure_files_know_no_io_and_no_clock() {
    assert_clean(purity);
}

#[test]
fn an_arrow_may_only_point_down() {
    assert_clean(floors);
}

#[test]
fn every_queue_has_a_capacity() {
    assert_clean(queues);
}

#[test]
fn every_select_is_biased() {
    assert_clean(selects);
}

#[test]
fn bus_device_and_thing_are_plain_fields_of_the_log() {
    assert_clean(fields);
}

#[test]
fn nothing_is_left_over() {
    assert_clean(leftovers);
}

#[test]
fn every_file_starts_with_its_design_note() {
    assert_clean(notes);
}

#[test]
fn no_file_is_too_long() {
    assert_clean(size);
}

/// That every option is in it is proven where the options are known; here, that it parses.
#[test]
fn the_sample_configuration_parses_and_shows_every_section() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("config/fieldgate.toml")).unwrap();
    let sample: toml::Table = text.parse().unwrap();
    let sections: Vec<&str> = sample.keys().map(String::as_str).collect();
    for section in ["gateway", "uplink", "store", "log", "bus", "device"] {
        assert!(sections.contains(&section), "no {section} in {sections:?}");
    }
}
