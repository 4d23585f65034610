//! `fieldgate doctor`: what is wrong with this machine, and what to do about it.
//!
//! Exit 0 if nothing failed, 1 if something did; warnings and what was skipped do not count.

use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

use super::{exit, print, print_json};
use crate::doctor::finding::{Finding, Outcome};
use crate::doctor::{self, look::Root};

/// Columns of the first two; longer subjects push their line.
const NAME_WIDTH: usize = 18;

pub fn run(config: Option<&Path>, json: bool) -> anyhow::Result<ExitCode> {
    let findings = doctor::examine(config, &Root::real());
    if json {
        print_json(&findings)?
    } else {
        print(&table(&findings))?
    }
    let failed = findings.iter().any(|f| f.result == Outcome::Failed);
    Ok(if failed { exit::FAILED.into() } else { ExitCode::SUCCESS })
}

fn table(findings: &[Finding]) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_table(&mut out, findings);
    out
}

fn write_table(out: &mut String, findings: &[Finding]) -> std::fmt::Result {
    for finding in findings {
        let subject = match plain(&finding.subject) {
            subject if subject.is_empty() => subject,
            subject => format!("{subject}: "),
        };
        writeln!(
            out,
            "{:<8} {:<NAME_WIDTH$} {subject}{}",
            finding.result.word(),
            finding.name,
            plain(&finding.found)
        )?;
        if let Some(advice) = &finding.advice {
            writeln!(out, "{:<8} {:<NAME_WIDTH$} → {}", "", "", plain(advice))?;
        }
    }
    let of = |outcome| findings.iter().filter(|f| f.result == outcome).count();
    writeln!(
        out,
        "\n{} ok, {} warnings, {} failed, {} skipped",
        of(Outcome::Ok),
        of(Outcome::Warning),
        of(Outcome::Failed),
        of(Outcome::Skipped)
    )
}

/// What others spelled keeps its control characters to itself.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_sees_what_was_found_and_what_to_do() {
        let findings = [
            Finding::ok("clock", "", "it shows 2026"),
            Finding::failed("serial-port", "line-1 /dev/ttyUSB0", "it is\x1b gone", "plug it in"),
        ];
        let expected = "ok       clock              it shows 2026\n\
                        failed   serial-port        line-1 /dev/ttyUSB0: it is  gone\n\
                        \u{20}                           → plug it in\n\
                        \n1 ok, 0 warnings, 1 failed, 0 skipped\n";
        assert_eq!(table(&findings), expected);
    }
}
