//! The running agent, and what it says of its devices. PURE.

use super::{count, span};
use crate::doctor::finding::Finding;

pub const AGENT: &str = "agent";
pub const DEVICES: &str = "devices";

/// More than these devices are summed up.
const DEVICES_SHOWN_MAX: usize = 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Agent {
    /// It answers its socket.
    Answers { version: String, uptime_s: u64, pid: Option<u32> },
    /// Nobody listens, and no process of this program holds the store.
    Absent,
    /// A process is there and does not answer; pid 0: which one is not known.
    Mute { pid: u32, why: String },
    /// It answers, and not us.
    Refuses(String),
    /// The configuration gives it no socket, and no process of it is seen.
    NoSocket,
}

impl Agent {
    /// Whether ports and the client id are certainly free.
    pub fn is_absent(&self) -> bool {
        matches!(self, Agent::Absent | Agent::NoSocket)
    }
}

pub fn agent(agent: &Agent, own_version: &str) -> Finding {
    match agent {
        Agent::Answers { version, uptime_s, .. } if version != own_version => Finding::warning(
            AGENT,
            "",
            format!("it runs since {}, as version {version}; this is {own_version}", span(*uptime_s)),
            "`systemctl restart fieldgate` starts the new version",
        ),
        Agent::Answers { uptime_s, pid, .. } => {
            let pid = pid.map_or(String::new(), |pid| format!(" as pid {pid}"));
            Finding::ok(AGENT, "", format!("it runs since {}{pid}", span(*uptime_s)))
        }
        Agent::Absent => {
            Finding::warning(AGENT, "", "it does not run", "start it: `systemctl start fieldgate`")
        }
        Agent::NoSocket => Finding::skipped(AGENT, "", "the configuration gives it no status socket")
            .advised("set gateway.status_socket to see how it does"),
        Agent::Mute { pid, why } => Finding::failed(
            AGENT,
            "",
            match pid {
                0 => format!("it does not answer: {why}"),
                pid => format!("pid {pid} does not answer: {why}"),
            },
            "`journalctl -u fieldgate` says what it last did; `systemctl restart fieldgate` starts it anew",
        ),
        Agent::Refuses(why) => {
            Finding::skipped(AGENT, "", why.as_str()).advised("ask as root or as a member of its group")
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub name: String,
    /// `good`, empty before the first poll, or the cause.
    pub state: String,
    pub last_good_age_s: Option<u64>,
}

/// A plant with a dead sensor is a healthy plant; one in which nothing answers is not.
pub fn devices(all: &[Device]) -> Vec<Finding> {
    let good = all.iter().filter(|d| d.state == "good").count();
    let bad: Vec<&Device> = all.iter().filter(|d| d.state != "good").collect();
    let mut found = Vec::new();
    if good > 0 || all.is_empty() {
        found.push(Finding::ok(
            DEVICES,
            "",
            format!("{good} of {} answer", count(all.len() as u64, "device")),
        ));
    }
    for device in bad.iter().take(DEVICES_SHOWN_MAX) {
        let since = match device.last_good_age_s {
            Some(age) => format!("the last good answer was {} ago", span(age)),
            None => "there was no good answer since the start".into(),
        };
        let state = if device.state.is_empty() { "not polled yet" } else { device.state.as_str() };
        let words = format!("{state}; {since}");
        let advice = match device.state.starts_with("exception") {
            true => format!(
                "it answers and refuses: compare table, address (from 0) and type with its manual; \
                 `fieldgate read {} POINT` tries one",
                device.name
            ),
            false => format!(
                "look after its power, wiring, unit id and line settings; `fieldgate read {} POINT` tries again",
                device.name
            ),
        };
        found.push(match good {
            0 => Finding::failed(DEVICES, &device.name, words, advice),
            _ => Finding::warning(DEVICES, &device.name, words, advice),
        });
    }
    if bad.len() > DEVICES_SHOWN_MAX {
        let more = format!("{} more do not answer", bad.len() - DEVICES_SHOWN_MAX);
        found.push(Finding::warning(DEVICES, "", more, "`fieldgate status` shows all"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Outcome::{self, Failed, Ok, Skipped, Warning};

    #[test]
    fn an_agent_is_there_or_not_or_silent() {
        let check = |given: Agent, expected: Outcome, words: &str| {
            let found = agent(&given, "1.0.0");
            assert_eq!(found.result, expected, "{found:?}");
            assert!(found.found.contains(words), "{found:?}");
        };
        let answers =
            |version: &str| Agent::Answers { version: version.into(), uptime_s: 7300, pid: Some(7) };
        check(answers("1.0.0"), Ok, "since 2 h as pid 7");
        check(answers("0.9.0"), Warning, "version 0.9.0");
        check(Agent::Absent, Warning, "does not run");
        check(Agent::NoSocket, Skipped, "no status socket");
        check(Agent::Mute { pid: 7, why: "timeout".into() }, Failed, "pid 7");
        check(Agent::Refuses("permission denied".into()), Skipped, "denied");
    }

    #[test]
    fn one_dead_sensor_is_a_warning_and_a_dead_plant_has_failed() {
        let device = |name: &str, state: &str, age| Device {
            name: name.into(),
            state: state.into(),
            last_good_age_s: age,
        };
        let found = devices(&[
            device("a", "good", Some(1)),
            device("b", "timeout", Some(200)),
            device("c", "", None),
        ]);
        assert_eq!(found.iter().map(|f| f.result).collect::<Vec<_>>(), [Ok, Warning, Warning]);
        assert_eq!(found[0].found, "1 of 3 devices answer");
        assert_eq!(found[1].found, "timeout; the last good answer was 3 min ago");
        assert_eq!(found[2].found, "not polled yet; there was no good answer since the start");
        let found = devices(&[device("b", "timeout", None)]);
        assert_eq!(found.iter().map(|f| f.result).collect::<Vec<_>>(), [Failed]);
        let many: Vec<Device> = (0..50).map(|n| device(&n.to_string(), "timeout", None)).collect();
        assert_eq!(devices(&many).len(), 21);
    }
}
