//! `[shadow]`: nothing is seen from outside unless a dialect says to whom.

use std::time::Duration;

use super::values::{HOUR, Reader, SECOND};
use crate::config::errors::{Place, Report};
use crate::config::load::Placed;
use crate::config::{Dialect, MirrorRule, Shadow, raw};

pub fn shadow(placed: &Placed<raw::Shadow>, report: &mut Report) -> Shadow {
    let Placed { place, raw } = placed;
    let dialect = match raw.dialect.unwrap_or(raw::Dialect::None) {
        raw::Dialect::None => Dialect::None,
        raw::Dialect::Plain => Dialect::Plain,
        raw::Dialect::Aws => Dialect::Aws,
    };
    let mut reader = Reader { place, report };
    let interval = reader.span("interval", raw.interval, SECOND * 5, Duration::from_millis(100)..=HOUR);
    let depth = reader.number("depth", raw.depth, 6, 1..=32);
    let size = reader.size("size", raw.size, 8 << 10, 1 << 10..=30 << 10);
    let per_thing = reader.number("per_thing", raw.per_thing, 25, 2..=1000);
    let name = raw.name.clone().unwrap_or_default();
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '_' | '-');
    if name.len() > 64 || !name.chars().all(fits) || name == STATES {
        let help =
            format!("empty for the classic shadow, or at most 64 of A-Z a-z 0-9 : _ -, and not {STATES:?}");
        report.error(place, "name", format!("{name:?} cannot carry the readings"), help);
    }
    Shadow {
        prefix: prefix(raw, dialect, place, report),
        command_topic: command_topic(raw, place, report),
        mirror: mirror(raw, dialect, place, report),
        reported: raw.reported.unwrap_or(dialect != Dialect::None),
        quality: raw.quality.unwrap_or(false),
        dialect,
        interval,
        name,
        depth: usize::from(depth),
        size: usize::try_from(size).unwrap_or(usize::MAX),
        per_thing: usize::from(per_thing),
    }
}

fn prefix(raw: &raw::Shadow, dialect: Dialect, place: &Place, report: &mut Report) -> String {
    let prefix = raw.prefix.clone().unwrap_or_else(|| "$aws".into());
    if prefix.is_empty() || prefix.contains(['+', '#', '\0', '{', '}']) || prefix.ends_with('/') {
        let help = "the levels before /things/, for instance \"$aws\" or \"shadows\"";
        report.error(place, "prefix", format!("{prefix:?} cannot begin a topic"), help);
    }
    if dialect == Dialect::Aws && prefix != "$aws" {
        let help = "remove it, or use the dialect \"plain\"";
        report.error(place, "prefix", "AWS IoT knows its shadows under $aws only", help);
    }
    prefix
}

fn command_topic(raw: &raw::Shadow, place: &Place, report: &mut Report) -> String {
    let topic = raw.command_topic.clone().unwrap_or_else(|| "cmd/{thing}/{name}".into());
    let levels: Vec<&str> = topic.split('/').collect();
    let once = |what| levels.iter().filter(|l| **l == what).count() == 1;
    let rest = || levels.iter().filter(|l| !matches!(**l, "{thing}" | "{name}"));
    if !once("{thing}") || !once("{name}") || rest().any(|l| l.contains(['+', '#', '\0', '{', '}'])) {
        let help = "a topic with the levels {thing} and {name}, for instance \"cmd/{thing}/{name}\"";
        report.error(place, "command_topic", format!("{topic:?} is no topic of commands"), help);
    }
    topic
}

fn mirror(raw: &raw::Shadow, dialect: Dialect, place: &Place, report: &mut Report) -> Vec<MirrorRule> {
    let rules = raw.mirror.clone().unwrap_or_default();
    if !rules.is_empty() && dialect != Dialect::Aws {
        report.warn(
            place,
            "mirror",
            "has no effect: only the dialect \"aws\" has a shadow service to mirror",
        );
    }
    let rule = |rule: raw::Mirror| MirrorRule {
        thing: rule.thing.unwrap_or_else(|| "*".into()),
        shadow: rule.shadow.unwrap_or_else(|| "*".into()),
        direction: rule.direction.unwrap_or(raw::Direction::Both),
        desired: rule.desired.unwrap_or(raw::Side::Cloud),
        reported: rule.reported.unwrap_or(raw::Side::Device),
    };
    match (rules.is_empty(), dialect) {
        // Whoever names the cloud's shadow service means all of it.
        (true, Dialect::Aws) => vec![rule(raw::Mirror::default())],
        _ => rules.into_iter().map(rule).collect(),
    }
}

/// The named shadow in which fieldgate tells how desired members fare.
pub const STATES: &str = "fieldgate";
