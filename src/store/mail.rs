//! Letters: what is said beside readings. Answers to requests, news of shadows, requests to a
//! shadow service of the cloud.
//!
//! Constraints: a letter is in the transaction of what it tells, so whoever got an answer
//! can rely on it and whoever waits for one gets it after a restart; an outage costs one row
//! for each topic of news and [`ANSWERS_MAX`] answers for each connection, not more; a
//! request to the cloud is worth nothing on another connection and goes with its own.

use rusqlite::{Connection, Transaction, params};

use super::{Error, Store, lock};
use crate::model::kept::{Letter, LetterClass};
use crate::model::row::Route;
use crate::model::time::Timestamp;

/// A letter to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// Grows, is never used twice.
    pub id: i64,
    pub letter: Letter,
}

impl Store {
    /// Up to `n` letters of this route after `after`, in order.
    pub fn mail(&self, route: Route, after: i64, n: usize) -> Result<Vec<Mail>, Error> {
        let db = lock(&self.reader);
        self.marked(read(&db, route, after, n))
    }

    /// The far side has them, or will not have them. They are deleted with the next commit
    /// or flush.
    pub fn mail_done(&self, ids: &[i64]) {
        lock(&self.mail_done).extend(ids);
    }

    /// The connection is gone: its requests will not be answered.
    pub fn drop_requests(&self, route: Route) -> Result<(), Error> {
        self.marked(drop_requests(&self.writer().db, Some(route)))
    }
}

fn read(db: &Connection, route: Route, after: i64, n: usize) -> Result<Vec<Mail>, Error> {
    let mut st = db.prepare_cached(
        "SELECT id, class, topic, payload, at_ms FROM mail WHERE route = ?1 AND id > ?2 ORDER BY id LIMIT ?3",
    )?;
    let rows = st.query_map(params![route.0, after, n as i64], |r| {
        let class = match r.get(1)? {
            0 => LetterClass::Answer,
            1 => LetterClass::News,
            _ => LetterClass::Request,
        };
        let letter = Letter { route, class, topic: r.get(2)?, payload: r.get(3)?, at: Timestamp(r.get(4)?) };
        Ok(Mail { id: r.get(0)?, letter })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Returns the newest letter of each route that got one.
pub(super) fn insert(t: &Transaction, letters: &[Letter]) -> Result<Vec<(Route, i64)>, Error> {
    let mut newest: Vec<(Route, i64)> = Vec::new();
    for letter in letters {
        t.prepare_cached(
            "INSERT OR REPLACE INTO mail (route, class, topic, payload, at_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            letter.route.0,
            number(letter.class),
            letter.topic,
            letter.payload,
            letter.at.0
        ])?;
        let id = t.last_insert_rowid();
        match newest.iter_mut().find(|(route, _)| *route == letter.route) {
            Some((_, last)) => *last = id,
            None => newest.push((letter.route, id)),
        }
    }
    for (route, _) in &newest {
        t.prepare_cached(
            "DELETE FROM mail WHERE id IN
                 (SELECT id FROM mail WHERE route = ?1 AND class = 0 ORDER BY id DESC LIMIT -1 OFFSET ?2)",
        )?
        .execute(params![route.0, ANSWERS_MAX])?;
    }
    Ok(newest)
}

pub(super) fn delete(t: &Transaction, ids: &[i64]) -> Result<(), Error> {
    let mut st = t.prepare_cached("DELETE FROM mail WHERE id = ?1")?;
    ids.iter().try_for_each(|id| st.execute([id]).map(drop).map_err(Error::from))
}

/// Of one route, or all.
pub(super) fn drop_requests(db: &Connection, route: Option<Route>) -> Result<(), Error> {
    db.prepare_cached("DELETE FROM mail WHERE class = 2 AND (?1 IS NULL OR route = ?1)")?
        .execute([route.map(|r| r.0)])?;
    Ok(())
}

fn number(class: LetterClass) -> i64 {
    match class {
        LetterClass::Answer => 0,
        LetterClass::News => 1,
        LetterClass::Request => 2,
    }
}

/// Answers that wait on one connection; then the oldest goes: nobody waits that long.
pub const ANSWERS_MAX: i64 = 256;
