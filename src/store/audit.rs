//! The audit log: append-only, each entry's hash covers the one before it.
//!
//! Constraints: an entry is in the same transaction as what it tells; changing, removing or
//! inserting one breaks every hash behind it; the log is bounded, and what was cut off its
//! beginning is told by an entry of the log itself.
//!
//! The way of an entry: the hub's JSON text → `append` (hash of the head and the text) →
//! `verify` reads from the first to the last, without the agent.
//!
//! Whoever may write the file can make a new chain from the beginning; so note the head that
//! `verify` prints somewhere else, and give it to the next `verify`.

use std::fmt::Write;
use std::path::Path;

use ring::digest::{SHA256, digest};
use rusqlite::{Connection, OpenFlags, Transaction, params};

use super::{Error, connect};

/// The last entry: its number and its hash. Zero before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    pub id: i64,
    pub hash: [u8; 32],
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub id: i64,
    /// JSON.
    pub text: String,
}

/// What the chain says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The first entry that is still there; earlier ones were cut off in order.
    pub first: i64,
    pub entries: u64,
    pub head: Head,
}

/// Where the chain does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("entry {id} was changed, or one before it: its hash does not follow from entry {before}")]
    Hash { id: i64, before: i64 },
    #[error("entry {missing} is missing")]
    Gap { missing: i64 },
    #[error("the log begins at entry {first}, and no entry says that the ones before were cut off")]
    Beginning { first: i64 },
    #[error("the noted head {0} is not in the log: entries were removed from its end, or it was made anew")]
    Head(String),
}

pub(super) fn append(t: &Transaction, entries: &[String], head: Head) -> Result<Head, Error> {
    if entries.is_empty() {
        return Ok(head);
    }
    let mut head = entries.iter().try_fold(head, |head, text| push(t, head, text))?;
    let first: i64 =
        t.prepare_cached("SELECT id FROM audit ORDER BY id LIMIT 1")?.query_row([], |r| r.get(0))?;
    if head.id - first >= ENTRIES_MAX {
        // The last of those cut off stays, as the root of the rest.
        let root = first + ENTRIES_MAX / 4;
        let hash: Vec<u8> =
            t.prepare_cached("SELECT hash FROM audit WHERE id = ?1")?.query_row([root], |r| r.get(0))?;
        t.prepare_cached("DELETE FROM audit WHERE id < ?1")?.execute([root])?;
        let text = format!(r#"{{"what":"trimmed","root":{root},"hash":"{}"}}"#, hex(&hash));
        head = push(t, head, &text)?;
    }
    Ok(head)
}

fn push(t: &Transaction, head: Head, text: &str) -> Result<Head, Error> {
    let next = Head { id: head.id + 1, hash: follow(&head.hash, text) };
    t.prepare_cached("INSERT INTO audit (id, entry, hash) VALUES (?1, ?2, ?3)")?
        .execute(params![next.id, text, next.hash])?;
    Ok(next)
}

fn follow(before: &[u8], text: &str) -> [u8; 32] {
    let mut bytes = Vec::with_capacity(before.len() + text.len());
    bytes.extend_from_slice(before);
    bytes.extend_from_slice(text.as_bytes());
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, &bytes).as_ref());
    hash
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

pub(super) fn head(db: &Connection) -> Result<Head, Error> {
    let mut st = db.prepare("SELECT id, hash FROM audit ORDER BY id DESC LIMIT 1")?;
    let mut rows = st.query([])?;
    match rows.next()? {
        None => Ok(Head::default()),
        Some(r) => Ok(Head { id: r.get(0)?, hash: r.get(1)? }),
    }
}

