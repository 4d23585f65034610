//! The connections: that of the gateway, and one for each thing with an identity of its own.
//!
//! What a connection subscribes to follows from who its things are: the requests for their
//! shadows where fieldgate serves them, the answers of the cloud where they are mirrored, and
//! their commands.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::App;
use crate::channel::Ask;
use crate::config::{self, Config, Dialect, Security, Tls};
use crate::identity::enroll::{EnrollError, EnrollRequest, Enrolled, Enrolling, Provision};
use crate::identity::subject::Subject;
use crate::model::device::Device;
use crate::model::row::Route;
use crate::model::thing::ThingName;
use crate::supervise::{Stage, Supervisor, TaskId};
use crate::uplink::Uplink;
use crate::uplink::claim::{self, Talking};
use crate::uplink::link::{Credential, Identity, Link, MqttLink, Opening};
use crate::uplink::pacer::Pacer;
use crate::wire::provisioning::{ProvisionError, Request};
use crate::wire::shadow_topics::Topics;
use crate::wire::topics::Template;

/// A connection that runs.
struct Running {
    /// `None`: the gateway's.
    thing: Option<ThingName>,
    route: Route,
    filters: watch::Sender<Vec<String>>,
    task: TaskId,
    /// Its own.
    stop: CancellationToken,
}

/// All connections, and what they need.
pub(super) struct Connections {
    asks: mpsc::Sender<Ask>,
    pacer: Arc<Pacer>,
    running: Vec<Running>,
    /// Connections of things so far, for their jitter.
    started: u64,
}

impl Connections {
    /// Starts every connection.
    pub fn start<L: Link>(app: &mut App<L>, tasks: &mut Supervisor, asks: mpsc::Sender<Ask>) -> Connections {
        let pacer = Arc::new(Pacer::new(app.config.uplink.connects_per_second));
        let mut all = Connections { asks, pacer, running: Vec::new(), started: 0 };
        all.start_things(app, tasks);
        all.start_gateway(app, tasks);
        all
    }

    /// Those that do not run yet.
    fn start_things<L: Link>(&mut self, app: &mut App<L>, tasks: &mut Supervisor) {
        let of_things = Arc::new(app.config.uplink.of_things(&app.config.thing));
        for at in 0..app.config.devices.len() {
            let device = &app.config.devices[at];
            let (gateway, thing) = (&app.config.gateway.name, &device.thing);
            let Some(wallet) = app.identities.wallets.get(thing) else { continue };
            if self.running.iter().any(|running| running.thing.as_ref() == Some(thing)) {
                continue;
            }
            let topic = Template::of_thing(&app.config.thing.topic, gateway, thing);
            let Ok(topic) = topic else { continue };
            let status_topic = Template::of_thing(&app.config.thing.status_topic, gateway, thing).ok();
            let identity = Identity {
                client_id: thing.as_str().to_owned(),
                login: None,
                credential: Credential::Wallet(Arc::clone(wallet)),
            };
            self.started += 1;
            let uplink = Wanted {
                thing: Some(thing.clone()),
                config: Arc::clone(&of_things),
                identity,
                name: thing.as_str().into(),
                route: app.route(device),
                topic,
                status_topic: status_topic.map(|t| t.render(&device.name)),
                seed: app.world.seed.wrapping_add(self.started),
            };
            self.spawn(app, tasks, format!("uplink {}", uplink.name), uplink);
        }
    }

    fn start_gateway<L: Link>(&mut self, app: &mut App<L>, tasks: &mut Supervisor) {
        let config = Arc::new(app.config.uplink.clone());
        let uplink = Wanted {
            thing: None,
            identity: Identity::gateway(&config),
            config,
            name: app.config.gateway.name.as_str().into(),
            route: Route::GATEWAY,
            topic: app.topic.clone(),
            status_topic: Some(app.status_topic.clone()),
            seed: app.world.seed,
        };
        self.spawn(app, tasks, "uplink".to_owned(), uplink);
    }

    fn spawn<L: Link>(&mut self, app: &mut App<L>, tasks: &mut Supervisor, task: String, wanted: Wanted) {
        let route = wanted.route;
        let (filters, heard) = watch::channel(app.filters(route));
        let uplink = Uplink {
            grace: app.config.gateway.stop_grace / 4,
            pacer: Arc::clone(&self.pacer),
            link: (app.world.link)(Arc::clone(&wanted.config), wanted.identity),
            config: wanted.config,
            name: wanted.name,
            gateway: app.config.gateway.name.clone(),
            route,
            topic: wanted.topic,
            status_topic: wanted.status_topic,
            filters: heard,
            asks: Some(self.asks.clone()),
            store: Arc::clone(&app.store),
            clock: app.world.clock.clone(),
            metrics: Arc::clone(&app.metrics),
            seed: wanted.seed,
        };
        let stop = tasks.token(Stage::Uplink).child_token();
        let task = tasks.spawn(task, Stage::Uplink, uplink.run(stop.clone()));
        self.running.push(Running { thing: wanted.thing, route, filters, task, stop });
    }

    /// Ends the connections of things that are gone.
    pub async fn retire<L: Link>(&mut self, app: &App<L>, tasks: &mut Supervisor) {
        let stays = |running: &Running| match &running.thing {
            Some(thing) => app.identities.wallets.contains_key(thing),
            None => true,
        };
        let (stay, go): (Vec<_>, Vec<_>) = self.running.drain(..).partition(stays);
        self.running = stay;
        go.iter().for_each(|old| old.stop.cancel());
        let until = Instant::now() + app.config.gateway.stop_grace;
        for old in go {
            tasks.retire(old.task, &old.stop, until).await;
        }
    }

