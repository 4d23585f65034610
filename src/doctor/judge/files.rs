//! Files and folders: who can read and change them. PURE.

use super::{Rights, Who, count};
use crate::doctor::finding::Finding;

pub const NAME: &str = "files";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Read at the start; may hold a password.
    Configuration {
        holds_secret: bool,
    },
    ConfigurationFolder,
    /// A key, a password, a token.
    Secret,
    /// A CA or a chain.
    Public,
    /// The store's and the identities' folder: the agent writes in it.
    State,
    /// `credential:NAME`: only the service sees it.
    Credential,
    /// `pkcs11:...`: on a token.
    Token,
}

/// One file, as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub path: String,
    pub kind: Kind,
    /// Why it cannot be looked at, in the kernel's words.
    pub rights: Result<Rights, String>,
    pub is_missing: bool,
    /// Of a credential: whether the unit names it; `None`: there is no unit to ask.
    pub in_unit: Option<bool>,
}

/// One finding for each that is wrong, and one for all the others.
pub fn judge(seen: &[Seen], who: &Who) -> Vec<Finding> {
    let mut findings: Vec<Finding> = seen.iter().filter_map(|file| one(file, who)).collect();
    let good = seen.len().saturating_sub(findings.len()) as u64;
    if good > 0 {
        let found = format!("{}: modes and owners are right for {}", count(good, "place"), who.label());
        findings.insert(0, Finding::ok(NAME, "", found));
    }
    findings
}

