//! The service through its bad days: no network, no clock, no stick, hangs, kills, reloads.

use super::account::Allowed;
use super::bed::{Bed, run};
use super::plant::{BOTH, PORT, Plant, Wanted};
use super::wait::until_true;

use std::process::{Command, Stdio};

use serde_json::Value;

/// What `fieldgate status` tells, asked by root.
fn status(bed: &Bed) -> Value {
    serde_json::from_str(&bed.sh("fieldgate status --json")).unwrap()
}

/// A drop-in of the operator for [Service].
fn drop_in(bed: &Bed, lines: &str) {
    bed.write("/etc/systemd/system/fieldgate.service.d/test.conf", format!("[Service]\n{lines}\n"));
    bed.sh("systemctl daemon-reload");
}

/// A pty whose owner was killed stays exclusive for as long as its other end lives, and refuses
/// everybody but root; a real port forgets its owner with the last close.
const PORT_FORGETS: &str =
    "ExecStartPre=+/usr/bin/perl -e 'open(F, \"+<\", \"/dev/ttyS1\") and ioctl(F, 0x540D, 0)'";

fn stop_and_settle(bed: &Bed, plant: &Plant, allowed: Allowed) {
    bed.sh("systemctl stop fieldgate");
    plant.settle(allowed);
}

/// A veth pair, and behind it the plant under a name that only then can be looked up.
struct Cable {
    outside: String,
    doors: Vec<super::wait::Process>,
}

impl Cable {
    fn plug(bed: &Bed, ports: &[u16]) -> Cable {
        // Of the machine's name, which is unique.
        let tail = &bed.name.as_bytes()[bed.name.len() - 6..];
        let net = format!("10.{}.{}", 128 + (tail[0] ^ tail[2]) % 64, tail[3].wrapping_mul(7) ^ tail[5]);
        let outside = format!("fg{}", String::from_utf8_lossy(tail));
        let ip = |line: &str| run(Command::new("ip").args(line.split(' ')));
        ip(&format!("link add {outside} type veth peer name uplink0 netns {}", bed.leader()));
        ip(&format!("addr add {net}.1/30 dev {outside}"));
        ip(&format!("link set {outside} up"));
        let doors = ports.iter().map(|port| {
            super::wait::Process::start(
                Command::new("socat")
                    .arg(format!("TCP-LISTEN:{port},bind={net}.1,fork,reuseaddr"))
                    .arg(format!("TCP:127.0.0.1:{port}"))
                    .stdout(Stdio::null()),
            )
        });
        let cable = Cable { outside, doors: doors.collect() };
        bed.sh(&format!("ip addr add {net}.2/30 dev uplink0; ip link set uplink0 up"));
        bed.sh(&format!("echo {net}.1 plant.example >>/etc/hosts"));
        cable
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", &self.outside]).status();
    }
}

