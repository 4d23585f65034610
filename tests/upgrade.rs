//! Stores of former releases, as their own binaries left them (`tests/cases/store/make`), opened
//! by this one: everything is there, whatever moment the upgrade is interrupted at; and a
//! store of a later release is refused, untouched.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use fieldgate::model::ids::PointIndex;
use fieldgate::model::row::{Kind, OutboxId, Route, Row};
use fieldgate::model::time::Timestamp;
use fieldgate::packed::Reader;
use fieldgate::store::{Store, audit, schema};
use serde_json::Value;

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const ROOMY: u64 = 256 << 20;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/store").join(name)
}

/// The file and the log beside it, if there is one.
type Files = BTreeMap<String, Vec<u8>>;

fn files(folder: &Path) -> Files {
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let file = |path: PathBuf| {
        let name = path.file_name()?.to_string_lossy().into_owned();
        // The index of the log is made anew by whoever opens it.
        (name.starts_with("fieldgate.db") && !name.ends_with("-shm"))
            .then(|| (name, std::fs::read(&path).unwrap()))
    };
    entries.filter_map(file).collect()
}

fn put(files: &Files) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    files.iter().for_each(|(name, bytes)| std::fs::write(place.path().join(name), bytes).unwrap());
    place
}

fn open(place: &Path) -> Store {
    Store::open(&place.join("fieldgate.db"), ROOMY, None, NOW).unwrap()
}

/// What stood in it when its own release left it, by table; without a release: nothing.
struct Expected(Value);

impl Expected {
    fn of(name: &str) -> Expected {
        Expected(serde_json::from_slice(&std::fs::read(folder(name).join("expected.json")).unwrap()).unwrap())
    }

    fn rows(&self, table: &str) -> &[Value] {
        self.0[table].as_array().map_or(&[], Vec::as_slice)
    }

    fn sum(&self, column: &str) -> i64 {
        self.rows("tally").first().map_or(0, |tally| tally[column].as_i64().unwrap())
    }

    /// One row of the outbox as `text_of` writes it.
    fn row(&self, row: &Value) -> String {
        let layout = self.rows("layout").iter().find(|l| l["id"] == row["layout"]).unwrap();
        let kind = [Kind::Telemetry, Kind::Fault, Kind::Gap][row["kind"].as_u64().unwrap() as usize];
        let store_id = self.sum("store_id");
        format!(
            "{} {kind:?} {} {} {store_id:08x}-{} {} {} {} {}",
            row["id"],
            layout["device"].as_str().unwrap(),
            layout["points"].as_str().unwrap(),
            row["boot"],
            row["seq"],
            row["readings"],
            row["first_ms"],
            row["payload"].as_str().unwrap()
        )
    }

    /// Everything stands in the store as it stood in the file.
    fn check(&self, store: &Store, path: &Path) {
        let routes: Vec<(i64, &str)> = self
            .rows("route")
            .iter()
            .map(|r| (r["id"].as_i64().unwrap(), r["thing"].as_str().unwrap()))
            .collect();
        for (id, thing) in &routes {
            assert_eq!(store.route(thing).unwrap(), Route(*id), "{thing} keeps its number");
        }
        for route in routes.iter().map(|(id, _)| *id).chain([0]) {
            let of_route = |row: &&Value| row["route"].as_i64().unwrap_or(0) == route;
            let expected: Vec<String> =
                self.rows("outbox").iter().filter(of_route).map(|row| self.row(row)).collect();
            let found: Vec<String> = peek(store, Route(route)).iter().map(text_of).collect();
            assert_eq!(found, expected, "route {route}");
        }
        let tally = store.tally();
        let sums = [tally.taken, tally.delivered, tally.dropped, tally.last_id];
        assert_eq!(sums, ["taken", "delivered", "dropped", "last_id"].map(|column| self.sum(column)));
        let mut ledger: BTreeMap<(String, String), i64> = BTreeMap::new();
        for e in self.rows("ledger") {
            let text = |column: &str| e[column].as_str().unwrap().to_owned();
            *ledger.entry((text("device"), text("reason"))).or_default() += e["readings"].as_i64().unwrap();
        }
        let found = store.ledger().unwrap().into_iter().map(|e| ((e.device, e.reason), e.count as i64));
        let mut sums: BTreeMap<(String, String), i64> = BTreeMap::new();
        found.for_each(|(of, count)| *sums.entry(of).or_default() += count);
        assert_eq!(sums, ledger);
        assert_eq!(ledger.values().sum::<i64>(), tally.dropped);
        self.check_things(store, path);
    }

