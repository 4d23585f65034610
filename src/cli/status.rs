//! `fieldgate status`: how the running agent does.
//!
//! `--watch` draws the same table again and again in place, with plain ANSI, so that it works
//! over a serial console. Programs get the snapshot as it is, with `--watch` one per line.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::{Failure, exit, print, print_json};
use crate::config::Config;
use crate::control::ask::{Answer, Ask};
use crate::control::client::{self, NoAnswer};
use crate::control::snapshot::{BusStatus, DeviceStatus, Status, StoreStatus, UplinkStatus};

#[derive(clap::Args)]
pub struct Args {
    /// Draw it again every second until interrupted
    #[arg(long)]
    watch: bool,
    /// The agent's socket; without: the one of the configuration
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

const REDRAW: Duration = Duration::from_secs(1);

/// Home; each line then clears its own rest, and the end clears what is below.
const HOME: &str = "\x1b[H";
const CLEAR_BELOW: &str = "\x1b[J";
const CLEAR_ALL: &str = "\x1b[2J";

/// `config` is asked only when no socket is named, so that `status` works without reading
/// files that hold passwords.
pub fn run(
    args: &Args,
    config: impl FnOnce() -> anyhow::Result<Config>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let socket = match &args.socket {
        Some(path) => path.clone(),
        None => socket_of(&config()?)?,
    };
    if !args.watch {
        let status = ask(&socket)?;
        if json {
            print_json(&status)?
        } else {
            print(&table(&status))?
        }
        return Ok(ExitCode::SUCCESS);
    }
    if !json {
        print(CLEAR_ALL)?;
    }
    loop {
        // A restart of the agent is something to watch, not the end of watching.
        match ask(&socket) {
            Ok(status) if json => print(&format!("{}\n", serde_json::to_string(&status)?))?,
            Ok(status) => print(&in_place(&table(&status)))?,
            Err(error) if json => return Err(error),
            Err(error) => print(&in_place(&format!("{error:#}\n")))?,
        }
        std::thread::sleep(REDRAW);
    }
}

pub fn socket_of(config: &Config) -> anyhow::Result<PathBuf> {
    config.gateway.status_socket.clone().ok_or_else(|| {
        Failure::new(exit::UNREACHABLE, "the configuration gives the agent no status socket").into()
    })
}

/// The exit code that says why there is no answer.
pub fn failure(error: NoAnswer) -> anyhow::Error {
    let code = match &error {
        NoAnswer::Unreachable { .. } | NoAnswer::Mute(_) | NoAnswer::Line(_) => exit::UNREACHABLE,
        NoAnswer::Refused(_) => exit::REFUSED,
        NoAnswer::Failed(_) => exit::FAILED,
    };
    Failure::new(code, error.to_string()).into()
}

fn ask(socket: &Path) -> anyhow::Result<Status> {
    match client::ask(socket, &Ask::Status).map_err(failure)? {
        Answer::Status(status) => Ok(*status),
        other => anyhow::bail!("the agent answered something else: {other:?}"),
    }
}

fn in_place(text: &str) -> String {
    format!("{HOME}{}{CLEAR_BELOW}", text.replace('\n', "\x1b[K\n"))
}

fn table(status: &Status) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_table(&mut out, status);
    out
}

fn write_table(out: &mut String, status: &Status) -> std::fmt::Result {
    writeln!(
        out,
        "{} · fieldgate {} · up {} · {}",
        status.gateway,
        status.version,
        age(status.uptime_s),
        status.now
    )?;
    write_uplink(out, &status.uplink)?;
    write_store(out, &status.store)?;
    write_buses(out, &status.buses)?;
    write_devices(out, &status.devices)
}

fn write_uplink(out: &mut String, u: &UplinkStatus) -> std::fmt::Result {
    writeln!(out, "\nuplink  {}", word(&u.state))?;
    writeln!(
        out,
        "        {} readings in {} messages delivered, {} in flight, {} connects, {} sent, {} dead-lettered",
        u.readings_acked,
        u.messages_acked,
        u.window_used,
        u.connects,
        bytesize::ByteSize(u.bytes_sent),
        u.dead_lettered
    )?;
    if u.things_online + u.things_offline > 0 {
        writeln!(
            out,
            "        {} things online, {} offline by connections of their own",
            u.things_online, u.things_offline
        )?;
    }
    Ok(())
}

