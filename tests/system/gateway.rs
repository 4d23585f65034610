//! From the package to readings at the broker: what every architecture must do.

use serde_json::Value;

use super::account::Allowed;
use super::bed::{Bed, Options, arch};
use super::plant::{BOTH, PORT, Plant, Wanted};

/// What `fieldgate doctor` finds, asked by root.
pub fn doctor(bed: &Bed) -> Vec<Value> {
    let said = bed.try_sh("fieldgate doctor --json");
    serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}"))
}

#[test]
#[ignore = "boots a system; tests/system/run does it"]
fn installed_it_runs_as_its_own_user_and_starts_with_the_machine() {
    let bed = Bed::boot(&Options::default());
    bed.installed();
    assert_eq!(bed.sh("systemctl is-enabled fieldgate"), "enabled");
    assert_eq!(bed.sh("systemctl is-active fieldgate"), "active");
    assert_eq!(bed.sh("ps -o user:20= -p $(systemctl show -P MainPID fieldgate)"), "fieldgate");
    assert!(bed.sh("id -nG fieldgate").split(' ').any(|group| group == "dialout"));
    let state = bed.sh("stat -c '%a %U %G' /var/lib/fieldgate");
    assert_eq!(state, "700 fieldgate fieldgate");
    assert_eq!(bed.sh("find /var/lib/fieldgate -type f ! -perm 600"), "", "the store is of its user alone");
    assert_eq!(bed.sh("stat -c '%a %U %G' /etc/fieldgate/fieldgate.toml"), "640 root fieldgate");
    assert_eq!(bed.sh("dpkg -V fieldgate"), "", "what was installed is what the package says");
    assert!(bed.sh("fieldgate --version").starts_with("fieldgate "));
    assert_eq!(bed.sh("systemctl show -P NRestarts fieldgate"), "0");
}

#[test]
#[ignore = "boots a system; tests/system/run does it"]
fn readings_of_tcp_and_a_serial_line_reach_the_broker_and_none_is_lost_by_a_stop() {
    let plant = Plant::new();
    let bed = plant.boot(PORT);
    bed.installed();
    // The emulator does not pass on what configures a port.
    let units: &'static [u8] = if arch() == "amd64" { &[1, 2] } else { &[1] };
    plant.configure(&bed, &Wanted { units, ..BOTH });
    assert_eq!(bed.sh("runuser -u fieldgate -- fieldgate check >/dev/null; echo $?"), "0");
    bed.sh("systemctl restart fieldgate");
    let life = bed.show("InvocationID");
    // READY has been said, so there was a first poll.
    assert_eq!(bed.sh("systemctl is-active fieldgate"), "active");
    bed.wait_journal("a reason for ready", "ready: a device has answered");
    for unit in units {
        plant.wait_arrived_of(&bed, &format!("dev{unit:02}"), 20);
    }
    let line = format!("online; {0} of {0} devices good; [0-9]* readings wait", units.len());
    bed.wait_sh("status line", &format!("systemctl status fieldgate | grep -q 'Status: \"{line}\"'"));
    // The technician's first question, answered beside the running service.
    let findings = doctor(&bed);
    let wrong: Vec<_> = findings.iter().filter(|f| f["result"] == "failed").collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    for name in [
        "configuration",
        "service",
        "watchdog",
        "sandbox",
        "agent",
        "certificate",
        "store-integrity",
        "broker-tls",
    ] {
        assert!(findings.iter().any(|f| f["name"] == name && f["result"] == "ok"), "{name}: {findings:#?}");
    }

    bed.sh("systemctl stop fieldgate");
    assert_eq!(bed.show("Result"), "success");
    assert_eq!(bed.show("ExecMainStatus"), "0");
    // An empty window: everything that was read is at the broker already, nothing waits.
    plant.settle(Allowed::default());
    let waits = bed.sh("runuser -u fieldgate -- fieldgate outbox --json");
    let waits: Value = serde_json::from_str(&waits).unwrap();
    assert_eq!(waits["readings_waiting"], 0, "{waits}");
    let loud = bed.sh(&format!("journalctl -q --no-pager -p warning -o cat _SYSTEMD_INVOCATION_ID={life}"));
    assert!(arch() != "amd64" || loud.is_empty(), "a healthy life logs no warning:\n{loud}");
}
