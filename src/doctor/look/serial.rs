//! Serial ports, from outside: a port that somebody may have is never opened.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{Process, Root, agent, holds};
use crate::doctor::judge::Rights;
use crate::doctor::judge::serial::{Holder, Port, Rs485};
use crate::model::device::{Bus, SerialPort, Transport};
use crate::serial::port;

/// Other ports that are named where one is missing.
const OTHERS_MAX: usize = 8;

pub fn look(
    root: &Root,
    bus: &Bus,
    settings: &SerialPort,
    processes: &[Process],
    agent: &agent::Seen,
) -> Port {
    let place = root.path(&settings.path.to_string_lossy());
    let real = std::fs::canonicalize(&place);
    let found = real.as_ref().ok().and_then(|real| std::fs::metadata(real).ok());
    let mut seen = Port {
        bus: bus.name.to_string(),
        path: settings.path.display().to_string(),
        node: Err(real.as_ref().err().map_or("cannot be looked at".into(), ToString::to_string)),
        is_device: false,
        stable: Vec::new(),
        others: Vec::new(),
        holders: Vec::new(),
        holders_hidden: false,
        agent_pid: agent.pid,
        agent_says: says(agent, bus),
        has_console: false,
        has_getty: false,
        modem_manager: false,
        brltty: false,
        latency_ms: None,
        rs485: Rs485::NotAsked,
    };
    let (Ok(real), Some(found)) = (real, found) else {
        seen.others = others(root);
        return seen;
    };
    let node = real.display().to_string();
    let rights = Rights { mode: found.mode() & 0o7777, uid: found.uid(), gid: found.gid() };
    seen.is_device = found.file_type().is_char_device();
    seen.stable = stable(root, &real);
    (seen.holders, seen.holders_hidden) = holders(root, &real, processes);
    let short = real.file_name().map_or(String::new(), |name| name.to_string_lossy().into_owned());
    let runs = |name: &str| processes.iter().any(|p| p.name == name);
    let is_usb = short.starts_with("ttyUSB") || short.starts_with("ttyACM");
    seen.has_console = is_console(root, &real, &short);
    seen.has_getty = has_getty(root, &short);
    seen.modem_manager = is_usb && runs("ModemManager") && !is_ignored(root, &found);
    seen.brltty = is_usb && runs("brltty");
    seen.latency_ms = root
        .text(&format!("/sys/class/tty/{short}/device/latency_timer"))
        .and_then(|text| text.trim().parse().ok());
    if settings.rs485.is_some() {
        let is_free = seen.holders.is_empty() && agent.agent.is_absent() && seen.is_device;
        seen.rs485 = match is_free.then(|| port::switches_rs485(&real)) {
            Some(Ok(true)) => Rs485::Switched,
            Some(Ok(false)) => Rs485::NotSwitched,
            _ => Rs485::NotTried,
        };
    }
    seen.node = Ok((node, rights));
    seen
}

pub fn ports(buses: &[Bus]) -> impl Iterator<Item = (&Bus, &SerialPort)> {
    buses.iter().filter_map(|bus| match &bus.transport {
        Transport::Serial(port) => Some((bus, port)),
        _ => None,
    })
}

fn says(agent: &agent::Seen, bus: &Bus) -> Option<String> {
    let status = agent.status.as_ref()?;
    let found = status.buses.iter().find(|b| b.bus == bus.name.as_str())?;
    Some(found.state.chars().filter(|c| !c.is_control()).collect())
}

/// Who has it open, and whether somebody could not be looked into.
fn holders(root: &Root, real: &Path, processes: &[Process]) -> (Vec<Holder>, bool) {
    let files = [real.to_owned()];
    let mut hidden = false;
    let mut found = Vec::new();
    for process in processes {
        match holds(root, process.pid, &files) {
            Some(true) => found.push(Holder { pid: process.pid, name: process.name.clone() }),
            Some(false) => {}
            None => hidden = true,
        }
    }
    (found, hidden)
}

/// The names that udev gives by the adapter and by the plug.
fn stable(root: &Root, real: &Path) -> Vec<String> {
    let folders = ["/dev/serial/by-id", "/dev/serial/by-path"];
    folders.iter().flat_map(|folder| links(root, folder, Some(real))).collect()
}

fn links(root: &Root, folder: &str, to: Option<&Path>) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(root.path(folder)) else { return Vec::new() };
    let named = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.ok()?;
        let fits = to.is_none_or(|real| std::fs::canonicalize(entry.path()).is_ok_and(|there| there == real));
        fits.then(|| format!("{folder}/{}", entry.file_name().to_string_lossy()))
    };
    let mut found: Vec<String> = entries.filter_map(named).collect();
    found.sort();
    found
}

/// What could be meant instead: adapters by their stable name, then ports with a driver.
fn others(root: &Root) -> Vec<String> {
    let mut found = links(root, "/dev/serial/by-id", None);
    found.extend(inventory(root).into_iter().map(|(name, _)| format!("/dev/{name}")));
    found.truncate(OTHERS_MAX);
    found
}

/// Ports behind which there is hardware, with their driver.
pub fn inventory(root: &Root) -> Vec<(String, String)> {
    let Ok(entries) = std::fs::read_dir(root.path("/sys/class/tty")) else { return Vec::new() };
    let port = |entry: std::io::Result<std::fs::DirEntry>| {
        let name = entry.ok()?.file_name().to_str()?.to_owned();
        let driver = std::fs::read_link(root.path(&format!("/sys/class/tty/{name}/device/driver"))).ok()?;
        let driver = driver.file_name()?.to_string_lossy().into_owned();
        // The kernel makes four of these on every PC, whether they are there or not.
        let is_there = root.text(&format!("/sys/class/tty/{name}/type")).is_none_or(|t| t.trim() != "0");
        is_there.then_some((name, driver))
    };
    let mut found: Vec<_> = entries.filter_map(port).collect();
    found.sort();
    found
}

