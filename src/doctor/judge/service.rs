//! The unit as systemd has it: enabled, alive, watched. PURE.

use std::collections::BTreeMap;
use std::path::Path;

use super::{count, span};
use crate::doctor::finding::Finding;

pub const SERVICE: &str = "service";
pub const WATCHDOG: &str = "watchdog";
pub const SANDBOX: &str = "sandbox";

/// More restarts than this since the unit was started tell of trouble.
const RESTARTS_MAX: u64 = 3;

/// What `systemctl show` told, or why there is nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unit {
    /// No systemd, or it does not answer.
    NoSystemd(String),
    Shown(BTreeMap<String, String>),
}

impl Unit {
    /// Lines of `KEY=VALUE`.
    pub fn parse(text: &str) -> Unit {
        let pair = |line: &str| line.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()));
        Unit::Shown(text.lines().filter_map(pair).collect())
    }

    pub fn get(&self, key: &str) -> &str {
        match self {
            Unit::NoSystemd(_) => "",
            Unit::Shown(all) => all.get(key).map_or("", String::as_str),
        }
    }

    fn is_there(&self) -> bool {
        !matches!(self.get("LoadState"), "" | "not-found")
    }

    /// Whether it brings this credential; `None`: there is no unit.
    pub fn brings(&self, credential: &str) -> Option<bool> {
        if !self.is_there() {
            return None;
        }
        let lists = ["LoadCredential", "LoadCredentialEncrypted", "SetCredential", "SetCredentialEncrypted"];
        let names = |key: &&str| {
            let id = |word: &str| word.split(':').next() == Some(credential);
            self.get(key).split([' ', ';']).any(|word| id(word.trim()))
        };
        Some(lists.iter().any(names))
    }
}

pub fn service(name: &str, unit: &Unit) -> Finding {
    if let Unit::NoSystemd(why) = unit {
        return Finding::skipped(SERVICE, name, why.as_str());
    }
    if !unit.is_there() {
        return Finding::skipped(SERVICE, name, "there is no such unit")
            .advised("install the package, or ignore it where the agent is started by hand");
    }
    let restarts: u64 = unit.get("NRestarts").parse().unwrap_or(0);
    let (active, sub) = (unit.get("ActiveState"), unit.get("SubState"));
    let log = format!("`journalctl -u {name} -e` says why");
    match active {
        "failed" => {
            let why = unit.get("Result");
            Finding::failed(SERVICE, name, format!("it has failed ({why})"), log)
        }
        "active" if restarts > RESTARTS_MAX => {
            Finding::warning(SERVICE, name, format!("it was restarted {}", count(restarts, "time")), log)
        }
        "activating" | "deactivating" | "reloading" => {
            Finding::warning(SERVICE, name, format!("it is {active} ({sub})"), log)
        }
        "active" if !matches!(unit.get("UnitFileState"), "enabled" | "enabled-runtime" | "") => {
            let advice = format!("`systemctl enable {name}`");
            Finding::warning(
                SERVICE,
                name,
                "it runs, and will not after the next start of the machine",
                advice,
            )
        }
        "active" => Finding::ok(
            SERVICE,
            name,
            format!("it is active and enabled, restarted {}", count(restarts, "time")),
        ),
        other => {
            let advice = format!("`systemctl enable --now {name}`");
            Finding::warning(SERVICE, name, format!("it is {other}"), advice)
        }
    }
}

/// `up`: seconds since the machine started, by the clock in which systemd counts.
pub fn watchdog(name: &str, unit: &Unit, up: Option<f64>) -> Finding {
    if let Unit::NoSystemd(why) = unit {
        return Finding::skipped(WATCHDOG, name, why.as_str());
    }
    if !unit.is_there() {
        return Finding::skipped(WATCHDOG, name, "there is no such unit");
    }
    let Some(period) = microseconds(unit.get("WatchdogUSec")) else {
        let advice = format!("`systemctl edit {name}`: WatchdogSec=60s below [Service]");
        return Finding::warning(WATCHDOG, name, "nobody notices when the agent hangs", advice);
    };
    let set = format!("set to {}", span(period / 1_000_000));
    if unit.get("ActiveState") != "active" {
        return Finding::ok(WATCHDOG, name, set);
    }
    let fed: Option<u64> = unit.get("WatchdogTimestampMonotonic").parse().ok().filter(|at| *at > 0);
    match (fed, up) {
        (Some(at), Some(up)) => {
            let ago = up - at as f64 / 1e6;
            let found = format!("{set}, fed {} ago", span(ago.max(0.0) as u64));
            match ago * 1e6 > period as f64 {
                true => {
                    let advice = "the agent hangs; systemd restarts it by itself, then look at the log";
                    Finding::failed(WATCHDOG, name, found, advice)
                }
                false => Finding::ok(WATCHDOG, name, found),
            }
        }
        _ => Finding::ok(WATCHDOG, name, set),
    }
}

