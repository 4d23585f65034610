//! The tasks that run, and how a reload finds them again.
//!
//! A device keeps its [`DeviceIndex`] for as long as it is configured, so a bus that a reload
//! leaves alone goes on with the numbers it was started with.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::App;
use super::connections::Connections;
use crate::bus::{self, BusTask, WriteRequest};
use crate::channel::{ASKS_MAX, Plant, ReadRequest, Reload};
use crate::config::Config;
use crate::hub::Reconfigure;
use crate::metrics::{BusMetrics, DeviceMetrics, Metrics};
use crate::model::device::{Bus, Device};
use crate::model::ids::{DeviceIndex, DeviceName};
use crate::model::observation::Observation;
use crate::supervise::{Stage, Supervisor, TaskId};
use crate::uplink::link::Link;

/// Which device has which index.
#[derive(Debug, Default)]
pub(super) struct Indices(HashMap<DeviceName, DeviceIndex>);

impl Indices {
    /// Devices that stay keep theirs; new ones get the lowest that is free.
    pub fn assign(&mut self, devices: &[Device]) {
        let old = std::mem::take(&mut self.0);
        let stays = |d: &&Device| old.contains_key(&d.name);
        for device in devices.iter().filter(stays) {
            self.0.insert(device.name.clone(), old[&device.name]);
        }
        let taken: BTreeSet<DeviceIndex> = self.0.values().copied().collect();
        let mut free = (0..).map(DeviceIndex).filter(|index| !taken.contains(index));
        for device in devices {
            if !self.0.contains_key(&device.name) {
                self.0.extend(free.next().map(|index| (device.name.clone(), index)));
            }
        }
    }

    /// A device that was never assigned has the index of nobody.
    pub fn of(&self, device: &DeviceName) -> DeviceIndex {
        self.0.get(device).copied().unwrap_or(DeviceIndex(u32::MAX))
    }
}

/// A line that runs.
pub(super) struct RunningBus {
    /// As it was when it was started.
    pub bus: Bus,
    pub devices: Vec<Device>,
    reads: mpsc::Sender<ReadRequest>,
    writes: mpsc::Sender<WriteRequest>,
    task: TaskId,
    /// Its own.
    stop: CancellationToken,
}

impl RunningBus {
    /// Whether `config` wants this very line: same transport, timing and devices.
    pub fn is(&self, bus: &Bus, config: &Config) -> bool {
        let same = Bus { devices: self.bus.devices.clone(), ..bus.clone() } == self.bus;
        let devices = bus.devices.iter().map(|index| &config.devices[index.at()]);
        same && bus.devices.len() == self.devices.len() && devices.eq(&self.devices)
    }
}

/// Everything that runs, but for the services.
pub(super) struct Live {
    pub buses: Vec<RunningBus>,
    pub connections: Connections,
    pub changes: mpsc::Sender<Reconfigure>,
    pub plant: watch::Sender<Arc<Plant>>,
    /// Keeps the identities.
    keeper: Option<(TaskId, CancellationToken)>,
    observations: mpsc::Sender<Observation>,
    /// Of the buses and devices by name: what they counted stays theirs.
    bus_metrics: HashMap<String, Arc<BusMetrics>>,
    device_metrics: HashMap<DeviceName, Arc<DeviceMetrics>>,
}

impl Live {
    pub fn start<L: Link>(
        app: &mut App<L>,
        tasks: &mut Supervisor,
        reloads: mpsc::Sender<Reload>,
    ) -> Result<Live, String> {
        app.find_routes().and_then(|()| app.adopt_orphans()).map_err(|e| e.to_string())?;
        let (observations, observed) = mpsc::channel(app.world.observations_max);
        let (asks, asked) = mpsc::channel(ASKS_MAX);
        let (changes, changed) = mpsc::channel(1);
        let metrics = Arc::clone(&app.metrics);
        let (buses, devices) = (app.config.buses.iter(), app.config.devices.iter());
        let bus_metrics = buses.map(|b| b.name.to_string()).zip(metrics.buses.iter().cloned()).collect();
        let device_metrics = devices.map(|d| d.name.clone()).zip(metrics.devices.iter().cloned()).collect();
        let mut waiting = Vec::new();
        for index in 0..app.config.buses.len() {
            waiting.push((index, Ends::new()));
        }
        let writes = waiting.iter().map(|(index, ends)| (*index, ends.writes.clone())).collect::<Vec<_>>();
        let hub = app.hub(observed, asked, changed, writers(app, &writes)).map_err(|e| e.to_string())?;
        tasks.spawn("hub", Stage::Hub, hub.run());
        let buses = waiting
            .into_iter()
            .map(|(index, ends)| start_bus(app, tasks, &metrics, observations.clone(), index, ends))
            .collect::<Vec<_>>();
        let plant = watch::Sender::new(Arc::new(plant_of(app, &buses)));
        app.services(tasks, &plant.subscribe(), asks.clone(), reloads);
        let keeper = start_keeper(app, tasks);
        let connections = Connections::start(app, tasks, asks);
        Ok(Live { buses, connections, changes, plant, keeper, observations, bus_metrics, device_metrics })
    }

