//! Devices we did not write: pymodbus, a line writer, and socat as the cable between two ttys.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::account::Sample;
use super::wait::{Process, free_port, listens, until_true};

/// A pair of pseudo-terminals, tied together.
pub struct Cable {
    _process: Process,
    /// The end for the agent.
    pub near: PathBuf,
    /// The end for the device.
    pub far: PathBuf,
}

impl Cable {
    pub fn new(dir: &Path, name: &str) -> Cable {
        let (near, far) = (dir.join(format!("{name}-near")), dir.join(format!("{name}-far")));
        let end = |link: &Path| format!("pty,raw,echo=0,link={}", link.display());
        let process = Process::start(
            Command::new("socat")
                .arg(end(&near))
                .arg(end(&far))
                .stdout(Stdio::null())
                .stderr(Stdio::inherit()),
        );
        until_true("socat to make both ttys", || near.exists() && far.exists());
        Cable { _process: process, near, far }
    }
}

/// A foreign device process and the file in which it notes what it handed out.
pub struct Device {
    process: Process,
    served: PathBuf,
}

impl Device {
    /// pymodbus over TCP; answers with its port.
    pub fn modbus_tcp(dir: &Path, units: &[u8], points: usize) -> (Device, u16) {
        let port = free_port();
        let device = Device::modbus(dir, "tcp", &port.to_string(), units, points);
        until_true("pymodbus to listen", || listens(port));
        (device, port)
    }

    /// pymodbus on the far end of a cable.
    pub fn modbus_rtu(dir: &Path, cable: &Cable, units: &[u8], points: usize) -> Device {
        Device::modbus(dir, "rtu", &cable.far.display().to_string(), units, points)
    }

    /// pymodbus with a memory that can be written, over TCP on this port.
    pub fn memory_tcp(dir: &Path) -> (Device, u16) {
        let port = free_port();
        let device = Device::memory(dir, "tcp", &port.to_string());
        until_true("pymodbus to listen", || listens(port));
        (device, port)
    }

    /// Another device in its place.
    pub fn memory_tcp_swapped(dir: &Path, port: u16, product: &str) -> Device {
        let served = dir.join("swapped.served");
        let arguments = ["tcp", &port.to_string(), "--product", product, "--served"];
        let device = Device { process: python("modbus_memory.py", &arguments, &served), served };
        until_true("the other device to listen", || listens(port));
        device
    }

    /// The same on the far end of a cable.
    pub fn memory_rtu(dir: &Path, cable: &Cable) -> Device {
        Device::memory(dir, "rtu", &cable.far.display().to_string())
    }

    fn memory(dir: &Path, transport: &str, place: &str) -> Device {
        let served = dir.join(format!("{transport}.served"));
        let process = python("modbus_memory.py", &[transport, place, "--served"], &served);
        Device { process, served }
    }

    /// What it noted, line by line.
    pub fn noted(&self) -> Vec<String> {
        std::fs::read_to_string(&self.served).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    pub fn line_writer(dir: &Path, cable: &Cable, noise_every: usize) -> Device {
        let served = dir.join("line.served");
        let process = python(
            "line_writer.py",
            &[&cable.far.display().to_string(), "--noise-every", &noise_every.to_string(), "--served"],
            &served,
        );
        Device { process, served }
    }

    fn modbus(dir: &Path, transport: &str, place: &str, units: &[u8], points: usize) -> Device {
        let served = dir.join(format!("{transport}.served"));
        let units = units.iter().map(u8::to_string).collect::<Vec<_>>().join(",");
        let process = python(
            "modbus_server.py",
            &[transport, place, "--units", &units, "--points", &points.to_string(), "--served"],
            &served,
        );
        Device { process, served }
    }

    pub fn served(&self) -> Vec<Sample> {
        let text = std::fs::read_to_string(&self.served).unwrap_or_default();
        // The last line may be half written.
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        whole.lines().map(|line| Sample::parse(line).unwrap_or_else(|| panic!("{line:?}"))).collect()
    }

    pub fn kill(&mut self) {
        self.process.kill();
    }
}

pub fn python(script: &str, arguments: &[&str], served: &Path) -> Process {
    let mut command = python_command(script);
    Process::start(command.args(arguments).arg(served).stdout(Stdio::null()).stderr(Stdio::inherit()))
}

/// A script of the fixtures, with the interpreter that has what they need.
pub fn python_command(script: &str) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = std::env::var_os("FIELDGATE_TEST_PYTHON")
        .map_or_else(|| root.join(".cache/test-venv/bin/python"), PathBuf::from);
    let mut command = Command::new(python);
    command.arg(root.join("tests/e2e/fixtures").join(script));
    command
}
