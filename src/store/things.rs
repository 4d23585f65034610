//! Shadows, mirrors, member states, commands and fingerprints: read as a whole at the start,
//! written row by row in the hub's transaction.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::{Error, Store, audit, lock};
use crate::model::kept::{CommandRow, FingerprintRow, Kept, MemberRow, MirrorRow, ShadowRow};
use crate::model::time::Timestamp;

impl Store {
    /// Everything but the audit log; of the commands only those whose outcome is not known.
    pub fn things(&self) -> Result<Kept, Error> {
        let db = lock(&self.reader);
        self.marked(read(&db))
    }

    /// A command that was begun or done: its answer, if there is one.
    pub fn command(&self, thing: &str, id: &str) -> Result<Option<CommandRow>, Error> {
        let db = lock(&self.reader);
        let found = db
            .prepare_cached(
                "SELECT thing, id, name, at_ms, expires_ms, answer FROM command WHERE thing = ?1 AND id = ?2",
            )?
            .query_row([thing, id], command_row)
            .optional();
        self.marked(found.map_err(Error::from))
    }
}

fn command_row(r: &rusqlite::Row) -> rusqlite::Result<CommandRow> {
    Ok(CommandRow {
        thing: r.get(0)?,
        id: r.get(1)?,
        name: r.get(2)?,
        at: Timestamp(r.get(3)?),
        expires: Timestamp(r.get(4)?),
        answer: r.get(5)?,
    })
}

pub(super) fn read(db: &Connection) -> Result<Kept, Error> {
    fn all<T>(
        db: &Connection,
        sql: &str,
        row: impl FnMut(&rusqlite::Row) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, Error> {
        let mut st = db.prepare(sql)?;
        let rows = st.query_map([], row)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
    Ok(Kept {
        shadows: all(
            db,
            "SELECT thing, name, state, metadata, version, deleted, updated_s FROM shadow",
            |r| {
                Ok(ShadowRow {
                    thing: r.get(0)?,
                    name: r.get(1)?,
                    state: r.get(2)?,
                    metadata: r.get(3)?,
                    version: r.get::<_, i64>(4)? as u64,
                    deleted: r.get(5)?,
                    updated_s: r.get(6)?,
                    forget: false,
                })
            },
        )?,
        mirrors: all(db, "SELECT thing, name, base FROM mirror", |r| {
            Ok(MirrorRow { thing: r.get(0)?, name: r.get(1)?, base: Some(r.get(2)?) })
        })?,
        members: all(db, "SELECT thing, point, state FROM member", |r| {
            Ok(MemberRow { thing: r.get(0)?, point: r.get(1)?, state: Some(r.get(2)?) })
        })?,
        commands: all(
            db,
            "SELECT thing, id, name, at_ms, expires_ms, answer FROM command WHERE answer IS NULL",
            command_row,
        )?,
        fingerprints: all(db, "SELECT thing, approved, found, found_ms FROM fingerprint", |r| {
            Ok(FingerprintRow {
                thing: r.get(0)?,
                approved: r.get(1)?,
                found: r.get(2)?,
                found_at: r.get::<_, Option<i64>>(3)?.map(Timestamp),
            })
        })?,
        audit: Vec::new(),
    })
}

/// Writes it all, within the hub's transaction. Returns the new head of the audit log.
pub(super) fn write(t: &Transaction, kept: &Kept, head: audit::Head) -> Result<audit::Head, Error> {
    kept.shadows.iter().try_for_each(|row| shadow(t, row))?;
    for row in &kept.mirrors {
        match &row.base {
            Some(base) => t
                .prepare_cached("INSERT OR REPLACE INTO mirror (thing, name, base) VALUES (?1, ?2, ?3)")?
                .execute([&row.thing, &row.name, base])?,
            None => t
                .prepare_cached("DELETE FROM mirror WHERE thing = ?1 AND name = ?2")?
                .execute([&row.thing, &row.name])?,
        };
    }
    for row in &kept.members {
        match &row.state {
            Some(state) => t
                .prepare_cached("INSERT OR REPLACE INTO member (thing, point, state) VALUES (?1, ?2, ?3)")?
                .execute([&row.thing, &row.point, state])?,
            None => t
                .prepare_cached("DELETE FROM member WHERE thing = ?1 AND point = ?2")?
                .execute([&row.thing, &row.point])?,
        };
    }
    kept.commands.iter().try_for_each(|row| command(t, row))?;
    for row in &kept.fingerprints {
        t.prepare_cached(
            "INSERT OR REPLACE INTO fingerprint (thing, approved, found, found_ms) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![row.thing, row.approved, row.found, row.found_at.map(|t| t.0)])?;
    }
    audit::append(t, &kept.audit, head)
}

fn shadow(t: &Transaction, row: &ShadowRow) -> Result<(), Error> {
    if row.forget {
        t.prepare_cached("DELETE FROM shadow WHERE thing = ?1 AND name = ?2")?
            .execute([&row.thing, &row.name])?;
        return Ok(());
    }
    t.prepare_cached(
        "INSERT OR REPLACE INTO shadow (thing, name, state, metadata, version, deleted, updated_s)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        row.thing,
        row.name,
        row.state,
        row.metadata,
        row.version as i64,
        row.deleted,
        row.updated_s
    ])?;
    Ok(())
}

fn command(t: &Transaction, row: &CommandRow) -> Result<(), Error> {
    t.prepare_cached(
        "INSERT OR REPLACE INTO command (thing, id, name, at_ms, expires_ms, answer)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![row.thing, row.id, row.name, row.at.0, row.expires.0, row.answer])?;
    // What nobody can ask for again goes; those without an outcome are never repeated anyway.
    t.prepare_cached(
        "DELETE FROM command WHERE at_ms < (SELECT at_ms FROM command ORDER BY at_ms DESC LIMIT 1 OFFSET ?1)",
    )?
    .execute([COMMANDS_MAX])?;
    Ok(())
}

/// Commands that are remembered, so that a repeated request finds its answer. About 3 MB.
const COMMANDS_MAX: i64 = 10_000;
