//! Where identities live: one PEM file each, key and chain together, so that one rename
//! swaps both.
//!
//! Constraints: the power may go between any two calls, and what is then on the disk must be
//! a working identity. So nothing is ever changed in place: a file is written under another
//! name, flushed, renamed, and the directory is flushed; `<thing>.pem` is only ever replaced
//! by a rename. The folder is 0700 and each file 0600, both of the user who runs: anything
//! more open is refused with what to do. What root makes is given to the folder's owner, so
//! that the agent can read it. The agent and the command line work on the same folder, so
//! whoever changes it holds its lock.
//!
//! | file | holds |
//! |---|---|
//! | `<thing>.pem` | the pair in use |
//! | `<thing>.next.pem` | the candidate, not proved yet |
//! | `<thing>.prev.pem` | the pair before |
//! | `<thing>.key.pem` | a key whose request is out |
//!
//! The way of a renewal: `write(Next)` → a connection is accepted → `promote`: the current
//! pair is copied to `prev`, then the candidate is renamed over it. A candidate that is
//! refused is removed and nothing else has moved.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown, lchown};
use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use zeroize::Zeroizing;

use super::key::{self, Key};
use super::subject::{Facts, Unreadable};

/// Bytes of a file that may be read: a key and a long chain take a tenth of it.
const FILE_MAX: u64 = 256 << 10;

/// Certificates in a chain.
const CHAIN_MAX: usize = 10;

const LOCK: &str = ".lock";

/// Tell the operator; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {doing}: {source}")]
    Io { path: PathBuf, doing: &'static str, source: io::Error },
    #[error("{path} is open to other users (mode {mode:04o}); run `chmod {right:04o} {path}`")]
    Open { path: PathBuf, mode: u32, right: u32 },
    #[error(
        "{path} belongs to uid {owner}, and this is uid {own}; run it as that user or as root, or give it to the \
         one who runs the agent: `chown -R USER: {path}`"
    )]
    Owner { path: PathBuf, owner: u32, own: u32 },
    #[error("{0:?} is no thing name: 1 to 128 characters of a-z A-Z 0-9 : _ -")]
    Name(String),
    #[error("{path}: {source}")]
    Key { path: PathBuf, source: key::Error },
    #[error("{path}: {why}")]
    Chain { path: PathBuf, why: String },
    #[error("there is no {what} of {thing}")]
    Missing { what: &'static str, thing: String },
}

/// Which of the files of a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    Current,
    Next,
    Previous,
}

impl Slot {
    fn ending(self) -> &'static str {
        match self {
            Slot::Current => ".pem",
            Slot::Next => ".next.pem",
            Slot::Previous => ".prev.pem",
        }
    }
}

const KEY_ENDING: &str = ".key.pem";

/// A key with the certificate chain that belongs to it, leaf first.
#[derive(Clone, Debug)]
pub struct Pair {
    pub key: Key,
    /// PEM; holds no secret.
    pub chain: String,
}

impl Pair {
    /// Refuses a chain that is not the key's.
    pub fn new(key: Key, chain: &str) -> Result<Pair, String> {
        let pair = Pair { key, chain: certificates_only(chain)? };
        pair.key.certified(pair.certificates()?).map_err(|e| e.to_string())?;
        Ok(pair)
    }

    pub fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, String> {
        certificates(&self.chain)
    }

    /// Of the leaf.
    pub fn facts(&self) -> Result<Facts, String> {
        let chain = self.certificates()?;
        let leaf = chain.first().ok_or("the chain is empty")?;
        Facts::of(leaf).map_err(|e: Unreadable| e.to_string())
    }
}

/// The certificates of a PEM text; at least one.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|e| format!("not PEM: {e}"))?;
    match found.len() {
        0 => Err("holds no PEM certificate".into()),
        1..=CHAIN_MAX => Ok(found),
        n => Err(format!("holds {n} certificates; a chain has at most {CHAIN_MAX}")),
    }
}

