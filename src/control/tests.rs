use std::io::{Read as _, Write as _};

use super::ask::Address;
use super::ask::Read;
use super::client::NoAnswer;
use super::spec::Spec;
use super::*;
use crate::channel::{READS_MAX, What};
use crate::metrics::Metrics;
use crate::model::reading::Measured;
use crate::model::time::Timestamp;
use crate::model::value::Value;

/// An agent whose bus `line-1` answers each point by 230.5 and each address by its
/// own number.
struct Agent {
    dir: tempfile::TempDir,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<io::Result<()>>,
}

impl Agent {
    fn start() -> Agent {
        let dir = tempfile::tempdir().unwrap();
        let (line_1, mut reads) = mpsc::channel::<ReadRequest>(READS_MAX);
        tokio::spawn(async move {
            while let Some(request) = reads.recv().await {
                let value = match request.what {
                    What::Point(_, _) => Value::Float(230.5),
                    What::Unit(unit, point) => Value::Int(i64::from(unit) * 1000 + i64::from(point.address)),
                };
                let _ = request.answer.send(Ok(Measured::Good(value)));
            }
        });
        let metrics = Arc::new(Metrics::new(2, 2));
        metrics.buses[0].state.set("open");
        metrics.devices[0].polls.add(3);
        metrics.devices[0].last_good_ms.set(1_793_500_000_000);
        metrics.uplink.state.set("offline: certificate expired");
        let room = Room {
            plant: fixture::plant(metrics, vec![line_1]),
            clock: Clock::Simulated { base: Timestamp(1_793_500_002_000), origin: Instant::now() },
            hub: mpsc::channel(1).0,
            reloads: None,
            started: Instant::now(),
        };
        let control = Control::bind(&dir.path().join("s"), room).unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(control.run(stop.clone()));
        Agent { dir, stop, task }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    async fn ask(&self, ask: Ask) -> Result<Answer, NoAnswer> {
        let path = self.socket();
        tokio::task::spawn_blocking(move || client::ask(&path, &ask)).await.unwrap()
    }

    /// Sends raw bytes, gives the raw answer.
    async fn say(&self, bytes: Vec<u8>) -> String {
        let path = self.socket();
        let talk = move || {
            let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
            stream.write_all(&bytes).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        };
        tokio::task::spawn_blocking(talk).await.unwrap()
    }
}

fn point(device: &str, point: &str) -> Ask {
    Ask::Read(Read::Point { device: device.into(), point: point.into() })
}

fn address(bus: &str) -> Ask {
    let spec = Spec {
        table: "holding".into(),
        address: 42,
        kind: "uint16".into(),
        order: None,
        registers: None,
        bit: None,
        scale: None,
    };
    Ask::Read(Read::Address(Address { bus: bus.into(), unit: 7, spec }))
}

#[tokio::test]
async fn status_tells_the_states_in_the_words_of_their_owners() {
    let agent = Agent::start();
    let Ok(Answer::Status(status)) = agent.ask(Ask::Status).await else { panic!("no status") };
    assert_eq!(status.gateway, "gw-1");
    assert_eq!(status.buses[0].state, "open");
    assert_eq!((status.devices[0].device.as_str(), status.devices[0].polls), ("meter-1", 3));
    assert_eq!(status.devices[0].last_good_age_s, Some(2));
    assert_eq!(status.devices[1].last_good, None);
    assert_eq!(status.uplink.state, "offline: certificate expired");
}

#[tokio::test]
async fn a_read_goes_to_its_bus_and_its_answer_comes_home() {
    let agent = Agent::start();
    let shown = |value: serde_json::Value, unit: Option<&str>| {
        let (unit, quality) = (unit.map(String::from), "good".into());
        Answer::Read(Shown { value: Some(value), unit, quality, cause: None })
    };
    assert_eq!(agent.ask(point("meter-1", "voltage")).await.unwrap(), shown(230.5.into(), Some("V")));
    assert_eq!(agent.ask(address("line-1")).await.unwrap(), shown(7042.into(), None));
    let Err(NoAnswer::Failed(text)) = agent.ask(point("meter-1", "amps")).await else { panic!("answered") };
    assert!(text.contains("there are voltage"), "{text}");
}

#[tokio::test]
async fn a_line_that_is_asked_too_fast_says_so_at_once() {
    let (answer, _kept) = oneshot::channel();
    let Ask::Read(read) = point("meter-1", "voltage") else { unreachable!() };
    let found = || ask::resolve(&fixture::config(), &read).unwrap();
    let (full, _queue) = mpsc::channel(1);
    full.try_send(ReadRequest { what: found().what, answer }).unwrap();
    let room = Room {
        plant: fixture::plant(Arc::new(Metrics::new(2, 2)), vec![full]),
        clock: Clock::System,
        hub: mpsc::channel(1).0,
        reloads: None,
        started: Instant::now(),
    };
    assert_eq!(room.read(found()).await, Err("other reads wait for this line; try again".into()));
}

#[tokio::test]
async fn nonsense_is_answered_in_words_and_bounded() {
    let agent = Agent::start();
    let check = async |bytes: Vec<u8>, expected: &str| {
        let answer = agent.say(bytes).await;
        assert!(answer.starts_with(r#"{"error":""#) && answer.contains(expected), "{answer}");
    };
    check(b"hello\n".to_vec(), "not understood").await;
    check(b"{\"ask\":\"reboot\"}\n".to_vec(), "not understood").await;
    check(b"{\"ask\":\"status\"}".to_vec(), "ends with a line feed").await;
    check(vec![b' '; LINE_MAX as usize], "at most 4096 bytes").await;
    // And it still serves.
    assert!(agent.ask(Ask::Status).await.is_ok());
}

#[tokio::test]
async fn the_socket_is_private_and_leaves_with_the_agent() {
    let agent = Agent::start();
    let path = agent.socket();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let room = || Room {
        plant: fixture::plant(Arc::new(Metrics::new(2, 2)), vec![]),
        clock: Clock::System,
        hub: mpsc::channel(1).0,
        reloads: None,
        started: Instant::now(),
    };
    let taken = Control::bind(&path, room()).err().map(|e| e.kind());
    assert_eq!(taken, Some(ErrorKind::AddrInUse));
    agent.stop.cancel();
    agent.task.await.unwrap().unwrap();
    assert!(!path.exists());
    let gone = tokio::task::spawn_blocking({
        let path = path.clone();
        move || client::ask(&path, &Ask::Status)
    });
    assert!(matches!(gone.await.unwrap(), Err(NoAnswer::Unreachable { .. })));
    // A dead agent's socket is in nobody's way.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    assert!(Control::bind(&path, room()).is_ok());
}
