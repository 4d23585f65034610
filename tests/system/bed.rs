//! One machine: a root file system, an overlay on it, systemd as its first process.
//!
//! Constraints: several beds at once, and nothing left behind, whatever a test does. Each has
//! its own name, folder and control group; what was mounted and started is undone when the
//! bed is dropped. `tests/system/run` puts a namespace around all of it, so that even a killed
//! run leaves nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

use super::wait::{Process, until, until_true};

/// Debian's name of the architecture under test.
pub fn arch() -> String {
    std::env::var("FIELDGATE_SYSTEM_ARCH").unwrap_or_else(|_| "amd64".into())
}

/// The cached tree; built when it is not there.
fn rootfs() -> &'static Path {
    static TREE: OnceLock<PathBuf> = OnceLock::new();
    TREE.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/system/rootfs");
        let output = Command::new(script).arg(arch()).stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "tests/system/rootfs failed");
        String::from_utf8(output.stdout).unwrap().trim().into()
    })
}

#[derive(Default)]
pub struct Options {
    /// Outside and inside path of what the machine sees as its own.
    pub binds: Vec<(PathBuf, String)>,
    /// Nothing but loopback; else the machine shares the network of the test.
    pub no_network: bool,
}

pub struct Bed {
    pub name: String,
    /// Process id of the machine's systemd, seen from outside.
    leader: u32,
    nspawn: Option<Process>,
    cgroup: PathBuf,
    mounts: Vec<PathBuf>,
    dir: TempDir,
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Bed {
    pub fn boot(options: &Options) -> Bed {
        // By chance, not by process: two runs may be in namespaces with the same numbers.
        let dir = tempfile::Builder::new().prefix("fg-bed-").tempdir().unwrap();
        let name = dir.path().file_name().unwrap().to_string_lossy().to_lowercase();
        let cgroup = unified_hierarchy().join(&name);
        let mut bed = Bed { name, leader: 0, nspawn: None, cgroup, mounts: Vec::new(), dir };
        bed.mount();
        bed.start(options);
        bed
    }

    /// An overlay needs a file system below it that is none itself: memory is one everywhere.
    fn mount(&mut self) {
        let base = self.dir.path().to_owned();
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1g,mode=0755", "fieldgate-bed"])
            .arg(&base));
        self.mounts.push(base.clone());
        for part in ["up", "work", "root"] {
            fs::create_dir(base.join(part)).unwrap();
        }
        let layers = format!(
            "lowerdir={},upperdir={},workdir={}",
            rootfs().display(),
            base.join("up").display(),
            base.join("work").display()
        );
        run(Command::new("mount").args(["-t", "overlay", "-o", &layers, "fieldgate-bed"]).arg(self.root()));
        self.mounts.push(self.root());
    }

    fn start(&mut self, options: &Options) {
        fs::create_dir(&self.cgroup).unwrap();
        let console = fs::File::create(self.console()).unwrap();
        // Two machines in one control group would stop each other's services.
        let mut command = Command::new("sh");
        command.arg("-c").arg("echo $$ >\"$0/cgroup.procs\" && exec \"$@\"").arg(&self.cgroup);
        command.args(["systemd-nspawn", "--boot", "-q", "--register=no", "--keep-unit", "--console=pipe"]);
        command.arg("-M").arg(&self.name).arg("-D").arg(self.root());
        if options.no_network {
            command.arg("--private-network");
        }
        for (outside, inside) in &options.binds {
            command.arg(format!("--bind={}:{inside}", outside.display()));
        }
        command.env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1");
        command.stdout(console.try_clone().unwrap()).stderr(console);
        let mut nspawn = Process::start(&mut command);
        let pid = nspawn.child.id();
        let console = self.console();
        self.leader = until("the machine's first process", || {
            assert!(nspawn.is_running(), "{}", fs::read_to_string(&console).unwrap_or_default());
            children(pid).into_iter().find(|child| is_first(*child))
        });
        self.nspawn = Some(nspawn);
        until_true("systemd to be up", || {
            let state = self.try_sh("systemctl is-system-running").out;
            matches!(state.trim(), "running" | "degraded")
        });
    }

