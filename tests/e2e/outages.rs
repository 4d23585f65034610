//! The broker, the route or the agent is away, and nothing is lost.

use super::account::Allowed;
use super::foreign::Device;
use super::relay::Mode;
use super::wait::until_true;
use super::world::{Line, Route, World, outage_polls, wait_polls};

#[test]
fn broker_away_and_back() {
    let (mut world, device) = World::flowing(Route::Tls);
    world.relay.set(Mode::Cut);
    wait_polls(|| device.served(), outage_polls());
    world.relay.set(Mode::Pass);
    world.settle(|| device.served(), Allowed { cuts: 1, ..Allowed::default() });
    world.agent.assert_running();
}

#[test]
fn agent_killed_while_the_broker_is_there() {
    let (mut world, device) = World::flowing(Route::Tls);
    world.agent.kill();
    world.agent.start();
    world.wait_arrived(40);
    world.settle(|| device.served(), Allowed { kills: 1, cuts: 1 });
}

#[test]
fn agent_killed_and_restarted_during_the_outage() {
    let (mut world, device) = World::flowing(Route::Tls);
    world.relay.set(Mode::Cut);
    wait_polls(|| device.served(), outage_polls() / 2);
    world.agent.kill();
    world.agent.start();
    // It polls although it has not seen the broker in this life.
    wait_polls(|| device.served(), outage_polls() / 2);
    world.relay.set(Mode::Pass);
    world.settle(|| device.served(), Allowed { kills: 1, cuts: 1 });
}

#[test]
fn agent_killed_during_the_outage_and_restarted_after_it() {
    let (mut world, device) = World::flowing(Route::Tls);
    world.relay.set(Mode::Cut);
    wait_polls(|| device.served(), outage_polls());
    world.agent.kill();
    world.relay.set(Mode::Pass);
    world.agent.start();
    world.wait_arrived(outage_polls() * 8);
    world.settle(|| device.served(), Allowed { kills: 1, cuts: 1 });
}

#[test]
fn agent_killed_again_and_again_while_the_backlog_drains() {
    let (mut world, device) = World::flowing(Route::Tls);
    world.relay.set(Mode::Cut);
    wait_polls(|| device.served(), outage_polls());
    world.relay.set(Mode::Pass);
    let kills = 5;
    for _ in 0..kills {
        world.wait_arrived(30);
        world.agent.kill();
        world.agent.start();
    }
    world.settle(|| device.served(), Allowed { kills, cuts: 1 + kills });
}

#[test]
fn broker_that_accepts_and_never_acks_until_it_does() {
    let (world, device) = World::flowing(Route::Plain);
    world.relay.set(Mode::SwallowPubacks);
    until_true("unacknowledged publishes", || world.relay.swallowed() > 0);
    wait_polls(|| device.served(), outage_polls());
    let connections = world.relay.accepted();
    // The acks that were swallowed never come: whatever is owed must be asked for again.
    world.relay.set(Mode::Pass);
    world.settle(|| device.served(), Allowed { cuts: connections + 1, ..Allowed::default() });
    // Everything has arrived already, acks or not; the agent must also come to know it.
    until_true("the outbox to run empty", || outbox_is_short(&world));
}

/// Polling goes on, so a few rows are always on their way; a stuck window is more.
fn outbox_is_short(world: &World) -> bool {
    let text = world.agent.ask("outbox");
    let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text:?}"));
    value["rows_waiting"].as_u64().unwrap_or_else(|| panic!("no depth in {value}")) <= 4
}

#[test]
fn half_open_connection() {
    let (mut world, device) = World::flowing(Route::Tls);
    let connections = world.relay.accepted();
    world.relay.set(Mode::Hole);
    wait_polls(|| device.served(), outage_polls());
    // Nobody told the agent that the route is dead: it must find out and dial again.
    until_true("another connection attempt", || world.relay.accepted() > connections);
    let attempts = world.relay.accepted() - connections;
    world.relay.set(Mode::Pass);
    world.settle(|| device.served(), Allowed { cuts: 1 + attempts, ..Allowed::default() });
    world.agent.assert_running();
}

#[test]
fn session_lost_by_the_broker() {
    let (mut world, device) = World::flowing(Route::Tls);
    world.relay.set(Mode::Cut);
    let subscriptions = world.cloud.subscriptions();
    world.broker.restart();
    // The check's own session is gone as well; nothing may pass before it listens again.
    world.cloud.wait_subscribed(subscriptions + 1);
    wait_polls(|| device.served(), outage_polls() / 5);
    world.relay.set(Mode::Pass);
    world.settle(|| device.served(), Allowed { cuts: 1, ..Allowed::default() });
    world.agent.assert_running();
}

#[test]
fn what_grows_too_old_stands_in_the_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let (mut device, port) = Device::modbus_tcp(dir.path(), &[1], 4);
    let mut world = World::new(dir, &[Line::tcp(port, &[1], 4)], Route::Tls, "max_age = \"1s\"");
    world.agent.start();
    world.wait_arrived(40);
    world.relay.set(Mode::Cut);
    wait_polls(|| device.served(), outage_polls());
    world.relay.set(Mode::Pass);
    // No device, no new values: from here on the two sides can be compared to the last one.
    device.kill();
    let served = device.served().len() as u64;
    world.settle(|| device.served(), Allowed { cuts: 1, ..Allowed::default() });
    until_true("delivered and given up to add up to what was taken", || {
        let arrived = world.cloud.arrived();
        let given_up = arrived.gaps.get("dev01").copied().unwrap_or(0);
        given_up > 0 && arrived.samples.len() as u64 + given_up == served
    });
}

#[test]
fn orderly_stop_leaves_nothing_behind() {
    let (mut world, device) = World::flowing(Route::Tls);
    assert_eq!(world.agent.stop(), Some(0));
    world.settle(|| device.served(), Allowed::default());
    until_true("the status to say offline", || {
        world.cloud.payloads("/status").last().is_some_and(|status| status["state"] == "offline")
    });
}