/// `console=ttyS1,115200` on the kernel line; `serial0` is a name of the Raspberry Pi.
fn is_console(root: &Root, real: &Path, short: &str) -> bool {
    let line = root.text("/proc/cmdline").unwrap_or_default();
    let mut consoles = line.split_ascii_whitespace().filter_map(|word| word.strip_prefix("console="));
    consoles.any(|console| {
        let name = console.split(',').next().unwrap_or_default();
        name == short || std::fs::canonicalize(root.path(&format!("/dev/{name}"))).is_ok_and(|p| p == real)
    })
}

/// A login prompt that somebody enabled, or that systemd made for the console.
fn has_getty(root: &Root, short: &str) -> bool {
    let unit = format!("serial-getty@{short}.service");
    let folders = [
        "/etc/systemd/system/getty.target.wants",
        "/etc/systemd/system/multi-user.target.wants",
        "/run/systemd/generator/getty.target.wants",
    ];
    folders.iter().any(|folder| root.path(&format!("{folder}/{unit}")).symlink_metadata().is_ok())
}

/// By a udev rule, as udev wrote it down.
fn is_ignored(root: &Root, found: &std::fs::Metadata) -> bool {
    let (major, minor) = (rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()));
    let data = root.text(&format!("/run/udev/data/c{major}:{minor}")).unwrap_or_default();
    // A mark of the port, as by the package's rule, or of the whole device.
    data.lines().any(|line| ["E:ID_MM_PORT_IGNORE=1", "E:ID_MM_DEVICE_IGNORE=1"].contains(&line))
}

/// For tests and inventories: everything below `/dev/serial`.
pub fn stable_names(root: &Root) -> Vec<(String, PathBuf)> {
    let all =
        ["/dev/serial/by-id", "/dev/serial/by-path"].iter().flat_map(|folder| links(root, folder, None));
    all.filter_map(|name| Some((name.clone(), std::fs::canonicalize(root.path(&name)).ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixture;
    use crate::doctor::judge::agent::Agent;
    use crate::model::device::Parity;

    fn settings(path: &str) -> SerialPort {
        SerialPort {
            path: path.into(),
            baud: 9600,
            data_bits: 8,
            parity: Parity::Even,
            stop_bits: 1,
            rs485: None,
            local_echo: false,
        }
    }

    /// A machine of a few files. Its port is a plain file: nodes only root can make.
    #[test]
    fn a_machine_is_looked_at_from_outside() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        let root = Root::at(&real);
        let put = |path: &str, text: &str| {
            std::fs::create_dir_all(real.join(path).parent().unwrap()).unwrap();
            std::fs::write(real.join(path), text).unwrap();
        };
        let link = |at: &str, to: PathBuf| {
            std::fs::create_dir_all(real.join(at).parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(to, real.join(at)).unwrap();
        };
        put("dev/ttyUSB0", "");
        put("proc/813/fd", "no folder");
        put("proc/cmdline", "quiet console=serial0,115200 root=/dev/sda1\n");
        put("sys/class/tty/ttyUSB0/device/latency_timer", "16\n");
        link("sys/class/tty/ttyUSB0/device/driver", "/sys/bus/usb-serial/drivers/ftdi_sio".into());
        link("dev/serial/by-id/usb-FTDI-if00", "../../ttyUSB0".into());
        link("dev/serial0", "ttyUSB0".into());
        link("proc/812/fd/9", real.join("dev/ttyUSB0"));
        link("etc/systemd/system/getty.target.wants/serial-getty@ttyUSB0.service", "/lib/x".into());
        let processes =
            [Process { pid: 812, name: "ModemManager".into() }, Process { pid: 813, name: "brltty".into() }];
        let agent = agent::Seen { agent: Agent::Absent, pid: None, status: None };
        let bus = &fixture::config().buses[0];
        let seen = look(&root, bus, &settings("/dev/serial0"), &processes, &agent);
        assert_eq!(seen.holders, [Holder { pid: 812, name: "ModemManager".into() }]);
        assert!(seen.holders_hidden, "813 cannot be looked into");
        assert_eq!(seen.stable, ["/dev/serial/by-id/usb-FTDI-if00"]);
        assert!(seen.has_console && seen.has_getty && seen.modem_manager && seen.brltty);
        assert_eq!(seen.latency_ms, Some(16));
        assert!(!seen.is_device);
        assert!(seen.node.is_ok_and(|(node, _)| node.ends_with("/dev/ttyUSB0")));
        let gone = look(&root, bus, &settings("/dev/ttyUSB7"), &processes, &agent);
        assert!(gone.node.is_err());
        assert_eq!(gone.others, ["/dev/serial/by-id/usb-FTDI-if00", "/dev/ttyUSB0"]);
        for mark in ["ID_MM_PORT_IGNORE", "ID_MM_DEVICE_IGNORE"] {
            put("run/udev/data/c0:0", &format!("E:ID_BUS=usb\nE:{mark}=1\n"));
            assert!(!look(&root, bus, &settings("/dev/ttyUSB0"), &processes, &agent).modem_manager, "{mark}");
        }
    }
}
