//! `fieldgate bundle`: what somebody far away needs to help, in one file that is safe to mail.
//!
//! Constraints: no key, password, PIN or token, no reading and no payload goes in; what does
//! is listed before it is written; everything has a bound, in bytes and in time; it works when
//! nothing else does: what cannot be had is named with the reason.
//!
//! The way of a secret: it is not asked for in the first place; the configuration is printed
//! without it (`config::merged`); and over everything that was gathered goes `redact`, which
//! knows every secret of this configuration (`secrets`) and what secrets look like.
//!
//! The way of an item: `gather` → [`item::Wanted`] → `item::pack` (scrubbed, cut, counted) →
//! [`item::Manifest`] → listed → [`archive`] → a file of mode 0600.

pub mod archive;
pub mod gather;
pub mod item;
pub mod redact;
pub mod secrets;

use std::path::Path;

use self::item::Manifest;
use self::redact::Scrubber;
use crate::config::errors::Report;
use crate::config::load;
use crate::doctor::look::Root;
use crate::identity::subject::hex;
use crate::model::time::Clock;

/// Everything, ready to be listed and written. `path`: of the configuration.
pub fn make(path: Option<&Path>, root: &Root) -> Manifest {
    let path = path.unwrap_or(Path::new(load::DEFAULT_PATH));
    let layered = load::layers(path, std::env::vars(), &mut Report::default());
    let config = load::load(Some(path)).ok();
    let scrubber = Scrubber::new(secrets::all(path, layered.as_ref(), config.as_ref()));
    let wanted = gather::all(path, layered.as_ref(), config.as_ref(), root);
    let sha256 = |bytes: &[u8]| hex(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
    item::pack(wanted, &scrubber, Clock::System.now().to_string(), sha256)
}
