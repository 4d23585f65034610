//! The built agent as a process: started, killed without warning, and read from outside.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::wait::{Process, until, until_true};

const BINARY: &str = env!("CARGO_BIN_EXE_fieldgate");

pub struct Agent {
    configuration: PathBuf,
    log: PathBuf,
    process: Option<Process>,
}

impl Agent {
    /// Writes the configuration; nothing runs yet.
    pub fn new(dir: &Path, configuration: &str) -> Agent {
        let file = dir.join("fieldgate.toml");
        std::fs::write(&file, configuration).unwrap();
        Agent { configuration: file, log: dir.join("agent.log"), process: None }
    }

    pub fn start(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let mut command = self.command("run");
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.process = Some(Process::start(&mut command));
    }

    pub fn kill(&mut self) {
        self.process.take().expect("the agent runs").kill();
    }

    /// As a service manager would stop it: SIGTERM, then the exit code.
    pub fn stop(&mut self) -> Option<i32> {
        let mut process = self.process.take().expect("the agent runs");
        let pid = process.child.id().to_string();
        assert!(Command::new("kill").arg(&pid).status().unwrap().success());
        until("the agent to stop", || process.child.try_wait().unwrap()).code()
    }

    /// Sends a signal to the running agent.
    pub fn signal(&self, name: &str) {
        let pid = self.process.as_ref().expect("the agent runs").child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    #[track_caller]
    pub fn assert_running(&mut self) {
        let log = self.log();
        assert!(self.process.as_mut().is_some_and(Process::is_running), "the agent ended by itself:\n{log}");
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    #[track_caller]
    pub fn wait_log(&self, what: &str, pattern: &str) {
        let pattern = regex::Regex::new(pattern).unwrap();
        until_true(what, || pattern.is_match(&self.log()));
    }

    /// Another verb on the same configuration, with `--json`.
    pub fn ask(&self, verb: &str) -> String {
        let output = self.command(verb).arg("--json").stdin(Stdio::null()).stderr(Stdio::inherit()).output();
        let output = output.unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// A verb with words behind it, without `--json`: exit code and standard output.
    pub fn tell(&self, words: &[&str]) -> (i32, String) {
        let output = self.command(words[0]).args(&words[1..]).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        (output.status.code().unwrap_or(-1), text.into_owned())
    }

    fn command(&self, verb: &str) -> Command {
        // A verb that never ends would hold the whole suite; `run` ends with its owner.
        let mut command = Command::new(if verb == "run" { BINARY } else { "timeout" });
        if verb != "run" {
            command.args(["10", BINARY]);
        }
        command.arg(verb).arg("--config").arg(&self.configuration);
        // Nothing of the caller's environment may configure the agent.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("FIELDGATE_") {
                command.env_remove(name);
            }
        }
        command.env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET").env_remove("JOURNAL_STREAM");
        command
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- the agent's last words\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}