    /// The identities of `app` are other ones.
    pub async fn replace_keeper<L: Link>(&mut self, app: &mut App<L>, tasks: &mut Supervisor) {
        if let Some((task, stop)) = self.keeper.take() {
            tasks.retire(task, &stop, Instant::now() + app.config.gateway.stop_grace).await;
        }
        self.keeper = start_keeper(app, tasks);
    }

    /// Ends the buses that `config` does not want as they are, and gives those back that stay.
    /// Every call on a line is finished first.
    pub async fn retire<L: Link>(&mut self, app: &App<L>, tasks: &mut Supervisor, config: &Config) {
        let wanted = |running: &RunningBus| config.buses.iter().any(|bus| running.is(bus, config));
        let (stay, go): (Vec<_>, Vec<_>) = self.buses.drain(..).partition(wanted);
        self.buses = stay;
        go.iter().for_each(|bus| bus.stop.cancel());
        let until = Instant::now() + app.config.gateway.stop_grace;
        for bus in go {
            tasks.retire(bus.task, &bus.stop, until).await;
        }
    }

    /// Makes the metrics of the configuration that `app` has now, keeping what was counted.
    pub fn count<L: Link>(&mut self, app: &mut App<L>) {
        let mut metrics = Metrics {
            store: Arc::clone(&app.metrics.store),
            uplink: Arc::clone(&app.metrics.uplink),
            ..Metrics::default()
        };
        let (mut buses, mut devices) = (HashMap::new(), HashMap::new());
        for bus in &app.config.buses {
            let kept = self.bus_metrics.remove(bus.name.as_str()).unwrap_or_default();
            metrics.buses.push(Arc::clone(&kept));
            buses.insert(bus.name.to_string(), kept);
        }
        for device in &app.config.devices {
            let kept = self.device_metrics.remove(&device.name).unwrap_or_default();
            metrics.devices.push(Arc::clone(&kept));
            devices.insert(device.name.clone(), kept);
        }
        (self.bus_metrics, self.device_metrics) = (buses, devices);
        app.metrics = Arc::new(metrics);
    }

    /// Tells the hub, then starts the buses that do not run yet, in the order of the
    /// configuration. The names of those come back.
    pub async fn advance<L: Link>(
        &mut self,
        app: &mut App<L>,
        tasks: &mut Supervisor,
        devices: Vec<(DeviceIndex, Device, crate::model::row::LayoutId, crate::model::row::Route)>,
    ) -> Result<Vec<String>, String> {
        let mut old = std::mem::take(&mut self.buses);
        let mut places = Vec::new();
        for bus in &app.config.buses {
            let running = old.iter().position(|running| running.is(bus, &app.config));
            places.push(running.map_or_else(|| Err(Ends::new()), |at| Ok(old.swap_remove(at))));
        }
        let mut writes = Vec::new();
        let mut reopened = BTreeSet::new();
        for (index, place) in places.iter().enumerate() {
            match place {
                Ok(running) => writes.push((index, running.writes.clone())),
                Err(ends) => {
                    writes.push((index, ends.writes.clone()));
                    let devices = app.config.buses[index].devices.iter();
                    reopened.extend(devices.map(|at| app.indices.of(&app.config.devices[at.at()].name)));
                }
            }
        }
        let (answer, answered) = tokio::sync::oneshot::channel();
        let change = Reconfigure {
            payload_max: app.config.uplink.payload_max,
            devices,
            things: app.things(),
            reopened,
            writes: writers(app, &writes),
            answer,
        };
        let told = self.changes.send(change).await.is_ok() && answered.await.is_ok();
        let by_index = by_index(app);
        let mut started = Vec::new();
        for (index, place) in places.into_iter().enumerate() {
            self.buses.push(match place {
                Ok(running) => running,
                Err(ends) => {
                    started.push(app.config.buses[index].name.to_string());
                    start_bus(app, tasks, &by_index, self.observations.clone(), index, ends)
                }
            });
        }
        self.plant.send_replace(Arc::new(plant_of(app, &self.buses)));
        if told { Ok(started) } else { Err("the hub is going down".into()) }
    }
}

