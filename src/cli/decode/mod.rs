//! `fieldgate decode`: what registers mean, without a device.
//!
//! With a type it answers one question; without, it shows every type and order side by side,
//! for somebody whose manual is silent. With `--json` it is a filter for programs: one
//! question per line in, one answer per line out, and a bad line costs only its own answer.

mod lines;
mod table;

use std::process::ExitCode;

use super::{exit, print};
use crate::modbus::kind::{self, Details};
use crate::modbus::{codec, order};
use crate::model::reading::Measured;
use crate::model::register::{Encoding, RegisterPoint, Table};

/// Registers to decode, and how.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Args {
    /// Registers in hex as they came over the wire: `4366 2666`, `0x43662666`.
    #[arg(value_name = "REGISTER")]
    pub registers: Vec<String>,
    /// The registers are decimal numbers, 0 to 65535, one per argument.
    #[arg(long)]
    pub decimal: bool,
    /// Type, as in the configuration (`float32`). Without: every type that fits.
    #[arg(long = "type", value_name = "TYPE")]
    pub type_name: Option<String>,
    /// Byte order as it arrives, for instance ABCD or CDAB [default: ABCD].
    #[arg(long)]
    pub order: Option<String>,
    /// Multiply by this.
    #[arg(long, allow_negative_numbers = true)]
    pub scale: Option<f64>,
    /// Add this after scaling.
    #[arg(long, allow_negative_numbers = true)]
    pub offset: Option<f64>,
    /// Round to this many digits after the point.
    #[arg(long)]
    pub decimals: Option<u8>,
    /// The bit of type bit; the first bit of type bitfield. 0 is the least significant.
    #[arg(long)]
    pub bit: Option<u8>,
    /// How many bits type bitfield has.
    #[arg(long)]
    pub length: Option<u8>,
    /// Which bytes of each register are characters: both, low or high.
    #[arg(long, value_name = "WHICH")]
    pub string_bytes: Option<String>,
    /// The value that the device's display shows: ranks the types that come nearest.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true, conflicts_with = "type_name")]
    pub expect: Option<f64>,
    /// JSON out; without registers also JSON in, a question per line on standard input.
    #[arg(long)]
    pub json: bool,
}

/// Wrong arguments end with 2, as everywhere in this program.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.json && args.registers.is_empty() {
        lines::answer_all(std::io::stdin().lock(), std::io::stdout().lock())?;
        return Ok(ExitCode::SUCCESS);
    }
    match answer(&args) {
        Ok(text) => {
            print(&format!("{text}\n"))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(problem) => {
            eprintln!("fieldgate decode: {problem}");
            Ok(ExitCode::from(exit::USAGE))
        }
    }
}

fn answer(args: &Args) -> Result<String, String> {
    let words =
        if args.decimal { decimal_words(&args.registers) } else { hex_words(&args.registers.concat()) }?;
    if words.is_empty() {
        return Err("no registers given; right would be for instance: decode 4366 2666 --type float32".into());
    }
    let Some(type_name) = &args.type_name else {
        return Ok(if args.json {
            table::json(&words, args.expect)
        } else {
            table::text(&words, args.expect)
        });
    };
    let question = Question {
        type_name,
        order: args.order.as_deref(),
        words: &words,
        scale: args.scale,
        offset: args.offset,
        decimals: args.decimals,
        bit: args.bit,
        start: None,
        length: args.length,
        string_bytes: args.string_bytes.as_deref(),
    };
    let measured = question.answer()?;
    Ok(if args.json { json(&measured).to_string() } else { text(&measured) })
}

/// One set of registers and what is known about it.
struct Question<'a> {
    type_name: &'a str,
    order: Option<&'a str>,
    words: &'a [u16],
    scale: Option<f64>,
    offset: Option<f64>,
    decimals: Option<u8>,
    bit: Option<u8>,
    start: Option<u8>,
    length: Option<u8>,
    string_bytes: Option<&'a str>,
}