    /// A file of the machine, seen from outside.
    pub fn path(&self, inside: &str) -> PathBuf {
        self.root().join(inside.trim_start_matches('/'))
    }

    pub fn write(&self, inside: &str, content: impl AsRef<[u8]>) {
        let path = self.path(inside);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub fn copy_in(&self, from: &Path, inside: &str) {
        self.write(inside, fs::read(from).unwrap());
    }

    /// A shell in the machine, as root.
    pub fn try_sh(&self, script: &str) -> Said {
        let output = self.command().args(["sh", "-c", script]).stdin(Stdio::null()).output().unwrap();
        said(&output)
    }

    /// The same, and it must succeed: its output without the last line end.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        let said = self.try_sh(script);
        assert_eq!(said.code, 0, "{script}: {said:?}\n{}", self.last_words());
        said.out.trim_end().to_owned()
    }

    /// One property of the service.
    #[track_caller]
    pub fn show(&self, property: &str) -> String {
        self.sh(&format!("systemctl show -P {property} fieldgate"))
    }

    pub fn journal(&self) -> String {
        self.try_sh("journalctl --no-pager -o short-monotonic -u fieldgate").out
    }

    #[track_caller]
    pub fn wait_journal(&self, what: &str, pattern: &str) {
        let pattern = regex::Regex::new(pattern).unwrap();
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            until_true(what, || pattern.is_match(&self.journal()));
        }));
        assert!(found.is_ok(), "no {what}\n{}", self.last_words());
    }

    /// Waits for `systemctl is-active` and the like.
    #[track_caller]
    pub fn wait_sh(&self, what: &str, script: &str) {
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            until_true(what, || self.try_sh(script).code == 0);
        }));
        assert!(found.is_ok(), "no {what}: {script}\n{}", self.last_words());
    }

    /// `ip` in the network of the test, about the machine's network.
    pub fn leader(&self) -> u32 {
        self.leader
    }

    pub fn last_words(&self) -> String {
        let status = self.try_sh("systemctl status --no-pager -l -n 0 fieldgate").out;
        let journal = self.journal();
        let lines: Vec<&str> = journal.lines().collect();
        format!("--- {}\n{status}\n{}", self.name, lines[lines.len().saturating_sub(40)..].join("\n"))
    }

    fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.leader.to_string(), "-a", "env", "-i", "HOME=/root", "LC_ALL=C.UTF-8"]);
        command.arg("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn console(&self) -> PathBuf {
        self.dir.path().join("console.log")
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if std::thread::panicking() && self.leader != 0 {
            eprintln!("{}", self.last_words());
        }
        if self.leader != 0 {
            // Its first process takes all others with it.
            let _ = Command::new("kill").args(["-9", &self.leader.to_string()]).status();
        }
        if let Some(mut nspawn) = self.nspawn.take() {
            // It unmounts what it has mounted; only then is it sent after its machine.
            let deadline = std::time::Duration::from_secs(10);
            let begin = tokio::time::Instant::now();
            while nspawn.is_running() && begin.elapsed() < deadline {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            nspawn.kill();
        }
        for mount in self.mounts.iter().rev() {
            let done = Command::new("umount").arg(mount).status();
            if !done.is_ok_and(|s| s.success()) {
                let _ = Command::new("umount").arg("-l").arg(mount).status();
            }
        }
        remove_groups(&self.cgroup);
    }
}

/// A control group is empty when its folders are gone, from below.
fn remove_groups(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_groups(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}

fn unified_hierarchy() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mount = mounts.lines().map(|l| l.split(' ').collect::<Vec<_>>()).find(|w| w[2] == "cgroup2");
    PathBuf::from(mount.expect("a mounted cgroup2")[1])
}

fn children(pid: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|p| p.parse().ok()).collect()
}

/// nspawn has other children while it prepares; only one is number 1 in a world of its own.
fn is_first(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|l| l.starts_with("NSpid:") && l.ends_with("\t1"))
}

fn said(output: &Output) -> Said {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
}

#[track_caller]
pub fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {:?}; tests/system needs root", said(&output));
}