    fn check_things(&self, store: &Store, path: &Path) {
        let kept = store.things().unwrap();
        let lines = |table: &str, columns: &[&str]| -> Vec<String> {
            let line = |row: &Value| {
                let text = |c: &&str| row[*c].as_str().map_or_else(|| row[*c].to_string(), str::to_owned);
                columns.iter().map(text).collect::<Vec<_>>().join("|")
            };
            self.rows(table).iter().map(line).collect()
        };
        let shadows = kept.shadows.iter().map(|s| {
            let deleted = u8::from(s.deleted);
            format!(
                "{}|{}|{}|{}|{}|{deleted}|{}",
                s.thing, s.name, s.state, s.metadata, s.version, s.updated_s
            )
        });
        let columns = ["thing", "name", "state", "metadata", "version", "deleted", "updated_s"];
        assert_eq!(shadows.collect::<Vec<_>>(), lines("shadow", &columns));
        let members =
            kept.members.iter().map(|m| format!("{}|{}|{}", m.thing, m.point, m.state.clone().unwrap()));
        assert_eq!(members.collect::<Vec<_>>(), lines("member", &["thing", "point", "state"]));
        let fingerprints = kept.fingerprints.iter().map(|f| {
            let text = |t: &Option<String>| t.clone().unwrap_or_else(|| "null".into());
            format!("{}|{}|{}", f.thing, text(&f.approved), text(&f.found))
        });
        assert_eq!(fingerprints.collect::<Vec<_>>(), lines("fingerprint", &["thing", "approved", "found"]));
        let log = audit::verify(path, None).unwrap().unwrap();
        assert_eq!(log.entries, self.rows("audit").len() as u64);
        assert_eq!(
            lines("audit", &["hash"]).last().cloned().unwrap_or("00".repeat(32)),
            audit::hex(&log.head.hash)
        );
    }
}

fn peek(store: &Store, route: Route) -> Vec<Row> {
    store.peek(route, OutboxId(0), OutboxId(i64::MAX), usize::MAX >> 1, usize::MAX).unwrap()
}

fn text_of(row: &Row) -> String {
    let points: Vec<_> =
        row.layout.points.iter().map(|(name, unit)| (name.as_str(), unit.as_deref())).collect();
    let hex: String = row.payload.iter().map(|b| format!("{b:02x}")).collect();
    format!(
        "{} {:?} {} {} {} {} {} {} {hex}",
        row.id.0,
        row.kind,
        row.layout.device,
        serde_json::to_string(&points).unwrap(),
        row.boot,
        row.seq,
        row.readings,
        row.first.0
    )
}

/// Each packed reading can be unpacked, and there are as many as the row says.
fn unpacked(row: &Row) -> u32 {
    let (mut reader, mut readings) = (Reader::new(&row.payload, row.first), 0);
    while let Some((_, n)) = reader.group().unwrap() {
        let mut next = 0;
        for _ in 0..n {
            let PointIndex(point) = reader.reading(&mut next).unwrap().point;
            assert!(usize::from(point) < row.layout.points.len());
            readings += 1;
        }
    }
    readings
}