#[test]
#[ignore = "boots a system; tests/system/run does it"]
fn it_starts_before_network_clock_and_stick_are_there_and_takes_each_as_it_comes() {
    let plant = Plant::new();
    let bed = plant.boot_with("/dev/ttyS8", true);
    bed.installed();
    let wanted = Wanted { port: "/dev/serial-stick", ..BOTH };
    plant.configure(&bed, &wanted);
    let away = plant
        .toml(&wanted)
        .replace("mqtts://localhost", "mqtts://plant.example")
        .replace("host = \"localhost\"", "host = \"plant.example\"")
        .replace("[uplink]\n", "[uplink]\nserver_name = \"localhost\"\n");
    bed.write("/etc/fieldgate/fieldgate.toml", away);
    // A machine without a clock of its own wakes up in 1970.
    bed.write("/var/lib/faketime", "@1970-01-02 00:00:00\n");
    drop_in(
        &bed,
        "Environment=LD_PRELOAD=/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1 \
         FAKETIME_TIMESTAMP_FILE=/var/lib/faketime FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 \
         FAKETIME_DISABLE_SHM=1",
    );

    bed.sh("systemctl restart fieldgate");
    assert_eq!(bed.sh("systemctl is-active fieldgate"), "active");
    bed.wait_journal("word about the clock", "the clock is not set");
    bed.wait_journal("a reason for ready", "ready: no (device answers|line is open), and each has said why");
    bed.wait_sh(
        "a status that names it",
        "systemctl status fieldgate | grep 'Status: \"offline: .*; 0 of 2 devices good'",
    );

    // The stick: its device is polled and kept, though nothing can be delivered.
    bed.sh("ln -s ttyS8 /dev/serial-stick");
    until_true("readings to wait in the store", || {
        status(&bed)["store"]["readings_waiting"].as_u64() >= Some(10)
    });

    // The network, on which no certificate is valid yet.
    let _cable = Cable::plug(&bed, &[plant.broker.tls_port, plant.tcp.1]);
    until_true("the device on the network", || plant.tcp.0.served().len() >= 10);
    bed.wait_journal("word about the certificate", "uplink offline: .*not (yet )?valid");
    assert_eq!(plant.arrived("dev02"), 0, "nothing may be delivered over a connection nobody can judge");

    // The time.
    bed.write("/var/lib/faketime", "+0\n");
    plant.wait_arrived(&bed, 20);
    assert_eq!(bed.show("NRestarts"), "0", "none of it took a restart");
    stop_and_settle(&bed, &plant, Allowed::default());
}

#[test]
#[ignore = "boots a system; tests/system/run does it"]
fn a_hung_process_is_killed_by_the_watchdog_and_restarted() {
    let (bed, plant) = Plant::flowing();
    drop_in(&bed, &format!("WatchdogSec=2s\n{PORT_FORGETS}"));
    bed.sh("systemctl restart fieldgate");
    let hung = bed.show("MainPID");
    bed.sh(&format!("kill -STOP {hung}"));
    bed.wait_sh(
        "restart",
        "test $(systemctl show -P NRestarts fieldgate) = 1 && systemctl is-active fieldgate",
    );
    bed.wait_journal("word about the watchdog", "Watchdog timeout");
    assert_ne!(bed.show("MainPID"), hung);
    plant.wait_arrived(&bed, 10);
    let cuts = Allowed { kills: 1, cuts: 1 };
    stop_and_settle(&bed, &plant, cuts);
}

#[test]
#[ignore = "boots a system; tests/system/run does it"]
fn killed_again_and_again_it_comes_back_and_no_reading_is_lost() {
    let (bed, plant) = Plant::flowing();
    drop_in(&bed, PORT_FORGETS);
    bed.sh("systemctl restart fieldgate");
    // More often, and faster, than systemd's own patience would allow.
    const KILLS: usize = 6;
    for n in 1..=KILLS {
        bed.sh("systemctl kill -s KILL fieldgate");
        let back =
            format!("test $(systemctl show -P NRestarts fieldgate) = {n} && systemctl is-active fieldgate");
        bed.wait_sh("restart", &back);
    }
    plant.wait_arrived(&bed, 10);
    stop_and_settle(&bed, &plant, Allowed { kills: KILLS, cuts: KILLS });
}