/// Whether the unit lets the agent write into its own folders. From outside they look right.
pub fn sandbox(name: &str, unit: &Unit, folders: &[&Path]) -> Finding {
    if let Unit::NoSystemd(why) = unit {
        return Finding::skipped(SANDBOX, name, why.as_str());
    }
    if !unit.is_there() {
        return Finding::skipped(SANDBOX, name, "there is no such unit");
    }
    if unit.get("ProtectSystem") != "strict" {
        return Finding::ok(SANDBOX, name, "the unit does not keep it from writing");
    }
    let of = |key: &'static str, base: &'static str| {
        unit.get(key)
            .split_whitespace()
            .map(move |word| Path::new(base).join(word.trim_start_matches(['-', '+'])))
    };
    let open: Vec<_> = of("StateDirectory", "/var/lib")
        .chain(of("RuntimeDirectory", "/run"))
        .chain(of("ReadWritePaths", "/"))
        .collect();
    match folders.iter().find(|folder| !open.iter().any(|root| folder.starts_with(root))) {
        None => Finding::ok(SANDBOX, name, "it may write where the configuration wants it to"),
        Some(shut) => {
            let shut = shut.display();
            let advice = format!("`systemctl edit {name}`: ReadWritePaths={shut} below [Service]");
            Finding::warning(SANDBOX, name, format!("the unit does not let it write to {shut}"), advice)
        }
    }
}

/// systemd writes `1min`, `30s`, `1min 30s`, `infinity`, or a plain number.
fn microseconds(text: &str) -> Option<u64> {
    if let Ok(n) = text.parse::<u64>() {
        return Some(n).filter(|n| *n > 0);
    }
    let spelled = humantime::parse_duration(text).ok()?;
    u64::try_from(spelled.as_micros()).ok().filter(|n| *n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Outcome::{self, Failed, Ok, Skipped, Warning};

    const RUNS: &str = "LoadState=loaded\nActiveState=active\nSubState=running\nUnitFileState=enabled\nNRestarts=0\n\
        WatchdogUSec=1min\nWatchdogTimestampMonotonic=100000000\nLoadCredentialEncrypted=gateway.key:/etc/x.cred\n";

    fn unit(changes: &[(&str, &str)]) -> Unit {
        let Unit::Shown(mut all) = Unit::parse(RUNS) else { unreachable!() };
        all.extend(changes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        Unit::Shown(all)
    }

    #[test]
    fn folders_outside_of_the_sandbox_are_named() {
        let strict =
            [("ProtectSystem", "strict"), ("StateDirectory", "fieldgate"), ("RuntimeDirectory", "fieldgate")];
        let check = |more: &[(&str, &str)], folder: &str, expected: Outcome| {
            let given = unit(&[&strict[..], more].concat());
            let found =
                sandbox("fieldgate.service", &given, &[Path::new("/var/lib/fieldgate"), Path::new(folder)]);
            assert_eq!(found.result, expected, "{found:?}");
            assert!(expected == Ok || found.found.contains(folder), "{found:?}");
        };
        check(&[], "/run/fieldgate", Ok);
        check(&[], "/var/lib/fieldgate/identities", Ok);
        check(&[], "/data/readings", Warning);
        check(&[], "/var/lib/fieldgate2", Warning);
        check(&[("ReadWritePaths", "/srv -/data")], "/data/readings", Ok);
        check(&[("ProtectSystem", "no")], "/data/readings", Ok);
    }

    #[test]
    fn the_state_of_the_unit_is_judged() {
        let check = |changes: &[(&str, &str)], expected: Outcome, words: &str| {
            let found = service("fieldgate.service", &unit(changes));
            assert_eq!(found.result, expected, "{found:?}");
            assert!(found.found.contains(words), "{found:?}");
        };
        check(&[], Ok, "active and enabled, restarted 0 times");
        check(&[("ActiveState", "failed"), ("Result", "watchdog")], Failed, "watchdog");
        check(&[("NRestarts", "12")], Warning, "12 times");
        check(&[("UnitFileState", "disabled")], Warning, "will not after");
        check(&[("ActiveState", "inactive")], Warning, "inactive");
        check(&[("ActiveState", "activating")], Warning, "activating");
        check(&[("LoadState", "not-found")], Skipped, "no such unit");
        assert_eq!(service("u", &Unit::NoSystemd("none".into())).result, Skipped);
    }

    #[test]
    fn a_watchdog_is_set_and_fed() {
        let check = |changes: &[(&str, &str)], up, expected: Outcome, words: &str| {
            let found = watchdog("fieldgate.service", &unit(changes), Some(up));
            assert_eq!(found.result, expected, "{found:?}");
            assert!(found.found.contains(words), "{found:?}");
        };
        check(&[], 110.0, Ok, "set to 1 min, fed 10 s ago");
        check(&[], 170.0, Failed, "fed 1 min ago");
        check(&[("WatchdogUSec", "0")], 110.0, Warning, "nobody notices");
        check(&[("WatchdogUSec", "infinity")], 110.0, Warning, "nobody notices");
        check(&[("WatchdogUSec", "30s"), ("ActiveState", "inactive")], 110.0, Ok, "set to 30 s");
        check(&[("LoadState", "not-found")], 110.0, Skipped, "no such unit");
    }

    #[test]
    fn the_credentials_of_the_unit_are_known_by_name() {
        assert_eq!(unit(&[]).brings("gateway.key"), Some(true));
        assert_eq!(unit(&[]).brings("gateway"), Some(false));
        assert_eq!(Unit::NoSystemd(String::new()).brings("gateway.key"), None);
    }
}
