//! Lines that go away, stops in the middle of a call, echoes, and a real tty pair.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::rig::*;
use crate::bus::line::Dial;
use crate::bus::wire::{Stream, Wire};
use crate::modbus::client::{Answer, Client, Command, Error, Patience};
use crate::model::device::*;
use crate::model::register::Table;
use crate::serial::pause::Pause;
use crate::serial::port::Port;

#[tokio::test(start_paused = true)]
async fn a_line_that_is_away_is_tried_by_backoff_and_its_devices_at_once_when_it_is_back() {
    let rig = Rig::new(tcp(), vec![device_of(modbus(1), points([10])), device_of(modbus(2), points([20]))]);
    let (start, log) = (Instant::now(), Log::default());
    let (seen_by, attempts) = (log.clone(), Arc::new(std::sync::Mutex::new(Vec::new())));
    let tried = attempts.clone();
    let dial = Dial::with(move || {
        let away = start.elapsed() < 100 * SECOND;
        tried.lock().unwrap().push(start.elapsed());
        let (near, far) = tokio::io::duplex(4096);
        tokio::spawn(device(far, false, start, seen_by.clone(), |_| Act::Addresses));
        async move { if away { Err(io::ErrorKind::ConnectionRefused.into()) } else { Ok(near) } }
    });
    let (task, mut told, _asks, metrics) = rig.task(dial);
    let stop = CancellationToken::new();
    let running = tokio::spawn(task.run(stop.clone()));
    let mut seen = Vec::new();
    while let Ok(Some(o)) = tokio::time::timeout_at(start + 170 * SECOND, told.recv()).await {
        seen.push(describe(&o));
    }
    stop.cancel();
    running.await.unwrap().unwrap();
    let bad: Vec<&String> = seen.iter().filter(|s| s.contains("bad bus-gone")).collect();
    assert_eq!(bad.len(), 6, "{seen:?}");
    assert_eq!(seen.iter().filter(|s| s.contains("silent bus-gone")).count(), 2);
    assert_eq!(seen.iter().filter(|s| s.contains("back")).count(), 2);
    let attempts = attempts.lock().unwrap();
    assert!((6..15).contains(&attempts.len()), "{attempts:?}");
    // Both are asked in the moment the line is open.
    let open = attempts.last().unwrap().as_millis();
    assert_eq!((log.times_of(1)[0], log.times_of(2)[0]), (open, open));
    assert_eq!(metrics.buses[0].state.get(), "open");
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_the_answer_and_asks_nothing_more() {
    let rig = Rig::new(tcp(), vec![device_of(modbus(1), points([10, 500]))]);
    let (start, log) = (Instant::now(), Log::default());
    let seen_by = log.clone();
    let dial = Dial::with(move || {
        let (near, far) = tokio::io::duplex(4096);
        tokio::spawn(device(far, false, start, seen_by.clone(), |_| after(ms(100), Act::Addresses)));
        async move { Ok(near) }
    });
    let (task, mut told, _asks, _metrics) = rig.task(dial);
    let stop = CancellationToken::new();
    let running = tokio::spawn(task.run(stop.clone()));
    sleep(ms(50)).await;
    stop.cancel();
    assert_eq!(describe(&told.recv().await.unwrap()), "100 d0 0=10");
    assert!(told.recv().await.is_none());
    running.await.unwrap().unwrap();
    assert_eq!(log.asks().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_is_gone_ends_the_task() {
    let rig = Rig::new(tcp(), vec![device_of(modbus(1), points([10]))]);
    let dial = Dial::with(|| {
        let (near, far) = tokio::io::duplex(4096);
        tokio::spawn(device(far, false, Instant::now(), Log::default(), |_| Act::Addresses));
        async move { Ok(near) }
    });
    let (task, told, _asks, _metrics) = rig.task(dial);
    drop(told);
    assert!(task.run(CancellationToken::new()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_closed_after_the_poll_where_that_is_asked() {
    let mut rig = Rig::new(tcp(), vec![device_of(modbus(1), points([10]))]);
    rig.timing.close_after_poll = true;
    let told = rig.told(|_| Act::Addresses).await;
    assert_eq!(told.seen, ["0 d0 0=10", "1000 d0 0=10", "2000 d0 0=10"]);
    assert_eq!(told.metrics.buses[0].opened.get(), 3);
    assert_eq!(told.metrics.buses[0].state.get(), "closed");
}

/// One call over a wire whose far end is `far`, which says what it received.
async fn call(
    command: Command,
    echo: bool,
    answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static,
) -> (Result<Answer, Error>, Vec<u8>) {
    let (near, mut far) = tokio::io::duplex(4096);
    let wire = Wire::new(Stream::Memory(near), Duration::ZERO, echo);
    let device = tokio::spawn(async move {
        let mut request = vec![0; 512];
        let n = far.read(&mut request).await.unwrap();
        request.truncate(n);
        far.write_all(&answer(&request)).await.unwrap();
        sleep(10 * SECOND).await;
        request
    });
    let patience = Patience { response: SECOND, late: SECOND };
    let reply = Client::rtu(wire).call(1, &command, patience).await;
    (reply.result, device.await.unwrap())
}

#[tokio::test(start_paused = true)]
async fn the_adapters_echo_is_taken_out() {
    let read = || Command::Read { table: Table::Holding, address: 5, count: 1 };
    let answer = framed(true, &[], 1, &[3, 2, 0, 42]);
    let echoing = move |request: &[u8]| [request, &answer].concat();
    let (heard, _) = call(read(), true, echoing.clone()).await;
    assert_eq!(heard.unwrap(), Answer::Words(vec![42]));
    // A write's answer looks like its request: without the comparison it would pass for one.
    let write = Command::WriteRegisters { address: 5, words: vec![1], function: WriteFunction::Auto };
    let (heard, _) = call(write.clone(), true, |request| request.to_vec()).await;
    assert!(matches!(heard, Err(Error::Timeout)), "{heard:?}");
    let (heard, _) = call(write, true, |request| [request, request].concat()).await;
    assert_eq!(heard.unwrap(), Answer::Done);
}

/// The frame without its check as hex, after an answer that accepts it.
async fn check_write(command: Command, answer: &[u8], expected: &str) {
    let answer = framed(true, &[], 1, answer);
    let (result, request) = call(command.clone(), false, move |_| answer.clone()).await;
    let hex: String = request[..request.len() - 2].iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, expected, "{command:?}");
    assert_eq!(result.unwrap(), Answer::Done);
    assert_eq!(command.frame_bytes().0 as usize, request.len(), "{command:?}");
}

#[tokio::test(start_paused = true)]
async fn writes_use_the_function_that_is_asked_for() {
    use WriteFunction::*;
    let words = |n: u16, function| Command::WriteRegisters { address: 5, words: (0..n).collect(), function };
    let coils = |n, function| Command::WriteCoils { address: 5, coils: vec![true; n], function };
    check_write(words(1, Auto), &[6, 0, 5, 0, 0], "010600050000").await;
    check_write(words(1, Single), &[6, 0, 5, 0, 0], "010600050000").await;
    check_write(words(1, Multiple), &[16, 0, 5, 0, 1], "011000050001020000").await;
    check_write(words(2, Auto), &[16, 0, 5, 0, 2], "0110000500020400000001").await;
    check_write(coils(1, Auto), &[5, 0, 5, 0xFF, 0], "01050005ff00").await;
    check_write(coils(1, Multiple), &[15, 0, 5, 0, 1], "010f000500010101").await;
    check_write(coils(9, Auto), &[15, 0, 5, 0, 9], "010f0005000902ff01").await;
    let mask = Command::WriteBits { address: 5, mask: 0x0100, bits: 0xFFFF };
    check_write(mask, &[22, 0, 5, 0xFE, 0xFF, 1, 0], "01160005feff0100").await;
}

#[tokio::test(start_paused = true)]
async fn a_write_that_another_address_acknowledges_is_garbled() {
    let write = Command::WriteRegisters { address: 5, words: vec![1], function: WriteFunction::Auto };
    let answer = framed(true, &[], 1, &[6, 0, 6, 0, 1]);
    let (result, _) = call(write, false, move |_| answer.clone()).await;
    assert!(matches!(result, Err(Error::Garbled)), "{result:?}");
}

/// A real pseudo terminal with a device behind it; no clock is paused here.
#[tokio::test]
async fn a_real_tty_is_opened_polled_and_seen_to_go_away() {
    let (mut master, slave) = tokio_serial_pair();
    let settings = SerialPort { path: slave.1.clone(), ..serial() };
    drop(slave.0);
    let gone = Arc::new(AtomicBool::new(false));
    let unplug = gone.clone();
    let far = tokio::spawn(async move {
        let mut request = [0; 8];
        while !unplug.load(Ordering::Relaxed) {
            master.read_exact(&mut request).await.unwrap();
            let answer = framed(true, &[], request[0], &[3, 2, 0, 7]);
            master.write_all(&answer).await.unwrap();
        }
    });
    let fast = device_of(modbus(1), vec![point(10, Duration::ZERO)]);
    let rig = Rig::new(Transport::Serial(settings), vec![fast]);
    let (task, mut told, _asks, metrics) = rig.task(Dial::Transport);
    let stop = CancellationToken::new();
    let running = tokio::spawn(task.run(stop.clone()));
    for _ in 0..50 {
        let seen = describe(&told.recv().await.unwrap());
        assert!(seen.ends_with("d0 0=7"), "{seen}");
    }
    gone.store(true, Ordering::Relaxed);
    far.await.unwrap();
    loop {
        let seen = describe(&told.recv().await.unwrap());
        if seen.ends_with("silent bus-gone") {
            break;
        }
    }
    assert_ne!(metrics.buses[0].state.get(), "open");
    stop.cancel();
    running.await.unwrap().unwrap();
}

/// Reading is held while an answer cannot be whole; its end must not be missed for that.
#[tokio::test]
async fn an_answer_that_comes_character_by_character_is_read_whole() {
    let (mut master, slave) = tokio_serial_pair();
    let settings = SerialPort { path: slave.1.clone(), ..serial() };
    drop(slave.0);
    let far = tokio::spawn(async move {
        let (mut request, pause) = ([0; 8], Pause::exact());
        // A long answer, and one that refuses.
        for pdu in [[vec![3, 40], vec![7; 40]].concat(), vec![0x83, 4]].iter().cycle() {
            if master.read_exact(&mut request).await.is_err() {
                return;
            }
            for byte in framed(true, &[], request[0], pdu) {
                pause.until(Instant::now() + Duration::from_micros(573)).await;
                if master.write_all(&[byte]).await.is_err() {
                    return;
                }
            }
        }
    });
    let modbus = ModbusDevice { response_timeout: SECOND, ..modbus(1) };
    let points = (0..20).map(|address| point(address, Duration::ZERO)).collect();
    let rig = Rig::new(Transport::Serial(settings), vec![device_of(modbus, points)]);
    let (task, mut told, _asks, _) = rig.task(Dial::Transport);
    let stop = CancellationToken::new();
    let running = tokio::spawn(task.run(stop.clone()));
    for n in 0..6 {
        let seen = describe(&told.recv().await.unwrap());
        let end = if n % 2 == 0 { "19=1799" } else { "19=bad exception 4" };
        assert!(seen.ends_with(end), "{n}: {seen}");
    }
    stop.cancel();
    running.await.unwrap().unwrap();
    far.abort();
}

fn tokio_serial_pair() -> (Port, (Port, std::path::PathBuf)) {
    let (master, slave) = Port::pair().unwrap();
    let path = slave.path().unwrap();
    (master, (slave, path))
}

#[tokio::test]
async fn an_exact_pause_ends_no_earlier_than_asked() {
    let pause = Pause::exact();
    assert!(matches!(pause, Pause::Exact(_)));
    for micros in [0, 1, 300, 2005, 1750] {
        let moment = Instant::now() + Duration::from_micros(micros);
        pause.until(moment).await;
        assert!(Instant::now() >= moment);
    }
}
