//! `[[bus]]`: the transport and the timing of a line.

use std::time::Duration;

use super::names;
use super::values::{HOUR, Reader, SECOND};
use crate::config::errors::{Place, Report};
use crate::config::load::Placed;
use crate::config::{raw, text};
use crate::model::device::{Bus, BusTiming, Host, Parity, Rs485, SerialPort, TcpEndpoint, Transport};
use crate::model::ids::BusName;

pub fn bus(placed: &Placed<raw::Bus>, report: &mut Report) -> Option<Bus> {
    let Placed { place, raw } = placed;
    let name = names::required(raw.name.as_deref(), "the bus", place, report);
    let timing = timing(raw, place, report);
    let transport = match raw.transport {
        Some(raw::Transport::Serial) => serial(raw, place, report).map(Transport::Serial),
        Some(raw::Transport::Tcp) => endpoint(raw, place, report).map(Transport::Tcp),
        Some(raw::Transport::RtuOverTcp) => endpoint(raw, place, report).map(Transport::RtuOverTcp),
        None => {
            let help = "write transport = \"serial\", \"tcp\" or \"rtu-over-tcp\"";
            report.error(place, "transport", "the bus has no transport", help);
            None
        }
    };
    Some(Bus { name: BusName::new(&name?), transport: transport?, timing, devices: Vec::new() })
}

fn serial(raw: &raw::Bus, place: &Place, report: &mut Report) -> Option<SerialPort> {
    let mut reader = Reader { place, report };
    let keys = [("host", raw.host.is_some()), ("port", raw.port.is_some())];
    reader.refuse("has no meaning on a serial line", "remove it, or choose another transport", &keys);
    let baud = reader.number("baud", raw.baud, 9600, 50..=4_000_000);
    let data_bits = reader.number("data_bits", raw.data_bits, 8, 5..=8);
    let stop_bits = reader.number("stop_bits", raw.stop_bits, 1, 1..=2);
    let parity = match raw.parity.unwrap_or(raw::Parity::Even) {
        raw::Parity::None => Parity::None,
        raw::Parity::Even => Parity::Even,
        raw::Parity::Odd => Parity::Odd,
    };
    let rs485 = raw.rs485.as_ref().map(|rs485| rs485_of(rs485, &place.child("rs485"), report));
    let Some(path) = raw.path.clone().filter(|p| !p.as_os_str().is_empty()) else {
        let help = "name the port, best by its lasting name: \"/dev/serial/by-id/...\"";
        report.error(place, "path", "a serial bus has no path", help);
        return None;
    };
    let local_echo = raw.local_echo.unwrap_or(false);
    Some(SerialPort { path, baud, data_bits, parity, stop_bits, rs485, local_echo })
}

fn rs485_of(raw: &raw::Rs485, place: &Place, report: &mut Report) -> Rs485 {
    let mut reader = Reader { place, report };
    let mut delay = |key: &str, value| {
        let delay = reader.span(key, value, Duration::ZERO, Duration::ZERO..=SECOND);
        u32::try_from(delay.as_millis()).unwrap_or(0)
    };
    Rs485 {
        delay_before_send_ms: delay("delay_before_send", raw.delay_before_send),
        delay_after_send_ms: delay("delay_after_send", raw.delay_after_send),
        rts_on_send: raw.rts_on_send.unwrap_or(true),
        rts_after_send: raw.rts_after_send.unwrap_or(false),
        rx_during_tx: raw.rx_during_tx.unwrap_or(false),
    }
}

fn endpoint(raw: &raw::Bus, place: &Place, report: &mut Report) -> Option<TcpEndpoint> {
    let mut reader = Reader { place, report };
    let keys = [
        ("path", raw.path.is_some()),
        ("baud", raw.baud.is_some()),
        ("data_bits", raw.data_bits.is_some()),
        ("parity", raw.parity.is_some()),
        ("stop_bits", raw.stop_bits.is_some()),
        ("local_echo", raw.local_echo.is_some()),
        ("rs485", raw.rs485.is_some()),
    ];
    reader.refuse(
        "has no meaning on a network transport",
        "remove it, or write transport = \"serial\"",
        &keys,
    );
    let port = reader.number("port", raw.port, 502, 1..=65_535);
    let Some(host) = raw.host.as_deref() else {
        report.error(
            place,
            "host",
            "a network bus has no host",
            "write host = \"192.0.2.10\" or a host name",
        );
        return None;
    };
    let is_host_name = |h: &str| {
        !h.is_empty() && h.len() <= 253 && h.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    let host = match host.parse() {
        Ok(address) => Host::Address(address),
        Err(_) if is_host_name(host) => Host::Name(host.to_owned()),
        Err(_) => {
            let help = "an address or a name; the port is a key of its own: port = 502";
            report.error(place, "host", format!("\"{host}\" is not a host"), help);
            return None;
        }
    };
    Some(TcpEndpoint { host, port })
}

fn timing(raw: &raw::Bus, place: &Place, report: &mut Report) -> BusTiming {
    let silence = match raw.silence.as_deref() {
        None | Some("auto") => None,
        Some(text) => match text::parse_span(text) {
            Ok(silence) => Some(silence),
            Err(e) => {
                let (message, _) = text::explain(&e);
                report.error(place, "silence", message, "\"auto\" or a duration such as \"5ms\"");
                None
            }
        },
    };
    let mut reader = Reader { place, report };
    if let Some(silence) = silence {
        reader.span("silence", Some(text::Span(silence)), silence, Duration::ZERO..=SECOND);
    }
    let [reconnect_min, reconnect_max] = reader.backoff(
        ["reconnect_min", "reconnect_max"],
        [raw.reconnect_min, raw.reconnect_max],
        [SECOND, SECOND * 60],
    );
    let zero = Duration::ZERO;
    BusTiming {
        connect_timeout: reader.span(
            "connect_timeout",
            raw.connect_timeout,
            SECOND * 5,
            Duration::from_millis(10)..=HOUR,
        ),
        pause_after_connect: reader.span("pause_after_connect", raw.pause_after_connect, zero, zero..=HOUR),
        pause_between_requests: reader.span(
            "pause_between_requests",
            raw.pause_between_requests,
            zero,
            zero..=SECOND * 60,
        ),
        silence,
        close_after_poll: raw.close_after_poll.unwrap_or(false),
        reconnect_min,
        reconnect_max,
    }
}
