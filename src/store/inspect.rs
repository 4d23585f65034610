//! A look at the file from outside, while the agent runs or not: `fieldgate outbox`.

use std::path::Path;

use rusqlite::OpenFlags;

use super::{Error, Tally, connect, ledger, outbox};
use crate::model::time::Timestamp;

#[derive(Clone, Debug)]
pub struct Inspection {
    pub tally: Tally,
    pub boots: i64,
    pub bytes_on_disk: u64,
    pub oldest: Option<Timestamp>,
    pub newest: Option<Timestamp>,
    pub ledger: Vec<ledger::Entry>,
}

pub fn inspect(path: &Path) -> Result<Inspection, Error> {
    let bytes_on_disk = std::fs::metadata(path)?.len();
    let db = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    let at = |order: &str| -> Result<Option<Timestamp>, Error> {
        let mut st = db.prepare(&format!("SELECT first_ms FROM outbox ORDER BY id {order} LIMIT 1"))?;
        let mut rows = st.query([])?;
        Ok(rows.next()?.map(|r| r.get(0)).transpose()?.map(Timestamp))
    };
    Ok(Inspection {
        tally: outbox::read_tally(&db)?,
        boots: db.query_row("SELECT boots FROM tally", [], |r| r.get(0))?,
        bytes_on_disk,
        oldest: at("ASC")?,
        newest: at("DESC")?,
        ledger: ledger::read(&db)?,
    })
}