#[test]
#[ignore = "boots a system; tests/system/run does it"]
fn a_reload_applies_what_is_right_and_refuses_what_is_wrong() {
    let (bed, plant) = Plant::flowing();
    let (pid, before) = (bed.show("MainPID"), status(&bed));

    let three = Wanted { units: &[1, 2, 3], ..BOTH };
    bed.write("/etc/fieldgate/fieldgate.toml", plant.toml(&three).replace("unit_id = 3", "unit_id = 333"));
    let refused = bed.try_sh("systemctl reload fieldgate");
    assert_ne!(refused.code, 0, "{refused:?}");
    bed.wait_journal("the mistake by file and key", r"/etc/fieldgate/fieldgate\.toml[\s\S]*unit_id");
    assert_eq!(bed.sh("systemctl is-active fieldgate"), "active");
    plant.wait_arrived(&bed, 4);

    bed.write("/etc/fieldgate/fieldgate.toml", plant.toml(&three));
    bed.sh("systemctl reload fieldgate");
    plant.wait_arrived_of(&bed, "dev03", 4);
    plant.wait_arrived(&bed, 4);
    let after = status(&bed);
    assert_eq!(bed.show("MainPID"), pid);
    assert_eq!(bed.show("NRestarts"), "0");
    // What did not change was not touched: neither the line nor the connection to the broker.
    let line = |status: &Value| {
        let buses = status["buses"].as_array().unwrap();
        buses.iter().find(|b| b["bus"] == "line").unwrap()["opened"].clone()
    };
    assert_eq!((line(&before), line(&after)), (1.into(), 1.into()));
    assert_eq!(after["uplink"]["connects"], before["uplink"]["connects"]);
    stop_and_settle(&bed, &plant, Allowed::default());
}

#[test]
#[ignore = "boots a system; tests/system/run does it"]
fn a_wrong_configuration_is_named_once_and_not_tried_for_ever() {
    let (bed, plant) = Plant::flowing();
    let right = plant.toml(&BOTH);
    bed.write("/etc/fieldgate/fieldgate.toml", right.replace("[uplink]\n", "[uplink]\nurll = \"x\"\n"));
    let refused = bed.try_sh("systemctl restart fieldgate");
    assert_ne!(refused.code, 0, "{refused:?}");
    bed.wait_sh("an end", "systemctl is-failed fieldgate");
    assert_eq!(bed.show("ExecMainStatus"), "64");
    bed.wait_journal("the mistake by file and key", r"/etc/fieldgate/fieldgate\.toml[\s\S]*urll");
    bed.write("/etc/fieldgate/fieldgate.toml", right);
    bed.sh("systemctl restart fieldgate");
    plant.wait_arrived(&bed, 4);
    stop_and_settle(&bed, &plant, Allowed::default());
}

#[test]
#[ignore = "boots a system; tests/system/run does it"]
fn a_file_that_comes_late_is_waited_for() {
    let (bed, plant) = Plant::flowing();
    // As on a partition that is mounted after the start.
    bed.sh("systemctl stop fieldgate; mv /etc/fieldgate/ca.pem /root/");
    let refused = bed.try_sh("systemctl start fieldgate");
    assert_ne!(refused.code, 0, "{refused:?}");
    bed.wait_journal("the file's name", "ca.pem cannot be found");
    assert_eq!(bed.show("ExecMainStatus"), "74");
    bed.sh("mv /root/ca.pem /etc/fieldgate/");
    bed.wait_sh("the start by itself", "systemctl is-active fieldgate");
    plant.wait_arrived(&bed, 4);
    stop_and_settle(&bed, &plant, Allowed::default());
}

#[test]
#[ignore = "boots a system; tests/system/run does it"]
fn who_asks_is_known_by_name_and_group() {
    let bed = Bed::boot(&super::bed::Options::default());
    bed.installed();
    bed.sh("useradd mara; useradd olaf; usermod -aG fieldgate mara");
    assert_eq!(bed.try_sh("runuser -u mara -- fieldgate status").code, 0);
    // A stranger may neither read the configuration nor ask.
    assert_eq!(bed.try_sh("runuser -u olaf -- fieldgate status").code, 74);
    bed.sh("cp /etc/fieldgate/fieldgate.toml /tmp/; chmod 644 /tmp/fieldgate.toml");
    let refused = bed.try_sh("runuser -u olaf -- fieldgate status --config /tmp/fieldgate.toml");
    assert_eq!(refused.code, 77, "{refused:?}");

    // What root makes before the agent has made it is the agent's.
    bed.write("/etc/fieldgate/conf.d/identity.toml", "[identity]\nenroller = \"local-ca\"\n");
    bed.sh("systemctl stop fieldgate; fieldgate identity ca --create >/dev/null");
    assert_eq!(bed.sh("stat -c %U /var/lib/fieldgate/identity*"), "fieldgate");
    let strangers = bed.sh("find /var/lib/fieldgate ! -user fieldgate");
    assert_eq!(strangers, "");
    bed.sh("systemctl start fieldgate");
}

