//! Devices behind foreign servers and cables, and devices that misbehave.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::account::{Allowed, Sample};
use super::foreign::{Cable, Device};
use super::slave::{Fault, Slave};
use super::wait::until_true;
use super::world::{Line, Route, World, outage_polls, wait_polls};

/// Quick timing, so that a case with many faults stays short.
const TIMING: &str = "response_timeout = \"200ms\"\nlate_window = \"500ms\"\nretries = 1\n\
                      backoff_min = \"200ms\"\nbackoff_max = \"1s\"\nsilent_after = 3";

#[test]
fn foreign_rtu_server_on_a_tty() {
    let dir = tempfile::tempdir().unwrap();
    let cable = Cable::new(dir.path(), "line");
    let device = Device::modbus_rtu(dir.path(), &cable, &[1, 2], 4);
    let mut world = World::new(dir, &[Line::serial(&cable.near, &[1, 2], 4)], Route::Tls, "");
    world.agent.start();
    world.wait_arrived(200);
    world.settle(|| device.served(), Allowed::default());
}

#[test]
fn foreign_line_writer_with_noise() {
    let dir = tempfile::tempdir().unwrap();
    let cable = Cable::new(dir.path(), "line");
    let mut world = World::new(dir, &[Line::serial(&cable.near, &[], 1)], Route::Tls, "");
    world.agent.start();
    // The port is open once the agent said so; what was written before belongs to nobody.
    world.agent.wait_log("the port to be open", "(?i)open");
    let device = Device::line_writer(world.dir.path(), &cable, 7);
    world.wait_arrived(60);
    // The first line after opening may be a half one, and is dropped for that reason.
    let taken = || device.served().into_iter().filter(|s| s.value > 1).collect::<Vec<_>>();
    let due: BTreeSet<Sample> = taken().into_iter().collect();
    until_true("every line to arrive", || due.is_subset(&world.cloud.arrived().samples));
    let known: BTreeSet<Sample> = device.served().into_iter().collect();
    assert!(world.cloud.arrived().samples.is_subset(&known), "noise was taken for a reading");
}

#[test]
fn late_slave_on_tcp() {
    let (slave, port) = Slave::tcp();
    late(slave, |_| Line::tcp(port, &[1], 2));
}

#[test]
fn late_slave_on_a_tty() {
    let dir = tempfile::tempdir().unwrap();
    let cable = Cable::new(dir.path(), "line");
    late(Slave::rtu(&cable.far), |_| Line::serial(&cable.near, &[1], 2));
}

/// Late within the window, alone and in a row: never believed, and never taken for the
/// answer to the next request.
fn late(slave: Arc<Slave>, line: impl Fn(()) -> Line) {
    let late = Fault::Late(Duration::from_millis(350));
    let script = [Fault::Answer, late, Fault::Answer, late, late, Fault::Answer].repeat(3);
    faulty(&slave, line(()), &script, "timeout");
}

#[test]
fn garbled_answers_on_tcp() {
    let (slave, port) = Slave::tcp();
    let script = [Fault::Garbled, Fault::Answer, Fault::Garbled, Fault::Garbled, Fault::Short].repeat(3);
    faulty(&slave, Line::tcp(port, &[1], 2), &script, "garbled|timeout");
}

#[test]
fn garbled_answers_on_a_tty() {
    let dir = tempfile::tempdir().unwrap();
    let cable = Cable::new(dir.path(), "line");
    let slave = Slave::rtu(&cable.far);
    let script = [Fault::Garbled, Fault::Answer, Fault::Garbled, Fault::Garbled, Fault::Short].repeat(3);
    faulty(&slave, Line::serial(&cable.near, &[1], 2), &script, "garbled|timeout");
}

#[test]
fn exceptions_are_readings_without_a_value() {
    let (slave, port) = Slave::tcp();
    let script = [Fault::Answer, Fault::Exception(4), Fault::Exception(4)].repeat(3);
    faulty(&slave, Line::tcp(port, &[1], 2), &script, "exception 4");
}

/// Runs unit 1 through the script. Whatever it handed out properly arrives, nothing else
/// does, and the faults show as readings without a value for the given cause.
fn faulty(slave: &Slave, line: Line, script: &[Fault], cause: &str) {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir, &[line.with(TIMING)], Route::Tls, "");
    world.agent.start();
    world.wait_arrived(4);
    slave.script(1, script.iter().copied());
    until_true("the script to end", || slave.script_is_done(1));
    wait_polls(|| slave.served(), 10);
    world.settle(|| slave.served(), Allowed::default());
    let arrived = world.cloud.arrived();
    assert!(arrived.samples.is_disjoint(&slave.poison()), "an answer was believed that must not be");
    let cause = regex::Regex::new(cause).unwrap();
    assert!(arrived.bad.iter().any(|(.., c)| cause.is_match(c)), "no reading says so: {:?}", arrived.bad);
    world.agent.assert_running();
}

#[test]
fn mute_unit_does_not_slow_its_neighbour_and_is_reported_once() {
    let dir = tempfile::tempdir().unwrap();
    let cable = Cable::new(dir.path(), "line");
    let slave = Slave::rtu(&cable.far);
    let lines = [Line::serial(&cable.near, &[1, 2], 2).with(TIMING)];
    let mut world = World::new(dir, &lines, Route::Tls, "");
    world.agent.start();
    world.wait_arrived(40);

    slave.set_mute(2, true);
    until_true("the fault to be reported", || !world.cloud.payloads("/dev02/fault").is_empty());
    let (mute, healthy) = (slave.requests(2), slave.requests(1));
    until_true("the neighbour to be polled", || slave.requests(1) >= healthy + 100);
    let asked = slave.requests(2) - mute;
    assert!(asked <= 30, "{asked} requests to a mute unit while its neighbour had 100");
    assert_eq!(world.cloud.payloads("/dev02/fault").len(), 1, "a silent device says so once");

    slave.set_mute(2, false);
    until_true("the return to be reported", || world.cloud.payloads("/dev02/fault").len() >= 2);
    world.wait_arrived(40);
    world.settle(|| slave.served(), Allowed::default());
    assert_eq!(world.cloud.payloads("/dev02/fault").len(), 2, "silent once, back once");
    assert!(world.cloud.payloads("/dev01/fault").is_empty(), "the neighbour was never silent");
}

#[test]
fn healthy_time_logs_nothing_above_info() {
    let (mut world, device) = World::flowing(Route::Tls);
    wait_polls(|| device.served(), 2 * outage_polls());
    world.settle(|| device.served(), Allowed::default());
    assert_eq!(world.agent.stop(), Some(0));
    let log = world.agent.log();
    assert!(log.contains("INFO"), "no log at all would prove nothing: {log:?}");
    let loud: Vec<&str> = log.lines().filter(|l| l.contains("WARN") || l.contains("ERROR")).collect();
    assert!(loud.is_empty(), "{loud:#?}");
}
