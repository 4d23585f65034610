//! What helps from far away, each with its bound; what cannot be had says why.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::item::{ITEM_BYTES_MAX, Wanted};
use crate::config::load::Layered;
use crate::config::merged::merged;
use crate::config::{Config, Security, Tls, credential};
use crate::control::ask::{Answer, Ask};
use crate::control::client;
use crate::doctor::look::{self, Root, command};
use crate::doctor::{self, UNIT};
use crate::identity::files::{self, Folder, Slot};
use crate::identity::plan;
use crate::store::{audit, inspect};

const STATUS_LIMIT: Duration = Duration::from_secs(5);
const STORE_LIMIT: Duration = Duration::from_secs(10);
const COMMAND_LIMIT: Duration = Duration::from_secs(10);

/// Lines of the journal, the newest first, so that a bound in bytes costs the oldest.
const JOURNAL_LINES: &str = "2000";

/// Things whose certificates go in.
const THINGS_MAX: usize = 50;

/// Entries of the ledger, the newest ones.
const LEDGER_MAX: usize = 500;

/// What the kernel and the distribution say of themselves.
const MACHINE: &[&str] = &[
    "/proc/version",
    "/proc/cmdline",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/mounts",
    "/etc/os-release",
    "/proc/device-tree/model",
];

const ABSENT_CONFIGURATION: &str = "the configuration is wrong: see doctor.json";

pub fn all(path: &Path, layered: Option<&Layered>, config: Option<&Config>, root: &Root) -> Vec<Wanted> {
    let configured = |work: &dyn Fn(&Config) -> Result<String, String>| match config {
        Some(config) => work(config),
        None => Err(ABSENT_CONFIGURATION.into()),
    };
    let mut wanted = vec![
        Wanted::new("version.json", "version and build", Ok(version())),
        Wanted::new("doctor.json", "what fieldgate doctor finds", pretty(&doctor::examine(Some(path), root))),
        Wanted::new(
            "configuration.toml",
            "the merged configuration without its secrets",
            configuration(layered),
        ),
        Wanted::new("status.json", "what the running agent says", configured(&status)),
        Wanted::new(
            "store.json",
            "how many rows and readings wait, and the ledger; no values",
            configured(&store),
        ),
        Wanted::new("audit.json", "whether the log of writes is intact; no entries", configured(&audited)),
        Wanted::new("journal.txt", "the agent's last log lines, the newest first", journal()),
        Wanted::new("unit.txt", "the unit file with its drop-ins", systemctl(&["cat", UNIT])),
        Wanted::new("unit-state.txt", "the unit as systemd has it", systemctl(&["show", UNIT])),
        Wanted::new("machine.txt", "kernel, memory, uptime, distribution", Ok(machine(root))),
        Wanted::new("serial.json", "serial ports, their drivers and stable names", serial(root)),
    ];
    if let Some(config) = config {
        wanted.extend(certificates(config));
    }
    wanted
}

fn version() -> String {
    let mut features = Vec::new();
    for (name, on) in [
        ("rsa", cfg!(feature = "rsa")),
        ("pkcs11", cfg!(feature = "pkcs11")),
        ("websocket", cfg!(feature = "websocket")),
    ] {
        if on {
            features.push(name);
        }
    }
    let version = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "architecture": std::env::consts::ARCH,
        "profile": if cfg!(debug_assertions) { "debug" } else { "release" },
        "features": features,
        "schema": crate::store::schema::VERSION,
    });
    format!("{version:#}\n")
}

fn pretty(value: &impl serde::Serialize) -> Result<String, String> {
    serde_json::to_string_pretty(value).map(|text| text + "\n").map_err(|e| e.to_string())
}

fn configuration(layered: Option<&Layered>) -> Result<String, String> {
    let layered = layered.ok_or("it cannot be read: see doctor.json")?;
    toml::to_string(&merged(layered)).map_err(|e| e.to_string())
}

fn status(config: &Config) -> Result<String, String> {
    let socket =
        config.gateway.status_socket.as_ref().ok_or("the configuration gives it no status socket")?;
    match client::ask_within(socket, &Ask::Status, STATUS_LIMIT).map_err(|e| e.to_string())? {
        Answer::Status(status) => pretty(&status),
        _ => Err("the agent answers something else".into()),
    }
}

