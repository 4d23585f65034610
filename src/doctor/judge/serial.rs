//! Serial ports: there, allowed, free, and quick. PURE.

use super::{Rights, Who};
use crate::doctor::finding::Finding;

pub const NAME: &str = "serial-port";

/// Above this an adapter waits longer than a short answer takes. Milliseconds.
const LATENCY_MAX: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub pid: u32,
    pub name: String,
}

/// Whether the kernel switches the transceiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rs485 {
    NotAsked,
    Switched,
    NotSwitched,
    /// Somebody has the port, or it does not open.
    NotTried,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    pub bus: String,
    /// As the configuration has it.
    pub path: String,
    /// The node that it leads to and its rights; or the kernel's words.
    pub node: Result<(String, Rights), String>,
    pub is_device: bool,
    /// Names under /dev/serial that lead to it and do not change.
    pub stable: Vec<String>,
    /// Names of ports that are there; only where this one is not.
    pub others: Vec<String>,
    pub holders: Vec<Holder>,
    /// Some processes could not be looked into.
    pub holders_hidden: bool,
    pub agent_pid: Option<u32>,
    /// What the running agent says of the bus.
    pub agent_says: Option<String>,
    pub has_console: bool,
    pub has_getty: bool,
    /// It runs, and nothing tells it to leave this port alone.
    pub modem_manager: bool,
    pub brltty: bool,
    pub latency_ms: Option<u32>,
    pub rs485: Rs485,
}

pub fn judge(port: &Port, who: &Who) -> Vec<Finding> {
    let subject = format!("{} {}", port.bus, port.path);
    let (node, rights) = match &port.node {
        Ok(found) => found,
        Err(why) => {
            let advice = match port.others.as_slice() {
                [] => "plug it in; this machine has no other serial port".to_owned(),
                others => {
                    format!("plug it in, or correct the path of the bus; there are {}", others.join(", "))
                }
            };
            return vec![Finding::failed(NAME, subject, format!("it is not there: {why}"), advice)];
        }
    };
    if !port.is_device {
        let found = format!("{node} is no device");
        return vec![Finding::failed(NAME, subject, found, "correct the path of the bus")];
    }
    let mut found = Vec::new();
    let mut add = |finding| found.push(finding);
    if !who.may(*rights, 0o6) {
        let words =
            format!("{} may not open it (mode {:04o}, group {})", who.label(), rights.mode, rights.gid);
        let advice = format!("`usermod -aG dialout {}`, then restart the agent", who.label());
        add(Finding::failed(NAME, &subject, words, advice));
    }
    if port.has_console {
        let advice =
            "remove console= of this port from the kernel line (/boot/firmware/cmdline.txt) and restart";
        add(Finding::failed(NAME, &subject, "the kernel writes its messages to it", advice));
    }
    let strangers: Vec<&Holder> = port.holders.iter().filter(|h| Some(h.pid) != port.agent_pid).collect();
    for holder in &strangers {
        let words = format!("{} (pid {}) holds it", holder.name, holder.pid);
        add(Finding::failed(NAME, &subject, words, let_go(&holder.name, node, holder.pid)));
    }
    if strangers.is_empty() && port.has_getty {
        let advice = format!("`systemctl disable --now serial-getty@{}`", short(node));
        add(Finding::failed(NAME, &subject, "a login prompt waits on it", advice));
    }
    if strangers.is_empty() && port.modem_manager {
        let advice = "a udev rule with ENV{ID_MM_PORT_IGNORE}=\"1\" for this adapter (see 70-fieldgate.rules); \
             where no modem is used, `systemctl disable --now ModemManager`";
        let words = "ModemManager runs and talks to it whenever it is plugged in";
        add(Finding::warning(NAME, &subject, words, advice));
    }
    if strangers.is_empty() && port.brltty {
        let advice = "`apt-get remove brltty`: it takes common USB adapters for braille terminals";
        add(Finding::warning(NAME, &subject, "brltty runs and takes it when it is plugged in", advice));
    }
    if let Some(latency) = port.latency_ms.filter(|ms| *ms > LATENCY_MAX) {
        let words = format!("its adapter holds answers back for {latency} ms");
        let advice = format!(
            "`echo 1 > /sys/bus/usb-serial/devices/{}/latency_timer`, for good by a udev rule",
            short(node)
        );
        add(Finding::warning(NAME, &subject, words, advice));
    }
    if port.rs485 == Rs485::NotSwitched {
        let words = "its driver does not switch an RS-485 transceiver";
        let advice = "remove rs485 if the adapter switches by itself; else use a port that can";
        add(Finding::warning(NAME, &subject, words, advice));
    }
    if is_unstable(&port.path)
        && let Some(stable) = port.stable.first()
    {
        let words = "this name may belong to another adapter after the next start";
        add(Finding::warning(NAME, &subject, words, format!("write path = \"{stable}\"")));
    }
    match &port.agent_says {
        Some(state) if !matches!(state.as_str(), "open" | "closed" | "") && found.is_empty() => {
            let advice = "look after the adapter and its driver: `dmesg` tells of both";
            found.push(Finding::failed(NAME, &subject, format!("the agent cannot open it: {state}"), advice));
        }
        _ => {}
    }
    if found.is_empty() {
        found.push(Finding::ok(NAME, subject, good(port, who)));
    }
    found
}

