//! The files that the configuration names, whether it is right or not.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config::load::Layered;
use crate::config::{credential, raw};
use crate::doctor::judge::Rights;
use crate::doctor::judge::files::{Kind, Seen};
use crate::doctor::judge::service::Unit;

/// Files of `conf.d` that are looked at.
const EXTRA_MAX: usize = 100;

pub fn look(main: &Path, layered: Option<&Layered>, unit: &Unit) -> Vec<Seen> {
    let mut seen = Vec::new();
    let folder = main.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    seen.push(one(folder, Kind::ConfigurationFolder, unit));
    for file in configuration_files(main, folder) {
        let holds_secret = holds_secret(&super::text(&file).unwrap_or_default());
        seen.push(one(&file, Kind::Configuration { holds_secret }, unit));
    }
    let Some(layered) = layered else { return seen };
    let named = named(layered);
    seen.extend(named.into_iter().map(|(path, kind)| one(&layered.directory.join(path), kind, unit)));
    seen
}

fn configuration_files(main: &Path, folder: &Path) -> Vec<PathBuf> {
    let mut files = vec![main.to_owned()];
    if let Ok(entries) = std::fs::read_dir(folder.join("conf.d")) {
        let mut extra: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|e| e == "toml"))
            .take(EXTRA_MAX)
            .collect();
        extra.sort();
        files.extend(extra);
    }
    files
}

/// A key of the text that holds a secret itself, not the name of a file.
fn holds_secret(text: &str) -> bool {
    let keys = ["password", "token", "signature"];
    let key_of = |line: &str| line.split('=').next().map(|key| key.trim().to_owned());
    let secret = |line: &str| {
        let key = key_of(line).unwrap_or_default();
        keys.iter().any(|k| key == *k || key.ends_with(&format!(".{k}")))
            || keys.iter().any(|k| line.contains('{') && line.contains(&format!("{k} =")))
            || line.contains("pin-value=")
    };
    text.lines().map(str::trim).filter(|line| !line.starts_with('#')).any(secret)
}

/// Every file that the sections name, and what it holds.
pub fn named(layered: &Layered) -> Vec<(PathBuf, Kind)> {
    let uplink = &layered.uplink.raw;
    let identity = &layered.identity.raw;
    let authorizer = uplink.authorizer.clone().unwrap_or_default();
    let sigv4 = uplink.sigv4.clone().unwrap_or_default();
    let claim = identity.claim.clone().unwrap_or_default();
    let by_pattern = |path: &Option<PathBuf>| path.clone().filter(|p| !p.to_string_lossy().contains('{'));
    let secrets = [
        uplink.key.clone(),
        uplink.password_file.clone(),
        authorizer.token_file,
        authorizer.signature_file,
        sigv4.secret_access_key_file,
        claim.key,
        by_pattern(&identity.key),
        identity.ca_key.as_ref().map(PathBuf::from),
    ];
    let public =
        [uplink.ca.clone(), uplink.certificate.clone(), claim.certificate, by_pattern(&identity.certificate)];
    let store = layered.store.raw.path.clone().unwrap_or_else(|| "/var/lib/fieldgate/fieldgate.db".into());
    let keeps = !matches!(identity.enroller, None | Some(raw::Enroller::None | raw::Enroller::Files));
    let identities =
        identity.directory.clone().unwrap_or_else(|| crate::config::Identity::default().directory);
    // The keeper makes its folder itself, below one that is there.
    let state = [
        store.parent().map(Path::to_owned),
        keeps.then_some(identities).filter(|path| layered.directory.join(path).exists()),
    ];
    let of =
        |paths: Vec<Option<PathBuf>>, kind: Kind| paths.into_iter().flatten().map(move |path| (path, kind));
    of(secrets.into(), Kind::Secret)
        .chain(of(public.into(), Kind::Public))
        .chain(of(state.into(), Kind::State))
        .collect()
}

fn one(path: &Path, kind: Kind, unit: &Unit) -> Seen {
    // Joining a credential or a token to the folder leaves it behind the last slash.
    let text = path.to_string_lossy();
    if let Some(at) = text.find("credential:") {
        let name = &text[at..];
        let in_unit = credential::name(Path::new(name)).and_then(|name| unit.brings(name));
        return Seen {
            path: name.to_owned(),
            kind: Kind::Credential,
            rights: Err(String::new()),
            is_missing: false,
            in_unit,
        };
    }
    if let Some(at) = text.find("pkcs11:") {
        // The rest may hold a PIN.
        let shown = text[at..].split([';', '?']).next().unwrap_or("pkcs11:").to_owned();
        return Seen {
            path: shown,
            kind: Kind::Token,
            rights: Err(String::new()),
            is_missing: false,
            in_unit: None,
        };
    }
    let found = std::fs::metadata(path);
    let is_missing = found.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound);
    let rights = found
        .map(|found| Rights { mode: found.mode() & 0o7777, uid: found.uid(), gid: found.gid() })
        .map_err(|e| e.to_string());
    Seen { path: text.into_owned(), kind, rights, is_missing, in_unit: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_in_the_text_is_told_from_the_name_of_a_file() {
        let check = |text: &str, expected| assert_eq!(holds_secret(text), expected, "{text}");
        check("[uplink]\npassword = \"x\"", true);
        check("uplink.password = \"x\"", true);
        check("authorizer = { token_key = \"k\", token = \"x\" }", true);
        check("key = \"pkcs11:token=t?pin-value=1234\"", true);
        check("password_file = \"/etc/p\"", false);
        check("# password = \"x\"", false);
        check("authorizer = { token_key = \"k\", token_file = \"x\" }", false);
    }
}
