//! A small plant for the tests: a meter on `line-1`, a scale on `line-2`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::channel::{Plant, ReadRequest};
use crate::config::{
    Config, Durability, Gateway, Identity, Log, LogFormat, MqttVersion, Security, Shadow, Store, Thing,
    Uplink,
};
use crate::metrics::Metrics;
use crate::model::device::{
    Bus, BusTiming, Device, Host, LineDevice, ModbusDevice, Point, Protocol, RequestLimits, Source,
    TcpEndpoint, Transport, WriteFunction,
};
use crate::model::ids::DeviceIndex;
use crate::model::line::{FieldKind, FieldPoint, Framing, LineFormat};
use crate::model::register::{Encoding, Kind, Order, RegisterPoint, Table, Transform};
use crate::model::report::Report;

const SECOND: Duration = Duration::from_secs(1);

pub fn config() -> Config {
    Config {
        gateway: Gateway { name: "gw-1".into(), status_socket: None, stop_grace: 10 * SECOND },
        uplink: uplink(),
        thing: Thing {
            topic: "dt/{thing}/telemetry".into(),
            status_topic: "dt/{thing}/status".into(),
            window: 8,
        },
        store: Store {
            path: PathBuf::from("unused.db"),
            durability: Durability::Commit { batch_window: Duration::from_millis(3) },
            bytes_max: 512 << 20,
            age_max: None,
        },
        shadow: Shadow::default(),
        identity: Identity::default(),
        log: Log { level: "info".into(), format: LogFormat::Text },
        buses: vec![bus("line-1", 0), bus("line-2", 1)],
        devices: vec![meter(), scale()],
        warnings: Vec::new(),
    }
}

fn uplink() -> Uplink {
    Uplink {
        host: "broker.example".into(),
        port: 1883,
        protocol: MqttVersion::V5,
        client_id: "gw-1".into(),
        security: Security::Plain,
        login: None,
        websocket: None,
        keep_alive: 30 * SECOND,
        connect_timeout: 10 * SECOND,
        window: 100,
        topic: "dt/{gateway}/{device}/telemetry".into(),
        status_topic: "dt/{gateway}/status".into(),
        status_interval: 60 * SECOND,
        payload_max: 128 << 10,
        messages_per_second: None,
        bytes_per_second: None,
        backlog_messages_per_second: None,
        reconnect_min: SECOND,
        reconnect_max: 120 * SECOND,
        session_expiry: 3600 * SECOND,
        connects_per_second: 10,
    }
}

fn bus(name: &str, device: u32) -> Bus {
    Bus {
        name: name.into(),
        transport: Transport::Tcp(TcpEndpoint { host: Host::Name("192.0.2.10".into()), port: 502 }),
        timing: BusTiming {
            connect_timeout: 5 * SECOND,
            pause_after_connect: Duration::ZERO,
            pause_between_requests: Duration::ZERO,
            silence: None,
            close_after_poll: false,
            reconnect_min: SECOND,
            reconnect_max: 60 * SECOND,
        },
        devices: vec![DeviceIndex(device)],
    }
}

fn meter() -> Device {
    let voltage = Point {
        name: "voltage".into(),
        unit: Some("V".into()),
        source: Source::Register(RegisterPoint {
            table: Table::Input,
            address: 0,
            encoding: Encoding { kind: Kind::Float32, order: Order::big(4) },
            transform: Transform::default(),
            scale_factor: None,
        }),
        interval: SECOND,
        report: Report::default(),
        write: None,
        shadow: None,
        fingerprint: false,
    };
    Device::new(
        "meter-1".into(),
        Protocol::Modbus(ModbusDevice {
            unit_id: 1,
            limits: RequestLimits::default(),
            response_timeout: SECOND,
            late_window: SECOND,
            retries: 1,
            busy_retries: 3,
            busy_pause: Duration::from_millis(100),
            pause_after_write: Duration::ZERO,
            silent_after: 3,
            backoff_min: SECOND,
            backoff_max: 60 * SECOND,
            hole_retry: 3600 * SECOND,
            write_function: WriteFunction::Auto,
        }),
        [voltage].into(),
    )
}

fn scale() -> Device {
    let weight = Point {
        name: "weight".into(),
        unit: Some("kg".into()),
        source: Source::Field(FieldPoint {
            field: "weight".into(),
            kind: FieldKind::Auto,
            decimal_comma: false,
            transform: Transform::default(),
        }),
        interval: Duration::ZERO,
        report: Report::default(),
        write: None,
        shadow: None,
        fingerprint: false,
    };
    Device::new(
        "scale-1".into(),
        Protocol::Line(LineDevice {
            framing: Framing { delimiter: b"\r\n".to_vec(), line_max: 1024 },
            format: LineFormat::Json,
            matching: None,
            silent_after: 30 * SECOND,
        }),
        [weight].into(),
    )
}

/// The fixture as it runs; `reads` go to the first buses.
pub fn plant(metrics: Arc<Metrics>, reads: Vec<mpsc::Sender<ReadRequest>>) -> watch::Receiver<Arc<Plant>> {
    let indices = vec![DeviceIndex(0), DeviceIndex(1)];
    watch::channel(Arc::new(Plant { config: Arc::new(config()), metrics, indices, reads, keeper: None })).1
}