fn one(file: &Seen, who: &Who) -> Option<Finding> {
    let path = file.path.as_str();
    let failed = |found: String, advice: String| Some(Finding::failed(NAME, path, found, advice));
    if file.kind == Kind::Credential {
        let name = path.trim_start_matches("credential:");
        return match file.in_unit {
            Some(true) => None,
            Some(false) => failed(
                "the service is not given this credential".into(),
                format!("add LoadCredentialEncrypted={name}:FILE with `systemctl edit fieldgate`"),
            ),
            None => Some(Finding::skipped(NAME, path, "only the service sees its credentials")),
        };
    }
    if file.kind == Kind::Token {
        return None;
    }
    let rights = match &file.rights {
        Ok(rights) => *rights,
        Err(_) if file.kind == Kind::State && file.is_missing => {
            return Some(Finding::skipped(NAME, path, "it is not there yet: the first start makes it"));
        }
        Err(_) if file.is_missing => {
            let advice = "put it there, or correct its place in the configuration";
            return failed("it is not there".into(), advice.into());
        }
        Err(why) => return failed(format!("it cannot be looked at: {why}"), "ask as root".into()),
    };
    let mode = rights.mode;
    let chmod = |right: &str| format!("`chmod {right} {path}`");
    match file.kind {
        Kind::Secret if mode & 0o007 != 0 => failed(
            format!("every user of this machine can open this secret (mode {mode:04o})"),
            chmod("0600"),
        ),
        Kind::Secret if mode & 0o030 != 0 => {
            failed(format!("its group can change this secret (mode {mode:04o})"), chmod("0640"))
        }
        Kind::Configuration { holds_secret: true } if mode & 0o004 != 0 => {
            failed(format!("it holds a secret and every user can read it (mode {mode:04o})"), chmod("0640"))
        }
        Kind::State if mode & 0o077 != 0 => Some(Finding::warning(
            NAME,
            path,
            format!("others than the agent can look into it (mode {mode:04o})"),
            chmod("0700"),
        )),
        Kind::State if !who.may(rights, 0o7) => failed(
            format!("{} cannot write in it: it belongs to uid {} (mode {mode:04o})", who.label(), rights.uid),
            format!("`chown -R {} {path}`", who.label()),
        ),
        Kind::ConfigurationFolder if !who.may(rights, 0o5) => {
            failed(format!("{} cannot look into it (mode {mode:04o})", who.label()), chmod("0755"))
        }
        Kind::Configuration { .. } | Kind::ConfigurationFolder if mode & 0o022 != 0 && mode & 0o1000 == 0 => {
            let whose = if mode & 0o002 != 0 { "every user" } else { "its group" };
            failed(format!("{whose} of this machine can change it (mode {mode:04o})"), chmod("go-w"))
        }
        Kind::Secret | Kind::Public | Kind::Configuration { .. } if !who.may(rights, 0o4) => failed(
            format!("{} cannot read it (uid {}, mode {mode:04o})", who.label(), rights.uid),
            format!("`chgrp {} {path}; chmod 0640 {path}`", who.label()),
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Outcome;

    fn who() -> Who {
        Who { name: "fieldgate".into(), uid: 990, gids: vec![990, 20] }
    }

    #[test]
    fn a_mode_is_judged_by_what_the_file_holds() {
        let check = |kind, mode, uid, expected: Option<&str>| {
            let rights = Ok(Rights { mode, uid, gid: 990 });
            let seen = Seen { path: "/f".into(), kind, rights, is_missing: false, in_unit: None };
            let found = one(&seen, &who());
            match expected {
                None => assert_eq!(found, None, "{kind:?} {mode:o} {uid}"),
                Some(part) => {
                    let found = found.unwrap();
                    assert!(found.found.contains(part) && found.advice.is_some(), "{found:?}");
                }
            }
        };
        check(Kind::Secret, 0o600, 990, None);
        check(Kind::Secret, 0o640, 0, None);
        check(Kind::Secret, 0o644, 990, Some("every user"));
        check(Kind::Secret, 0o660, 990, Some("its group can change"));
        check(Kind::Secret, 0o600, 0, Some("fieldgate cannot read it"));
        check(Kind::Public, 0o644, 0, None);
        check(Kind::Public, 0o600, 0, Some("cannot read"));
        check(Kind::Configuration { holds_secret: false }, 0o644, 0, None);
        check(Kind::Configuration { holds_secret: true }, 0o644, 0, Some("holds a secret"));
        check(Kind::Configuration { holds_secret: true }, 0o640, 0, None);
        check(
            Kind::Configuration { holds_secret: false },
            0o666,
            0,
            Some("every user of this machine can change"),
        );
        check(Kind::ConfigurationFolder, 0o755, 0, None);
        check(Kind::ConfigurationFolder, 0o777, 0, Some("can change"));
        check(Kind::ConfigurationFolder, 0o700, 0, Some("cannot look into"));
        check(Kind::State, 0o700, 990, None);
        check(Kind::State, 0o755, 990, Some("look into it"));
        check(Kind::State, 0o700, 0, Some("cannot write"));
        check(Kind::Token, 0, 0, None);
    }

    #[test]
    fn what_is_missing_and_what_only_the_service_sees() {
        let seen = |path: &str, kind, in_unit| Seen {
            path: path.into(),
            kind,
            rights: Err("No such file".into()),
            is_missing: true,
            in_unit,
        };
        let all = [
            seen("/var/lib/fieldgate", Kind::State, None),
            seen("/etc/key.pem", Kind::Secret, None),
            seen("credential:key", Kind::Credential, Some(true)),
            seen("credential:pin", Kind::Credential, Some(false)),
            seen("credential:x", Kind::Credential, None),
        ];
        let found = judge(&all, &who());
        let results: Vec<Outcome> = found.iter().map(|f| f.result).collect();
        assert_eq!(
            results,
            [Outcome::Ok, Outcome::Skipped, Outcome::Failed, Outcome::Failed, Outcome::Skipped]
        );
        assert_eq!(found[0].found, "1 place: modes and owners are right for fieldgate");
        assert!(found[1].found.contains("the first start makes it"));
        assert_eq!(found[2].found, "it is not there");
        assert!(found[3].advice.as_deref().is_some_and(|a| a.contains("LoadCredentialEncrypted=pin:FILE")));
    }
}