impl Question<'_> {
    fn answer(&self) -> Result<Measured, String> {
        Ok(codec::decode(&self.point()?, self.words, None))
    }

    fn point(&self) -> Result<RegisterPoint, String> {
        let details = Details {
            bit: self.bit,
            start: self.start,
            length: self.length,
            registers: u16::try_from(self.words.len()).ok(),
            text_bytes: kind::text_bytes(self.string_bytes.unwrap_or("both"))?,
            ..Details::default()
        };
        let kind = kind::kind(self.type_name, &details)?;
        let (needs, given) = (usize::from(kind.registers()), self.words.len());
        if needs != given {
            return Err(format!(
                "{} has {needs} register{}, {given} {} given",
                self.type_name,
                if needs == 1 { "" } else { "s" },
                if given == 1 { "is" } else { "are" },
            ));
        }
        let byte_len = order::byte_len(&kind);
        let order = order::parse(self.order.unwrap_or("ABCD"), byte_len).map_err(|e| e.to_string())?;
        let mut point = codec::bare(Table::Holding, Encoding { kind, order });
        for (name, number) in [("scale", self.scale), ("offset", self.offset)] {
            if number.is_some_and(|x| !x.is_finite()) {
                return Err(format!("{name} is no finite number"));
            }
        }
        point.transform.scale = self.scale;
        point.transform.offset = self.offset;
        point.transform.decimals = self.decimals;
        Ok(point)
    }
}

fn text(measured: &Measured) -> String {
    match measured {
        Measured::Good(value) => value.to_string(),
        Measured::Uncertain(value, cause) => format!("{value} (uncertain: {cause})"),
        Measured::Bad(cause) => format!("bad: {cause}"),
    }
}

fn json(measured: &Measured) -> serde_json::Value {
    match measured {
        Measured::Good(value) => serde_json::json!({ "value": value.to_json() }),
        Measured::Uncertain(value, cause) => {
            serde_json::json!({ "value": value.to_json(), "quality": "uncertain", "cause": cause.to_string() })
        }
        Measured::Bad(cause) => serde_json::json!({ "quality": "bad", "cause": cause.to_string() }),
    }
}

/// Hex digits, with spaces, colons, underscores or `0x` between as people paste them.
fn hex_words(text: &str) -> Result<Vec<u16>, String> {
    let bare = text.replace("0x", "").replace("0X", "");
    let kept = bare.chars().filter(|c| !c.is_whitespace() && !matches!(c, ':' | '_' | ',' | '-'));
    let digits: Vec<u16> = kept
        .map(|c| c.to_digit(16).map(|d| d as u16).ok_or_else(|| format!("{c:?} is no hex digit")))
        .collect::<Result<_, _>>()?;
    if !digits.len().is_multiple_of(4) {
        return Err(format!("{} hex digits are no whole registers; a register has 4 digits", digits.len()));
    }
    Ok(digits.chunks_exact(4).map(|d| d[0] << 12 | d[1] << 8 | d[2] << 4 | d[3]).collect())
}

fn decimal_words(texts: &[String]) -> Result<Vec<u16>, String> {
    let word = |text: &String| {
        text.trim().parse().map_err(|_| format!("{text:?} is no register; right would be 0 to 65535"))
    };
    texts.iter().map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn check(command: &str, expected: Result<&str, &str>) {
        let cli = <Cli as clap::Parser>::try_parse_from(command.split(' ')).unwrap();
        let seen = answer(&cli.args);
        assert_eq!(seen.as_deref().map_err(String::as_str), expected, "{command}");
    }

    #[test]
    fn one_question() {
        check("decode 090a --type uint16 --scale 0.1", Ok("231.4"));
        check("decode 4367 6666 --type float32 --decimals 1", Ok("231.4"));
        check(
            "decode 0x6666 0x4367 --type FLOAT32 --order CDAB --decimals 1 --json",
            Ok("{\"value\":231.4}"),
        );
        check("decode --decimal 65535 --type int16 --offset -5", Ok("-6"));
        check("decode 0008 --type bit --bit 3", Ok("true"));
        check("decode 0150 --type bitfield --bit 4 --length 5", Ok("21"));
        check("decode 0041 0042 --type string --string-bytes low", Ok("AB"));
        check("decode 7fc00000 --type float32", Ok("bad: not-a-number"));
        check("decode 7fc0 --type float32", Err("float32 has 2 registers, 1 is given"));
        check(
            "decode 7fc --type uint16",
            Err("3 hex digits are no whole registers; a register has 4 digits"),
        );
        check("decode 7fcg --type uint16", Err("'g' is no hex digit"));
        check("decode --decimal 70000", Err("\"70000\" is no register; right would be 0 to 65535"));
    }
}