/// The certificate blocks of a text, without remarks and keys between them.
pub fn certificates_only(text: &str) -> Result<String, String> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    certificates(text)?;
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(BEGIN) {
        let end = rest[start..].find(END).ok_or("a certificate without its end")? + start + END.len();
        out.push_str(&rest[start..end].replace('\r', ""));
        out.push('\n');
        rest = &rest[end..];
    }
    Ok(out)
}

/// Held while the folder is changed; dropping it lets the next one in.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "the kernel's lock lives as long as the file is open")] File);

/// The folder of all identities.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    /// User and group to whom everything is given; `None`: to whoever runs.
    heir: Option<(u32, u32)>,
    #[cfg(test)]
    pub(super) steps: steps::Steps,
}

impl Folder {
    /// Makes the folder if it is not there, and refuses one that others can open.
    pub fn open(path: &Path) -> Result<Folder, Error> {
        match fs::symlink_metadata(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new().mode(0o700).create(path).map_err(|e| failed(path, "cannot be made", e))?;
                if let Some((user, group)) =
                    path.parent().and_then(|p| fs::metadata(p).ok()).and_then(|p| heir(&p))
                {
                    lchown(path, Some(user), Some(group))
                        .map_err(|e| failed(path, "cannot be given away", e))?;
                }
            }
            _ => {}
        }
        let found = fs::metadata(path).map_err(|e| failed(path, "cannot be looked at", e))?;
        if !found.is_dir() {
            return Err(failed(path, "cannot be used", io::ErrorKind::NotADirectory.into()));
        }
        guard(path, &found, 0o700)?;
        Ok(Folder {
            path: path.to_owned(),
            heir: heir(&found),
            #[cfg(test)]
            steps: steps::Steps::default(),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until nobody else changes the folder; that takes milliseconds. Removes what an
    /// interrupted write left behind.
    pub fn lock(&self) -> Result<Lock, Error> {
        let path = self.path.join(LOCK);
        let found = fs::metadata(&self.path).map_err(|e| failed(&self.path, "cannot be looked at", e))?;
        guard(&self.path, &found, 0o700)?;
        let file = self.lock_file(&path).map_err(|e| failed(&path, "cannot be opened", e))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
            .map_err(|e| failed(&path, "cannot be locked", e.into()))?;
        for name in self.names()?.iter().filter(|name| name.ends_with(TEMPORARY)) {
            let left = self.path.join(name);
            fs::remove_file(&left).map_err(|e| failed(&left, "cannot be removed", e))?;
        }
        Ok(Lock(file))
    }

    /// A link is not followed and what is there is not given away: root works in the folder of
    /// another user.
    fn lock_file(&self, path: &Path) -> io::Result<File> {
        let mut how = OpenOptions::new();
        how.write(true).mode(0o600).custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32);
        match how.clone().create_new(true).open(path) {
            Ok(file) => {
                self.give(&file)?;
                Ok(file)
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => how.open(path),
            Err(e) => Err(e),
        }
    }

    /// The things of which there is any file, sorted.
    pub fn things(&self) -> Result<Vec<String>, Error> {
        let endings = [Slot::Next.ending(), Slot::Previous.ending(), KEY_ENDING, Slot::Current.ending()];
        let mut things: Vec<String> = self
            .names()?
            .iter()
            .filter_map(|name| endings.iter().find_map(|ending| name.strip_suffix(ending)))
            .filter(|thing| named(thing).is_ok())
            .map(str::to_owned)
            .collect();
        things.sort();
        things.dedup();
        Ok(things)
    }

    /// `None` if there is no such file.
    pub fn read(&self, thing: &str, slot: Slot) -> Result<Option<Pair>, Error> {
        let path = self.place(thing, slot.ending())?;
        let Some(text) = read_secret(&path)? else { return Ok(None) };
        let key = Key::from_pem(&text).map_err(|source| Error::Key { path: path.clone(), source })?;
        Pair::new(key, &text).map(Some).map_err(|why| Error::Chain { path, why })
    }

    /// A key that waits for its certificate.
    pub fn read_key(&self, thing: &str) -> Result<Option<Key>, Error> {
        let path = self.place(thing, KEY_ENDING)?;
        let Some(text) = read_secret(&path)? else { return Ok(None) };
        Key::from_pem(&text).map(Some).map_err(|source| Error::Key { path, source })
    }

    pub fn write(&self, _held: &Lock, thing: &str, slot: Slot, pair: &Pair) -> Result<(), Error> {
        let text = Zeroizing::new(format!("{}{}", pair.key.pem(), pair.chain));
        self.put(&self.place(thing, slot.ending())?, text.as_bytes())
    }

    pub fn write_key(&self, _held: &Lock, thing: &str, key: &Key) -> Result<(), Error> {
        self.put(&self.place(thing, KEY_ENDING)?, key.pem().as_bytes())
    }

    /// The candidate becomes the pair in use, which becomes the one before.
    pub fn promote(&self, held: &Lock, thing: &str) -> Result<(), Error> {
        let next = self.place(thing, Slot::Next.ending())?;
        if self.read(thing, Slot::Next)?.is_none() {
            return Err(Error::Missing { what: "candidate", thing: thing.to_owned() });
        }
        if let Some(current) = self.read(thing, Slot::Current)? {
            self.write(held, thing, Slot::Previous, &current)?;
        }
        self.step("rename over the current pair", &next)?;
        let current = self.place(thing, Slot::Current.ending())?;
        fs::rename(&next, &current).map_err(|e| failed(&next, "cannot be renamed", e))?;
        self.flush()
    }

    /// Removes one pair; that there is none is fine.
    pub fn remove(&self, _held: &Lock, thing: &str, slot: Slot) -> Result<(), Error> {
        self.take_away(&self.place(thing, slot.ending())?)
    }

    pub fn remove_key(&self, _held: &Lock, thing: &str) -> Result<(), Error> {
        self.take_away(&self.place(thing, KEY_ENDING)?)
    }

    /// What the files of a thing look like from outside; changes whenever one of them does.
    pub fn mark(&self, thing: &str) -> Result<Mark, Error> {
        let look = |slot: Slot| -> Result<Option<(u64, i64, i64)>, Error> {
            let found = fs::metadata(self.place(thing, slot.ending())?).ok();
            Ok(found.map(|f| (f.ino(), f.mtime(), f.mtime_nsec())))
        };
        Ok(Mark([look(Slot::Current)?, look(Slot::Next)?]))
    }

    /// A file without secrets, written as carefully.
    pub fn write_plain(&self, _held: &Lock, name: &str, bytes: &[u8]) -> Result<(), Error> {
        self.put(&self.path.join(name), bytes)
    }

    pub fn remove_plain(&self, _held: &Lock, name: &str) -> Result<(), Error> {
        self.take_away(&self.path.join(name))
    }

    pub fn read_plain(&self, name: &str) -> Result<Option<String>, Error> {
        Ok(read_secret(&self.path.join(name))?.map(|text| text.to_string()))
    }

    fn names(&self) -> Result<Vec<String>, Error> {
        let entries = fs::read_dir(&self.path).map_err(|e| failed(&self.path, "cannot be read", e))?;
        Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
    }

    fn place(&self, thing: &str, ending: &str) -> Result<PathBuf, Error> {
        Ok(self.path.join(format!("{}{ending}", named(thing)?)))
    }

    /// Temporary file, flush, rename, flush of the folder.
    fn put(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(TEMPORARY);
        let temporary = PathBuf::from(temporary);
        self.step("make the temporary file", path)?;
        let mut file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(|e| failed(&temporary, "cannot be made", e))?;
        self.give(&file).map_err(|e| failed(&temporary, "cannot be given away", e))?;
        self.step("write", path)?;
        file.write_all(bytes).map_err(|e| failed(&temporary, "cannot be written", e))?;
        self.step("flush", path)?;
        file.sync_all().map_err(|e| failed(&temporary, "cannot be flushed", e))?;
        drop(file);
        self.step("rename", path)?;
        fs::rename(&temporary, path).map_err(|e| failed(path, "cannot be renamed to", e))?;
        self.flush()
    }

    fn give(&self, file: &File) -> io::Result<()> {
        let Some((user, group)) = self.heir else { return Ok(()) };
        fchown(file, Some(user), Some(group))
    }

    fn take_away(&self, path: &Path) -> Result<(), Error> {
        self.step("remove", path)?;
        match fs::remove_file(path) {
            Ok(()) => self.flush(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(failed(path, "cannot be removed", e)),
        }
    }

    fn flush(&self) -> Result<(), Error> {
        self.step("flush the folder", &self.path)?;
        let folder = File::open(&self.path).map_err(|e| failed(&self.path, "cannot be opened", e))?;
        folder.sync_all().map_err(|e| failed(&self.path, "cannot be flushed", e))
    }

    /// A place at which the power may go. Only tests stop here.
    fn step(&self, _doing: &'static str, _path: &Path) -> Result<(), Error> {
        #[cfg(test)]
        if self.steps.is_dead() {
            return Err(failed(_path, _doing, io::Error::other("killed by the test")));
        }
        Ok(())
    }
}

/// See [`Folder::mark`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mark([Option<(u64, i64, i64)>; 2]);

const TEMPORARY: &str = ".tmp";

fn named(thing: &str) -> Result<&str, Error> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b':' | b'_' | b'-');
    if (1..=128).contains(&thing.len()) && thing.bytes().all(plain) {
        return Ok(thing);
    }
    Err(Error::Name(thing.chars().take(128).collect()))
}

fn failed(path: &Path, doing: &'static str, source: io::Error) -> Error {
    Error::Io { path: path.to_owned(), doing, source }
}

/// The owner of a folder, if root works in it.
fn heir(folder: &fs::Metadata) -> Option<(u32, u32)> {
    (rustix::process::geteuid().is_root() && folder.uid() != 0).then(|| (folder.uid(), folder.gid()))
}

/// Nobody else may read it, root aside.
fn guard(path: &Path, found: &fs::Metadata, right: u32) -> Result<(), Error> {
    let mode = found.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(Error::Open { path: path.to_owned(), mode, right });
    }
    let own = rustix::process::geteuid().as_raw();
    if found.uid() != own && own != 0 {
        return Err(Error::Owner { path: path.to_owned(), owner: found.uid(), own });
    }
    Ok(())
}

