//! The composition root: the only file that knows every room. Config → channels → tasks.
//!
//! `build` opens the store and wires everything, nothing runs yet; `run` starts the tasks and
//! returns when they have stopped in order.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bus::line::Dial;
use crate::bus::{self, BusTask, ReadRequest};
use crate::config::Config;
use crate::control::{Control, Room};
use crate::hub::{self, Hub};
use crate::metrics::Metrics;
use crate::model::ids::DeviceIndex;
use crate::model::observation::Observation;
use crate::model::row::Route;
use crate::model::time::{CLOCK_PLAUSIBLE_FROM, Clock};
use crate::notify::Notifier;
use crate::notify::progress::Expectations;
use crate::store::{self, Disk, Store};
use crate::supervise::{Ended, Stage, Supervisor};
use crate::uplink::Uplink;
use crate::uplink::link::{Link, MqttLink};
use crate::wire::topics::{Template, TemplateError};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("a topic of [uplink]: {0}")]
    Topic(#[from] TemplateError),
}

/// What the outside world is made of. The simulation brings its own.
pub struct World<L> {
    pub clock: Clock,
    /// Of every jitter.
    pub seed: u64,
    /// Observations that may wait for the hub.
    pub observations_max: usize,
    /// How the bus at this place of the configuration is reached.
    pub dial: Box<dyn FnMut(usize) -> Dial + Send>,
    pub link: L,
    pub disk: Disk,
}

impl World<MqttLink> {
    pub fn real(config: &Config) -> World<MqttLink> {
        World {
            clock: Clock::System,
            seed: fastrand::u64(..),
            observations_max: bus::OBSERVATIONS_MAX,
            dial: Box::new(|_| Dial::Transport),
            link: MqttLink::gateway(Arc::new(config.uplink.clone())),
            disk: Disk::Thread,
        }
    }
}

pub struct App<L: Link = MqttLink> {
    config: Config,
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    topic: Template,
    status_topic: String,
    world: World<L>,
}

impl App<MqttLink> {
    pub fn build(config: Config) -> Result<App, Error> {
        let world = World::real(&config);
        App::build_in(config, world)
    }
}

impl<L: Link> App<L> {
    pub fn build_in(config: Config, world: World<L>) -> Result<App<L>, Error> {
        let now = world.clock.now();
        if now < CLOCK_PLAUSIBLE_FROM {
            tracing::warn!(%now, "the clock is not set; readings carry its time until it is");
        }
        let store = Store::open(&config.store.path, config.store.bytes_max, config.store.age_max, now)?
            .on(world.disk);
        let metrics = Arc::new(Metrics::new(config.buses.len(), config.devices.len()));
        let topic = Template::parse(&config.uplink.topic, &config.gateway.name)?;
        let status = Template::parse(&config.uplink.status_topic, &config.gateway.name)?;
        // The status belongs to the gateway itself; should its template name a device, the
        // gateway stands in for it.
        let status_topic = status.render(&config.gateway.name.as_str().into());
        Ok(App { config, store: Arc::new(store), metrics, topic, status_topic, world })
    }

    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    pub fn store(&self) -> Arc<Store> {
        Arc::clone(&self.store)
    }

    /// Runs until `stop`, or until a task ends that should not have.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Ended> {
        let mut tasks = Supervisor::new();
        let (observations, observed) = mpsc::channel(self.world.observations_max);
        match self.hub(observed) {
            Ok(hub) => tasks.spawn("hub", Stage::Hub, hub.run()),
            Err(e) => tasks.spawn("hub", Stage::Hub, std::future::ready(Err::<(), _>(e))),
        }
        let mut readers = Vec::new();
        for index in 0..self.config.buses.len() {
            let (asks, reads) = mpsc::channel::<ReadRequest>(bus::READS_MAX);
            readers.push(asks);
            let task = self.bus(index, observations.clone(), reads);
            let name = format!("bus {}", task.bus.name);
            let token = tasks.token(Stage::Bus);
            tasks.spawn(name, Stage::Bus, task.run(token));
        }
        // The hub ends when the last bus has dropped its sender; this one must not hold it.
        drop(observations);
        self.services(&mut tasks, readers);
        let (grace, store) = (self.config.gateway.stop_grace, Arc::clone(&self.store));
        let uplink = self.uplink();
        let token = tasks.token(Stage::Uplink);
        tasks.spawn("uplink", Stage::Uplink, uplink.run(token));
        let ended = tasks.run(stop, grace).await;
        if let Err(e) = store.run(Store::close).await {
            tracing::warn!(why = %e, "the store was not closed in order; the next start makes up for it");
        }
        ended
    }

    /// The status socket and systemd. A socket that cannot be made costs only the status: the
    /// readings go on.
    fn services(&self, tasks: &mut Supervisor, buses: Vec<mpsc::Sender<ReadRequest>>) {
        let token = tasks.token(Stage::Service);
        if let Some(path) = &self.config.gateway.status_socket {
            let room = Room {
                config: Arc::new(self.config.clone()),
                metrics: Arc::clone(&self.metrics),
                clock: self.world.clock.clone(),
                buses,
                started: Instant::now(),
            };
            match Control::bind(path, room) {
                Ok(control) => tasks.spawn("status", Stage::Service, control.run(token.clone())),
                Err(e) => tracing::warn!(socket = %path.display(), why = %e, "no status socket"),
            }
        }
        let expected = Expectations::new(&self.config);
        let notifier = Notifier::new(Arc::clone(&self.metrics), expected);
        tasks.spawn("systemd", Stage::Service, notifier.run(token));
    }

    fn hub(&self, observations: mpsc::Receiver<Observation>) -> Result<Hub, store::Error> {
        let devices = self.config.devices.iter().map(|device| {
            let layout = self.store.layout(&device.name, &hub::apply::layout(device))?;
            Ok((device.clone(), layout, Route::GATEWAY))
        });
        let devices = devices.collect::<Result<Vec<_>, store::Error>>()?;
        Ok(Hub {
            state: hub::apply::State::new(
                self.config.gateway.name.clone(),
                self.store.boot().to_string(),
                self.config.uplink.payload_max,
                devices.into_iter(),
            ),
            gateway: self.config.gateway.name.clone(),
            store: Arc::clone(&self.store),
            durability: self.config.store.durability,
            observations,
            clock: self.world.clock.clone(),
            metrics: Arc::clone(&self.metrics),
        })
    }

    fn bus(
        &mut self,
        index: usize,
        observations: mpsc::Sender<Observation>,
        reads: mpsc::Receiver<ReadRequest>,
    ) -> BusTask {
        let bus = self.config.buses[index].clone();
        let device = |i: &DeviceIndex| (*i, self.config.devices[i.at()].clone());
        BusTask {
            devices: bus.devices.iter().map(device).collect(),
            bus,
            clock: self.world.clock.clone(),
            observations,
            reads,
            metrics: Arc::clone(&self.metrics),
            bus_index: index,
            seed: self.world.seed.wrapping_add(index as u64 + 1),
            dial: (self.world.dial)(index),
        }
    }

    fn uplink(self) -> Uplink<L> {
        Uplink {
            grace: self.config.gateway.stop_grace / 4,
            config: Arc::new(self.config.uplink),
            gateway: self.config.gateway.name,
            topic: self.topic,
            status_topic: self.status_topic,
            store: self.store,
            link: self.world.link,
            clock: self.world.clock,
            metrics: self.metrics,
            seed: self.world.seed,
        }
    }
}