fn good(port: &Port, who: &Who) -> String {
    let held = port.holders.iter().any(|h| Some(h.pid) == port.agent_pid);
    match (held, port.agent_says.as_deref(), port.holders_hidden) {
        (true, ..) | (_, Some("open"), _) => "the agent has it open".into(),
        (_, _, true) => format!("{} may open it; who holds it only root can see", who.label()),
        _ => format!("{} may open it, and nobody holds it", who.label()),
    }
}

/// Numbered in the order in which they were plugged in.
fn is_unstable(path: &str) -> bool {
    path.starts_with("/dev/ttyUSB") || path.starts_with("/dev/ttyACM")
}

fn short(node: &str) -> &str {
    node.trim_start_matches("/dev/")
}

fn let_go(name: &str, node: &str, pid: u32) -> String {
    match name {
        "ModemManager" => "it takes the port for a modem: a udev rule with ENV{ID_MM_PORT_IGNORE}=\"1\" and \
             `systemctl restart ModemManager`; where no modem is used, `systemctl disable --now ModemManager`"
            .into(),
        "agetty" | "getty" | "login" => format!("`systemctl disable --now serial-getty@{}`", short(node)),
        "brltty" => "`apt-get remove brltty`: it takes the adapter for a braille terminal".into(),
        "fieldgate" => format!("another agent has it: `systemctl status {pid}` names its unit"),
        other => format!("stop {other}, or give it another port: `systemctl status {pid}` names its unit"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Outcome::{self, Failed, Ok as Fine, Warning};

    fn port() -> Port {
        Port {
            bus: "line-1".into(),
            path: "/dev/serial/by-id/usb-x".into(),
            node: Ok(("/dev/ttyUSB0".into(), Rights { mode: 0o660, uid: 0, gid: 20 })),
            is_device: true,
            stable: vec!["/dev/serial/by-id/usb-x".into()],
            others: Vec::new(),
            holders: Vec::new(),
            holders_hidden: false,
            agent_pid: Some(7),
            agent_says: None,
            has_console: false,
            has_getty: false,
            modem_manager: false,
            brltty: false,
            latency_ms: Some(1),
            rs485: Rs485::NotAsked,
        }
    }

    #[test]
    fn each_trouble_has_its_words_and_its_cure() {
        let check = |change: &dyn Fn(&mut Port), expected: Outcome, words: &str, advice: &str| {
            let mut port = port();
            change(&mut port);
            let who = Who { name: "fieldgate".into(), uid: 990, gids: vec![990, 20] };
            let found = judge(&port, &who);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].result, expected, "{found:?}");
            assert!(found[0].found.contains(words), "{found:?}");
            assert!(found[0].advice.as_deref().unwrap_or_default().contains(advice), "{found:?}");
        };
        let held = |name: &str| vec![Holder { pid: 9, name: name.into() }];
        check(&|_| {}, Fine, "nobody holds it", "");
        check(
            &|p| p.holders = vec![Holder { pid: 7, name: "fieldgate".into() }],
            Fine,
            "agent has it open",
            "",
        );
        check(&|p| p.holders_hidden = true, Fine, "only root", "");
        check(&|p| p.node = Err("No such file".into()), Failed, "not there", "no other serial port");
        check(
            &|p| (p.node, p.others) = (Err("No such file".into()), vec!["/dev/ttyS1".into()]),
            Failed,
            "not there",
            "there are /dev/ttyS1",
        );
        check(&|p| p.is_device = false, Failed, "no device", "path");
        check(
            &|p| p.node = Ok(("/dev/ttyUSB0".into(), Rights { mode: 0o600, uid: 0, gid: 0 })),
            Failed,
            "may not open",
            "dialout",
        );
        check(
            &|p| p.holders = held("ModemManager"),
            Failed,
            "ModemManager (pid 9) holds it",
            "disable --now ModemManager",
        );
        check(&|p| p.holders = held("agetty"), Failed, "agetty", "serial-getty@ttyUSB0");
        check(&|p| p.holders = held("brltty"), Failed, "brltty", "apt-get remove brltty");
        check(&|p| p.holders = held("minicom"), Failed, "minicom", "stop minicom");
        check(&|p| p.has_getty = true, Failed, "login prompt", "serial-getty@ttyUSB0");
        check(&|p| p.has_console = true, Failed, "kernel", "console=");
        check(&|p| p.modem_manager = true, Warning, "ModemManager runs", "ID_MM_PORT_IGNORE");
        check(&|p| p.brltty = true, Warning, "brltty runs", "remove brltty");
        check(&|p| p.latency_ms = Some(16), Warning, "16 ms", "latency_timer");
        check(&|p| p.rs485 = Rs485::NotSwitched, Warning, "RS-485", "remove rs485");
        check(
            &|p| p.path = "/dev/ttyUSB0".into(),
            Warning,
            "another adapter",
            "path = \"/dev/serial/by-id/usb-x\"",
        );
        check(&|p| p.agent_says = Some("input/output error".into()), Failed, "input/output error", "dmesg");
    }
}