fn store(config: &Config) -> Result<String, String> {
    let path = config.store.path.clone();
    let bytes_max = config.store.bytes_max;
    let late = |_| format!("not done within {STORE_LIMIT:?}");
    doctor::within(STORE_LIMIT * 2, move || {
        let seen = inspect::inspect(&path).map_err(|e| e.to_string())?;
        let rows = inspect::statistics(&path, STORE_LIMIT).map_err(|e| e.to_string())?;
        let rows = rows
            .map(|all| all.into_iter().map(|(name, n)| (name, n.into())).collect::<serde_json::Map<_, _>>());
        let entry = |e: &inspect::LedgerEntry| {
            json!({ "device": e.device, "reason": e.reason, "count": e.count,
                "first": e.first.to_string(), "last": e.last.to_string() })
        };
        let older = seen.ledger.len().saturating_sub(LEDGER_MAX);
        pretty(&json!({
            "rows_waiting": seen.rows,
            "readings_waiting": seen.readings,
            "oldest": seen.oldest.map(|t| t.to_string()),
            "newest": seen.newest.map(|t| t.to_string()),
            "bytes_used": seen.bytes,
            "bytes_max": bytes_max,
            "readings_taken": seen.taken,
            "readings_delivered": seen.delivered,
            "ledger_entries_left_out": older,
            "ledger": seen.ledger[older..].iter().map(entry).collect::<Vec<_>>(),
            "tables": rows.map_or(Value::Null, Value::Object),
        }))
    })
    .unwrap_or_else(|e| Err(late(e)))
}

fn audited(config: &Config) -> Result<String, String> {
    let path = config.store.path.clone();
    let done = doctor::within(STORE_LIMIT, move || audit::verify(&path, None).map_err(|e| e.to_string()));
    let verified = done.unwrap_or_else(|_| Err(format!("not done within {STORE_LIMIT:?}")))?;
    pretty(&match verified {
        Ok(ok) => json!({ "intact": true, "entries": ok.entries, "first": ok.first, "last": ok.head.id,
            "head": audit::hex(&ok.head.hash) }),
        Err(broken) => json!({ "intact": false, "why": broken.to_string() }),
    })
}

fn journal() -> Result<String, String> {
    let arguments = [
        "--unit",
        UNIT,
        "--lines",
        JOURNAL_LINES,
        "--reverse",
        "--no-pager",
        "--utc",
        "--output",
        "short-iso-precise",
    ];
    command::ask("journalctl", &arguments, COMMAND_LIMIT, ITEM_BYTES_MAX as u64)
}

fn systemctl(arguments: &[&str]) -> Result<String, String> {
    let arguments = [&["--no-pager"], arguments].concat();
    command::ask("systemctl", &arguments, COMMAND_LIMIT, ITEM_BYTES_MAX as u64)
}

fn machine(root: &Root) -> String {
    let one = |path: &&str| {
        let text = root.text(path)?.replace('\0', " ");
        Some(format!("== {path}\n{}\n\n", text.trim_end()))
    };
    MACHINE.iter().filter_map(one).collect()
}

fn serial(root: &Root) -> Result<String, String> {
    let ports: Vec<Value> = look::serial::inventory(root)
        .into_iter()
        .map(|(name, driver)| json!({ "port": format!("/dev/{name}"), "driver": driver }))
        .collect();
    let names: Vec<Value> = look::serial::stable_names(root)
        .into_iter()
        .map(|(name, to)| json!({ "name": name, "port": to.display().to_string() }))
        .collect();
    pretty(&json!({ "ports": ports, "stable_names": names }))
}

/// The public halves only: whatever else stands in a file stays there.
fn certificates(config: &Config) -> Vec<Wanted> {
    const ABOUT: &str = "a certificate chain, without its key";
    let mut wanted = Vec::new();
    if let Security::Tls(Tls { ca, certificate, .. }) = &config.uplink.security {
        for (name, path) in [("uplink-ca", ca), ("uplink", certificate)] {
            if let Some(path) = path {
                wanted.push(Wanted::new(format!("certificates/{name}.pem"), ABOUT, public(path)));
            }
        }
    }
    let identity = &config.identity;
    let subjects = plan::subjects(config);
    if subjects.is_empty() || !identity.directory.is_dir() {
        return wanted;
    }
    let folder = Folder::open(&identity.directory).map_err(|e| e.to_string());
    for (_, subject) in subjects.iter().take(THINGS_MAX) {
        let pair = folder
            .as_ref()
            .map_err(Clone::clone)
            .and_then(|folder| folder.read(&subject.thing, Slot::Current).map_err(|e| e.to_string()));
        let chain = pair.and_then(|pair| pair.map(|p| p.chain).ok_or_else(|| "it has none yet".into()));
        wanted.push(Wanted::new(format!("certificates/things/{}.pem", subject.thing), ABOUT, chain));
    }
    wanted
}

fn public(path: &Path) -> Result<String, String> {
    let place = credential::place(path)?;
    let text = look::text(&place).ok_or("it cannot be read")?;
    files::certificates_only(&text)
}
