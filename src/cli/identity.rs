//! `fieldgate identity`: keys and certificates of the things, and the gateway's own CA.
//!
//! Works on the files, so that it tells the same whether the agent runs or not; what only the
//! running agent can do (`renew`, `approve`) or knows (what the broker said) goes over the
//! status socket. Changes take the folder's lock, and a running agent is told to look again.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use serde_json::{Value, json};

use super::{Failure, exit, print, print_json, status};
use crate::config::{Config, EnrollerKind};
use crate::control::ask::{Answer, Ask, Identity};
use crate::control::client;
use crate::identity::files::{Folder, Pair, Slot};
use crate::identity::key::Key;
use crate::identity::renewal::{self, Due};
use crate::identity::subject::{Facts, Subject};
use crate::identity::{authority, files, plan, tls};
use crate::model::time::{Clock, Timestamp};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Every thing with its certificate: who, until when, what is next
    List,
    /// All about one thing's certificates
    Show { thing: String },
    /// Tell the running agent to get a new key and certificate before it is due
    Renew { thing: String },
    /// Print the certificate request; makes the key if there is none waiting
    ExportCsr { thing: String },
    /// Take the chain that was made of the request; the next connection proves it
    Import { thing: String, chain: PathBuf },
    /// The gateway's own CA: print its certificates, or one of the options
    Ca(Ca),
    /// Put a thing's certificates on the revocation list and forget them; without THING print the list
    Revoke { thing: Option<String> },
    /// Say that the device behind this thing is the right one
    Approve { thing: String },
}

#[derive(clap::Args)]
#[group(multiple = false)]
struct Ca {
    /// Make the CA now instead of at the first certificate
    #[arg(long)]
    create: bool,
    /// Make the next CA, which signs nothing yet, and print all
    #[arg(long)]
    prepare: bool,
    /// From now on the next CA signs
    #[arg(long)]
    switch: bool,
    /// Print the certificate that proves to the cloud that the CA's key is here
    #[arg(long, value_name = "CODE")]
    proof: Option<String>,
    /// The same for the next CA
    #[arg(long, value_name = "CODE")]
    proof_next: Option<String>,
}

