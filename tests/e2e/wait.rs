//! Waiting for a condition with a deadline, and the ports and children all fixtures need.

use std::net::TcpListener;
use std::process::{Child, Command};
use std::time::Duration;

use tokio::time::Instant;

/// Far above anything a healthy run needs: only a defect meets it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks `ready` until it says something; panics with `what` when it never does.
#[track_caller]
pub fn until<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = ready() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[track_caller]
pub fn until_true(what: &str, mut ready: impl FnMut() -> bool) {
    until(what, || ready().then_some(()));
}

/// A port of loopback that nobody listened on a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("address").port()
}

/// Whether somebody accepts connections there.
pub fn listens(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// A child process that ends with its owner.
pub struct Process {
    pub child: Child,
}

impl Process {
    #[track_caller]
    pub fn start(command: &mut Command) -> Process {
        let child = command
            .stdin(std::process::Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}; tests/run installs what the tests need"));
        Process { child }
    }

    /// `kill -9`, and wait until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
