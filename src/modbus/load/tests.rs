use super::*;
use crate::modbus::codec::bare;
use crate::model::device::{BusTiming, Host, Parity, RequestLimits, SerialPort, TcpEndpoint, WriteFunction};
use crate::model::ids::DeviceIndex;
use crate::model::register::{Encoding, Kind, Order};
use crate::model::report::Report;

const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn serial(baud: u32) -> Transport {
    Transport::Serial(SerialPort {
        path: "/dev/ttyUSB0".into(),
        baud,
        data_bits: 8,
        parity: Parity::Even,
        stop_bits: 1,
        rs485: None,
        local_echo: false,
    })
}

pub(crate) fn bus(transport: Transport, devices: u32) -> Bus {
    Bus {
        name: "line-1".into(),
        transport,
        timing: BusTiming {
            connect_timeout: SECOND,
            pause_after_connect: Duration::ZERO,
            pause_between_requests: Duration::ZERO,
            silence: None,
            close_after_poll: false,
            reconnect_min: SECOND,
            reconnect_max: SECOND,
        },
        devices: (0..devices).map(DeviceIndex).collect(),
    }
}

/// A device of input registers: name, address, interval in milliseconds.
pub(crate) fn device(name: &str, points: &[(&str, u16, u64)]) -> Device {
    let point = |(name, address, interval): &(&str, u16, u64)| {
        let mut register = bare(Table::Input, Encoding { kind: Kind::Uint16, order: Order::big(2) });
        register.address = *address;
        Point {
            name: (*name).into(),
            unit: None,
            source: Source::Register(register),
            interval: Duration::from_millis(*interval),
            report: Report::default(),
            write: None,
            shadow: None,
            fingerprint: false,
        }
    };
    Device::new(
        name.into(),
        Protocol::Modbus(ModbusDevice {
            unit_id: 1,
            limits: RequestLimits { max_gap_registers: 1, ..RequestLimits::default() },
            response_timeout: SECOND,
            late_window: SECOND,
            retries: 1,
            busy_retries: 0,
            busy_pause: SECOND,
            pause_after_write: Duration::ZERO,
            silent_after: 3,
            backoff_min: SECOND,
            backoff_max: SECOND,
            hole_retry: SECOND,
            write_function: WriteFunction::Auto,
        }),
        points.iter().map(point).collect(),
    )
}

fn near(seen: f64, expected: f64) {
    assert!((seen - expected).abs() < 1e-9, "{seen} instead of {expected}");
}

#[test]
fn a_request_takes_its_characters_and_two_silences() {
    // 10 registers: 8 characters out, 25 back, at 11 bits each.
    let points: Vec<(String, u16)> = (0..10).map(|n| (format!("p{n}"), n)).collect();
    let points: Vec<(&str, u16, u64)> = points.iter().map(|(n, a)| (n.as_str(), *a, 1000)).collect();
    let devices = [device("meter", &points)];
    let character = 11.0 / 9600.0;
    let seen = of_bus(&bus(serial(9600), 1), &devices);
    assert_eq!(seen.requests.len(), 1);
    assert_eq!(seen.requests[0].bytes, 33);
    near(seen.cycle, (33.0 + 7.0) * character);
    near(seen.load, seen.cycle);
    assert!(seen.warnings.is_empty());

    let fast = of_bus(&bus(serial(115_200), 1), &devices);
    near(fast.cycle, 33.0 * 11.0 / 115_200.0 + 2.0 * 0.001_75);

    let mut quiet = bus(serial(9600), 1);
    quiet.timing.silence = Some(Duration::from_millis(10));
    quiet.timing.pause_between_requests = Duration::from_millis(5);
    near(of_bus(&quiet, &devices).cycle, 33.0 * character + 0.025);

    let endpoint = TcpEndpoint { host: Host::Name("plc".into()), port: 502 };
    let tcp = of_bus(&bus(Transport::Tcp(endpoint.clone()), 1), &devices);
    near(tcp.cycle, 0.005);
    assert_eq!(tcp.requests[0].bytes, 12 + 9 + 20);
    near(of_bus(&bus(Transport::RtuOverTcp(endpoint), 1), &devices).cycle, 40.0 * character + 0.005);
}

