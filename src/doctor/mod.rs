//! `fieldgate doctor`: what is wrong with this machine?
//!
//! Constraints: it works as root and as the service's user, with and without a running agent,
//! and with a configuration that is wrong; it changes nothing and takes nothing from the agent
//! (no port that it may hold, no login with its client id, no write to its store); every check
//! has a limit in time, so that a hanging driver or name server costs one line of the answer.
//!
//! The checks go from the inside to the outside: configuration, files, clock, store,
//! certificates, service, agent, ports, endpoints, and the way to the broker step by step. The
//! first that failed is mostly the one to mend.
//!
//! The way of a finding: `look` asks the machine → facts, plain values → `judge` (pure) →
//! [`Finding`] → printed by `cli::doctor`, packed by `bundle`.

pub mod finding;
pub mod judge;
pub mod look;

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use self::finding::Finding;
use self::judge::service::Unit;
use self::judge::{Who, count};
use self::look::{Process, Root};
use crate::config::errors::{Errors, Report};
use crate::config::{Config, Security, load};
use crate::model::time::{Clock, Timestamp};

/// The unit that the package installs.
pub const UNIT: &str = "fieldgate.service";

/// The user that the package makes.
const USER: &str = "fieldgate";

// Limits of the checks. Each is what the slowest healthy machine needs, and then some.
const FILES_LIMIT: Duration = Duration::from_secs(10);
const STORE_LIMIT: Duration = Duration::from_secs(15);
/// Of it, for the pages and indices: an SD card reads 20 MB a second.
const INTEGRITY_LIMIT: Duration = Duration::from_secs(5);
const CERTIFICATES_LIMIT: Duration = Duration::from_secs(10);
const AGENT_LIMIT: Duration = Duration::from_secs(10);
const SYSTEMCTL_LIMIT: Duration = Duration::from_secs(5);
const PORTS_LIMIT: Duration = Duration::from_secs(10);
const ENDPOINTS_LIMIT: Duration = Duration::from_secs(20);
const DNS_LIMIT: Duration = Duration::from_secs(10);
const TCP_LIMIT: Duration = Duration::from_secs(10);
const TLS_LIMIT: Duration = Duration::from_secs(25);
const LOGIN_LIMIT: Duration = Duration::from_secs(30);

const SYSTEMCTL_BYTES_MAX: u64 = 256 << 10;

/// Endpoints that are tried at one time.
const ENDPOINTS_AT_ONCE: usize = 16;

/// All findings, in their order. `path`: of the configuration.
pub fn examine(path: Option<&Path>, root: &Root) -> Vec<Finding> {
    let path = path.unwrap_or(Path::new(load::DEFAULT_PATH)).to_owned();
    let now = Clock::System.now();
    let mut found = Vec::new();
    let loaded = read(&path);
    found.extend(match &loaded {
        Ok(config) => judge::configuration::judge(&path.display().to_string(), Ok(config)),
        Err(errors) => judge::configuration::judge(&path.display().to_string(), Err(&errors.0)),
    });
    let config = loaded.ok();
    let processes = Arc::new(look::processes(root));
    let unit = Arc::new(unit());
    let agent = config.as_ref().map(|config| Arc::new(agent(root, config, &processes)));
    let who = who(root, agent.as_ref().and_then(|a| a.pid));

    found.extend(files(&path, &unit, &who));
    found.push(judge::clock::clock(now));
    found.push(judge::clock::sync(&look::clock::sync(root, &processes), now));
    let up = root.text("/proc/uptime").and_then(|t| t.split(' ').next()?.parse().ok());
    let service = [judge::service::service(UNIT, &unit), judge::service::watchdog(UNIT, &unit, up)];
    let (Some(config), Some(agent)) = (config, agent) else {
        found.extend(service);
        found.extend(NEED_CONFIGURATION.iter().map(|name| {
            Finding::skipped(name, "", "the configuration is wrong").advised("mend it, then ask again")
        }));
        return found;
    };
    found.extend(store(&config, &agent));
    found.push(judge::store::wear(&look::agent::wear(root, &agent)));
    found.extend(certificates(&config, now));
    found.extend(service);
    found.push(sandbox(&config, &unit));
    found.extend(agents(&agent));
    found.extend(ports(root, &config, &processes, &agent, &who));
    found.extend(endpoints(&config, &agent));
    found.extend(broker(&config, &agent, now));
    found
}

