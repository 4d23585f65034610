//! The agent's configuration in a world, and a look into the file of its store.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use fieldgate::config::{Config, load};
use fieldgate::shadow::Shadow;

use crate::plant::{DEVICES, Framing, LATE_WINDOW, LINES, POINTS, RESPONSE_TIMEOUT};
use crate::service::Dialect;
use crate::units::WRITABLE;
use crate::world::{BATCH_WINDOW, WINDOW};

/// How old a desired value of `set` may be when it is first written, where it ages.
pub const EXPIRY: Duration = Duration::from_secs(15);
const AGES: &str = "write_expiry = \"15s\"\n";

pub fn taken_in(file: &Path) -> i64 {
    look(file, "SELECT taken, 0 FROM tally").0
}

/// Rows and readings that stand in the outbox.
pub fn standing(file: &Path) -> (i64, i64) {
    look(file, "SELECT count(*), coalesce(sum(readings), 0) FROM outbox")
}

fn look(file: &Path, question: &str) -> (i64, i64) {
    let db = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    db.query_row(question, [], |r| Ok((r.get(0)?, r.get(1)?))).unwrap()
}

/// What the store holds of things.
#[derive(Clone, Debug, Default)]
pub struct Shelf {
    /// Since the beginning of the world.
    pub at: Duration,
    /// By thing and name of the shadow.
    pub shadows: BTreeMap<(String, String), Shadow>,
    /// By thing and point.
    pub members: BTreeMap<(String, String), Value>,
}

impl Shelf {
    pub fn of(file: &Path, at: Duration) -> Shelf {
        let db = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        let mut shelf = Shelf { at, ..Shelf::default() };
        let mut rows = db
            .prepare("SELECT thing, name, state, metadata, version, deleted, updated_s FROM shadow")
            .unwrap();
        let rows = rows.query_map([], |r| {
            let (state, times): (String, String) = (r.get(2)?, r.get(3)?);
            let (version, deleted, updated): (i64, bool, i64) = (r.get(4)?, r.get(5)?, r.get(6)?);
            let shadow = Shadow::restore(&state, &times, version as u64, deleted, updated).unwrap();
            Ok(((r.get(0)?, r.get(1)?), shadow))
        });
        shelf.shadows.extend(rows.unwrap().map(Result::unwrap));
        let mut rows = db.prepare("SELECT thing, point, state FROM member").unwrap();
        let rows = rows.query_map([], |r| {
            let state: String = r.get(2)?;
            Ok(((r.get(0)?, r.get(1)?), serde_json::from_str(&state).unwrap()))
        });
        shelf.members.extend(rows.unwrap().map(Result::unwrap));
        shelf
    }
}

/// The entries of the audit log.
pub fn audit(file: &Path) -> Vec<Value> {
    let db = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let mut rows = db.prepare("SELECT entry FROM audit ORDER BY id").unwrap();
    let rows = rows.query_map([], |r| r.get::<_, String>(0)).unwrap();
    rows.map(|text| serde_json::from_str(&text.unwrap()).unwrap()).collect()
}

/// `dialect`: who serves the shadows. `ages`: desired values of the point `set` expire.
pub fn config(file: &Path, expires: bool, dialect: Dialect, ages: bool) -> Config {
    let folder = file.parent().unwrap();
    std::fs::create_dir_all(folder).unwrap();
    let mut text = format!(
        "[gateway]\nname = \"gw\"\n\
         [uplink]\nurl = \"mqtt://cloud.example\"\ninsecure = true\nwindow = {WINDOW}\n\
         keep_alive = \"10s\"\nconnect_timeout = \"5s\"\nreconnect_max = \"10s\"\n\
         [store]\npath = \"{}\"\nbatch_window = \"{}ms\"\n",
        file.display(),
        BATCH_WINDOW.as_millis(),
    );
    if expires {
        text += "max_age = \"20s\"\n";
    }
    text += match dialect {
        Dialect::Plain => "[shadow]\ndialect = \"plain\"\n",
        Dialect::Aws => "[shadow]\ndialect = \"aws\"\n",
    };
    for (number, framing) in LINES.iter().enumerate() {
        text += &format!("[[bus]]\nname = \"line-{number}\"\nreconnect_max = \"5s\"\n");
        text += match framing {
            Framing::Rtu => "transport = \"serial\"\npath = \"/dev/ttyS0\"\nbaud = 19200\n",
            Framing::Mbap => "transport = \"tcp\"\nhost = \"192.0.2.1\"\nconnect_timeout = \"2s\"\n",
        };
    }
    for (name, line, unit_id) in DEVICES {
        text += &format!(
            "[[device]]\nname = \"{name}\"\nbus = \"line-{line}\"\nunit_id = {unit_id}\n\
             response_timeout = \"{}ms\"\nlate_window = \"{}ms\"\nsilent_after = 2\n\
             backoff_max = \"8s\"\nhole_retry = \"20s\"\ninterval = \"1s\"\n",
            RESPONSE_TIMEOUT.as_millis(),
            LATE_WINDOW.as_millis(),
        );
        for (point, address) in POINTS {
            text += &format!(
                "[[device.point]]\nname = \"{point}\"\ntable = \"holding\"\naddress = {address}\ntype = \"uint32\"\n"
            );
        }
        text += "interval = \"5s\"\n";
        for (point, address) in WRITABLE {
            let (access, expiry) = match point {
                "pulse" => ("write", ""),
                "set" if ages => ("read-write", AGES),
                _ => ("read-write", "write_expiry = \"never\"\n"),
            };
            text += &format!(
                "[[device.point]]\nname = \"{point}\"\ntable = \"holding\"\naddress = {address}\n\
                 type = \"uint16\"\naccess = \"{access}\"\n{expiry}\
                 write_retry_min = \"1s\"\nwrite_retry_max = \"8s\"\n"
            );
            text += if access == "write" { "" } else { "interval = \"2s\"\n" };
        }
        text += "[[device.command]]\nname = \"kick\"\npoint = \"pulse\"\nexpiry = \"1m\"\n";
    }
    let path = folder.join("fieldgate.toml");
    std::fs::write(&path, text).unwrap();
    load::load_with(&path, std::iter::empty()).unwrap_or_else(|e| panic!("{e}"))
}