/// Tables and indices, in SQL.
fn shape(path: &Path) -> Vec<String> {
    let db = rusqlite::Connection::open(path).unwrap();
    let mut st = db.prepare("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name").unwrap();
    let rows = st.query_map([], |r| r.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

fn releases() -> Vec<String> {
    let folders = std::fs::read_dir(folder("")).unwrap().map(|e| e.unwrap());
    let mut names: Vec<String> =
        folders.filter(|e| e.path().is_dir()).map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn every_former_schema_has_a_file_of_its_own_release() {
    let names = releases();
    for version in 1..schema::VERSION {
        for name in [version.to_string(), format!("{version}-killed")] {
            assert!(
                names.contains(&name),
                "no tests/cases/store/{name}: have the release that wrote schema {version} make it (make --help)"
            );
        }
    }
    for name in names {
        let expected = Expected::of(&name);
        assert_eq!(expected.0["version"], name.trim_end_matches("-killed").parse::<i64>().unwrap(), "{name}");
        assert_eq!(files(&folder(&name)).len(), if name.ends_with("-killed") { 2 } else { 1 }, "{name}");
        for (kind, what) in [(0, "readings"), (1, "faults"), (2, "gaps")] {
            assert!(expected.rows("outbox").iter().any(|r| r["kind"] == kind), "{name} holds no {what}");
        }
        assert!(!expected.rows("ledger").is_empty(), "{name} has an empty ledger");
    }
}

#[test]
fn a_store_of_each_release_opens_with_all_that_is_in_it_and_drains() {
    let fresh = tempfile::tempdir().unwrap();
    open(fresh.path()).close().unwrap();
    for name in releases() {
        let (expected, place) = (Expected::of(&name), put(&files(&folder(&name))));
        let path = place.path().join("fieldgate.db");
        let store = open(place.path());
        assert_eq!(i64::from(store.boot().store_id), expected.sum("store_id"), "{name}");
        assert_eq!(store.boot().count, expected.sum("boots") + 1, "{name}");
        expected.check(&store, &path);
        let routes: Vec<Route> = expected
            .rows("route")
            .iter()
            .map(|r| Route(r["id"].as_i64().unwrap()))
            .chain([Route(0)])
            .collect();
        for row in routes.iter().flat_map(|route| peek(&store, *route)) {
            match row.kind {
                Kind::Telemetry => assert_eq!(unpacked(&row), row.readings, "{name}"),
                _ => drop(serde_json::from_slice::<Value>(&row.payload).unwrap()),
            }
            store.ack(row.id);
        }
        store.close().unwrap();
        let tally = store.tally();
        assert_eq!((tally.rows_waiting(), tally.readings_waiting()), (0, 0), "{name}");
        assert_eq!(tally.delivered, expected.sum("taken") - expected.sum("dropped"), "{name}");
        drop(store);
        // No migration that was released has been edited since.
        assert_eq!(shape(&path), shape(&fresh.path().join("fieldgate.db")), "{name}");
    }
}

/// Everything that a kill or a power cut during the first start can leave: the log up to each
/// page that was written, and up to the middle of it.
#[test]
fn an_upgrade_that_is_interrupted_anywhere_has_lost_nothing() {
    const LOG_HEAD: usize = 32;
    const FRAME: usize = 24 + 4096;
    let empty = Expected(Value::Null);
    let mut cases = vec![("nothing".to_owned(), Files::new(), empty)];
    let former =
        releases().into_iter().map(|name| (name.clone(), files(&folder(&name)), Expected::of(&name)));
    cases.extend(former);
    for (name, before, expected) in cases {
        let place = put(&before);
        let store = open(place.path());
        // While it is open nothing goes from the log into the file.
        let after = files(place.path());
        drop(store);
        let (file, log) = (&after["fieldgate.db"], &after["fieldgate.db-wal"]);
        let is_upgrade = name == "nothing" || expected.0["version"] != schema::VERSION;
        let written = before.get("fieldgate.db-wal").map_or(0, Vec::len);
        assert!(log.len() > written.max(LOG_HEAD + FRAME), "{name}: nothing was written");
        let ends = (0..).flat_map(|n| [LOG_HEAD + n * FRAME, LOG_HEAD + n * FRAME + FRAME / 2]);
        let ends: Vec<usize> =
            ends.take_while(|end| *end <= log.len()).filter(|end| *end >= written).collect();
        assert!(!is_upgrade || ends.len() > 20, "{name}: {} moments", ends.len());
        for end in ends {
            let cut = put(&Files::from([
                ("fieldgate.db".to_owned(), file.clone()),
                ("fieldgate.db-wal".to_owned(), log[..end].to_vec()),
            ]));
            let path = cut.path().join("fieldgate.db");
            let store = Store::open(&path, ROOMY, None, NOW).unwrap_or_else(|e| panic!("{name}, {end}: {e}"));
            expected.check(&store, &path);
            drop(store);
            let aside: Vec<String> =
                files(cut.path()).into_keys().filter(|n| n.contains(".damaged")).collect();
            assert!(aside.is_empty(), "{name}, {end}: {aside:?}");
        }
    }
}

fn run(home: &Path) -> (Option<i32>, String) {
    let text = format!(
        "[gateway]\nname = \"gw-1\"\nstatus_socket = \"{0}/status.sock\"\n\
         [uplink]\nurl = \"mqtt://127.0.0.1:9\"\ninsecure = true\n[store]\npath = \"{0}/fieldgate.db\"\n\
         [[bus]]\nname = \"line-1\"\ntransport = \"tcp\"\nhost = \"127.0.0.1\"\nport = 9\n\
         [[device]]\nname = \"meter-1\"\nbus = \"line-1\"\nunit_id = 3\n\
         [[device.point]]\nname = \"u\"\ntable = \"holding\"\naddress = 0\ntype = \"uint16\"\n",
        home.display()
    );
    std::fs::write(home.join("fieldgate.toml"), text).unwrap();
    let mut command = Command::new("timeout");
    command.args(["20", env!("CARGO_BIN_EXE_fieldgate"), "run", "--config"]).arg(home.join("fieldgate.toml"));
    let output = command.env_remove("JOURNAL_STREAM").env_remove("NOTIFY_SOCKET").output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// A store whose newest commits, the next schema among them, stand in its log.
fn newer() -> tempfile::TempDir {
    let place = put(&files(&folder("2-killed")));
    let db = rusqlite::Connection::open(place.path().join("fieldgate.db")).unwrap();
    db.pragma_update(None, "user_version", schema::VERSION + 1).unwrap();
    let copied = put(&files(place.path()));
    assert!(copied.path().join("fieldgate.db-wal").exists());
    copied
}

#[test]
fn a_store_of_a_later_release_is_refused_in_words_and_not_touched() {
    for marked in [false, true] {
        let place = newer();
        if marked {
            std::fs::write(place.path().join("fieldgate.db-corrupt"), "set aside at the next start\n")
                .unwrap();
        }
        let before = files(place.path());
        let (code, words) = run(place.path());
        assert_eq!(code, Some(65), "{words}");
        let path = place.path().join("fieldgate.db").display().to_string();
        let (theirs, ours) = (schema::VERSION + 1, schema::VERSION);
        let version = env!("CARGO_PKG_VERSION");
        let parts = [
            path.as_str(),
            &format!("its schema is {theirs}"),
            &format!("this one, {version}, knows those up to {ours}"),
            "Install the newer package again",
            "move the file",
        ];
        for part in parts {
            assert!(words.contains(part), "{part:?} is not in {words:?}");
        }
        assert!(before == files(place.path()), "marked: {marked}: something was changed or set aside");
        // Again the same: a service manager may try.
        assert_eq!(run(place.path()).0, Some(65));
        assert!(before == files(place.path()));
    }
}
