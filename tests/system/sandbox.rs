//! What the service may touch, tried from inside of its own sandbox.

use std::collections::BTreeMap;

use super::bed::{Bed, Options};
use super::plant::{PORT, Plant};

#[test]
#[ignore = "boots a system; tests/system/run does it"]
fn systemd_finds_little_exposed_and_nothing_odd() {
    let bed = Bed::boot(&Options::default());
    bed.installed();
    let told = bed.sh("systemd-analyze security --no-pager fieldgate");
    let line = told.lines().last().unwrap_or_default();
    let exposure: f64 = line.split(": ").nth(1).and_then(|t| t.split(' ').next()?.parse().ok()).unwrap();
    assert!(exposure <= 1.5, "{told}");
    let odd = bed.try_sh("systemd-analyze verify --man=no fieldgate.service");
    assert_eq!((odd.code, odd.err.as_str()), (0, ""));
    // A start that waits for anything but the local file systems is a start that may not happen.
    let waits = bed.sh("systemctl show -P After -P Wants -P Requires fieldgate");
    assert!(!waits.contains("online") && !waits.contains("time-sync"), "{waits}");
}

/// Names and what came of them: `ok`, or the error's name.
fn probe(bed: &Bed) -> BTreeMap<String, String> {
    bed.write("/usr/local/lib/probe.pl", include_str!("probe.pl"));
    bed.write(
        "/etc/systemd/system/fieldgate.service.d/probe.conf",
        "[Service]\nType=exec\nRestart=no\nWatchdogSec=0\nExecStart=\nExecStart=/usr/bin/perl /usr/local/lib/probe.pl\n",
    );
    bed.sh("systemctl daemon-reload; systemctl restart fieldgate");
    bed.wait_sh("end of the probe", "! systemctl is-active fieldgate");
    let failed = bed.sh("journalctl -q --no-pager -o cat -t perl");
    assert_eq!((bed.show("Result").as_str(), failed.as_str()), ("success", ""), "the probe itself failed");
    bed.sh("cat /var/lib/fieldgate/probe")
        .lines()
        .map(|line| line.split_once('=').unwrap_or_else(|| panic!("{line}")))
        .map(|(name, result)| (name.to_owned(), result.to_owned()))
        .collect()
}

#[test]
#[ignore = "boots a system; tests/system/run does it"]
fn inside_it_reaches_its_state_its_line_and_the_network_and_nothing_else() {
    let plant = Plant::new();
    let bed = plant.boot(PORT);
    bed.installed();
    bed.sh("touch /home/file /root/file");
    let found = probe(&bed);
    let expected = include_str!("probe.expected");
    for line in expected.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let (name, results) = line.split_once('=').unwrap();
        let result = found.get(name).unwrap_or_else(|| panic!("the probe does not know {name}: {found:#?}"));
        assert!(results.split('|').any(|r| r == result), "{name}: {result}, not {results}\n{found:#?}");
    }
    let known = expected.lines().filter(|l| l.contains('=') && !l.starts_with('#')).count();
    assert_eq!(found.len(), known, "{found:#?}");
}