/// A file that only its owner can read; `None` if there is none.
pub(super) fn read_secret(path: &Path) -> Result<Option<Zeroizing<String>>, Error> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(path, "cannot be opened", e)),
    };
    let found = file.metadata().map_err(|e| failed(path, "cannot be looked at", e))?;
    guard(path, &found, 0o600)?;
    if found.len() > FILE_MAX {
        return Err(Error::Chain { path: path.to_owned(), why: format!("is larger than {FILE_MAX} bytes") });
    }
    // Room for all of it from the start: a text that grows leaves copies behind.
    let room = usize::try_from(found.len()).unwrap_or_default() + 1;
    let mut text = Zeroizing::new(String::with_capacity(room));
    file.take(FILE_MAX).read_to_string(&mut text).map_err(|e| failed(path, "cannot be read", e))?;
    Ok(Some(text))
}

/// Stops a folder at any of its steps, as a power cut does: nothing works after it.
#[cfg(test)]
pub(super) mod steps {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Clone, Debug)]
    pub struct Steps(Arc<AtomicUsize>);

    impl Default for Steps {
        fn default() -> Steps {
            Steps(Arc::new(AtomicUsize::new(usize::MAX)))
        }
    }

    impl Steps {
        pub fn live_for(&self, steps: usize) {
            self.0.store(steps, Ordering::SeqCst);
        }

        pub fn is_dead(&self) -> bool {
            self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_err()
        }
    }
}

#[cfg(test)]
mod tests;