/// What is skipped as long as the configuration is wrong.
const NEED_CONFIGURATION: [&str; 16] = [
    judge::store::STORE,
    judge::store::INTEGRITY,
    judge::store::ROOM,
    judge::store::DISK,
    judge::store::WEAR,
    judge::certificates::OWN,
    judge::certificates::THINGS,
    judge::service::SANDBOX,
    judge::agent::AGENT,
    judge::agent::DEVICES,
    judge::serial::NAME,
    judge::endpoint::NAME,
    judge::broker::DNS,
    judge::broker::TCP,
    judge::broker::TLS,
    judge::broker::LOGIN,
];

fn sandbox(config: &Config, unit: &Unit) -> Finding {
    let files = [Some(config.store.path.as_path()), config.gateway.status_socket.as_deref()];
    let mut folders: Vec<&Path> = files.into_iter().flatten().filter_map(Path::parent).collect();
    // Without things of their own nobody makes it.
    if !crate::identity::plan::subjects(config).is_empty() {
        folders.push(&config.identity.directory);
    }
    judge::service::sandbox(UNIT, unit, &folders)
}

fn read(path: &Path) -> Result<Arc<Config>, Errors> {
    load::load(Some(path)).map(Arc::new)
}

fn unit() -> Unit {
    let keys = "LoadState,ActiveState,SubState,UnitFileState,Result,NRestarts,WatchdogUSec,\
                WatchdogTimestampMonotonic,MainPID,LoadCredential,LoadCredentialEncrypted,ProtectSystem,\
                StateDirectory,RuntimeDirectory,ReadWritePaths";
    let arguments = ["show", UNIT, "--property", keys];
    match look::command::ask("systemctl", &arguments, SYSTEMCTL_LIMIT, SYSTEMCTL_BYTES_MAX) {
        Ok(text) => Unit::parse(&text),
        Err(why) => Unit::NoSystemd(why),
    }
}

/// Whose rights count: the running agent's; else those of the user that the package made, as
/// far as root asks; else those of whoever asks.
fn who(root: &Root, agent: Option<u32>) -> Who {
    let running = agent.and_then(|pid| look::who_is(root, pid));
    let asks = || look::who_is(root, std::process::id()).unwrap_or_default();
    running.unwrap_or_else(|| {
        let own = asks();
        if own.is_root() { look::who_named(root, USER).unwrap_or(own) } else { own }
    })
}

/// An agent that hangs may not even take the connection.
fn agent(root: &Root, config: &Arc<Config>, processes: &Arc<Vec<Process>>) -> look::agent::Seen {
    let (root, config, processes) = (root.clone(), Arc::clone(config), Arc::clone(processes));
    let seen = within(AGENT_LIMIT, move || look::agent::look(&root, &config, &processes));
    seen.unwrap_or_else(|_| {
        let why = format!("no answer within {AGENT_LIMIT:?}");
        look::agent::Seen { agent: judge::agent::Agent::Mute { pid: 0, why }, pid: None, status: None }
    })
}

fn files(path: &Path, unit: &Arc<Unit>, who: &Who) -> Vec<Finding> {
    let (path, unit, who) = (path.to_owned(), Arc::clone(unit), who.clone());
    bounded(judge::files::NAME, "", FILES_LIMIT, move || {
        let layered = load::layers(&path, std::env::vars(), &mut Report::default());
        judge::files::judge(&look::files::look(&path, layered.as_ref(), &unit), &who)
    })
}

fn store(config: &Arc<Config>, agent: &Arc<look::agent::Seen>) -> Vec<Finding> {
    let (config, agent) = (Arc::clone(config), Arc::clone(agent));
    let path = config.store.path.display().to_string();
    bounded(judge::store::STORE, &path.clone(), STORE_LIMIT, move || {
        let file = &config.store.path;
        let (opened, seen) = look::store::open(file);
        let mut found = vec![judge::store::opened(&path, &opened)];
        if let Some(seen) = &seen {
            found.push(match look::store::integrity(file, INTEGRITY_LIMIT) {
                Ok(integrity) => judge::store::integrity(&path, &integrity),
                Err(why) => {
                    Finding::failed(judge::store::INTEGRITY, &path, why, "ask again; then suspect the disk")
                }
            });
            let room = look::store::room(seen, config.store.bytes_max, Some(&agent));
            found.push(judge::store::room(&path, &room));
        }
        if let Some((folder, disk)) = look::store::disk(file) {
            let used = seen.map_or(0, |seen| seen.bytes);
            found.push(judge::store::disk(&folder, &disk, config.store.bytes_max.saturating_sub(used)));
        }
        found
    })
}

