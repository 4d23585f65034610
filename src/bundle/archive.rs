//! The archive itself: a gzipped tar, in a file that only its owner can read.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::item::Manifest;

/// All of it. Never over a file that is there: what is there may be a link of somebody else.
pub fn write(path: &Path, manifest: &Manifest, seconds: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = pack(file, manifest, seconds).and_then(|file| file.sync_all());
    if written.is_err() {
        // Half an archive helps nobody.
        let _ = std::fs::remove_file(path);
    }
    written
}

/// `seconds` since 1970 become the date of every file in it.
pub fn pack<W: Write>(into: W, manifest: &Manifest, seconds: u64) -> io::Result<W> {
    let mut tar = tar::Builder::new(GzEncoder::new(into, Compression::default()));
    let mut add = |name: &str, text: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(seconds);
        tar.append_data(&mut header, format!("{FOLDER}/{name}"), text.as_bytes())
    };
    let list = serde_json::to_string_pretty(manifest)? + "\n";
    add(MANIFEST, &list)?;
    for item in &manifest.items {
        add(&item.name, &item.text)?;
    }
    tar.into_inner()?.finish()
}

/// Unpacks into one folder.
const FOLDER: &str = "fieldgate-bundle";
const MANIFEST: &str = "MANIFEST.json";

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::bundle::item::{Wanted, pack as packed};
    use crate::bundle::redact::Scrubber;

    #[test]
    fn what_was_listed_is_in_it_and_nobody_else_can_read_it() {
        let wanted = vec![Wanted::new("a/b.txt", "words", Ok("hello\n".into()))];
        let manifest = packed(wanted, &Scrubber::new([]), "now".into(), |_| "hash".into());
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.tar.gz");
        write(&file, &manifest, 1_793_600_000).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(write(&file, &manifest, 0).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(std::fs::File::open(&file).unwrap()));
        let mut found = Vec::new();
        for entry in tar.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            assert_eq!(entry.header().mode().unwrap(), 0o600);
            found.push((entry.path().unwrap().display().to_string(), text));
        }
        assert_eq!(found[0].0, "fieldgate-bundle/MANIFEST.json");
        assert_eq!(found[1], ("fieldgate-bundle/a/b.txt".into(), "hello\n".into()));
    }
}
