//! The fixtures by themselves: a check that cannot see a fault proves nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio_modbus::client::{Context, Reader, rtu, tcp};
use tokio_modbus::slave::{Slave as Unit, SlaveContext};

use super::account::{Allowed, Sample, settle};
use super::certs::{Authority, Server};
use super::foreign::{Cable, Device};
use super::mosquitto::Mosquitto;
use super::relay::{Carries, Mode, Relay};
use super::slave::{Fault, Slave};
use super::subscriber::Subscriber;
use super::wait::{Process, until_true};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

async fn read(context: &mut Context, unit: u8, point: u16) -> Option<u64> {
    context.set_slave(Unit(unit));
    let call = context.read_holding_registers(2 * point, 2);
    let words = tokio::time::timeout(Duration::from_millis(500), call).await.ok()?.ok()?.ok()?;
    Some(u64::from(words[0]) << 16 | u64::from(words[1]))
}

fn sample(unit: u8, point: u16, n: u64) -> Sample {
    let value = u64::from(unit) << 24 | u64::from(point + 1) << 16 | n;
    Sample { device: format!("dev{unit:02}"), point: format!("p{point}"), value }
}

#[test]
fn foreign_modbus_server_notes_what_it_hands_out() {
    let dir = tempfile::tempdir().unwrap();
    let (device, port) = Device::modbus_tcp(dir.path(), &[1, 2], 3);
    let values = block_on(async {
        let mut context = tcp::connect(([127, 0, 0, 1], port).into()).await.unwrap();
        [read(&mut context, 1, 0).await, read(&mut context, 1, 0).await, read(&mut context, 2, 2).await]
    });
    let expected = [sample(1, 0, 1), sample(1, 0, 2), sample(2, 2, 1)];
    assert_eq!(values, expected.clone().map(|s| Some(s.value)));
    assert_eq!(device.served(), expected);
}

#[test]
fn foreign_modbus_server_answers_on_a_tty() {
    let dir = tempfile::tempdir().unwrap();
    let cable = Cable::new(dir.path(), "line");
    let device = Device::modbus_rtu(dir.path(), &cable, &[1], 1);
    block_on(async {
        let builder = tokio_serial::new(cable.near.to_string_lossy(), 19200);
        let port = tokio_serial::SerialStream::open(&builder).unwrap();
        let mut context = rtu::attach_slave(port, Unit(1));
        // The server may need a moment to open its end.
        for _ in 0..40 {
            if read(&mut context, 1, 0).await.is_some() {
                return;
            }
        }
        panic!("pymodbus never answered");
    });
    assert!(device.served().contains(&sample(1, 0, 1)));
}

#[test]
fn own_slave_follows_its_script_on_tcp() {
    let (slave, port) = Slave::tcp();
    let late = Fault::Late(Duration::from_millis(700));
    slave.script(1, [Fault::Answer, Fault::Garbled, Fault::Exception(2), late, Fault::Mute, Fault::Short]);
    let mut seen = Vec::new();
    for _ in 0..7 {
        seen.push(block_on(async {
            let mut context = tcp::connect(([127, 0, 0, 1], port).into()).await.unwrap();
            read(&mut context, 1, 0).await
        }));
    }
    let value = |n| Some(sample(1, 0, n).value);
    assert_eq!(seen, [value(1), None, None, None, None, None, value(6)]);
    assert_eq!(slave.served(), [sample(1, 0, 1), sample(1, 0, 6)]);
    assert_eq!(slave.poison(), [2, 3, 4, 5].map(|n| sample(1, 0, n)).into());
    assert_eq!(slave.requests(1), 7);
}

#[test]
fn own_slave_answers_on_a_tty() {
    let dir = tempfile::tempdir().unwrap();
    let cable = Cable::new(dir.path(), "line");
    let slave = Slave::rtu(&cable.far);
    slave.script(3, [Fault::Answer, Fault::Garbled]);
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(block_on(async {
            let builder = tokio_serial::new(cable.near.to_string_lossy(), 19200);
            let mut context = rtu::attach_slave(tokio_serial::SerialStream::open(&builder).unwrap(), Unit(3));
            read(&mut context, 3, 1).await
        }));
    }
    assert_eq!(seen, [Some(sample(3, 1, 1).value), None, Some(sample(3, 1, 3).value)]);
    assert_eq!(slave.poison(), [sample(3, 1, 2)].into());
}

