//! Secrets that systemd brings: `credential:NAME` in place of a path.
//!
//! `LoadCredential=` and `LoadCredentialEncrypted=` put the file into a folder of the service
//! alone and name it in `CREDENTIALS_DIRECTORY`. The place is looked up when the secret is
//! used, so a configuration can be checked where no such folder is.

use std::path::{Path, PathBuf};

const PREFIX: &str = "credential:";

/// The name, if the path means a credential.
pub fn name(path: &Path) -> Option<&str> {
    path.to_str()?.strip_prefix(PREFIX)
}

/// `name` becomes a file of that folder: it must not leave it.
pub fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=255).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('.')
}

/// Where the secret is: the path itself, or the credential's file.
pub fn place(path: &Path) -> Result<PathBuf, String> {
    place_in(path, std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from))
}

fn place_in(path: &Path, folder: Option<PathBuf>) -> Result<PathBuf, String> {
    let Some(name) = name(path) else { return Ok(path.to_owned()) };
    if !is_name(name) {
        return Err("is no name of a credential: letters, digits, . _ -".into());
    }
    let folder = folder.ok_or_else(|| {
        format!("there are no credentials here; run it as a service with LoadCredentialEncrypted={name}:FILE")
    })?;
    Ok(folder.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_a_file_of_its_folder_and_nothing_else() {
        let check = |path: &str, folder: Option<&str>, expected: Result<&str, &str>| {
            let found = place_in(Path::new(path), folder.map(PathBuf::from));
            match expected {
                Ok(expected) => assert_eq!(found, Ok(PathBuf::from(expected))),
                Err(part) => assert!(found.as_ref().is_err_and(|e| e.contains(part)), "{found:?}"),
            }
        };
        check("/etc/key.pem", None, Ok("/etc/key.pem"));
        check("credential:gateway.key", Some("/run/c"), Ok("/run/c/gateway.key"));
        check("credential:gateway.key", None, Err("LoadCredentialEncrypted=gateway.key:FILE"));
        check("credential:../x", Some("/run/c"), Err("no name"));
        check("credential:", Some("/run/c"), Err("no name"));
    }
}