/// Both ends of what a bus is asked by.
struct Ends {
    reads: mpsc::Sender<ReadRequest>,
    asked: mpsc::Receiver<ReadRequest>,
    writes: mpsc::Sender<WriteRequest>,
    wanted: mpsc::Receiver<WriteRequest>,
}

impl Ends {
    fn new() -> Ends {
        let (reads, asked) = mpsc::channel(bus::READS_MAX);
        let (writes, wanted) = mpsc::channel(bus::WRITES_MAX);
        Ends { reads, asked, writes, wanted }
    }
}

fn start_keeper<L: Link>(app: &mut App<L>, tasks: &mut Supervisor) -> Option<(TaskId, CancellationToken)> {
    let keeper = app.identities.keeper.take()?;
    let stop = tasks.token(Stage::Service).child_token();
    Some((tasks.spawn("identities", Stage::Service, keeper.run(stop.clone())), stop))
}

/// `metrics` has the devices by their index.
fn start_bus<L: Link>(
    app: &mut App<L>,
    tasks: &mut Supervisor,
    metrics: &Arc<Metrics>,
    observations: mpsc::Sender<Observation>,
    index: usize,
    ends: Ends,
) -> RunningBus {
    let bus = app.config.buses[index].clone();
    let devices: Vec<Device> = bus.devices.iter().map(|i| app.config.devices[i.at()].clone()).collect();
    let task = BusTask {
        devices: devices.iter().map(|device| (app.indices.of(&device.name), device.clone())).collect(),
        bus: bus.clone(),
        clock: app.world.clock.clone(),
        observations,
        reads: ends.asked,
        writes: ends.wanted,
        metrics: Arc::clone(metrics),
        bus_index: index,
        seed: app.world.seed.wrapping_add(index as u64 + 1),
        dial: (app.world.dial)(index),
    };
    let stop = tasks.token(Stage::Bus).child_token();
    let task = tasks.spawn(format!("bus {}", bus.name), Stage::Bus, task.run(stop.clone()));
    RunningBus { bus, devices, reads: ends.reads, writes: ends.writes, task, stop }
}

/// The metrics as the buses see them: devices by their index.
fn by_index<L: Link>(app: &App<L>) -> Arc<Metrics> {
    let mut devices: Vec<Arc<DeviceMetrics>> = Vec::new();
    for (device, metrics) in app.config.devices.iter().zip(&app.metrics.devices) {
        let at = app.indices.of(&device.name).at();
        if devices.len() <= at {
            devices.resize_with(at + 1, Arc::default);
        }
        devices[at] = Arc::clone(metrics);
    }
    Arc::new(Metrics {
        buses: app.metrics.buses.clone(),
        devices,
        store: Arc::clone(&app.metrics.store),
        uplink: Arc::clone(&app.metrics.uplink),
    })
}

/// Where the writes to each device go.
fn writers<L: Link>(
    app: &App<L>,
    lines: &[(usize, mpsc::Sender<WriteRequest>)],
) -> HashMap<DeviceIndex, mpsc::Sender<WriteRequest>> {
    let mut writers = HashMap::new();
    for (bus, line) in lines {
        for at in &app.config.buses[*bus].devices {
            writers.insert(app.indices.of(&app.config.devices[at.at()].name), line.clone());
        }
    }
    writers
}

fn plant_of<L: Link>(app: &App<L>, buses: &[RunningBus]) -> Plant {
    Plant {
        config: Arc::new(app.config.clone()),
        metrics: Arc::clone(&app.metrics),
        indices: app.config.devices.iter().map(|device| app.indices.of(&device.name)).collect(),
        reads: buses.iter().map(|bus| bus.reads.clone()).collect(),
        keeper: app.identities.asks.clone(),
    }
}