pub fn run(args: Args, config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    match args.verb {
        Verb::List => list(config, json)?,
        Verb::Show { thing } => show(config, &thing, json)?,
        Verb::Renew { thing } => say(&ask(config, &Ask::Identity(Identity::Renew { thing }))?, json)?,
        Verb::Approve { thing } => {
            ask(config, &Ask::Approve { thing: thing.clone() })?;
            say(&format!("{thing} is approved"), json)?;
        }
        Verb::ExportCsr { thing } => export_csr(config, &thing, json)?,
        Verb::Import { thing, chain } => import(config, &thing, &chain, json)?,
        Verb::Ca(ca) => self::ca(config, &ca, json)?,
        Verb::Revoke { thing } => revoke(config, thing.as_deref(), json)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What the agent did, in its words.
fn ask(config: &Config, ask: &Ask) -> anyhow::Result<String> {
    let socket = status::socket_of(config)?;
    match client::ask(&socket, ask).map_err(status::failure)? {
        Answer::Done(text) => Ok(text),
        Answer::Shadow(_) => Ok("done".into()),
        other => anyhow::bail!("the agent answered something else: {other:?}"),
    }
}

/// An agent that runs looks at the files at once; one that does not finds them at its start.
fn tell_agent(config: &Config) {
    if let Some(socket) = &config.gateway.status_socket {
        let _ = client::ask(socket, &Ask::Identity(Identity::Reload));
    }
}

/// What a running agent heard of the broker and the enroller; nothing without one.
fn trouble(config: &Config, thing: &str) -> Vec<String> {
    let ask = Ask::Identity(Identity::Trouble { thing: thing.to_owned() });
    let socket = config.gateway.status_socket.as_ref();
    match socket.map(|socket| client::ask(socket, &ask)) {
        Some(Ok(Answer::Done(text))) => text.lines().map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

fn say(text: &str, json: bool) -> anyhow::Result<()> {
    if json { print_json(&json!({ "done": text })) } else { print(&format!("{text}\n")) }
}

fn subject(config: &Config, thing: &str) -> anyhow::Result<Subject> {
    let subjects = plan::subjects(config);
    if subjects.is_empty() {
        return Err(
            Failure::new(exit::FAILED, "no thing has an identity of its own: see identity.enroller").into()
        );
    }
    let found = subjects.into_iter().map(|s| s.1).find(|s| s.thing == thing);
    let text = format!(
        "there is no thing {thing:?} with an identity of its own; `fieldgate identity list` names them"
    );
    found.ok_or_else(|| Failure::new(exit::FAILED, text).into())
}

fn folder(config: &Config) -> anyhow::Result<Folder> {
    if config.identity.enroller == EnrollerKind::Files {
        return Err(Failure::new(
            exit::FAILED,
            "the keys are given by file: there is nothing to change here",
        )
        .into());
    }
    Ok(Folder::open(&config.identity.directory).map_err(io)?)
}

fn io(error: files::Error) -> Failure {
    let code = match error {
        files::Error::Owner { .. } => exit::REFUSED,
        files::Error::Io { .. } | files::Error::Open { .. } => exit::IO,
        _ => exit::FAILED,
    };
    Failure::new(code, error.to_string())
}

/// The certificates of a thing by slot, and whether a key waits for its own.
struct Seen {
    thing: String,
    facts: Vec<(&'static str, Facts)>,
    key_waits: bool,
    fault: Option<String>,
}

fn look(config: &Config, subject: &Subject) -> anyhow::Result<Seen> {
    let mut seen = Seen { thing: subject.thing.clone(), facts: Vec::new(), key_waits: false, fault: None };
    let identity = &config.identity;
    if let (EnrollerKind::Files, Some(certificate), Some(key)) =
        (identity.enroller, &identity.certificate, &identity.key)
    {
        let at = |pattern: &Path| plan::filled(pattern, &subject.thing);
        match tls::certified(&at(certificate), &at(key)) {
            Ok(pair) => {
                seen.facts.extend(pair.cert.first().and_then(|c| Some(("current", Facts::of(c).ok()?))))
            }
            Err(e) => seen.fault = Some(e.to_string()),
        }
        return Ok(seen);
    }
    let folder = folder(config)?;
    for (word, slot) in [("current", Slot::Current), ("next", Slot::Next), ("previous", Slot::Previous)] {
        match folder.read(&subject.thing, slot) {
            Ok(Some(pair)) => seen.facts.push((word, pair.facts().map_err(anyhow::Error::msg)?)),
            Ok(None) => {}
            Err(e @ files::Error::Io { .. }) => return Err(io(e).into()),
            Err(e) => seen.fault = Some(e.to_string()),
        }
    }
    seen.key_waits = folder.read_key(&subject.thing).map_err(io)?.is_some();
    Ok(seen)
}

impl Seen {
    fn get(&self, word: &str) -> Option<&Facts> {
        self.facts.iter().find(|(slot, _)| *slot == word).map(|(_, facts)| facts)
    }

    fn state(&self, renew_at: f64, now: Timestamp) -> String {
        if let Some(fault) = &self.fault {
            return fault.clone();
        }
        match (self.get("current"), self.get("next"), self.key_waits) {
            (_, Some(_), _) => "new certificate, to be proved by a connection".into(),
            (None, None, true) => "waits for its certificate".into(),
            (None, None, false) => "none yet".into(),
            (Some(facts), None, waits) => {
                match renewal::due(facts.not_before, facts.not_after, now, renew_at, &self.thing) {
                    _ if waits => "good; a new key waits for its certificate".into(),
                    Due::Wait(at) => format!("good; renewal {}", day(at)),
                    Due::Renew => "due".into(),
                    Due::Expired => "expired".into(),
                    Due::ClockUntrusted => "the clock is not set".into(),
                }
            }
        }
    }

    fn json(&self, renew_at: f64, now: Timestamp) -> Value {
        let mut out =
            json!({ "thing": self.thing, "state": self.state(renew_at, now), "key_waits": self.key_waits });
        for (slot, facts) in &self.facts {
            out[*slot] = json!(facts);
        }
        out
    }
}

fn day(time: Timestamp) -> String {
    time.to_string().chars().take(10).collect()
}

fn list(config: &Config, json: bool) -> anyhow::Result<()> {
    let (renew_at, now) = (config.identity.renew_at, Clock::System.now());
    let subjects = plan::subjects(config);
    let seen = subjects.iter().map(|(_, s)| look(config, s)).collect::<anyhow::Result<Vec<_>>>()?;
    if json {
        return print_json(&seen.iter().map(|s| s.json(renew_at, now)).collect::<Vec<_>>());
    }
    if seen.is_empty() {
        return print("no thing has an identity of its own: see identity.enroller\n");
    }
    let wide = seen.iter().map(|s| s.thing.len()).max().unwrap_or(0).max(5);
    let mut text = format!("{:<wide$}  {:<10}  {:<16}  state\n", "thing", "until", "certificate");
    for s in &seen {
        let facts = s.get("current").or(s.get("next"));
        let until = facts.map_or("-".into(), |f| day(f.not_after));
        let id = facts.map_or("-", |f| &f.id[..16]);
        writeln!(text, "{:<wide$}  {until:<10}  {id:<16}  {}", s.thing, s.state(renew_at, now))?;
    }
    print(&text)
}

fn show(config: &Config, thing: &str, json: bool) -> anyhow::Result<()> {
    let (renew_at, now) = (config.identity.renew_at, Clock::System.now());
    let subject = subject(config, thing)?;
    let seen = look(config, &subject)?;
    let trouble = trouble(config, thing);
    if json {
        let mut told = seen.json(renew_at, now);
        told["trouble"] = json!(trouble);
        return print_json(&told);
    }
    let mut text = format!("{thing}: {}\n", seen.state(renew_at, now));
    for sentence in &trouble {
        writeln!(text, "  {sentence}")?;
    }
    for (slot, f) in &seen.facts {
        writeln!(text, "\n{slot}")?;
        for (name, value) in [
            ("id", f.id.clone()),
            ("subject", f.subject.clone()),
            ("issuer", f.issuer.clone()),
            ("names", f.uris.join(" ")),
            ("serial", f.serial.clone()),
            ("from", f.not_before.to_string()),
            ("until", f.not_after.to_string()),
        ] {
            writeln!(text, "  {name:<8} {value}")?;
        }
    }
    print(&text)
}

fn export_csr(config: &Config, thing: &str, json: bool) -> anyhow::Result<()> {
    let subject = subject(config, thing)?;
    let folder = folder(config)?;
    let held = folder.lock().map_err(io)?;
    let key = match folder.read_key(thing).map_err(io)? {
        Some(key) => key,
        None => {
            let key = Key::generate(config.identity.key_type)?;
            folder.write_key(&held, thing, &key).map_err(io)?;
            key
        }
    };
    let csr = key.request(&subject)?;
    if json { print_json(&json!({ "thing": thing, "csr": csr })) } else { print(&csr) }
}

fn import(config: &Config, thing: &str, chain: &Path, json: bool) -> anyhow::Result<()> {
    subject(config, thing)?;
    let text = std::fs::read_to_string(chain).with_context(|| chain.display().to_string())?;
    let folder = folder(config)?;
    let held = folder.lock().map_err(io)?;
    let Some(key) = folder.read_key(thing).map_err(io)? else {
        let text = format!(
            "no key of {thing} waits for a certificate; `fieldgate identity export-csr {thing}` makes one"
        );
        return Err(Failure::new(exit::FAILED, text).into());
    };
    let pair =
        Pair::new(key, &text).map_err(|e| Failure::new(exit::FAILED, format!("{}: {e}", chain.display())))?;
    let facts = pair.facts().map_err(anyhow::Error::msg)?;
    folder.write(&held, thing, Slot::Next, &pair).map_err(io)?;
    folder.remove_key(&held, thing).map_err(io)?;
    drop(held);
    tell_agent(config);
    say(
        &format!(
            "{thing} has certificate {}, until {}; the next connection proves it",
            facts.id, facts.not_after
        ),
        json,
    )
}

fn own_ca(config: &Config) -> anyhow::Result<authority::Authority> {
    let found = plan::authority(config).map_err(|e| match e {
        plan::Error::Files(e) | plan::Error::Authority(authority::Error::Files(e)) => io(e),
        other => Failure::new(exit::FAILED, other.to_string()),
    })?;
    found.ok_or_else(|| {
        Failure::new(exit::FAILED, "there is no CA here: it comes with identity.enroller = \"local-ca\"")
            .into()
    })
}

fn made(error: authority::Error) -> Failure {
    match error {
        authority::Error::Files(e) => io(e),
        other => Failure::new(exit::FAILED, other.to_string()),
    }
}

fn ca(config: &Config, ca: &Ca, json: bool) -> anyhow::Result<()> {
    let authority = own_ca(config)?;
    let now = Clock::System.now();
    let proof = ca.proof.as_ref().map(|code| (Slot::Current, code));
    if let Some((slot, code)) = proof.or(ca.proof_next.as_ref().map(|code| (Slot::Next, code))) {
        let proof = authority.proof(slot, code, now).map_err(made)?;
        return if json { print_json(&json!({ "proof": proof })) } else { print(&proof) };
    }
    if ca.create {
        authority.ensure(now).map_err(made)?;
    } else if ca.prepare {
        authority.prepare(now).map_err(made)?;
    } else if ca.switch {
        authority.switch().map_err(made)?;
    }
    let found = authority.export().map_err(made)?;
    if json {
        let word = |slot| match slot {
            Slot::Current => "current",
            Slot::Next => "next",
            Slot::Previous => "previous",
        };
        return print_json(
            &found.iter().map(|(s, pem)| json!({ "slot": word(*s), "certificate": pem })).collect::<Vec<_>>(),
        );
    }
    print(&found.iter().map(|(_, pem)| pem.as_str()).collect::<String>())
}

fn revoke(config: &Config, thing: Option<&str>, json: bool) -> anyhow::Result<()> {
    let authority = own_ca(config)?;
    let now = Clock::System.now();
    if let Some(thing) = thing {
        let folder = folder(config)?;
        let held = folder.lock().map_err(io)?;
        let slots = [Slot::Next, Slot::Current, Slot::Previous];
        let mut facts = Vec::new();
        for slot in slots {
            if let Some(pair) = folder.read(thing, slot).map_err(io)? {
                facts.push(pair.facts().map_err(anyhow::Error::msg)?);
            }
        }
        if facts.is_empty() {
            return Err(Failure::new(exit::FAILED, format!("{thing} has no certificate")).into());
        }
        // On the list first: a certificate that is forgotten but good would be worse.
        authority.revoke(thing, &facts, now).map_err(made)?;
        for slot in slots {
            folder.remove(&held, thing, slot).map_err(io)?;
        }
        drop(held);
        tell_agent(config);
    }
    let list = authority.revocations(now).map_err(made)?;
    if json { print_json(&json!({ "crl": list })) } else { print(&list) }
}