fn certificates(config: &Arc<Config>, now: Timestamp) -> Vec<Finding> {
    use judge::certificates::{OWN, own, things};
    let config = Arc::clone(config);
    bounded(OWN, "", CERTIFICATES_LIMIT, move || {
        let mut found = match &config.uplink.security {
            Security::Plain => vec![Finding::skipped(OWN, "", "the uplink is not encrypted")],
            Security::Tls(tls) if look::certificates::is_hidden(tls) => {
                vec![Finding::skipped(OWN, "", "only the service sees its credentials")]
            }
            Security::Tls(tls) => match look::certificates::own(tls) {
                None => vec![Finding::skipped(OWN, "", "the gateway logs in without one")],
                Some((place, dates)) => {
                    vec![own(&place, dates.as_ref().map_err(String::as_str), now)]
                }
            },
        };
        let (all, by_agent) = look::certificates::things(&config);
        found.extend(things(&all, by_agent, now));
        found
    })
}

fn agents(seen: &look::agent::Seen) -> Vec<Finding> {
    let mut found = vec![judge::agent::agent(&seen.agent, env!("CARGO_PKG_VERSION"))];
    match &seen.status {
        Some(status) => found.extend(judge::agent::devices(&look::agent::devices(status))),
        None => {
            found.push(Finding::skipped(judge::agent::DEVICES, "", "only a running agent knows how they do"))
        }
    }
    found
}

fn ports(
    root: &Root,
    config: &Arc<Config>,
    processes: &Arc<Vec<Process>>,
    agent: &Arc<look::agent::Seen>,
    who: &Who,
) -> Vec<Finding> {
    let (root, config, who) = (root.clone(), Arc::clone(config), who.clone());
    let (processes, agent) = (Arc::clone(processes), Arc::clone(agent));
    bounded(judge::serial::NAME, "", PORTS_LIMIT, move || {
        let look = |(bus, port)| look::serial::look(&root, bus, port, &processes, &agent);
        look::serial::ports(&config.buses)
            .map(look)
            .flat_map(|port| judge::serial::judge(&port, &who))
            .collect()
    })
}

fn endpoints(config: &Arc<Config>, agent: &Arc<look::agent::Seen>) -> Vec<Finding> {
    let (config, agent) = (Arc::clone(config), Arc::clone(agent));
    let mut found = Vec::new();
    let mut wanted = Vec::new();
    for (bus, endpoint) in look::endpoint::endpoints(&config.buses) {
        wanted.push((
            bus.name.to_string(),
            look::endpoint::place(endpoint),
            look::endpoint::by_agent(&agent, bus),
        ));
    }
    for some in wanted.chunks(ENDPOINTS_AT_ONCE) {
        let some = some.to_vec();
        found.extend(bounded(judge::endpoint::NAME, "", ENDPOINTS_LIMIT, move || {
            let tries: Vec<_> = some
                .into_iter()
                .map(|(bus, place, known)| {
                    std::thread::spawn(move || {
                        let reached = known.unwrap_or_else(|| look::endpoint::reach(&place));
                        judge::endpoint::judge(&bus, &place, &reached)
                    })
                })
                .collect();
            tries.into_iter().filter_map(|thread| thread.join().ok()).collect()
        }));
    }
    found
}