#[test]
fn intervals_share_requests_when_they_meet() {
    // Alone: one register each. Together: both in one request of two registers.
    let devices = [device("meter", &[("fast", 0, 1000), ("slow", 1, 2000)])];
    let seen = of_bus(&bus(serial(9600), 1), &devices);
    let intervals: Vec<(u16, u16, u128)> =
        seen.requests.iter().map(|r| (r.address, r.count, r.interval.as_millis())).collect();
    assert_eq!(intervals, [(0, 1, 1000), (1, 1, 2000)]);
    let character = 11.0 / 9600.0;
    let (one, two) = ((13.0 + 2.0 + 7.0) * character, (13.0 + 4.0 + 7.0) * character);
    near(seen.cycle, two);
    // Of two seconds, one moment has both and one only the fast point.
    near(seen.load, (one + two) / 2.0);
}

#[test]
fn meetings_count_every_poll_once() {
    let check = |intervals: &[u128], expected: &[(&[u128], f64)]| {
        let seen: Vec<(Vec<u128>, f64)> =
            meetings(intervals).into_iter().map(|m| (m.due, (m.per_second * 1e6).round() / 1e6)).collect();
        let expected: Vec<(Vec<u128>, f64)> = expected.iter().map(|(d, n)| (d.to_vec(), *n)).collect();
        assert_eq!(seen, expected);
    };
    let s = 1_000_000;
    check(&[], &[]);
    check(&[s], &[(&[s], 1.0)]);
    check(&[2 * s, 3 * s], &[(&[2 * s], 0.333333), (&[2 * s, 3 * s], 0.166667), (&[3 * s], 0.166667)]);
    // Their period is too long to be walked through.
    check(&[999_983, 1_000_003], &[(&[999_983], 1.000017), (&[1_000_003], 0.999997)]);
}

#[test]
fn warnings_say_what_will_go_wrong() {
    let check = |devices: &[Device], expected: &[&str]| {
        let seen = of_bus(&bus(serial(9600), devices.len() as u32), devices).warnings;
        assert_eq!(seen, expected);
    };
    check(&[device("a", &[("x", 0, 1000)])], &[]);
    check(
        &[device("a", &[("x", 0, 20)])],
        &[
            "load is 126 %: polls will be skipped; longer intervals or a faster line are needed",
            "a cycle takes 25 ms, the shortest interval is 20 ms: when everything falls due at once, polls come late",
        ],
    );
    check(
        &[device("a", &[("x", 0, 60)]), device("b", &[("x", 0, 55)])],
        &[
            "load is 88 %: little is left for retries and slow devices",
            "b costs most: 46 % of the line's time",
        ],
    );
    // As fast as the line allows is no mistake.
    check(&[device("a", &[("x", 0, 0)])], &[]);
    check(
        &[device("a", &[("x", 0, 0), ("y", 9, 40)])],
        &[
            "load is 126 %: polls will be skipped; longer intervals or a faster line are needed",
            "a cycle takes 50 ms, the shortest interval is 40 ms: when everything falls due at once, polls come late",
        ],
    );
    let mut long = device("a", &[("x", 65535, 1000)]);
    if let Protocol::Modbus(modbus) = &mut long.protocol {
        modbus.limits.forbidden =
            vec![crate::model::device::AddressRange { table: Table::Input, first: 65535, last: 65535 }];
    }
    check(
        &[long],
        &[
            "a: x cannot be read: input 65535 to 65535 touches a forbidden range or is longer than a request may be",
        ],
    );
}

#[test]
fn as_fast_as_the_line_allows_is_a_full_line() {
    let seen = of_bus(&bus(serial(9600), 1), &[device("a", &[("x", 0, 0), ("y", 1, 1000)])]);
    near(seen.load, 1.0);
}
