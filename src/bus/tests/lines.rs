//! Devices that speak lines of text, alone and beside Modbus units.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::rig::*;
use crate::bus::line::Dial;
use crate::model::device::*;
use crate::model::line::*;

fn scale(matching: Option<&str>) -> Device {
    let field = |name: &str| Point {
        name: name.into(),
        unit: None,
        source: Source::Field(FieldPoint {
            field: name.to_owned(),
            kind: FieldKind::Number,
            decimal_comma: false,
            transform: Default::default(),
        }),
        interval: Duration::ZERO,
        report: Default::default(),
        write: None,
        shadow: None,
        fingerprint: false,
    };
    Device::new(
        "scale".into(),
        Protocol::Line(LineDevice {
            framing: Framing { delimiter: b"\r\n".to_vec(), line_max: 64 },
            format: LineFormat::KeyValue { separators: b" ;".to_vec(), assign: b'=' },
            matching: matching.map(str::to_owned),
            silent_after: 10 * SECOND,
        }),
        [field("w"), field("t")].into(),
    )
}

/// Runs the rig against the far end that `speak` is.
async fn check<F>(rig: Rig, speak: impl Fn(DuplexStream) -> F + Send + 'static, expected: &[&str])
where
    F: Future<Output = ()> + Send + 'static,
{
    let dial = Dial::with(move || {
        let (near, far) = tokio::io::duplex(4096);
        tokio::spawn(speak(far));
        async move { Ok(near) }
    });
    let (task, mut told, _asks, metrics) = rig.task(dial);
    let stop = CancellationToken::new();
    let running = tokio::spawn(task.run(stop.clone()));
    let mut seen = Vec::new();
    let end = Instant::now() + rig.run;
    while let Ok(Some(observation)) = tokio::time::timeout_at(end, told.recv()).await {
        seen.push(describe(&observation));
    }
    stop.cancel();
    assert_eq!(seen, expected, "noise {}", metrics.buses[0].noise.get());
    running.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn lines_become_readings_and_noise_costs_one_line() {
    let speak = |mut line: DuplexStream| async move {
        for text in ["alf=1\r\n", "w=1.5;t=2\r\n", "w=x;t=3\r\n", "\u{1}\u{2}#\r\n", "w=2", ".5\r\nw=3\r\n"] {
            line.write_all(text.as_bytes()).await.unwrap();
            sleep(ms(100)).await;
        }
        sleep(60 * SECOND).await;
    };
    let expected = [
        "100 d0 0=1.5 1=2",
        "200 d0 0=bad bad-text 1=3",
        "500 d0 0=2.5 1=bad missing",
        "500 d0 0=3 1=bad missing",
    ];
    check(Rig::new(rtu(), vec![scale(None)]), speak, &expected).await;
    let converter = Transport::RtuOverTcp(TcpEndpoint { host: Host::Name("x".into()), port: 4001 });
    check(Rig::new(converter, vec![scale(None)]), speak, &expected).await;
}

#[tokio::test(start_paused = true)]
async fn a_device_that_stops_speaking_is_silent_once_and_back_once() {
    let speak = |mut line: DuplexStream| async move {
        line.write_all(b"\r\nw=1;t=1\r\n").await.unwrap();
        sleep(30 * SECOND).await;
        line.write_all(b"w=2;t=2\r\n").await.unwrap();
        sleep(60 * SECOND).await;
    };
    let rig = Rig::new(rtu(), vec![scale(None)]).run(35 * SECOND);
    let expected = [
        "0 d0 0=1 1=1",
        "10000 d0 0=bad timeout 1=bad timeout",
        "10000 d0 silent timeout",
        "30000 d0 back",
        "30000 d0 0=2 1=2",
    ];
    check(rig, speak, &expected).await;
}

#[tokio::test(start_paused = true)]
async fn an_unplugged_port_is_opened_again_and_its_half_line_dropped() {
    let speak = |mut line: DuplexStream| async move {
        line.write_all(b"half\r\nw=1;t=1\r\nw=9").await.unwrap();
        sleep(ms(1500)).await;
        // Dropping the far end unplugs the port.
    };
    let rig = Rig::new(rtu(), vec![scale(None)]).run(ms(3500));
    check(rig, speak, &["0 d0 0=1 1=1", "1500 d0 0=1 1=1", "3000 d0 0=1 1=1"]).await;
}

#[tokio::test(start_paused = true)]
async fn both_protocols_and_two_speakers_share_one_port() {
    let speak = |mut line: DuplexStream| async move {
        let mut request = [0; 8];
        for n in 0.. {
            if line.read_exact(&mut request).await.is_err() {
                return;
            }
            let answer = framed(true, &[], request[0], &[3, 2, 0, 7]);
            line.write_all(&answer).await.unwrap();
            sleep(ms(300)).await;
            let text = format!("half\r\nA w={n};t=0\r\nB w={n};t=1\r\n");
            line.write_all(text.as_bytes()).await.unwrap();
        }
    };
    let devices = vec![device_of(modbus(1), points([10])), scale(Some("A ")), scale(Some("B "))];
    let mut rig = Rig::new(rtu(), devices).run(ms(1200));
    // Exact milliseconds are read below.
    rig.timing.silence = Some(Duration::ZERO);
    check(rig, speak, &["0 d0 0=7", "300 d1 0=0 1=0", "300 d2 0=0 1=1", "1000 d0 0=7"]).await;
}
