//! Devices that are late, mute, garbled, busy or partly broken.

use super::rig::*;
use crate::model::device::{ModbusDevice, Source};

/// Polls two far registers back to back, of which the second is answered by `second`, and
/// checks that no register ever shows the value of the other.
async fn check_no_mixing(transport: crate::model::device::Transport, second: Act) {
    let device = ModbusDevice { silent_after: 255, ..modbus(1) };
    let points = vec![point(10, Default::default()), point(500, Default::default())];
    let told = Rig::new(transport, vec![device_of(device, points)])
        .run(30 * SECOND)
        .told({
            let second = second.clone();
            move |ask| if ask.address == 500 { second.clone() } else { Act::Addresses }
        })
        .await;
    for line in &told.seen {
        assert!(!line.contains("0=500") && !line.contains("1=10"), "{second:?}: {line}");
    }
    assert!(told.seen.iter().any(|s| s.contains("0=10")), "{second:?}: the first is not answered");
    assert!(told.seen.iter().any(|s| s.contains("1=bad")), "{second:?}: the second is answered");
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_is_never_read_as_another_registers_value() {
    for delay in [210, 250, 300, 390, 399] {
        check_no_mixing(rtu(), after(ms(delay), Act::Addresses)).await;
        check_no_mixing(tcp(), after(ms(delay), Act::Addresses)).await;
    }
    // After the late window too, where the transport can tell.
    for delay in [405, 500, 900] {
        check_no_mixing(tcp(), after(ms(delay), Act::Addresses)).await;
    }
    // Nor is one that follows on something else.
    let foreign = framed(true, &[], 2, &[3, 2, 0, 9]);
    for delay in [10, 100, 190] {
        check_no_mixing(rtu(), Act::Noise(foreign.clone(), Box::new(after(ms(delay), Act::Addresses)))).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_between_two_polls_answers_neither() {
    let told = Rig::new(rtu(), vec![device_of(modbus(1), points([10, 500]))])
        .run(ms(1500))
        .told(|ask| if ask.address == 500 { after(ms(700), Act::Addresses) } else { Act::Addresses })
        .await;
    let said: Vec<&str> = told.seen.iter().map(|s| s.split_once(' ').unwrap().1).collect();
    assert_eq!(said, ["d0 0=10", "d0 1=bad timeout", "d0 0=10", "d0 1=bad timeout"]);
    assert_eq!(told.metrics.buses[0].noise.get(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_is_swallowed_and_counted() {
    let told = Rig::new(rtu(), vec![device_of(modbus(1), points([10]))])
        .run(ms(900))
        .told(|_| after(ms(300), Act::Addresses))
        .await;
    assert_eq!(told.seen.len(), 1);
    assert!(told.seen[0].ends_with("d0 0=bad timeout"), "{:?}", told.seen);
    assert_eq!(told.metrics.buses[0].late.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dead_unit_does_not_slow_its_neighbours() {
    let devices = vec![device_of(modbus(1), points([10])), device_of(modbus(2), points([20]))];
    let told = Rig::new(rtu(), devices)
        .run(60 * SECOND)
        .told(|ask| if ask.unit_id == 1 { Act::Mute } else { Act::Addresses })
        .await;
    let dead: Vec<&String> = told.seen.iter().filter(|s| s.contains("d0")).collect();
    let said = dead.iter().map(|s| s.split_once(' ').unwrap().1).collect::<Vec<_>>();
    assert_eq!(said, ["d0 0=bad timeout", "d0 0=bad timeout", "d0 0=bad timeout", "d0 silent timeout"]);
    assert_eq!(told.seen.iter().filter(|s| s.ends_with("d1 0=20")).count(), 60);
    let knocks = told.log.times_of(1).len();
    assert!((3..=10).contains(&knocks), "the dead unit was asked {knocks} times in a minute");
    assert_eq!(told.metrics.devices[0].state.get(), "timeout");
    assert_eq!(told.metrics.devices[1].polls_skipped.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn silent_and_back_are_said_once() {
    let start = tokio::time::Instant::now();
    let told = Rig::new(tcp(), vec![device_of(modbus(1), points([10, 500]))])
        .run(60 * SECOND)
        .told(move |_| if start.elapsed() < 20 * SECOND { Act::Mute } else { Act::Addresses })
        .await;
    let said: Vec<&str> = told.seen.iter().map(|s| s.split_once(' ').unwrap().1).collect();
    let bad = "d0 0=bad timeout 1=bad timeout";
    assert_eq!(said[..7], [bad, bad, bad, "d0 silent timeout", "d0 back", "d0 0=10", "d0 1=500"]);
    assert_eq!(said.iter().filter(|s| s.contains("back") || s.contains("silent")).count(), 2);
    // Its rate is back as well.
    assert!(said.iter().filter(|s| **s == "d0 0=10").count() >= 20, "{said:?}");
    assert_eq!(told.metrics.devices[0].state.get(), "good");
}

/// The retry after a damaged answer must not be answered by what the first question brings yet.
#[tokio::test(start_paused = true)]
async fn a_late_answer_behind_a_damaged_one_is_not_taken_for_the_retrys() {
    let old = Box::new(after(ms(300), Act::Words(vec![111])));
    // Bytes that make no sense; a whole frame of the right unit that is too long.
    let too_long = framed(true, &[], 1, &[3, 4, 0, 9, 0, 9]);
    for damage in [vec![0x55; 3], too_long] {
        let acts = vec![after(ms(150), Act::Words(vec![222])), Act::Noise(damage.clone(), old.clone())];
        let acts = std::sync::Arc::new(std::sync::Mutex::new(acts));
        let device = ModbusDevice { retries: 1, ..modbus(1) };
        let told = Rig::new(rtu(), vec![device_of(device, points([10]))])
            .run(ms(900))
            .told(move |_| acts.lock().unwrap().pop().unwrap_or(Act::Mute))
            .await;
        let said: Vec<&str> = told.seen.iter().map(|s| s.split_once(' ').unwrap().1).collect();
        assert_eq!(said, ["d0 0=222"], "{damage:x?}");
    }
}

async fn check_act(
    transport: crate::model::device::Transport,
    modbus: ModbusDevice,
    first: Act,
    expected: &str,
) {
    // Shared, because a TCP connection is opened anew after trouble.
    let acts = std::sync::Arc::new(std::sync::Mutex::new(vec![first]));
    let told = Rig::new(transport, vec![device_of(modbus, points([10]))])
        .run(ms(2900))
        .told(move |_| acts.lock().unwrap().pop().unwrap_or(Act::Addresses))
        .await;
    let said: Vec<&str> = told.seen.iter().map(|s| s.split_once(' ').unwrap().1).collect();
    // One request is lost, and the next is answered.
    assert_eq!(said, [expected, "d0 0=10", "d0 0=10"]);
}

#[tokio::test(start_paused = true)]
async fn one_bad_answer_costs_one_request() {
    let garbled = "d0 0=bad garbled";
    check_act(rtu(), modbus(1), Act::BadCheck, garbled).await;
    // One register too many, one too few, in a frame whose check is right.
    for words in [vec![1, 2], vec![]] {
        check_act(rtu(), modbus(1), Act::Words(words.clone()), garbled).await;
        check_act(tcp(), modbus(1), Act::Words(words), garbled).await;
    }
    // Another unit's answer, another function's.
    let foreign = [(2, vec![3, 2, 0, 9]), (1, vec![4, 2, 0, 9])];
    for (unit_id, pdu) in foreign {
        check_act(rtu(), modbus(1), Act::Raw(framed(true, &[], unit_id, &pdu)), garbled).await;
    }
    check_act(rtu(), modbus(1), Act::Raw(vec![0x55; 40]), garbled).await;
    check_act(tcp(), modbus(1), Act::Raw(b"\0\x63\0\0\0\x05\x01\x03\x02\0\x09".to_vec()), garbled).await;
    check_act(rtu(), modbus(1), Act::Exception(4), "d0 0=bad exception 4").await;
    check_act(rtu(), modbus(1), Act::Mute, "d0 0=bad timeout").await;
    check_act(tcp(), modbus(1), Act::Mute, "d0 0=bad timeout").await;
    check_act(tcp(), modbus(1), after(ms(900), Act::Addresses), "d0 0=bad timeout").await;
    // Noise before the answer costs nothing.
    check_act(rtu(), modbus(1), Act::Noise(vec![0xFF; 5], Box::new(Act::Addresses)), "d0 0=10").await;
}

#[tokio::test(start_paused = true)]
async fn a_device_that_only_refuses_is_there_and_not_good() {
    for (refused, state) in [(usize::MAX, "exception 2"), (2, "good")] {
        let acts = std::sync::Arc::new(std::sync::Mutex::new(0));
        let told = Rig::new(tcp(), vec![device_of(modbus(1), points([10]))])
            .run(ms(4900))
            .told(move |_| {
                let mut asked = acts.lock().unwrap();
                *asked += 1;
                if *asked > refused { Act::Addresses } else { Act::Exception(2) }
            })
            .await;
        assert_eq!(told.metrics.devices[0].state.get(), state, "{:?}", told.seen);
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_that_refused_in_between_is_good_again() {
    let mut mark = points([10]);
    let Source::Register(register) = &mut mark[0].source else { unreachable!() };
    register.transform.invalid = vec![0xFFFF];
    // No value yet, a refusal, values.
    let acts = std::sync::Arc::new(std::sync::Mutex::new(vec![Act::Exception(4), Act::Words(vec![0xFFFF])]));
    let told = Rig::new(tcp(), vec![device_of(modbus(1), mark)])
        .run(ms(3900))
        .told(move |_| acts.lock().unwrap().pop().unwrap_or(Act::Addresses))
        .await;
    assert_eq!(told.metrics.devices[0].state.get(), "good", "{:?}", told.seen);
}

#[tokio::test(start_paused = true)]
async fn retries_spare_the_poll() {
    let patient = |busy| ModbusDevice { retries: 1, busy_retries: busy, ..modbus(1) };
    check_act(rtu(), patient(0), Act::Mute, "d0 0=10").await;
    check_act(rtu(), patient(0), Act::BadCheck, "d0 0=10").await;
    check_act(tcp(), patient(0), Act::Mute, "d0 0=10").await;
    for code in [5, 6] {
        check_act(rtu(), patient(1), Act::Exception(code), "d0 0=10").await;
        check_act(rtu(), patient(0), Act::Exception(code), &format!("d0 0=bad exception {code}")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_bad_address_in_a_block_costs_only_its_own_point() {
    let told = Rig::new(rtu(), vec![device_of(modbus(1), points(10..18))])
        .run(ms(1900))
        .told(|ask| match (ask.address..ask.address + ask.count).contains(&15) {
            true => Act::Exception(2),
            false => Act::Addresses,
        })
        .await;
    let said: Vec<&str> = told.seen.iter().map(|s| s.split_once(' ').unwrap().1).collect();
    // Each part that is left of the block is told with its own time.
    assert_eq!(said[..4], ["d0 0=10 1=11 2=12 3=13", "d0 4=14", "d0 5=bad exception 2", "d0 6=16 7=17"]);
    // Learned: the second poll asks around it, in two requests.
    assert_eq!(said[4..], ["d0 0=10 1=11 2=12 3=13 4=14", "d0 5=bad exception 2 6=16 7=17"]);
    assert_eq!(told.metrics.devices[0].state.get(), "good");
}

#[tokio::test(start_paused = true)]
async fn a_learned_hole_is_tried_again_rarely() {
    let start = tokio::time::Instant::now();
    let device = ModbusDevice { hole_retry: 20 * SECOND, ..modbus(1) };
    let told = Rig::new(tcp(), vec![device_of(device, points([10, 11, 12]))])
        .run(ms(25_500))
        .told(move |ask| {
            let broken = start.elapsed() < 5 * SECOND;
            match broken && (ask.address..ask.address + ask.count).contains(&11) {
                true => Act::Exception(2),
                false => Act::Addresses,
            }
        })
        .await;
    let bad = told.seen.iter().filter(|s| s.contains("1=bad exception 2")).count();
    assert_eq!(bad, 20);
    assert_eq!(told.seen.last().unwrap(), "25000 d0 0=10 1=11 2=12");
}

#[tokio::test(start_paused = true)]
async fn a_bad_gap_between_good_points_is_found_too() {
    let told = Rig::new(tcp(), vec![device_of(modbus(1), points([10, 12]))])
        .run(ms(1900))
        .told(|ask| match (ask.address..ask.address + ask.count).contains(&11) {
            true => Act::Exception(2),
            false => Act::Addresses,
        })
        .await;
    assert_eq!(told.seen, ["0 d0 0=10", "0 d0 1=12", "1000 d0 0=10", "1000 d0 1=12"]);
    assert_eq!(told.metrics.buses[0].requests.get(), 3 + 2);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_refuses_everything_teaches_nothing() {
    let start = tokio::time::Instant::now();
    let told = Rig::new(tcp(), vec![device_of(modbus(1), points([10, 11]))])
        .run(ms(2500))
        .told(move |_| if start.elapsed() < ms(1500) { Act::Exception(2) } else { Act::Addresses })
        .await;
    let bad = ["d0 0=bad exception 2", "d0 1=bad exception 2"];
    let bad = [0, 1000].into_iter().flat_map(|at| bad.map(|b| format!("{at} {b}")));
    assert_eq!(told.seen, bad.chain(["2000 d0 0=10 1=11".to_owned()]).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_was_hung_up_is_opened_again_without_loss() {
    let mut served = 0;
    let told = Rig::new(tcp(), vec![device_of(modbus(1), points([10]))])
        .run(ms(5500))
        .told(move |_| {
            served += 1;
            if served % 2 == 0 { Act::HangUp } else { Act::Addresses }
        })
        .await;
    let good = told.seen.iter().filter(|s| s.ends_with("d0 0=10")).count();
    assert_eq!(good, 6, "{:?}", told.seen);
    assert!(told.metrics.buses[0].opened.get() > 3);
}