#[test]
#[ignore = "boots a system; tests/system/run does it"]
fn the_key_can_come_encrypted_as_a_credential() {
    let plant = Plant::new();
    let bed = plant.boot(PORT);
    bed.installed();
    let wanted = Wanted { key: "credential:gateway.key", ..BOTH };
    plant.configure(&bed, &wanted);
    bed.copy_in(&plant.client.key, "/root/gateway.key");
    bed.sh(
        "systemd-creds encrypt --with-key=host --name=gateway.key /root/gateway.key /etc/fieldgate/gateway.key.cred \
         && rm /root/gateway.key",
    );
    assert!(!bed.sh("cat /etc/fieldgate/gateway.key.cred").contains("PRIVATE"));

    bed.sh("systemctl restart fieldgate");
    bed.wait_journal("what is missing", "LoadCredentialEncrypted=gateway.key");
    drop_in(&bed, "LoadCredentialEncrypted=gateway.key:/etc/fieldgate/gateway.key.cred");
    bed.sh("systemctl restart fieldgate");
    plant.wait_arrived(&bed, 4);
    let others = bed.try_sh("runuser -u nobody -- cat /run/credentials/fieldgate.service/gateway.key");
    assert_ne!(others.code, 0, "others may read the key");
    stop_and_settle(&bed, &plant, Allowed::default());
}

#[test]
#[ignore = "boots a system; tests/system/run does it"]
fn a_meter_that_will_not_answer_is_found_by_its_name() {
    let (bed, plant) = Plant::flowing();
    let right = plant.toml(&BOTH);
    let missing = right.clone()
        + "\n[[device]]\nname = \"meter-9\"\nbus = \"line\"\nunit_id = 9\ninterval = \"1s\"\nresponse_timeout = \"100ms\"\n\
           [[device.point]]\nname = \"p0\"\ntable = \"holding\"\naddress = 0\ntype = \"uint32\"\n";
    bed.write("/etc/fieldgate/fieldgate.toml", missing);
    bed.sh("systemctl reload fieldgate");
    let of = |field: &str| bed.try_sh(&format!("journalctl -q --no-pager -o cat {field}")).out;
    until_true("word of the meter in the journal", || {
        of("FIELDGATE_DEVICE=meter-9").contains("device silent")
    });
    assert!(of("FIELDGATE_BUS=line").contains("device silent"));
    assert!(!of("FIELDGATE_BUS=plc").contains("device silent"));
    assert!(!of("FIELDGATE_DEVICE=dev02").contains("meter-9"));
    until_true("word of the meter from doctor", || {
        let named = |f: &&Value| f["subject"].as_str().is_some_and(|s| s.contains("meter-9"));
        super::gateway::doctor(&bed).iter().any(|f| named(&f) && f["result"] != "ok")
    });

    // What is mailed: the journal and the configuration are in it, the key is not.
    bed.sh("fieldgate bundle --yes --out /root/bundle.tar.gz");
    let all = bed.sh("tar -xzOf /root/bundle.tar.gz");
    assert!(
        all.contains("device silent") && all.contains("meter-9"),
        "{}",
        bed.sh("tar -tzf /root/bundle.tar.gz")
    );
    let key = std::fs::read_to_string(&plant.client.key).unwrap();
    for line in key.lines().filter(|l| l.len() > 20 && !l.starts_with('-')) {
        assert!(!all.contains(line), "the key is in it");
    }
    stop_and_settle(&bed, &plant, Allowed::default());
}
