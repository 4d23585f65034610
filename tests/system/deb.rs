//! The package under test: `FIELDGATE_DEB`, or one packed from the program that cargo built.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use super::bed::{Bed, arch, run};

/// The version that an operator has before the one under test, and one that is newer.
pub const OLDER: &str = "0.0.9";
pub const NEWER: &str = "99.0.0";

/// Where packages for this run lie.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        tempfile::Builder::new().prefix("packages-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
    });
    folder.path()
}

/// The package under test.
pub fn current() -> PathBuf {
    match std::env::var_os("FIELDGATE_DEB") {
        Some(deb) => deb.into(),
        None => packed(None),
    }
}

/// The same program in a package of another version; `FIELDGATE_DEB_OLDER` is a real one.
pub fn other(version: &str) -> PathBuf {
    match std::env::var_os("FIELDGATE_DEB_OLDER") {
        Some(deb) if version == OLDER => deb.into(),
        _ => packed(Some(version)),
    }
}

fn packed(version: Option<&str>) -> PathBuf {
    // Two tests want the same package: the second finds it.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let name = format!("fieldgate_{}_{}.deb", version.unwrap_or(env!("CARGO_PKG_VERSION")), arch());
    let deb = folder().join(name);
    if !deb.exists() {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/build-deb");
        let mut command = Command::new(script);
        command.arg(arch()).arg("--out").arg(folder()).arg("--binary").arg(program());
        if let Some(version) = version {
            command.args(["--version", version]);
        }
        run(&mut command);
    }
    deb
}

/// The program of the package under test, or the one that cargo built for these tests.
fn program() -> PathBuf {
    let Some(deb) = std::env::var_os("FIELDGATE_DEB") else {
        assert_eq!(arch(), "amd64", "FIELDGATE_DEB must name a package for {}", arch());
        return env!("CARGO_BIN_EXE_fieldgate").into();
    };
    let tree = folder().join("unpacked");
    if !tree.exists() {
        run(Command::new("dpkg-deb").arg("-x").arg(deb).arg(&tree));
    }
    tree.join("usr/bin/fieldgate")
}

impl Bed {
    /// `dpkg -i`, without a question: an edited file stays as it is. Answers with what it said.
    #[track_caller]
    pub fn install(&self, deb: &Path) -> String {
        let (code, said) = self.try_install(deb);
        assert_eq!(code, 0, "{said}\n{}", self.last_words());
        said
    }

    /// The same, and it may fail: the exit code with what it said.
    pub fn try_install(&self, deb: &Path) -> (i32, String) {
        self.copy_in(deb, "/root/fieldgate.deb");
        let said =
            self.try_sh("DEBIAN_FRONTEND=noninteractive dpkg -i --force-confold /root/fieldgate.deb 2>&1");
        (said.code, said.out)
    }

    #[track_caller]
    pub fn installed(&self) {
        self.install(&current());
    }
}
