//! The composition root: the only file that knows every room. Config → channels → tasks.
//!
//! `build` opens the store and wires everything, nothing runs yet; `run` starts the tasks
//! (`live`), lets a reload change them (`reload`), and returns when they have stopped in order.

mod connections;
mod live;
mod reload;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use self::connections::Claimant;
use self::live::{Indices, Live};
pub use self::reload::{Relog, Source};

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bus::line::Dial;
use crate::bus::{self, WriteRequest};
use crate::channel::{Ask, IDENTITY_ASKS_MAX, IdentityAsk, Plant, RELOADS_MAX, Reload, Serials};
use crate::config::{self, Config, EnrollerKind};
use crate::control::{Control, Room};
use crate::hub::member::Now;
use crate::hub::things::{NewThing, Things};
use crate::hub::{self, Hub, Reconfigure};
use crate::identity;
use crate::identity::enroll::Enrollers;
use crate::identity::keeper::Keeper;
use crate::identity::wallet::Wallet;
use crate::metrics::Metrics;
use crate::model::device::Device;
use crate::model::ids::DeviceIndex;
use crate::model::observation::Observation;
use crate::model::row::{LayoutId, Route};
use crate::model::thing::ThingName;
use crate::model::time::{CLOCK_PLAUSIBLE_FROM, Clock};
use crate::notify::Notifier;
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
    pub dial: Box<dyn FnMut(usize) -> Dial + Send + Sync>,
    /// How the broker is reached as this identity.
    pub link: Box<dyn FnMut(Arc<config::Uplink>, Identity) -> L + Send + Sync>,
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
    identities: Identities,
    /// Things with a connection of their own; all others leave by the gateway's.
    routes: HashMap<ThingName, Route>,
    /// How the tasks name the devices.
    indices: Indices,
    serials: watch::Sender<Serials>,
    source: Option<Source>,
}

