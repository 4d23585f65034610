//! A broker that is not the right one is refused, by name, and gets nothing.

use super::account::Allowed;
use super::certs::{Authority, Server};
use super::foreign::Device;
use super::wait::until_true;
use super::world::{Line, Route, World, wait_polls};

/// The broker shows `server`, or a right certificate of a foreign authority. The reason must
/// stand in the log and in `status`; nothing is delivered; once the right broker is there,
/// everything arrives.
fn check(server: Server, foreign: bool, reason: &str) {
    let dir = tempfile::tempdir().unwrap();
    let (device, port) = Device::modbus_tcp(dir.path(), &[1], 2);
    let mut world = World::with_server(dir, &[Line::tcp(port, &[1], 2)], Route::Tls, "", server);
    if foreign {
        // The broker still takes our client's certificate: it is we who must refuse.
        let stranger = Authority::new(world.dir.path(), "stranger").server(Server::Right);
        let subscriptions = world.cloud.subscriptions();
        world.broker.restart_with(&world.authority, &stranger);
        world.cloud.wait_subscribed(subscriptions + 1);
    }
    world.agent.start();
    world.agent.wait_log("the log to name the reason", reason);
    wait_polls(|| device.served(), 10);
    let reason = regex::Regex::new(reason).unwrap();
    until_true("status to name the reason", || reason.is_match(&world.agent.ask("status")));
    world.agent.assert_running();
    assert!(world.cloud.messages().is_empty(), "a refused broker got {:?}", world.cloud.messages());

    let subscriptions = world.cloud.subscriptions();
    let right = world.authority.server(Server::Right);
    world.broker.restart_with(&world.authority, &right);
    world.cloud.wait_subscribed(subscriptions + 1);
    world.settle(|| device.served(), Allowed { kills: 0, cuts: 1 });
}

#[test]
fn foreign_authority_is_refused() {
    check(Server::Right, true, "(?i)unknown ?issuer|unknown (certificate )?authority|not signed by");
}

#[test]
fn expired_certificate_is_refused() {
    check(Server::Expired, false, "(?i)expired");
}

#[test]
fn wrong_host_name_is_refused() {
    check(Server::WrongName, false, "(?i)not valid for|wrong (host )?name|name mismatch");
}