fn write_store(out: &mut String, s: &StoreStatus) -> std::fmt::Result {
    if !s.stuck.is_empty() {
        writeln!(out, "store   CANNOT BE WRITTEN: {}; polling and delivery wait", s.stuck)?;
    }
    let (used, max) = (bytesize::ByteSize(s.bytes_used), bytesize::ByteSize(s.bytes_max));
    writeln!(
        out,
        "store   {} readings wait in {} rows, {used} of {max}",
        s.readings_waiting, s.rows_waiting
    )?;
    let oldest = s.oldest.as_deref().map_or(String::new(), |t| format!(", oldest {t}"));
    let left = s.hours_left.map_or(String::new(), |h| format!(", room for {h} h"));
    writeln!(
        out,
        "        {} readings in {} commits since the start, {} dropped{oldest}{left}",
        s.readings, s.commits, s.readings_dropped
    )
}

fn write_buses(out: &mut String, buses: &[BusStatus]) -> std::fmt::Result {
    let wide = width(buses.iter().map(|b| b.bus.as_str()), "bus");
    writeln!(
        out,
        "\n{:<wide$}  {:>9} {:>8} {:>9} {:>7} {:>6} {:>8} {:>6}  state",
        "bus", "requests", "timeouts", "exception", "garbled", "late", "lines", "noise"
    )?;
    for b in buses {
        writeln!(
            out,
            "{:<wide$}  {:>9} {:>8} {:>9} {:>7} {:>6} {:>8} {:>6}  {}",
            b.bus,
            b.requests,
            b.timeouts,
            b.exceptions,
            b.garbled,
            b.late,
            b.lines,
            b.noise,
            word(&b.state)
        )?;
    }
    Ok(())
}

fn write_devices(out: &mut String, devices: &[DeviceStatus]) -> std::fmt::Result {
    let wide = width(devices.iter().map(|d| d.device.as_str()), "device");
    writeln!(
        out,
        "\n{:<wide$}  {:>9} {:>8} {:>7} {:>10}  {:<10}  state",
        "device", "polls", "skipped", "failed", "readings", "last good"
    )?;
    for d in devices {
        let last = d.last_good_age_s.map_or("never".into(), age);
        writeln!(
            out,
            "{:<wide$}  {:>9} {:>8} {:>7} {:>10}  {:<10}  {}",
            d.device,
            d.polls,
            d.polls_skipped,
            d.polls_failed,
            d.readings,
            last,
            word(&d.state)
        )?;
    }
    Ok(())
}

fn width<'a>(names: impl Iterator<Item = &'a str>, title: &str) -> usize {
    names.map(|n| n.chars().count()).max().unwrap_or(0).max(title.len())
}

/// A state that nobody has stated yet. Control characters of a device or broker stay out of
/// the terminal.
fn word(state: &str) -> String {
    match state {
        "" => "not yet".into(),
        text => text.chars().filter(|c| !c.is_control()).collect(),
    }
}

/// `12 s`, `5 min 3 s`, `2 h 0 min`, `3 d 4 h`.
pub fn age(seconds: u64) -> String {
    let (s, m, h, d) = (seconds % 60, seconds / 60 % 60, seconds / 3600 % 24, seconds / 86_400);
    match seconds {
        0..60 => format!("{s} s"),
        60..3600 => format!("{m} min {s} s"),
        3600..86_400 => format!("{h} h {m} min"),
        _ => format!("{d} d {h} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixture;
    use crate::control::snapshot;
    use crate::metrics::Metrics;
    use crate::model::time::Timestamp;

    #[test]
    fn a_person_sees_every_name_and_every_state() {
        let metrics = Metrics::new(2, 2);
        metrics.buses[0].state.set("open");
        metrics.buses[1].state.set("no such port\x1b[2J");
        metrics.devices[0].state.set("timeout");
        metrics.devices[0].last_good_ms.set(1_793_500_000_000);
        metrics.uplink.state.set("offline: certificate expired");
        metrics.store.readings_waiting.set(77);
        let now = Timestamp(1_793_500_065_000);
        let text = table(&snapshot::take(&fixture::config(), &metrics, now, 7200));
        for part in [
            "gw-1 · fieldgate",
            "up 2 h 0 min",
            "uplink  offline: certificate expired",
            "77 readings wait",
            "  open\n",
            "  no such port[2J\n",
            "1 min 5 s   timeout\n",
            "never       not yet\n",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }

    #[test]
    fn redrawing_leaves_nothing_of_the_last_picture() {
        assert_eq!(in_place("a\nb\n"), "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
    }

    #[test]
    fn an_age_has_two_figures_at_most() {
        let check = |seconds, expected: &str| assert_eq!(age(seconds), expected);
        check(0, "0 s");
        check(59, "59 s");
        check(303, "5 min 3 s");
        check(7200, "2 h 0 min");
        check(273_600, "3 d 4 h");
    }
}