/// Step by step: what comes after a step that failed is skipped.
fn broker(config: &Arc<Config>, agent: &Arc<look::agent::Seen>, now: Timestamp) -> Vec<Finding> {
    use judge::broker::{DNS, LOGIN, Login, TCP, TLS};
    let uplink = &config.uplink;
    let (host, port) = (uplink.host.clone(), uplink.port);
    let place = format!("{host}:{port}");
    let before = |name, why: &str| Finding::skipped(name, place.as_str(), why);

    let (name, at) = (host.clone(), host.clone());
    let Ok((resolved, addresses)) = within(DNS_LIMIT, move || look::broker::resolve(&name, port)) else {
        return vec![late(DNS, &host, DNS_LIMIT)];
    };
    let mut found = vec![judge::broker::dns(&at, resolved.as_ref())];
    let mut stream = None;
    let login = by_agent(agent);
    if addresses.is_empty() {
        found.push(before(TCP, "the name is not found"));
    } else {
        let dialled = within(TCP_LIMIT + TCP_LIMIT, move || look::broker::connect(&addresses, TCP_LIMIT));
        let Ok((tcp, connected)) = dialled else { return vec![late(TCP, &place, TCP_LIMIT)] };
        found.push(judge::broker::tcp(&place, &tcp));
        stream = connected;
    }
    let connects = stream.is_some();
    let mut shakes = connects;
    match (&uplink.security, stream) {
        (Security::Plain, _) => {
            found.push(before(TLS, "the uplink is not encrypted").advised("use mqtts://"))
        }
        (_, None) => found.push(before(TLS, "there is no connection")),
        (Security::Tls(tls), _) if look::certificates::is_hidden(tls) => {
            found.push(before(TLS, "only the service sees its credentials"));
        }
        (Security::Tls(tls), Some(stream)) => {
            let (tls, host) = (tls.clone(), host.clone());
            let shaken = within(TLS_LIMIT, move || look::broker::handshake(&host, &tls, stream));
            shakes = shaken.as_ref().is_ok_and(|tls| tls.outcome.is_ok());
            found.push(match shaken {
                Ok(tls) => judge::broker::tls(&place, &tls, now),
                Err(_) => late(TLS, &place, TLS_LIMIT),
            });
        }
    }
    let client_id = uplink.client_id.as_str();
    found.push(match login {
        Some(known) => judge::broker::login(client_id, &known),
        None if !shakes => Finding::skipped(LOGIN, client_id, "the steps before it failed"),
        None => {
            let config = Arc::clone(config);
            let limit = LOGIN_LIMIT.min(config.uplink.connect_timeout * 2);
            let tried = within(LOGIN_LIMIT + TCP_LIMIT, move || look::broker::login(&config, limit));
            let late = |_| Login::Unreachable(format!("no answer within {LOGIN_LIMIT:?}"));
            judge::broker::login(client_id, &tried.unwrap_or_else(late))
        }
    });
    found
}

/// `None`: nobody has the client id, so that a login may be tried.
fn by_agent(seen: &look::agent::Seen) -> Option<judge::broker::Login> {
    use judge::broker::Login;
    match &seen.status {
        Some(status) => Some(Login::ByAgent {
            state: status.uplink.state.chars().filter(|c| !c.is_control()).collect(),
            connects: status.uplink.connects,
            uptime_s: status.uptime_s,
        }),
        None if seen.agent.is_absent() => None,
        None => Some(Login::Unknown),
    }
}

/// A check on a thread of its own. One that is late is left behind: it ends with the process.
fn bounded(
    name: &'static str,
    subject: &str,
    limit: Duration,
    work: impl FnOnce() -> Vec<Finding> + Send + 'static,
) -> Vec<Finding> {
    within(limit, work).unwrap_or_else(|_| vec![late(name, subject, limit)])
}

fn late(name: &'static str, subject: &str, limit: Duration) -> Finding {
    let found = format!("it was not done within {}", count(limit.as_secs(), "second"));
    Finding::failed(
        name,
        subject,
        found,
        "something below it hangs: a driver, a disk, a name server; see `dmesg`",
    )
}

/// The time is over, or the work panicked.
#[derive(Debug)]
pub struct Late;

/// Does it on a thread of its own, which is left behind when it is late.
pub fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Late> {
    let (done, answer) = sync_channel(1);
    std::thread::spawn(move || {
        let _ = done.send(work());
    });
    answer.recv_timeout(limit).map_err(|_: RecvTimeoutError| Late)
}

#[cfg(test)]
mod tests {
    use super::finding::Outcome;
    use super::*;

    #[test]
    fn a_check_that_hangs_or_panics_costs_one_line() {
        let (hold, held) = sync_channel::<()>(1);
        let found = bounded("clock", "x", Duration::from_millis(20), move || {
            let _ = held.recv();
            Vec::new()
        });
        drop(hold);
        assert_eq!(
            (found[0].name, found[0].subject.as_str(), found[0].result),
            ("clock", "x", Outcome::Failed)
        );
        let found = bounded("clock", "", Duration::from_secs(20), || vec![Finding::ok("clock", "", "good")]);
        assert_eq!(found[0].result, Outcome::Ok);
    }

    #[test]
    fn a_wrong_configuration_leaves_what_does_not_need_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("fieldgate.toml");
        std::fs::write(&file, "[gateway]\nname = \"g\"\n[uplink]\nurl = 3\n").unwrap();
        let found = examine(Some(&file), &Root::real());
        assert_eq!((found[0].name, found[0].result), ("configuration", Outcome::Failed));
        assert!(found.iter().any(|f| f.name == "clock" && f.result == Outcome::Ok));
        for name in NEED_CONFIGURATION {
            let of: Vec<_> = found.iter().filter(|f| f.name == name).collect();
            assert_eq!(of.len(), 1, "{name}");
            assert_eq!(
                (of[0].result, of[0].found.as_str()),
                (Outcome::Skipped, "the configuration is wrong")
            );
        }
    }
}
