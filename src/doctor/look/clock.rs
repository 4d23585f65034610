//! Who keeps the clock right. Asked of the daemons: the kernel only knows that somebody does.

use std::time::Duration;

use super::{Process, Root, command};
use crate::doctor::judge::clock::Sync;
use crate::model::time::Timestamp;

/// systemd-timesyncd touches it whenever it has set the clock.
const TIMESYNCD: &str = "/run/systemd/timesync/synchronized";

const CHRONYC_LIMIT: Duration = Duration::from_secs(3);
const CHRONYC_BYTES_MAX: u64 = 4096;

/// Others that set the clock; by the name of their process.
const DAEMONS: &[&str] = &["ntpd", "ntpsec", "openntpd", "phc2sys", "systemd-timesyn"];

pub fn sync(root: &Root, processes: &[Process]) -> Sync {
    let runs = |name: &str| processes.iter().any(|p| p.name == name);
    if runs("chronyd") {
        return chrony();
    }
    if let Some(at) = touched(root) {
        return Sync::Timesyncd(at);
    }
    match DAEMONS.iter().find(|name| runs(name)) {
        Some(&"systemd-timesyn") => Sync::Runs("systemd-timesyncd".into()),
        Some(name) => Sync::Runs((*name).to_owned()),
        None => Sync::Nobody,
    }
}

fn touched(root: &Root) -> Option<Timestamp> {
    let at = std::fs::metadata(root.path(TIMESYNCD)).ok()?.modified().ok()?;
    let since = at.duration_since(std::time::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_millis()).ok().map(Timestamp)
}

/// The last field of `chronyc -c tracking` is the leap status.
fn chrony() -> Sync {
    let answer = command::ask("chronyc", &["-c", "tracking"], CHRONYC_LIMIT, CHRONYC_BYTES_MAX);
    let leap = answer.ok().and_then(|text| text.trim().rsplit(',').next().map(str::to_owned));
    match leap {
        Some(leap) if !leap.is_empty() => Sync::Chrony(leap),
        _ => Sync::Runs("chronyd".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemon_that_runs_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        let run = |name: &str| vec![Process { pid: 1, name: name.into() }];
        assert_eq!(sync(&root, &[]), Sync::Nobody);
        assert_eq!(sync(&root, &run("systemd-timesyn")), Sync::Runs("systemd-timesyncd".into()));
        assert_eq!(sync(&root, &run("ntpd")), Sync::Runs("ntpd".into()));
        std::fs::create_dir_all(dir.path().join("run/systemd/timesync")).unwrap();
        std::fs::write(dir.path().join("run/systemd/timesync/synchronized"), "").unwrap();
        assert!(matches!(sync(&root, &run("systemd-timesyn")), Sync::Timesyncd(at) if at > Timestamp(0)));
    }
}