/// Follows the chain of the store at `path`, which the agent may be using. `noted` is the
/// head that an earlier call printed.
pub fn verify(path: &Path, noted: Option<&str>) -> Result<Result<Verified, Broken>, Error> {
    let db = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    let mut st = db.prepare("SELECT id, entry, hash FROM audit ORDER BY id")?;
    let mut rows = st.query([])?;
    let (mut head, mut first, mut entries) = (Head::default(), 0, 0);
    let (mut root, mut trimmed, mut seen) = (None, false, noted.is_none());
    while let Some(r) = rows.next()? {
        let (id, text, hash): (i64, String, Vec<u8>) = (r.get(0)?, r.get(1)?, r.get(2)?);
        if entries == 0 {
            first = id;
        } else if id != head.id + 1 {
            return Ok(Err(Broken::Gap { missing: head.id + 1 }));
        }
        if entries == 0 && id != 1 {
            // Its own hash cannot be computed any more; a later entry vouches for it.
            root = Some(format!(r#"{{"what":"trimmed","root":{id},"hash":"{}"}}"#, hex(&hash)));
            let Ok(hash) = hash.try_into() else { return Ok(Err(Broken::Hash { id, before: id - 1 })) };
            head = Head { id, hash };
        } else {
            let next = Head { id, hash: follow(&head.hash, &text) };
            if hash != next.hash {
                return Ok(Err(Broken::Hash { id, before: id - 1 }));
            }
            trimmed |= root.as_ref() == Some(&text);
            head = next;
        }
        seen |= noted.is_some_and(|noted| noted.eq_ignore_ascii_case(&hex(&head.hash)));
        entries += 1;
    }
    if root.is_some() && !trimmed {
        return Ok(Err(Broken::Beginning { first }));
    }
    match noted {
        Some(noted) if !seen => Ok(Err(Broken::Head(noted.to_owned()))),
        _ => Ok(Ok(Verified { first, entries, head })),
    }
}

/// The newest `n` entries, the oldest of them first.
pub fn newest(path: &Path, n: u32) -> Result<Vec<Entry>, Error> {
    let db = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    let mut st = db.prepare("SELECT id, entry FROM audit ORDER BY id DESC LIMIT ?1")?;
    let rows = st.query_map([n], |r| Ok(Entry { id: r.get(0)?, text: r.get(1)? }))?;
    let mut entries = rows.collect::<Result<Vec<_>, _>>()?;
    entries.reverse();
    Ok(entries)
}

/// Entries kept, about 10 MB; when they are reached the oldest quarter goes.
pub const ENTRIES_MAX: i64 = 20_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// A store file with these entries and nothing else.
    fn log(n: i64) -> (tempfile::TempDir, std::path::PathBuf, Connection) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        let mut db = Connection::open(&path).unwrap();
        super::super::schema::migrate(&mut db, &path).unwrap();
        let t = db.transaction().unwrap();
        let entries: Vec<String> = (1..=n).map(|i| format!(r#"{{"n":{i}}}"#)).collect();
        append(&t, &entries, Head::default()).unwrap();
        t.commit().unwrap();
        (folder, path, db)
    }

    fn check(damage: &str, expected: Result<u64, Broken>) {
        let (_folder, path, db) = log(5);
        let noted = verify(&path, None).unwrap().unwrap().head;
        db.execute_batch(damage).unwrap();
        let found = verify(&path, Some(&hex(&noted.hash))).unwrap();
        assert_eq!(found.map(|v| v.entries), expected.clone(), "{damage}");
    }

    #[test]
    fn whoever_touches_an_entry_is_found_out() {
        let head = hex(&head(&log(5).2).unwrap().hash);
        check("", Ok(5));
        check("UPDATE audit SET entry = '{\"n\":9}' WHERE id = 3", Err(Broken::Hash { id: 3, before: 2 }));
        check("UPDATE audit SET hash = zeroblob(32) WHERE id = 5", Err(Broken::Hash { id: 5, before: 4 }));
        check("DELETE FROM audit WHERE id = 2", Err(Broken::Gap { missing: 2 }));
        check("DELETE FROM audit WHERE id < 3", Err(Broken::Beginning { first: 3 }));
        check("DELETE FROM audit WHERE id = 5", Err(Broken::Head(head)));
    }

    #[test]
    fn a_log_that_was_cut_at_its_beginning_says_so_and_still_verifies() {
        let (_folder, path, db) = log(ENTRIES_MAX + 1);
        let found = verify(&path, None).unwrap().unwrap();
        assert_eq!((found.first, found.entries as i64), (1 + ENTRIES_MAX / 4, ENTRIES_MAX * 3 / 4 + 2));
        db.execute("UPDATE audit SET entry = '' WHERE id = ?1", [ENTRIES_MAX]).unwrap();
        assert!(verify(&path, None).unwrap().is_err());
    }
}
