//! `fieldgate bundle`: a support archive. What goes in is listed first.

use std::fmt::Write;
use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use serde_json::json;

use super::{Failure, exit, print, print_json};
use crate::bundle::item::Manifest;
use crate::bundle::{self, archive};
use crate::doctor::look::Root;
use crate::model::time::{Clock, Timestamp};

#[derive(clap::Args)]
pub struct Args {
    /// Where to write it; without: fieldgate-TIME.tar.gz in this folder
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Only list what would go in
    #[arg(long, conflicts_with_all = ["out", "yes"])]
    list: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

pub fn run(args: &Args, config: Option<&Path>, json: bool) -> anyhow::Result<ExitCode> {
    let manifest = bundle::make(config, &Root::real());
    if args.list {
        if json {
            print_json(&manifest)?
        } else {
            print(&table(&manifest))?
        }
        return Ok(ExitCode::SUCCESS);
    }
    let now = Clock::System.now();
    let path = args.out.clone().unwrap_or_else(|| default_name(now).into());
    if !json {
        print(&table(&manifest))?;
    }
    if !args.yes && !json && std::io::stdin().is_terminal() && !agreed(&path)? {
        return Err(Failure::new(exit::FAILED, "nothing was written").into());
    }
    let seconds = u64::try_from(now.as_millis() / 1000).unwrap_or(0);
    archive::write(&path, &manifest, seconds).with_context(|| format!("writing {}", path.display()))?;
    if json {
        print_json(&json!({ "file": path.display().to_string(), "manifest": manifest }))?;
    } else {
        print(&format!("\nwritten: {}\n", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `fieldgate-20261125T161500Z.tar.gz`
fn default_name(now: Timestamp) -> String {
    let time: String = now.to_string().chars().take(19).filter(|c| !matches!(c, '-' | ':')).collect();
    format!("fieldgate-{time}Z.tar.gz")
}

fn agreed(path: &Path) -> anyhow::Result<bool> {
    print(&format!("\nWrite this to {}? [y/N] ", path.display()))?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn table(manifest: &Manifest) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_table(&mut out, manifest);
    out
}

fn write_table(out: &mut String, manifest: &Manifest) -> std::fmt::Result {
    let names =
        manifest.items.iter().map(|i| i.name.len()).chain(manifest.absent.iter().map(|a| a.name.len()));
    let wide = names.max().unwrap_or(0).max(13);
    writeln!(out, "{:<wide$} {:>8}  what it is", "file", "bytes")?;
    for item in &manifest.items {
        let redacted = match item.redactions {
            0 => String::new(),
            n => format!(" ({n} redacted)"),
        };
        let cut = if item.cut { " (its end is cut off)" } else { "" };
        writeln!(out, "{:<wide$} {:>8}  {}{redacted}{cut}", item.name, item.bytes, item.about)?;
    }
    for absent in &manifest.absent {
        let why: String = absent.why.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        writeln!(out, "{:<wide$} {:>8}  {why}", absent.name, "absent")?;
    }
    writeln!(out, "\nNo keys, no passwords, no readings; MANIFEST.json in it lists the same with checksums.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_named_by_the_time() {
        assert_eq!(default_name(Timestamp(1_793_500_000_000)), "fieldgate-20261101T022640Z.tar.gz");
    }
}
