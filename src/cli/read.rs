//! `fieldgate read`: one point or address, now.
//!
//! Constraint: a line has one owner. So the running agent is asked first, and the line is
//! opened here only when no agent answers; an agent that answers with an error has the last
//! word.

use std::fmt::Write;
use std::process::ExitCode;

use anyhow::Context;
use tracing::debug;

use super::status::failure;
use super::{Failure, exit, print, print_json};
use crate::bus::read_once;
use crate::config::Config;
use crate::control::ask::{self, Address, Answer, Ask, Read, Shown};
use crate::control::client::{self, NoAnswer};
use crate::control::spec::Spec;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  fieldgate read meter-1 voltage
  fieldgate read --bus line-1 --unit 1 --table holding --address 0 --type float32 --order CDAB")]
pub struct Args {
    /// A device of the configuration
    #[arg(requires = "point", conflicts_with = "address", required_unless_present = "address")]
    device: Option<String>,
    /// A point of it
    point: Option<String>,
    /// A bus of the configuration
    #[arg(long, requires = "address")]
    bus: Option<String>,
    /// Unit id of the device on that bus
    #[arg(long, requires = "address")]
    unit: Option<u8>,
    /// coil, discrete, holding or input
    #[arg(long, requires = "address", default_value = "holding")]
    table: String,
    /// As it goes over the wire, from 0
    #[arg(long, requires_all = ["bus", "unit"])]
    address: Option<u16>,
    /// As in the configuration, for instance float32
    #[arg(long = "type", requires = "address", default_value = "uint16")]
    kind: String,
    /// Byte order, for instance CDAB; without: big-endian
    #[arg(long, requires = "address")]
    order: Option<String>,
    /// Length of a string or of bytes
    #[arg(long, requires = "address")]
    registers: Option<u16>,
    /// Of type bit; 0 is the least significant
    #[arg(long, requires = "address")]
    bit: Option<u8>,
    /// Multiply with this
    #[arg(long, requires = "address")]
    scale: Option<f64>,
}

pub fn run(args: &Args, config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let read = wanted(args)?;
    let shown = match through_agent(config, &read)? {
        Some(shown) => shown,
        None => directly(config, &read)?,
    };
    if json {
        print_json(&shown)?;
    } else {
        print(&to_text(&shown))?;
    }
    Ok(if shown.value.is_some() { ExitCode::SUCCESS } else { exit::UNREACHABLE.into() })
}

fn wanted(args: &Args) -> anyhow::Result<Read> {
    if let (Some(device), Some(point)) = (&args.device, &args.point) {
        return Ok(Read::Point { device: device.clone(), point: point.clone() });
    }
    // clap holds that the three come together; the error is for whoever changes that.
    let (Some(bus), Some(unit), Some(address)) = (&args.bus, args.unit, args.address) else {
        anyhow::bail!("either DEVICE POINT, or --bus, --unit and --address");
    };
    let spec = Spec {
        table: args.table.clone(),
        address,
        kind: args.kind.clone(),
        order: args.order.clone(),
        registers: args.registers,
        bit: args.bit,
        scale: args.scale,
    };
    Ok(Read::Address(Address { bus: bus.clone(), unit, spec }))
}

/// `None`: no agent runs, the line is free.
fn through_agent(config: &Config, read: &Read) -> anyhow::Result<Option<Shown>> {
    let Some(socket) = &config.gateway.status_socket else { return Ok(None) };
    match client::ask(socket, &Ask::Read(read.clone())) {
        Ok(Answer::Read(shown)) => Ok(Some(shown)),
        Ok(other) => anyhow::bail!("the agent answered something else: {other:?}"),
        Err(NoAnswer::Unreachable { source, .. }) => {
            debug!(%source, "no agent; opening the line here");
            Ok(None)
        }
        Err(other) => Err(failure(other)),
    }
}

fn directly(config: &Config, read: &Read) -> anyhow::Result<Shown> {
    let resolved = ask::resolve(config, read).map_err(|e| Failure::new(exit::FAILED, e))?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    let bus = &config.buses[resolved.bus];
    let measured = runtime
        .block_on(read_once(bus, &config.devices, resolved.what))
        .map_err(|e| Failure::new(exit::UNREACHABLE, format!("{}: {e}", bus.name)))?;
    Ok(Shown::new(&measured, resolved.unit))
}

/// `230.5 V`, `57 (uncertain: out-of-range)`, `no value: timeout`.
fn to_text(shown: &Shown) -> String {
    let mut text = match &shown.value {
        Some(serde_json::Value::String(s)) => s.clone(),
        Some(value) => value.to_string(),
        None => "no value".into(),
    };
    // Writing to a String cannot fail.
    if let (Some(_), Some(unit)) = (&shown.value, &shown.unit) {
        let _ = write!(text, " {unit}");
    }
    let _ = match (&shown.value, &shown.cause) {
        (Some(_), Some(cause)) => writeln!(text, " ({}: {cause})", shown.quality),
        (None, Some(cause)) => writeln!(text, ": {cause}"),
        (_, None) => writeln!(text),
    };
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::model::reading::Measured;
    use crate::model::value::{Cause, Value};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn what_was_typed_is_what_is_asked() {
        let check = |line: &str, expected: Option<&str>| {
            let parsed = Line::try_parse_from(format!("read {line}").split_whitespace()).ok();
            let ask = parsed.map(|l| serde_json::to_string(&wanted(&l.args).unwrap()).unwrap());
            assert_eq!(ask.as_deref(), expected, "{line}");
        };
        check("meter-1 voltage", Some(r#"{"device":"meter-1","point":"voltage"}"#));
        check(
            "--bus line-1 --unit 3 --address 7",
            Some(r#"{"bus":"line-1","unit":3,"table":"holding","address":7,"type":"uint16"}"#),
        );
        check(
            "--bus b --unit 3 --address 7 --table input --type float32 --order CDAB",
            Some(r#"{"bus":"b","unit":3,"table":"input","address":7,"type":"float32","order":"CDAB"}"#),
        );
        check("meter-1", None);
        check("", None);
        check("--bus line-1 --address 7", None);
        check("meter-1 voltage --bus b --unit 1 --address 7", None);
    }

    #[test]
    fn a_person_sees_value_unit_and_doubt() {
        let check = |measured: Measured, unit: Option<&str>, expected: &str| {
            assert_eq!(to_text(&Shown::new(&measured, unit.map(String::from))), expected);
        };
        check(Measured::Good(Value::Float(230.5)), Some("V"), "230.5 V\n");
        check(Measured::Good(Value::Text("on".into())), None, "on\n");
        check(Measured::Uncertain(Value::Int(57), Cause::OutOfRange), None, "57 (uncertain: out-of-range)\n");
        check(Measured::Bad(Cause::Timeout), Some("V"), "no value: timeout\n");
    }
}
