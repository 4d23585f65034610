//! The store and the file system that it lies on.

use std::path::Path;
use std::time::Duration;

use super::agent;
use crate::control::snapshot::{Stock, hours_left};
use crate::doctor::judge::store::{Disk, Integrity, Opened, Room};
use crate::model::row::Reason;
use crate::store::inspect::{self, Inspection};
use crate::store::schema;

pub fn open(path: &Path) -> (Opened, Option<Inspection>) {
    if !path.exists() {
        return (Opened::NotThere, None);
    }
    let schema = match inspect::schema_version(path) {
        Ok(schema) => schema,
        Err(e) => return (Opened::Refused(e.to_string()), None),
    };
    let reads = |rows, readings| Opened::Reads { schema, known: schema::VERSION, rows, readings };
    // Tables of another schema are not ours to read.
    if schema != schema::VERSION {
        return (reads(0, 0), None);
    }
    match inspect::inspect(path) {
        Ok(seen) => (reads(seen.rows, seen.readings), Some(seen)),
        Err(e) => (Opened::Refused(e.to_string()), None),
    }
}

pub fn integrity(path: &Path, limit: Duration) -> Result<Integrity, String> {
    match inspect::integrity(path, limit).map_err(|e| e.to_string())? {
        None => Ok(Integrity::Unfinished(limit.as_secs())),
        Some(faults) => Ok(faults.into_iter().next().map_or(Integrity::Whole, Integrity::Damaged)),
    }
}

/// The rate is the agent's if it runs, else that at which the waiting readings came in.
pub fn room(seen: &Inspection, bytes_max: u64, agent: Option<&agent::Seen>) -> Room {
    let by_agent = agent.and_then(|a| a.status.as_ref()).and_then(|status| status.store.hours_left);
    let by_store = || {
        let over_ms = seen.newest?.millis_since(seen.oldest?);
        hours_left(Stock {
            bytes_free: bytes_max.saturating_sub(seen.bytes),
            bytes_used: seen.bytes,
            readings_waiting: seen.readings,
            readings_taken: seen.readings,
            taken_over_s: over_ms as f64 / 1000.0,
        })
    };
    let full = Reason::StoreFull.as_str();
    Room {
        bytes_used: seen.bytes,
        bytes_max,
        hours_left: by_agent.or_else(by_store),
        dropped: seen.ledger.iter().filter(|entry| entry.reason == full).map(|entry| entry.count).sum(),
    }
}

/// Of the nearest folder that is there.
pub fn disk(path: &Path) -> Option<(String, Disk)> {
    let folder = path.ancestors().skip(1).find(|folder| folder.is_dir())?;
    let found = rustix::fs::statvfs(folder).ok()?;
    let is_read_only = found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY);
    let bytes_free = found.f_bavail.saturating_mul(found.f_frsize);
    Some((folder.display().to_string(), Disk { bytes_free, is_read_only }))
}
