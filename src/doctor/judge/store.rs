//! The store: whole, with room, and the card not worn out by it. PURE.

use super::{bytes, count};
use crate::doctor::finding::Finding;

pub const STORE: &str = "store";
pub const INTEGRITY: &str = "store-integrity";
pub const ROOM: &str = "store-room";
pub const DISK: &str = "disk-space";
pub const WEAR: &str = "wear";

/// The trim begins to drop readings near the limit; there is no time left to act.
const USED_FAILED: f64 = 0.9;
const USED_WARNING: f64 = 0.7;

/// Less free space than this and nothing works any more, the journal included. Bytes.
const FREE_MIN: u64 = 16 << 20;

/// A card of 16 GB of the cheap kind takes about 10 TB: at this rate it lasts seven years.
/// Bytes per day.
const WEAR_MAX: u64 = 4 << 30;

/// A rate over less time than this says nothing; seconds.
const WEAR_OVER_MIN: u64 = 60;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// The agent makes it at its first start.
    NotThere,
    Reads {
        schema: i64,
        known: i64,
        rows: u64,
        readings: u64,
    },
    Refused(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Integrity {
    Whole,
    /// The first of what is wrong.
    Damaged(String),
    /// The time was over first; seconds.
    Unfinished(u64),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Room {
    pub bytes_used: u64,
    pub bytes_max: u64,
    pub hours_left: Option<f64>,
    /// Readings that were dropped for want of room, ever.
    pub dropped: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    pub bytes_free: u64,
    pub is_read_only: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wear {
    NoAgent,
    /// Its counters belong to another user.
    Hidden,
    Wrote {
        bytes: u64,
        seconds: u64,
    },
}

pub fn opened(path: &str, opened: &Opened) -> Finding {
    match opened {
        Opened::NotThere => {
            Finding::skipped(STORE, path, "there is none yet: the agent makes it at its first start")
        }
        Opened::Reads { schema, known, .. } if schema > known => Finding::failed(
            STORE,
            path,
            format!("a newer fieldgate wrote it (schema {schema}, this one knows {known})"),
            "install that version again, or move the file away and lose what waits in it",
        ),
        Opened::Reads { schema, rows, readings, .. } => Finding::ok(
            STORE,
            path,
            format!(
                "it opens (schema {schema}); {} wait in {}",
                count(*readings, "reading"),
                count(*rows, "row")
            ),
        ),
        Opened::Refused(why) => Finding::failed(
            STORE,
            path,
            why.as_str(),
            "ask as root or as the agent's user; a damaged file is set aside and salvaged by the next start",
        ),
    }
}

pub fn integrity(path: &str, integrity: &Integrity) -> Finding {
    match integrity {
        Integrity::Whole => Finding::ok(INTEGRITY, path, "every page and index is whole"),
        Integrity::Damaged(why) => Finding::failed(
            INTEGRITY,
            path,
            format!("it is damaged: {why}"),
            "restart the agent: it sets the file aside and salvages what reads; then suspect the card",
        ),
        Integrity::Unfinished(seconds) => Finding::skipped(
            INTEGRITY,
            path,
            format!("not fully checked within {seconds} s; nothing wrong was met until then"),
        ),
    }
}

pub fn room(path: &str, room: &Room) -> Finding {
    let share = room.bytes_used as f64 / room.bytes_max.max(1) as f64;
    let left = room.hours_left.map_or(String::new(), |h| format!(", room for {h} h without the cloud"));
    let dropped = match room.dropped {
        0 => String::new(),
        n => format!(", {} dropped for want of room so far", count(n, "reading")),
    };
    let found = format!("{} of {} used{left}{dropped}", bytes(room.bytes_used), bytes(room.bytes_max));
    let advice = "bring the broker back (see below), or raise store.max_size";
    if share >= USED_FAILED {
        Finding::failed(ROOM, path, format!("it is full, the oldest readings go: {found}"), advice)
    } else if share >= USED_WARNING {
        Finding::warning(ROOM, path, found, advice)
    } else {
        Finding::ok(ROOM, path, found)
    }
}

/// `wanted`: bytes by which the store may still grow.
pub fn disk(folder: &str, disk: &Disk, wanted: u64) -> Finding {
    let free = bytes(disk.bytes_free);
    if disk.is_read_only {
        let advice = "look at `dmesg`: a card that fails is often mounted read-only; replace it";
        return Finding::failed(DISK, folder, "its file system is read-only", advice);
    }
    if disk.bytes_free < FREE_MIN {
        let advice = "free some: `journalctl --vacuum-size=50M`, `apt-get clean`";
        return Finding::failed(DISK, folder, format!("only {free} are free"), advice);
    }
    if disk.bytes_free < wanted {
        let found = format!("{free} are free, and the store may still grow by {}", bytes(wanted));
        return Finding::warning(DISK, folder, found, "free some, or lower store.max_size");
    }
    Finding::ok(DISK, folder, format!("{free} are free"))
}

pub fn wear(wear: &Wear) -> Finding {
    let (written, seconds) = match wear {
        Wear::NoAgent => return Finding::skipped(WEAR, "", "no agent runs whose writes could be counted"),
        Wear::Hidden => {
            return Finding::skipped(WEAR, "", "the agent's counters cannot be read").advised("ask as root");
        }
        Wear::Wrote { seconds, .. } if *seconds < WEAR_OVER_MIN => {
            return Finding::skipped(WEAR, "", "the agent started a moment ago");
        }
        Wear::Wrote { bytes, seconds } => (*bytes, *seconds),
    };
    let per_day = (written as f64 * 86_400.0 / seconds as f64) as u64;
    let found = format!("the agent writes {} a day", bytes(per_day));
    if per_day <= WEAR_MAX {
        return Finding::ok(WEAR, "", found);
    }
    let advice = "on a card: store.durability = \"interval\", longer point intervals, or report = \"change\"";
    Finding::warning(WEAR, "", format!("{found}, which wears out a cheap card"), advice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Outcome::{self, Failed, Ok, Skipped, Warning};

    #[track_caller]
    fn check(found: Finding, expected: Outcome, words: &str) {
        assert_eq!(found.result, expected, "{found:?}");
        assert!(found.found.contains(words), "{found:?}");
        assert_eq!(
            found.advice.is_some(),
            matches!(expected, Warning | Failed) || words.contains("counters"),
            "{found:?}"
        );
    }

    #[test]
    fn the_file_is_judged() {
        let reads = |schema| Opened::Reads { schema, known: 2, rows: 1, readings: 60 };
        check(opened("f", &Opened::NotThere), Skipped, "first start");
        check(opened("f", &reads(2)), Ok, "60 readings wait in 1 row");
        check(opened("f", &reads(1)), Ok, "schema 1");
        check(opened("f", &reads(3)), Failed, "newer fieldgate");
        check(opened("f", &Opened::Refused("permission denied".into())), Failed, "permission");
        check(integrity("f", &Integrity::Whole), Ok, "whole");
        check(integrity("f", &Integrity::Damaged("row 3 missing".into())), Failed, "row 3");
        check(integrity("f", &Integrity::Unfinished(5)), Skipped, "within 5 s");
    }

    #[test]
    fn the_room_in_it_and_around_it_is_judged() {
        let used = |bytes_used| Room { bytes_used, bytes_max: 1000, hours_left: Some(2.5), dropped: 0 };
        check(room("f", &used(100)), Ok, "room for 2.5 h");
        check(room("f", &used(700)), Warning, "700 B of 1000 B used");
        check(room("f", &Room { dropped: 7, ..used(950) }), Failed, "7 readings dropped");
        let free = |bytes_free| Disk { bytes_free, is_read_only: false };
        check(disk("/v", &free(1 << 30), 1 << 20), Ok, "1.0 GiB are free");
        check(disk("/v", &free(100 << 20), 1 << 30), Warning, "may still grow");
        check(disk("/v", &free(1 << 20), 0), Failed, "only");
        check(disk("/v", &Disk { bytes_free: 1 << 40, is_read_only: true }, 0), Failed, "read-only");
    }

    #[test]
    fn wear_is_a_rate_over_a_time_that_says_something() {
        check(wear(&Wear::NoAgent), Skipped, "no agent");
        check(wear(&Wear::Hidden), Skipped, "counters");
        check(wear(&Wear::Wrote { bytes: 1 << 40, seconds: 5 }), Skipped, "a moment ago");
        check(wear(&Wear::Wrote { bytes: 1 << 20, seconds: 86_400 }), Ok, "1.0 MiB a day");
        check(wear(&Wear::Wrote { bytes: 1 << 30, seconds: 3600 }), Warning, "24.0 GiB a day");
    }
}
