//! The package's life: upgrade, downgrade, remove, purge, and in again.

use super::account::Allowed;
use super::bed::{Bed, Options};
use super::deb;
use super::plant::{BOTH, KEY, PORT, Plant};

fn version(bed: &Bed) -> String {
    bed.sh("dpkg-query -W -f '${Version}' fieldgate")
}

#[test]
#[ignore = "boots a system; tests/system/run does it"]
fn an_upgrade_keeps_data_keys_and_the_edited_configuration_and_restarts_once() {
    let plant = Plant::new();
    let bed = plant.boot(PORT);
    bed.install(&deb::other(deb::OLDER));
    assert_eq!(version(&bed), deb::OLDER);
    plant.configure(&bed, &BOTH);
    bed.write("/etc/fieldgate/conf.d/log.toml", "[log]\nlevel = \"info\"\n");
    bed.sh("systemctl restart fieldgate");
    plant.wait_arrived(&bed, 10);
    let files = format!("sha256sum {KEY} /etc/fieldgate/fieldgate.toml /etc/fieldgate/conf.d/log.toml");
    let (before, pid) = (bed.sh(&files), bed.show("MainPID"));
    let starts = "journalctl --no-pager -u fieldgate -o cat | grep -c '^Started '";
    let started: usize = bed.sh(starts).parse().unwrap();

    bed.install(&deb::current());
    assert_ne!(version(&bed), deb::OLDER);
    assert_eq!(bed.sh("systemctl is-active fieldgate"), "active");
    assert_ne!(bed.show("MainPID"), pid, "the new program runs");
    assert_eq!(bed.sh(starts).parse::<usize>().unwrap(), started + 1, "one restart");
    assert_eq!(bed.sh(&files), before);
    assert_eq!(bed.sh("stat -c '%a %U' /var/lib/fieldgate"), "700 fieldgate");
    plant.wait_arrived(&bed, 10);
    bed.sh("systemctl stop fieldgate");
    // Numbers go on where they were: no hole, and nothing again.
    plant.settle(Allowed::default());
}

#[test]
#[ignore = "boots a system; tests/system/run does it"]
fn what_the_operator_disabled_or_masked_stays_so_through_an_upgrade() {
    let bed = Bed::boot(&Options::default());
    bed.install(&deb::other(deb::OLDER));
    bed.sh("systemctl disable -q --now fieldgate");
    bed.install(&deb::current());
    assert_eq!(bed.try_sh("systemctl is-enabled fieldgate").out.trim(), "disabled");
    assert_eq!(bed.try_sh("systemctl is-active fieldgate").out.trim(), "inactive");

    bed.sh("systemctl mask -q fieldgate");
    bed.install(&deb::other(deb::NEWER));
    assert_eq!(bed.try_sh("systemctl is-enabled fieldgate").out.trim(), "masked");
    assert_eq!(bed.try_sh("systemctl is-active fieldgate").out.trim(), "inactive");
}

#[test]
#[ignore = "boots a system; tests/system/run does it"]
fn going_back_says_what_that_means() {
    let bed = Bed::boot(&Options::default());
    bed.install(&deb::other(deb::NEWER));
    let said = bed.install(&deb::current());
    let words = format!("goes back from {} to {}", deb::NEWER, version(&bed));
    assert!(said.contains(&words), "{said}");
    assert!(said.contains(&format!("install {} again", deb::NEWER)), "{said}");
    assert_eq!(bed.sh("systemctl is-active fieldgate"), "active");
}

#[test]
#[ignore = "boots a system; tests/system/run does it"]
fn going_back_is_refused_where_the_store_is_newer() {
    let (bed, plant) = Plant::flowing();
    let known = bed.sh("fieldgate outbox --json | sed -n 's/.*\"schema\": *\\([0-9]*\\),/\\1/p'");
    bed.install(&deb::other(deb::NEWER));
    // What a newer version would say of a store that it has migrated.
    let newer: u32 = known.parse::<u32>().unwrap() + 1;
    bed.write(
        "/usr/local/sbin/fieldgate",
        format!("#!/bin/sh\n/usr/bin/fieldgate \"$@\" | sed 's/\"schema\": {known}/\"schema\": {newer}/'\n"),
    );
    bed.sh("chmod 755 /usr/local/sbin/fieldgate");

    let (code, said) = bed.try_install(&deb::current());
    assert_ne!(code, 0, "{said}");
    assert!(said.contains(&format!("the store has schema {newer}")), "{said}");
    assert_eq!(version(&bed), deb::NEWER);
    assert_eq!(bed.sh("dpkg --audit"), "", "the newer package stays whole");
    assert_eq!(bed.sh("systemctl is-active fieldgate"), "active");
    plant.wait_arrived(&bed, 4);
    bed.sh("systemctl stop fieldgate");
    plant.settle(Allowed::default());
}

