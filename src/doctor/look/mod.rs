//! Looking at the machine: what is found becomes the facts that `judge` judges.
//!
//! Constraints: nothing is changed, no port or folder is taken that the agent may want, and
//! nothing here waits without a limit. What belongs to the kernel is read below a [`Root`],
//! so that a test can show it a machine of its own.

pub mod agent;
pub mod broker;
pub mod certificates;
pub mod clock;
pub mod command;
pub mod endpoint;
pub mod files;
pub mod serial;
pub mod store;

use std::io::Read;
use std::path::{Path, PathBuf};

use super::judge::Who;

/// Bytes of any one text of the kernel that is read.
const TEXT_MAX: u64 = 256 << 10;

/// Processes that are looked at.
const PROCESSES_MAX: usize = 20_000;

/// `/`, or a folder that looks like one.
#[derive(Clone, Debug)]
pub struct Root(PathBuf);

impl Root {
    pub fn real() -> Root {
        Root("/".into())
    }

    pub fn at(folder: impl Into<PathBuf>) -> Root {
        Root(folder.into())
    }

    pub fn path(&self, absolute: &str) -> PathBuf {
        self.0.join(absolute.trim_start_matches('/'))
    }

    /// `None` if it is not there or not for us.
    pub fn text(&self, absolute: &str) -> Option<String> {
        text(&self.path(absolute))
    }
}

pub fn text(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(TEXT_MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    /// The first 15 characters of its name.
    pub name: String,
}

pub fn processes(root: &Root) -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir(root.path("/proc")) else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let named = |pid: u32| {
        let name = root.text(&format!("/proc/{pid}/comm"))?.trim_end().to_owned();
        Some(Process { pid, name })
    };
    pids.take(PROCESSES_MAX).filter_map(named).collect()
}

/// Whether a process has one of these files open; `None`: it does not let us see.
pub fn holds(root: &Root, pid: u32, files: &[PathBuf]) -> Option<bool> {
    let entries = match std::fs::read_dir(root.path(&format!("/proc/{pid}/fd"))) {
        Ok(entries) => entries,
        // It has ended since it was listed.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Some(false),
        Err(_) => return None,
    };
    let open = |entry: std::io::Result<std::fs::DirEntry>| std::fs::read_link(entry.ok()?.path()).ok();
    Some(entries.filter_map(open).any(|target| files.contains(&target)))
}

/// User and groups of a running process.
pub fn who_is(root: &Root, pid: u32) -> Option<Who> {
    let status = root.text(&format!("/proc/{pid}/status"))?;
    let numbers = |key: &str| -> Vec<u32> {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
        line.split_ascii_whitespace().filter_map(|n| n.parse().ok()).collect()
    };
    // Real, effective, saved, file system.
    let uid = *numbers("Uid:").get(1)?;
    let gids = numbers("Gid:").get(1).copied().into_iter().chain(numbers("Groups:")).collect();
    Some(Who { name: user_name(root, uid), uid, gids })
}

/// A user by the account files.
pub fn who_named(root: &Root, name: &str) -> Option<Who> {
    let passwd = root.text("/etc/passwd")?;
    let fields: Vec<&str> =
        passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|f| f[0] == name)?;
    let (uid, gid) = (fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?);
    let group = root.text("/etc/group").unwrap_or_default();
    let member = |line: &str| -> Option<u32> {
        let fields: Vec<&str> = line.split(':').collect();
        let is_member = fields.get(3)?.split(',').any(|member| member == name);
        is_member.then(|| fields.get(2)?.parse().ok())?
    };
    let gids = std::iter::once(gid).chain(group.lines().filter_map(member)).collect();
    Some(Who { name: name.to_owned(), uid, gids })
}

fn user_name(root: &Root, uid: u32) -> String {
    let passwd = root.text("/etc/passwd").unwrap_or_default();
    let found = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    found.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_process_and_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let file = dir.path().join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        };
        put("etc/passwd", "root:x:0:0::/root:/bin/sh\nfieldgate:x:990:990::/:/sbin/nologin\n");
        put("etc/group", "dialout:x:20:olaf,fieldgate\nfieldgate:x:990:\nbad\n");
        put("proc/7/comm", "fieldgate\n");
        put(
            "proc/7/status",
            "Name:\tfieldgate\nUid:\t990\t990\t990\t990\nGid:\t990\t990\t990\t990\nGroups:\t20 990\n",
        );
        put("proc/self/comm", "x");
        let root = Root::at(dir.path());
        assert_eq!(processes(&root), [Process { pid: 7, name: "fieldgate".into() }]);
        let running = who_is(&root, 7).unwrap();
        assert_eq!(
            (running.name.as_str(), running.uid, running.gids),
            ("fieldgate", 990, vec![990, 20, 990])
        );
        let named = who_named(&root, "fieldgate").unwrap();
        assert_eq!((named.uid, named.gids), (990, vec![990, 20]));
        assert_eq!(who_named(&root, "nobody"), None);
        assert_eq!(holds(&root, 7, &[]), Some(false), "it has ended");
        put("proc/8/fd", "no folder, so it cannot be looked into");
        assert_eq!(holds(&root, 8, &[]), None);
    }
}