    /// The configuration of `app` is another one.
    pub fn refresh<L: Link>(&mut self, app: &mut App<L>, tasks: &mut Supervisor) {
        self.start_things(app, tasks);
        for running in &self.running {
            let filters = app.filters(running.route);
            running.filters.send_if_modified(|old| {
                let is_new = *old != filters;
                *old = filters;
                is_new
            });
        }
    }

    /// Ends the gateway's connection in order and starts another by the new configuration.
    pub async fn replace_gateway<L: Link>(&mut self, app: &mut App<L>, tasks: &mut Supervisor) {
        let gateway = self.running.iter().position(|running| running.thing.is_none());
        if let Some(old) = gateway.map(|at| self.running.remove(at)) {
            let until = Instant::now() + app.config.gateway.stop_grace;
            tasks.retire(old.task, &old.stop, until).await;
        }
        self.start_gateway(app, tasks);
    }
}

/// What makes one connection another one.
struct Wanted {
    thing: Option<ThingName>,
    config: Arc<config::Uplink>,
    identity: Identity,
    name: Arc<str>,
    route: Route,
    topic: Template,
    status_topic: Option<String>,
    seed: u64,
}

impl<L: Link> App<L> {
    pub(super) fn filters(&self, route: Route) -> Vec<String> {
        let Config { shadow, devices, gateway, .. } = &self.config;
        let devices: Vec<&Device> = devices.iter().filter(|device| self.route(device) == route).collect();
        let mut things: Vec<&str> = devices.iter().map(|d| d.thing.as_str()).collect();
        let name = gateway.name.as_str();
        if route == Route::GATEWAY && ThingName::parse(name).is_ok() && !things.contains(&name) {
            things.push(name);
        }
        let commands: Vec<&str> =
            devices.iter().filter(|d| !d.commands.is_empty()).map(|d| d.thing.as_str()).collect();
        let ends: &[&str] = match shadow.dialect {
            Dialect::None => &[],
            Dialect::Plain => &["+"],
            Dialect::Aws => &["+/accepted", "+/rejected"],
        };
        let things = if ends.is_empty() { Vec::new() } else { things };
        Topics::new(&shadow.prefix, &shadow.command_topic).filters(&things, ends, &commands)
    }
}

/// Shows the claim to the cloud and brings back an identity.
pub(super) struct Claimant {
    config: Arc<config::Uplink>,
    claim: config::Claim,
    seed: u64,
}

impl Claimant {
    /// `None`: the configuration has no claim.
    pub fn of(config: &config::Config, seed: u64) -> Option<Claimant> {
        let claim = config.identity.claim.clone()?;
        let Security::Tls(tls) = &config.uplink.security else { return None };
        let tls =
            Tls { certificate: Some(claim.certificate.clone()), key: Some(claim.key.clone()), ..tls.clone() };
        let uplink = config::Uplink {
            host: claim.host.clone(),
            port: claim.port,
            security: Security::Tls(tls),
            login: None,
            websocket: None,
            ..config.uplink.clone()
        };
        Some(Claimant { config: Arc::new(uplink), claim, seed })
    }

    async fn run(&self, request: &EnrollRequest) -> Result<Enrolled, EnrollError> {
        let Security::Tls(tls) = &self.config.security else {
            return Err(EnrollError::Fatal("a claim needs TLS".into()));
        };
        let identity = Identity {
            // Many share a claim, and a client id is for one.
            client_id: format!("claim-{}", request.subject.thing),
            login: None,
            credential: Credential::Files(tls.clone()),
        };
        let mut link = MqttLink::new(Arc::clone(&self.config), identity);
        // Nothing of it has to be kept, so the session is a clean one.
        let opening = Opening { will: None, receives: false };
        let session = tokio::time::timeout(CONNECT_MAX, link.connect(opening)).await;
        let session = session
            .map_err(|_| EnrollError::Retryable("no connection with the claim".into()))?
            .map_err(|e| EnrollError::Retryable(format!("connecting with the claim: {e}")))?;
        let ask = Request {
            template: self.claim.template.clone(),
            csr_pem: self.claim.csr.then(|| request.csr.clone()),
            parameters: self
                .claim
                .parameters
                .iter()
                .map(|(name, value)| (name.clone(), filled(value, &request.subject)))
                .collect(),
            allow_cloud_keys: self.claim.cloud_keys,
        };
        let provisioned = claim::provision(&mut Talking::new(session), ask, self.seed).await;
        let provisioned = provisioned.map_err(|e| match e {
            ProvisionError::Retryable { why } => EnrollError::Retryable(why),
            ProvisionError::Fatal { why } => EnrollError::Fatal(why),
        })?;
        Ok(Enrolled {
            chain: provisioned.certificate_pem,
            key: provisioned.private_key_pem,
            thing_name: Some(provisioned.thing_name.as_str().to_owned()),
        })
    }
}

impl Provision for Claimant {
    fn provision<'a>(&'a self, request: &'a EnrollRequest) -> Enrolling<'a> {
        Box::pin(self.run(request)) as std::pin::Pin<Box<dyn Future<Output = _> + Send + 'a>>
    }
}

/// A parameter of the template with what it names of the device.
fn filled(value: &str, subject: &Subject) -> String {
    value
        .replace("{thing}", &subject.thing)
        .replace("{gateway}", &subject.gateway)
        .replace("{bus}", &subject.bus)
        .replace("{unit_id}", &subject.unit_id.map_or_else(String::new, |unit| unit.to_string()))
        .replace("{serial}", subject.serial.as_deref().unwrap_or_default())
}

/// TCP, TLS and CONNACK of a claim.
const CONNECT_MAX: Duration = Duration::from_secs(60);