/// The things with an identity of their own.
#[derive(Default)]
struct Identities {
    wallets: HashMap<ThingName, Arc<Wallet>>,
    /// Until it runs.
    keeper: Option<Keeper<Enrollers>>,
    /// What the status socket asks of it.
    asks: Option<mpsc::Sender<IdentityAsk>>,
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
        let (topic, status_topic) = topics(&config)?;
        let mut app = App {
            store: Arc::new(store),
            metrics: Arc::new(Metrics::new(config.buses.len(), config.devices.len())),
            topic,
            status_topic,
            world,
            identities: Identities::default(),
            routes: HashMap::new(),
            indices: Indices::default(),
            serials: watch::Sender::default(),
            source: None,
            config,
        };
        app.indices.assign(&app.config.devices);
        app.identities = app.identities(&app.config)?;
        Ok(app)
    }

    /// Where another configuration comes from when a reload is asked for.
    pub fn reloads_from(&mut self, source: Source) {
        self.source = Some(source);
    }

    /// Who connects as itself under `config`, and who keeps their certificates. A thing that
    /// has a wallet keeps it, and with it its connection.
    fn identities(&self, config: &Config) -> Result<Identities, Error> {
        let claimant = Claimant::of(config, self.world.seed);
        let claimant = claimant.map(|c| Box::new(c) as Box<dyn identity::enroll::Provision>);
        let plan = match config.identity.enroller {
            EnrollerKind::None => None,
            _ => identity::plan::plan(config, &self.world.clock, claimant)?,
        };
        let Some(mut plan) = plan else { return Ok(Identities::default()) };
        let mut wallets = HashMap::new();
        for (device, kept) in plan.devices.iter().zip(&mut plan.identities) {
            let thing = &config.devices[*device].thing;
            if let Some(wallet) = self.identities.wallets.get(thing) {
                kept.wallet = Arc::clone(wallet);
            }
            wallets.insert(thing.clone(), Arc::clone(&kept.wallet));
        }
        let (asks, asked) = mpsc::channel(IDENTITY_ASKS_MAX);
        let keeper = Keeper {
            identities: plan.identities,
            enroller: Arc::new(plan.enroller),
            enrols: plan.enrols,
            policy: plan.policy,
            clock: self.world.clock.clone(),
            asks: asked,
            serials: self.serials.subscribe(),
        };
        Ok(Identities { wallets, keeper: Some(keeper), asks: Some(asks) })
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
        let (reloads, mut asked) = mpsc::channel(RELOADS_MAX);
        if let Some(source) = &mut self.source {
            source.asks(&reloads);
        }
        let live = Live::start(&mut self, &mut tasks, reloads);
        let mut live = match live {
            Ok(live) => Some(live),
            Err(e) => {
                tasks.spawn("hub", Stage::Hub, std::future::ready(Err::<(), _>(e)));
                None
            }
        };
        let first = loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break None,
                ended = tasks.unasked() => break Some(ended),
                Some(answer) = asked.recv() => {
                    let done = match &mut live {
                        Some(live) => live.reload(&mut self, &mut tasks).await,
                        None => Err(reload::Refused::Stopping),
                    };
                    reload::tell(answer, done);
                }
            }
        };
        // Whoever still asks for a reload hears that there will be none.
        drop(asked);
        // The hub ends when the last bus has dropped its sender; this one must not hold it.
        drop(live);
        let grace = self.config.gateway.stop_grace;
        let ended = tasks.stop(first, grace).await;
        if let Err(e) = self.store.run(Store::close).await {
            tracing::warn!(why = %e, "the store was not closed in order; the next start makes up for it");
        }
        let stuck = self.metrics.store.stuck.get();
        if !stuck.is_empty() {
            tracing::error!(why = %stuck, "what was read since nothing could be written is lost");
        }
        ended
    }

    /// The status socket and systemd. A socket that cannot be made costs only the status: the
    /// readings go on.
    fn services(
        &self,
        tasks: &mut Supervisor,
        plant: &watch::Receiver<Arc<Plant>>,
        hub: mpsc::Sender<Ask>,
        reloads: mpsc::Sender<Reload>,
    ) {
        let token = tasks.token(Stage::Service);
        if let Some(path) = &self.config.gateway.status_socket {
            let room = Room {
                plant: plant.clone(),
                clock: self.world.clock.clone(),
                hub,
                reloads: self.source.is_some().then_some(reloads),
                started: Instant::now(),
            };
            match Control::bind(path, room) {
                Ok(control) => {
                    tasks.spawn("status", Stage::Service, control.run(token.clone()));
                }
                Err(e) => tracing::warn!(socket = %path.display(), why = %e, "no status socket"),
            }
        }
        let notifier = Notifier::new(plant.clone());
        tasks.spawn("systemd", Stage::Service, notifier.run(token));
    }

    fn hub(
        &self,
        observations: mpsc::Receiver<Observation>,
        asks: mpsc::Receiver<Ask>,
        changes: mpsc::Receiver<Reconfigure>,
        writes: HashMap<DeviceIndex, mpsc::Sender<WriteRequest>>,
    ) -> Result<Hub, store::Error> {
        // At the start the indices are the places.
        let devices = self.layouts(&self.config)?.into_iter();
        let devices = devices.map(|(_, device, layout, route)| (device, layout, route));
        let started = Instant::now();
        let now = Now { mono: Duration::ZERO, wall: self.world.clock.now() };
        let things = Things::new(
            self.config.shadow.clone(),
            self.config.gateway.name.as_str(),
            self.world.seed as u32,
            self.things(),
            self.store.things()?,
            now,
        );
        self.serials.send_replace(things.serials());
        Ok(Hub {
            things,
            serials: self.serials.clone(),
            asks,
            changes,
            writes,
            started,
            state: hub::apply::State::new(
                self.config.gateway.name.clone(),
                self.store.boot().to_string(),
                self.config.uplink.payload_max,
                devices,
            ),
            gateway: self.config.gateway.name.clone(),
            store: Arc::clone(&self.store),
            durability: self.config.store.durability,
            observations,
            clock: self.world.clock.clone(),
            metrics: Arc::clone(&self.metrics),
        })
    }

    /// What the rows of each device look like, and where they leave.
    fn layouts(&self, config: &Config) -> Result<Vec<(DeviceIndex, Device, LayoutId, Route)>, store::Error> {
        let of = |device: &Device| {
            let layout = self.store.layout(&device.name, &hub::apply::layout(device))?;
            Ok((self.indices.of(&device.name), device.clone(), layout, self.route(device)))
        };
        config.devices.iter().map(of).collect()
    }

    fn route(&self, device: &Device) -> Route {
        self.routes.get(&device.thing).copied().unwrap_or(Route::GATEWAY)
    }

    /// Which connection the rows of each device leave by.
    fn find_routes(&mut self) -> Result<(), store::Error> {
        let gone = |thing: &&ThingName| !self.identities.wallets.contains_key(*thing);
        for thing in self.routes.keys().filter(gone) {
            self.store.leave(self.routes[thing]);
        }
        self.routes.clear();
        for thing in self.identities.wallets.keys() {
            self.routes.insert(thing.clone(), self.store.route(thing.as_str())?);
        }
        for device in &self.config.devices {
            self.store.set_route(&device.name, self.route(device));
        }
        Ok(())
    }

    /// Returns how many rows lost the connection that they were meant for.
    fn adopt_orphans(&self) -> Result<usize, store::Error> {
        let orphans = self.store.adopt_orphans()?;
        if orphans > 0 {
            tracing::info!(
                rows = orphans,
                "rows of things that lost their own connection go by the gateway's"
            );
        }
        Ok(orphans)
    }

    /// The devices, and the gateway itself if its name can be that of a thing.
    fn things(&self) -> Vec<NewThing> {
        let gateway = ThingName::parse(self.config.gateway.name.as_str()).ok();
        let gateway = gateway.filter(|name| self.config.devices.iter().all(|d| d.thing != *name));
        let gateway = gateway.map(|name| NewThing { name, route: Route::GATEWAY, device: None });
        let devices = self.config.devices.iter().map(|device| NewThing {
            name: device.thing.clone(),
            route: self.route(device),
            device: Some((self.indices.of(&device.name), device.clone())),
        });
        devices.chain(gateway).collect()
    }
}

/// Those of the readings and of the status.
fn topics(config: &Config) -> Result<(Template, String), TemplateError> {
    let topic = Template::parse(&config.uplink.topic, &config.gateway.name)?;
    let status = Template::parse(&config.uplink.status_topic, &config.gateway.name)?;
    // The status belongs to the gateway itself; should its template name a device, the gateway
    // stands in for it.
    Ok((topic, status.render(&config.gateway.name.as_str().into())))
}
