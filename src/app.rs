//! The composition root: the only file that knows every room. Config → channels → tasks.
//!
//! `build` opens the store and wires everything, nothing runs yet; `run` starts the tasks and
//! returns when they have stopped in order.

mod connections;

use std::sync::Arc;
use std::time::Duration;

use self::connections::{Claimant, Own};

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bus::line::Dial;
use crate::bus::{self, BusTask, ReadRequest, WriteRequest};
use crate::channel::{ASKS_MAX, Ask, IDENTITY_ASKS_MAX, IdentityAsk, Serials};
use crate::config::{self, Config, EnrollerKind};
use crate::control::{Control, Room};
use crate::hub::member::Now;
use crate::hub::things::{NewThing, Things};
use crate::hub::{self, Hub};
use crate::identity;
use crate::identity::enroll::Enrollers;
use crate::identity::keeper::Keeper;
use crate::metrics::Metrics;
use crate::model::ids::DeviceIndex;
use crate::model::observation::Observation;
use crate::model::row::Route;
use crate::model::thing::ThingName;
use crate::model::time::{CLOCK_PLAUSIBLE_FROM, Clock};
use crate::notify::Notifier;
use crate::notify::progress::Expectations;
use crate::store::{self, Disk, Store};
use crate::supervise::{Ended, Stage, Supervisor};
use crate::uplink::link::{Identity, Link, MqttLink};
use crate::wire::topics::{Template, TemplateError};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("a topic of [uplink]: {0}")]
    Topic(#[from] TemplateError),
    #[error(transparent)]
    Identity(#[from] identity::plan::Error),
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
    /// How the broker is reached as this identity.
    pub link: Box<dyn FnMut(Arc<config::Uplink>, Identity) -> L + Send>,
    pub disk: Disk,
}

impl World<MqttLink> {
    pub fn real() -> World<MqttLink> {
        World {
            clock: Clock::System,
            seed: fastrand::u64(..),
            observations_max: bus::OBSERVATIONS_MAX,
            dial: Box::new(|_| Dial::Transport),
            link: Box::new(MqttLink::new),
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
    own: Vec<Own>,
    keeper: Option<Keeper<Enrollers>>,
    /// What the status socket asks of the keeper.
    to_keeper: Option<mpsc::Sender<IdentityAsk>>,
    serials: watch::Sender<Serials>,
}

impl App<MqttLink> {
    pub fn build(config: Config) -> Result<App, Error> {
        App::build_in(config, World::real())
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
        let mut app = App {
            config,
            store: Arc::new(store),
            metrics,
            topic,
            status_topic,
            world,
            own: Vec::new(),
            keeper: None,
            to_keeper: None,
            serials: watch::Sender::default(),
        };
        app.identities()?;
        Ok(app)
    }

    /// Who connects as itself, and who keeps their certificates.
    fn identities(&mut self) -> Result<(), Error> {
        if self.config.identity.enroller == EnrollerKind::None {
            return Ok(());
        }
        let claimant = Claimant::of(&self.config, self.world.seed);
        let claimant = claimant.map(|c| Box::new(c) as Box<dyn identity::enroll::Provision>);
        let plan = identity::plan::plan(&self.config, &self.world.clock, claimant)?;
        let Some(plan) = plan else { return Ok(()) };
        let wallets = plan.identities.iter().map(|kept| Arc::clone(&kept.wallet));
        self.own = plan
            .devices
            .iter()
            .zip(wallets)
            .map(|(device, wallet)| Own { device: *device, wallet })
            .collect();
        let (to_keeper, asks) = mpsc::channel(IDENTITY_ASKS_MAX);
        self.to_keeper = Some(to_keeper);
        self.keeper = Some(Keeper {
            identities: plan.identities,
            enroller: Arc::new(plan.enroller),
            enrols: plan.enrols,
            policy: plan.policy,
            clock: self.world.clock.clone(),
            asks,
            serials: self.serials.subscribe(),
        });
        Ok(())
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
        let (asks, asked) = mpsc::channel(ASKS_MAX);
        let (lines, written): (Vec<_>, Vec<_>) =
            self.config.buses.iter().map(|_| mpsc::channel::<WriteRequest>(bus::WRITES_MAX)).unzip();
        let routes = self.routes();
        let hub = routes.as_ref().map_err(ToString::to_string);
        let hub = hub.and_then(|routes| self.hub(observed, asked, &lines, routes).map_err(|e| e.to_string()));
        match hub {
            Ok(hub) => tasks.spawn("hub", Stage::Hub, hub.run()),
            Err(e) => tasks.spawn("hub", Stage::Hub, std::future::ready(Err::<(), _>(e))),
        }
        let mut readers = Vec::new();
        for (index, writes) in written.into_iter().enumerate() {
            let (questions, reads) = mpsc::channel::<ReadRequest>(bus::READS_MAX);
            readers.push(questions);
            let task = self.bus(index, observations.clone(), reads, writes);
            let name = format!("bus {}", task.bus.name);
            let token = tasks.token(Stage::Bus);
            tasks.spawn(name, Stage::Bus, task.run(token));
        }
        // The hub ends when the last bus has dropped its sender; this one must not hold it.
        // Without any bus, as installed, it is all that keeps the hub.
        if self.config.buses.is_empty() {
            let token = tasks.token(Stage::Bus);
            tasks.spawn("no bus", Stage::Bus, async move {
                token.cancelled().await;
                drop(observations);
                Ok::<_, std::convert::Infallible>(())
            });
        } else {
            drop(observations);
        }
        self.services(&mut tasks, readers, asks.clone());
        let (grace, store) = (self.config.gateway.stop_grace, Arc::clone(&self.store));
        if let Some(keeper) = self.keeper.take() {
            let token = tasks.token(Stage::Service);
            tasks.spawn("identities", Stage::Service, keeper.run(token));
        }
        if let Ok(routes) = routes {
            self.connect(&mut tasks, asks, &routes);
        }
        let ended = tasks.run(stop, grace).await;
        if let Err(e) = store.run(Store::close).await {
            tracing::warn!(why = %e, "the store was not closed in order; the next start makes up for it");
        }
        ended
    }

    /// The status socket and systemd. A socket that cannot be made costs only the status: the
    /// readings go on.
    fn services(
        &self,
        tasks: &mut Supervisor,
        buses: Vec<mpsc::Sender<ReadRequest>>,
        hub: mpsc::Sender<Ask>,
    ) {
        let token = tasks.token(Stage::Service);
        if let Some(path) = &self.config.gateway.status_socket {
            let room = Room {
                config: Arc::new(self.config.clone()),
                metrics: Arc::clone(&self.metrics),
                clock: self.world.clock.clone(),
                buses,
                hub,
                keeper: self.to_keeper.clone(),
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

    fn hub(
        &self,
        observations: mpsc::Receiver<Observation>,
        asks: mpsc::Receiver<Ask>,
        lines: &[mpsc::Sender<WriteRequest>],
        routes: &[Route],
    ) -> Result<Hub, store::Error> {
        let devices = self.config.devices.iter().zip(routes).map(|(device, route)| {
            let layout = self.store.layout(&device.name, &hub::apply::layout(device))?;
            Ok((device.clone(), layout, *route))
        });
        let devices = devices.collect::<Result<Vec<_>, store::Error>>()?;
        let started = Instant::now();
        let now = Now { mono: Duration::ZERO, wall: self.world.clock.now() };
        let line_of = |i: usize| {
            let index = DeviceIndex(u32::try_from(i).ok()?);
            let bus = self.config.buses.iter().position(|bus| bus.devices.contains(&index))?;
            lines.get(bus).cloned()
        };
        let things = Things::new(
            self.config.shadow.clone(),
            self.config.gateway.name.as_str(),
            self.world.seed as u32,
            self.things(routes),
            self.store.things()?,
            now,
        );
        self.serials.send_replace(things.serials());
        Ok(Hub {
            things,
            serials: self.serials.clone(),
            asks,
            writes: (0..self.config.devices.len()).map_while(line_of).collect(),
            started,
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

    /// Which connection the rows of each device leave by.
    fn routes(&self) -> Result<Vec<Route>, store::Error> {
        let mut routes = vec![Route::GATEWAY; self.config.devices.len()];
        for own in &self.own {
            let device = &self.config.devices[own.device];
            routes[own.device] = self.store.route(device.thing.as_str())?;
        }
        for (device, route) in self.config.devices.iter().zip(&routes) {
            self.store.set_route(&device.name, *route);
        }
        let orphans = self.store.adopt_orphans()?;
        if orphans > 0 {
            tracing::info!(
                rows = orphans,
                "rows of things that lost their own connection go by the gateway's"
            );
        }
        Ok(routes)
    }

    /// The devices, and the gateway itself if its name can be that of a thing.
    fn things(&self, routes: &[Route]) -> Vec<NewThing> {
        let gateway = ThingName::parse(self.config.gateway.name.as_str()).ok();
        let gateway = gateway.filter(|name| self.config.devices.iter().all(|d| d.thing != *name));
        let gateway = gateway.map(|name| NewThing { name, route: Route::GATEWAY, device: None });
        let devices = self.config.devices.iter().zip(routes).zip(0..).map(|((device, route), i)| NewThing {
            name: device.thing.clone(),
            route: *route,
            device: Some((DeviceIndex(i), device.clone())),
        });
        devices.chain(gateway).collect()
    }

    fn bus(
        &mut self,
        index: usize,
        observations: mpsc::Sender<Observation>,
        reads: mpsc::Receiver<ReadRequest>,
        writes: mpsc::Receiver<WriteRequest>,
    ) -> BusTask {
        let bus = self.config.buses[index].clone();
        let device = |i: &DeviceIndex| (*i, self.config.devices[i.at()].clone());
        BusTask {
            devices: bus.devices.iter().map(device).collect(),
            bus,
            clock: self.world.clock.clone(),
            observations,
            reads,
            writes,
            metrics: Arc::clone(&self.metrics),
            bus_index: index,
            seed: self.world.seed.wrapping_add(index as u64 + 1),
            dial: (self.world.dial)(index),
        }
    }
}