#[test]
fn relay_passes_freezes_and_cuts() {
    let echo = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = echo.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in echo.incoming().flatten() {
            std::thread::spawn(move || {
                let mut out = stream.try_clone().unwrap();
                let _ = std::io::copy(&mut stream, &mut out);
            });
        }
    });
    let relay = Relay::start(upstream, Carries::Opaque);
    let mut stream = TcpStream::connect(("127.0.0.1", relay.port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut byte = [0];
    stream.write_all(b"a").unwrap();
    stream.read_exact(&mut byte).unwrap();
    relay.set(Mode::Hole);
    stream.write_all(b"b").unwrap();
    assert!(stream.read_exact(&mut byte).is_err(), "something came through a hole");
    relay.set(Mode::Pass);
    stream.set_read_timeout(None).unwrap();
    stream.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"b");
    relay.set(Mode::Cut);
    assert!(stream.read_exact(&mut byte).is_err(), "a cut connection still speaks");
    assert_eq!(relay.accepted(), 1);
}

/// `mosquitto_pub` through the relay: mutual TLS is demanded, and the check sees what came.
#[test]
fn broker_demands_a_client_certificate_and_the_check_sees_what_arrives() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "cloud");
    let mut broker = Mosquitto::start(dir.path(), &authority, &authority.server(Server::Right));
    let cloud = Subscriber::start(broker.plain_port);
    let relay = Relay::start(broker.tls_port, Carries::Opaque);
    let client = authority.client("gw-1");
    let publish = |text: &str, with_certificate: bool| {
        // Refused during the handshake, it would wait for its keep-alive.
        let mut command = Command::new("timeout");
        command.args(["10", "mosquitto_pub"]);
        command.args(["-h", "localhost", "-q", "1", "-t", "dt/gw-1/dev01/telemetry", "-m", text]);
        command.arg("-p").arg(relay.port.to_string()).arg("--cafile").arg(&authority.certificate);
        if with_certificate {
            command.arg("--cert").arg(&client.certificate).arg("--key").arg(&client.key);
        }
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
    };
    let payload = |values: [u64; 2], seq: [u64; 2]| {
        let readings = values.map(|v| serde_json::json!({"t": 1, "values": {"p0": v}}));
        serde_json::json!({
            "v": 1, "gateway": "gw-1", "device": "dev01", "boot": "b", "seq": seq, "readings": readings
        })
        .to_string()
    };
    assert!(!publish("{}", false), "the broker took a client without certificate");
    assert!(publish(&payload([1, 2], [1, 2]), true));
    let of = |values: &[u64]| {
        let one = |v: &u64| Sample { device: "dev01".into(), point: "p0".into(), value: *v };
        values.iter().map(one).collect::<Vec<_>>()
    };
    settle(|| of(&[1, 2]), &cloud, 1, Allowed::default());
    // Sent again: allowed after a cut, an error without one.
    assert!(publish(&payload([1, 2], [1, 2]), true));
    until_true("the repetition", || cloud.messages().len() == 2);
    settle(|| of(&[1, 2]), &cloud, 1, Allowed { kills: 0, cuts: 1 });
    let unasked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        settle(|| of(&[1, 2]), &cloud, 1, Allowed::default());
    }));
    assert!(unasked.is_err(), "a repetition without a cut went unseen");
    let invented = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        settle(|| of(&[1]), &cloud, 1, Allowed { kills: 0, cuts: 1 });
    }));
    assert!(invented.is_err(), "a value that nobody handed out went unseen");
    broker.kill();
    assert!(!publish("{}", true), "a dead broker took a message");
}

/// The swallowing relay, tried with a foreign client that waits for its PUBACK.
#[test]
fn relay_swallows_pubacks() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "cloud");
    let broker = Mosquitto::start(dir.path(), &authority, &authority.server(Server::Right));
    let cloud = Subscriber::start(broker.plain_port);
    let relay = Relay::start(broker.plain_port, Carries::Mqtt);
    relay.set(Mode::SwallowPubacks);
    let port = relay.port.to_string();
    let mut waiting = Process::start(Command::new("mosquitto_pub").args([
        "-p",
        &port,
        "-q",
        "1",
        "-t",
        "dt/gw-1/x",
        "-m",
        "1",
    ]));
    until_true("the PUBACK to be swallowed", || relay.swallowed() == 1);
    until_true("the message", || cloud.messages().len() == 1);
    assert!(waiting.is_running(), "the client believes in an acknowledgement it never got");
}
