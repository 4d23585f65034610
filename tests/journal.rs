//! The built agent with the journal as its log, and a device that is not there: what
//! `journalctl FIELDGATE_DEVICE=...` finds.
//!
//! The journal is a socket of ours. It stands in systemd's place in a mount namespace of the
//! agent alone (`unshare`, of util-linux), so that a machine with a journal of its own and one
//! without are alike.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

type Entry = BTreeMap<String, String>;

/// Ends with its owner.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Agent {
    fn start(folder: &Path, format: &str) -> Agent {
        // Ports of discard: nobody listens, and nobody else is asked for.
        let home = folder.display();
        let configuration = format!(
            "[gateway]\nname = \"gw-1\"\nstatus_socket = \"{home}/status.sock\"\n\
             [uplink]\nurl = \"mqtt://127.0.0.1:9\"\ninsecure = true\n\
             [store]\npath = \"{home}/fieldgate.db\"\n\
             [log]\nlevel = \"info\"\nformat = \"{format}\"\n\
             [[bus]]\nname = \"line-1\"\ntransport = \"tcp\"\nhost = \"127.0.0.1\"\nport = 9\n\
             [[device]]\nname = \"meter-1\"\nbus = \"line-1\"\nunit_id = 3\ninterval = \"100ms\"\n\
             [[device.point]]\nname = \"u\"\ntable = \"holding\"\naddress = 0\ntype = \"uint16\"\n"
        );
        std::fs::write(folder.join("fieldgate.toml"), configuration).unwrap();
        let script = "mount -t tmpfs none /run && mkdir -p /run/systemd/journal \
                      && ln -s \"$1/journal\" /run/systemd/journal/socket \
                      && exec \"$2\" run --config \"$1/fieldgate.toml\" 2>\"$1/stderr\"";
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c", script, "sh"]);
        command.arg(folder).arg(env!("CARGO_BIN_EXE_fieldgate"));
        for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("FIELDGATE_")) {
            command.env_remove(name);
        }
        command.env_remove("JOURNAL_STREAM").env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
        Agent(command.spawn().unwrap())
    }
}

fn parse(mut entry: &[u8]) -> Entry {
    let mut fields = Entry::new();
    while let Some(end) = entry.iter().position(|b| *b == b'\n') {
        let name = String::from_utf8(entry[..end].to_vec()).unwrap();
        let length = u64::from_le_bytes(entry[end + 1..end + 9].try_into().unwrap()) as usize;
        let value = String::from_utf8(entry[end + 9..end + 9 + length].to_vec()).unwrap();
        fields.insert(name, value);
        entry = &entry[end + 10 + length..];
    }
    fields
}

/// As `journalctl A=x B=y` would.
fn find<'a>(entries: &'a [Entry], matches: &[(&str, &str)]) -> Vec<&'a str> {
    let fits = |e: &&Entry| matches.iter().all(|(name, value)| e.get(*name).is_some_and(|v| v == value));
    entries.iter().filter(fits).map(|e| e["MESSAGE"].as_str()).collect()
}

#[test]
fn the_journal_finds_a_device_a_bus_and_a_thing_by_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let journal = UnixDatagram::bind(folder.path().join("journal")).unwrap();
    journal.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let _agent = Agent::start(folder.path(), "journal");
    let (mut entries, mut buffer) = (Vec::new(), vec![0; 1 << 18]);
    let wanted: [(&[(&str, &str)], &str); 4] = [
        (
            &[("FIELDGATE_DEVICE", "meter-1"), ("FIELDGATE_BUS", "line-1")],
            "device silent bus=line-1 device=meter-1",
        ),
        (&[("FIELDGATE_BUS", "line-1"), ("PRIORITY", "4")], "line gone bus=line-1"),
        (&[("FIELDGATE_THING", "gw-1")], "uplink offline"),
        (&[("SYSLOG_IDENTIFIER", "fieldgate"), ("FIELDGATE_GATEWAY", "gw-1")], "starting"),
    ];
    let said = |entries: &[Entry]| {
        wanted.iter().all(|(by, text)| find(entries, by).iter().any(|message| message.starts_with(text)))
    };
    while !said(&entries) {
        let length = journal.recv(&mut buffer).unwrap_or_else(|e| {
            let words = std::fs::read_to_string(folder.path().join("stderr")).unwrap_or_default();
            panic!("{e}: {entries:#?}\n{words}")
        });
        if length > 0 {
            entries.push(parse(&buffer[..length]));
        }
    }
    // The same lines are not on standard error too, where systemd would take them again.
    assert_eq!(std::fs::read_to_string(folder.path().join("stderr")).unwrap(), "");
}

#[test]
fn without_a_journal_the_same_stands_on_standard_error() {
    let folder = tempfile::tempdir().unwrap();
    let _agent = Agent::start(folder.path(), "auto");
    let wanted = regex::Regex::new(
        r"(?m)^\S+  WARN fieldgate::bus: device silent bus=line-1 device=meter-1 unit_id=3 cause=.+$",
    )
    .unwrap();
    for _ in 0..600 {
        if wanted.is_match(&std::fs::read_to_string(folder.path().join("stderr")).unwrap_or_default()) {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("{}", std::fs::read_to_string(folder.path().join("stderr")).unwrap_or_default());
}
