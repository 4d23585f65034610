//! What healthy devices say, and when.

use super::rig::*;
use crate::bus::line::Dial;
use crate::bus::{ReadRequest, What};
use crate::model::ids::DeviceIndex;
use crate::model::reading::Measured;
use crate::model::register::Table;
use crate::model::value::Value;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

#[tokio::test(start_paused = true)]
async fn a_tcp_device_is_polled_on_its_grid() {
    let told = Rig::new(tcp(), vec![device_of(modbus(1), points([10, 11]))]).told(|_| Act::Addresses).await;
    assert_eq!(told.seen, ["0 d0 0=10 1=11", "1000 d0 0=10 1=11", "2000 d0 0=10 1=11"]);
    assert_eq!(told.metrics.devices[0].state.get(), "good");
    assert_eq!(told.metrics.devices[0].readings.get(), 6);
    assert_eq!(told.metrics.buses[0].requests.get(), 3);
}

#[tokio::test(start_paused = true)]
async fn points_of_different_intervals_meet_and_share_a_request() {
    let mut points = points([10]);
    points.push(point(11, 2 * SECOND));
    let told = Rig::new(tcp(), vec![device_of(modbus(1), points)]).told(|_| Act::Addresses).await;
    assert_eq!(told.seen, ["0 d0 0=10 1=11", "1000 d0 0=10", "2000 d0 0=10 1=11"]);
    assert_eq!(told.metrics.buses[0].requests.get(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_rtu_device_is_polled_with_its_silence_and_wire_time() {
    let told = Rig::new(rtu(), vec![device_of(modbus(1), points([10]))]).told(|_| Act::Addresses).await;
    assert_eq!(told.seen.len(), 3);
    assert!(told.seen.iter().all(|s| s.ends_with("d0 0=10")), "{:?}", told.seen);
}

#[tokio::test(start_paused = true)]
async fn each_request_of_a_poll_has_its_own_time() {
    let far_apart = device_of(modbus(1), points([10, 500]));
    let told = Rig::new(tcp(), vec![far_apart]).run(ms(500)).told(|_| after(ms(30), Act::Addresses)).await;
    assert_eq!(told.seen, ["30 d0 0=10", "60 d0 1=500"]);
}

#[tokio::test(start_paused = true)]
async fn devices_that_are_always_due_take_turns() {
    let always = |unit| device_of(modbus(unit), vec![point(u16::from(unit), Default::default())]);
    let told = Rig::new(tcp(), vec![always(1), always(2), always(3)])
        .run(ms(65))
        .told(|_| after(ms(10), Act::Addresses))
        .await;
    let order: Vec<u8> = told.log.asks().iter().map(|a| a.unit_id).collect();
    assert_eq!(order, [1, 2, 3, 1, 2, 3, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_device_skips_polls_and_makes_none_up() {
    let mut slow = modbus(1);
    slow.response_timeout = 10 * SECOND;
    let told = Rig::new(tcp(), vec![device_of(slow, points([10]))])
        .run(ms(9900))
        .told(|_| after(ms(2500), Act::Addresses))
        .await;
    // Asked at 0, then as soon as the answer is in, for the poll that is due by then.
    assert_eq!(told.log.times_of(1), [0, 2500, 5000, 7500]);
    assert_eq!(told.metrics.devices[0].polls_skipped.get(), 1 + 2 + 1);
}

#[tokio::test(start_paused = true)]
async fn while_the_hub_does_not_listen_polls_are_skipped_and_counted() {
    let rig = Rig { capacity: 1, ..Rig::new(tcp(), vec![device_of(modbus(1), points([10]))]) };
    let log = Log::default();
    let seen_by = log.clone();
    let start = tokio::time::Instant::now();
    let dial = Dial::with(move || {
        let (near, far) = tokio::io::duplex(4096);
        tokio::spawn(device(far, false, start, seen_by.clone(), |_| Act::Addresses));
        async move { Ok(near) }
    });
    let (task, mut told, _asks, metrics) = rig.task(dial);
    let stop = CancellationToken::new();
    let running = tokio::spawn(task.run(stop.clone()));
    tokio::time::sleep(ms(10_500)).await;
    // One observation in the queue, one in the hand.
    assert_eq!(log.times_of(1), [0, 1000]);
    for _ in 0..3 {
        told.recv().await.unwrap();
    }
    // Due at 2000 and not made; the poll of 10500 stands for the one due at 10000.
    assert_eq!(metrics.devices[0].polls_skipped.get(), 8);
    assert_eq!(log.times_of(1), [0, 1000, 10_500]);
    stop.cancel();
    while told.recv().await.is_some() {}
    running.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_technician_reads_between_polls() {
    let rig = Rig::new(tcp(), vec![device_of(modbus(1), points([10]))]);
    let dial = Dial::with(move || {
        let (near, far) = tokio::io::duplex(4096);
        let start = tokio::time::Instant::now();
        tokio::spawn(device(far, false, start, Log::default(), |ask| match ask.unit_id {
            9 => Act::Mute,
            _ => Act::Addresses,
        }));
        async move { Ok(near) }
    });
    let (task, mut told, asks, _metrics) = rig.task(dial);
    let stop = CancellationToken::new();
    let running = tokio::spawn(task.run(stop.clone()));
    told.recv().await.unwrap();
    let crate::model::device::Source::Register(mut register) = point(77, SECOND).source else { panic!() };
    register.table = Table::Input;
    let check = async |what: What, expected: Result<Measured, String>| {
        let (answer, answered) = oneshot::channel();
        asks.send(ReadRequest { what, answer }).await.unwrap();
        assert_eq!(answered.await.unwrap(), expected);
    };
    let good = Ok(Measured::Good(Value::Uint(77)));
    check(What::Point(DeviceIndex(0), register.clone()), good.clone()).await;
    check(What::Unit(5, register.clone()), good).await;
    check(What::Unit(9, register.clone()), Ok(Measured::Bad(crate::model::value::Cause::Timeout))).await;
    let unknown = What::Point(DeviceIndex(4), register);
    check(unknown, Err("the device has no registers".to_owned())).await;
    stop.cancel();
    while told.recv().await.is_some() {}
    running.await.unwrap().unwrap();
}
