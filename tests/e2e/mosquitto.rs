//! mosquitto as the cloud: mutual TLS for the agent, a plain door on loopback for the check.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::certs::{Authority, Pair};
use super::wait::{Process, free_port, listens, until_true};

pub struct Mosquitto {
    process: Process,
    configuration: PathBuf,
    dir: PathBuf,
    pub plain_port: u16,
    pub tls_port: u16,
}

impl Mosquitto {
    pub fn start(dir: &Path, authority: &Authority, server: &Pair) -> Mosquitto {
        let (plain_port, tls_port) = (free_port(), free_port());
        Mosquitto::start_on(dir, plain_port, tls_port, authority, server)
    }

    fn start_on(
        dir: &Path,
        plain_port: u16,
        tls_port: u16,
        authority: &Authority,
        server: &Pair,
    ) -> Mosquitto {
        let configuration = dir.join("mosquitto.conf");
        write_configuration(&configuration, plain_port, tls_port, authority, server);
        let process = launch(dir, &configuration);
        let mut broker = Mosquitto { process, configuration, dir: dir.to_owned(), plain_port, tls_port };
        broker.wait();
        broker
    }

    /// Ends it without ceremony; its sessions live in memory only and are gone.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    pub fn restart(&mut self) {
        self.process.kill();
        self.process = launch(&self.dir, &self.configuration);
        self.wait();
    }

    pub fn restart_with(&mut self, authority: &Authority, server: &Pair) {
        write_configuration(&self.configuration, self.plain_port, self.tls_port, authority, server);
        self.restart();
    }

    fn wait(&mut self) {
        let (plain, tls) = (self.plain_port, self.tls_port);
        until_true("mosquitto to listen", || {
            assert!(self.process.is_running(), "mosquitto ended, see {}", self.dir.display());
            listens(plain) && listens(tls)
        });
    }
}

fn launch(dir: &Path, configuration: &Path) -> Process {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("mosquitto.log")).unwrap();
    let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
    Process::start(
        Command::new("mosquitto")
            .env("PATH", path)
            .arg("-c")
            .arg(configuration)
            .stdout(Stdio::null())
            .stderr(Stdio::from(log)),
    )
}

fn write_configuration(file: &Path, plain_port: u16, tls_port: u16, authority: &Authority, server: &Pair) {
    // `user` only matters to root: the keys lie in a folder that nobody else may read.
    let text = format!(
        "allow_anonymous true\nuser root\npersistence false\nlog_type error\nlog_type warning\n\
         max_queued_messages 0\n\
         listener {plain_port} 127.0.0.1\n\
         listener {tls_port} 127.0.0.1\n\
         cafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\n",
        authority.certificate.display(),
        server.certificate.display(),
        server.key.display(),
    );
    std::fs::write(file, text).unwrap();
}