#[test]
#[ignore = "boots a system; tests/system/run does it"]
fn a_store_of_a_newer_version_is_refused_once_and_left_alone() {
    let (bed, plant) = Plant::flowing();
    bed.sh("systemctl stop fieldgate");
    let file = "/var/lib/fieldgate/fieldgate.db";
    // Four bytes of SQLite's header: `user_version`.
    let mark = |octal: &str| {
        format!(
            "printf '\\0\\0\\0\\{octal}' | dd of={file} bs=1 seek=60 conv=notrunc status=none; sha256sum {file}"
        )
    };
    let sum = bed.sh(&format!("sha256sum {file}"));
    let known = bed.sh(&format!("od -An -j63 -N1 -to1 {file}"));
    let newer = bed.sh(&mark("143"));
    assert_ne!(newer, sum);

    let started = bed.try_sh("systemctl start fieldgate");
    assert_ne!(started.code, 0, "{started:?}");
    bed.wait_sh("an end", "systemctl is-failed fieldgate");
    assert_eq!(bed.show("ExecMainStatus"), "65");
    bed.wait_journal("what to do", "written by a newer fieldgate: its schema is 99");
    assert_eq!(bed.sh(&format!("sha256sum {file}")), newer, "it was touched");

    // The package of an older version cannot ask the program here, and reads the header.
    let (code, said) = bed.try_install(&deb::other(deb::OLDER));
    assert_ne!(code, 0, "{said}");
    assert!(said.contains("the store has schema 99"), "{said}");
    assert_eq!(bed.sh(&format!("sha256sum {file}")), newer, "it was touched");

    // Nothing is lost by it.
    assert_eq!(bed.sh(&mark(known.trim())), sum);
    bed.sh("systemctl start fieldgate");
    plant.wait_arrived(&bed, 4);
    bed.sh("systemctl stop fieldgate");
    plant.settle(Allowed::default());
}

#[test]
#[ignore = "boots a system; tests/system/run does it"]
fn remove_keeps_the_data_and_purge_removes_it_and_says_so() {
    let (bed, plant) = Plant::flowing();
    bed.sh("systemctl stop fieldgate");
    let store = bed.sh("sha256sum /var/lib/fieldgate/fieldgate.db");
    bed.sh("systemctl start fieldgate");
    let said = bed.sh("dpkg -r fieldgate 2>&1");
    assert!(said.contains("stay in /var/lib/fieldgate"), "{said}");
    assert!(said.contains("purge"), "{said}");
    assert_eq!(bed.try_sh("pgrep -x fieldgate").out, "", "it does not run on");
    assert_eq!(bed.try_sh("ls /usr/bin/fieldgate").code, 2);
    bed.sh("test -s /var/lib/fieldgate/fieldgate.db");
    bed.sh(&format!("test -s {KEY}"));

    // In again: everything is where it was.
    bed.installed();
    plant.wait_arrived(&bed, 4);
    bed.sh("systemctl stop fieldgate");
    plant.settle(Allowed::default());
    assert_ne!(bed.sh("sha256sum /var/lib/fieldgate/fieldgate.db"), store, "it went on writing");

    // A data partition of its own: the folder stays, what is in it goes.
    bed.sh("mkdir -p /run/data; mount -t tmpfs none /run/data; cp -a /var/lib/fieldgate/. /run/data/; \
            mount --bind /run/data /var/lib/fieldgate");
    let said = bed.sh("dpkg -P fieldgate 2>&1");
    assert_eq!(bed.sh("ls -A /run/data"), "");
    bed.sh("umount /var/lib/fieldgate; rm -rf /var/lib/fieldgate");
    assert!(
        said.contains("removing readings, shadows, keys and certificates in /var/lib/fieldgate"),
        "{said}"
    );
    for gone in
        ["/var/lib/fieldgate", "/etc/fieldgate", "/lib/systemd/system/fieldgate.service", "/run/fieldgate"]
    {
        assert_eq!(bed.try_sh(&format!("test -e {gone}")).code, 1, "{gone}");
    }
    let left =
        bed.sh("find / -xdev -name '*fieldgate*' ! -path '/root/*' ! -path '/proc/*' ! -path '/var/log/*'");
    assert_eq!(left, "", "left behind");
    bed.sh("id fieldgate");

    bed.installed();
    assert_eq!(bed.sh("systemctl is-active fieldgate"), "active");
    assert_eq!(bed.sh("systemctl is-enabled fieldgate"), "enabled");
}
