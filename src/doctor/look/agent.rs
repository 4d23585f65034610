//! The running agent: by its socket, and by its process where the socket says nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Process, Root, holds, text};
use crate::config::Config;
use crate::control::ask::{Answer, Ask};
use crate::control::client::{self, NoAnswer};
use crate::control::snapshot::Status;
use crate::doctor::judge::agent::{Agent, Device};
use crate::doctor::judge::store::Wear;

/// For an answer: the agent looks at its counters, nothing else.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// The name of its process.
const NAME: &str = "fieldgate";

/// Everything known of it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub agent: Agent,
    pub pid: Option<u32>,
    pub status: Option<Status>,
}

pub fn look(root: &Root, config: &Config, processes: &[Process]) -> Seen {
    let pid = process_of(root, &config.store.path, processes);
    let Some(socket) = &config.gateway.status_socket else {
        let why = "the configuration gives it no status socket".to_owned();
        let agent = pid.map_or(Agent::NoSocket, |pid| Agent::Mute { pid, why });
        return Seen { agent, pid, status: None };
    };
    let mut status = None;
    let agent = match client::ask_within(socket, &Ask::Status, ANSWER_LIMIT) {
        Ok(Answer::Status(found)) => {
            let found = status.insert(*found);
            Agent::Answers { version: found.version.clone(), uptime_s: found.uptime_s, pid }
        }
        Ok(_) => Agent::Mute { pid: pid.unwrap_or(0), why: "it answers something else".into() },
        Err(NoAnswer::Refused(why)) => Agent::Refuses(why),
        Err(NoAnswer::Unreachable { source, .. }) => match pid {
            Some(pid) => Agent::Mute { pid, why: format!("{}: {source}", socket.display()) },
            None => Agent::Absent,
        },
        Err(other) => Agent::Mute { pid: pid.unwrap_or(0), why: other.to_string() },
    };
    Seen { agent, pid, status }
}

/// The process that runs with this store. One that cannot be looked into counts as it: better
/// a port too few tried than one taken away.
fn process_of(root: &Root, store: &Path, processes: &[Process]) -> Option<u32> {
    let store = std::fs::canonicalize(store).unwrap_or_else(|_| store.to_owned());
    let files = [PathBuf::from(&store)];
    let own = std::process::id();
    let mut candidates = processes.iter().filter(|p| p.name == NAME && p.pid != own);
    candidates.find(|p| runs(root, p.pid) && holds(root, p.pid, &files) != Some(false)).map(|p| p.pid)
}

/// `fieldgate run`, not another verb of it.
fn runs(root: &Root, pid: u32) -> bool {
    let line = text(&root.path(&format!("/proc/{pid}/cmdline"))).unwrap_or_default();
    line.split('\0').skip(1).any(|word| word == "run")
}

pub fn devices(status: &Status) -> Vec<Device> {
    let device = |d: &crate::control::snapshot::DeviceStatus| Device {
        name: d.device.clone(),
        state: d.state.chars().filter(|c| !c.is_control()).collect(),
        last_good_age_s: d.last_good_age_s,
    };
    status.devices.iter().map(device).collect()
}

/// What the process has written since its start.
pub fn wear(root: &Root, seen: &Seen) -> Wear {
    let (Some(pid), Some(status)) = (seen.pid, &seen.status) else { return Wear::NoAgent };
    let written = root.text(&format!("/proc/{pid}/io")).and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("write_bytes:"))?;
        line.trim().parse().ok()
    });
    match written {
        Some(bytes) => Wear::Wrote { bytes, seconds: status.uptime_s },
        None => Wear::Hidden,
    }
}
