//! The connections: that of the gateway, and one for each thing with an identity of its own.
//!
//! What a connection subscribes to follows from who its things are: the requests for their
//! shadows where fieldgate serves them, the answers of the cloud where they are mirrored, and
//! their commands.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::App;
use crate::channel::Ask;
use crate::config::{self, Dialect, Security, Tls};
use crate::identity::enroll::{EnrollError, EnrollRequest, Enrolled, Enrolling, Provision};
use crate::identity::subject::Subject;
use crate::identity::wallet::Wallet;
use crate::model::device::Device;
use crate::model::row::Route;
use crate::model::thing::ThingName;
use crate::supervise::{Stage, Supervisor};
use crate::uplink::Uplink;
use crate::uplink::claim::{self, Talking};
use crate::uplink::link::{Credential, Identity, Link, MqttLink, Opening};
use crate::uplink::pacer::Pacer;
use crate::wire::provisioning::{ProvisionError, Request};
use crate::wire::shadow_topics::Topics;
use crate::wire::topics::Template;

/// A thing that connects as itself.
pub(super) struct Own {
    /// Its place among the devices.
    pub device: usize,
    pub wallet: Arc<Wallet>,
}

impl<L: Link> App<L> {
    /// Starts every connection. `routes` are those of the devices.
    pub(super) fn connect(mut self, tasks: &mut Supervisor, asks: mpsc::Sender<Ask>, routes: &[Route]) {
        let pacer = Arc::new(Pacer::new(self.config.uplink.connects_per_second));
        let own = std::mem::take(&mut self.own);
        let of_things = Arc::new(self.config.uplink.of_things(&self.config.thing));
        for (own, n) in own.into_iter().zip(1..) {
            let device = &self.config.devices[own.device];
            let (gateway, thing) = (&self.config.gateway.name, &device.thing);
            let topic = Template::of_thing(&self.config.thing.topic, gateway, thing);
            let Ok(topic) = topic else { continue };
            let status_topic = Template::of_thing(&self.config.thing.status_topic, gateway, thing).ok();
            let config = Arc::clone(&of_things);
            let identity = Identity {
                client_id: thing.as_str().to_owned(),
                login: None,
                credential: Credential::Wallet(own.wallet),
            };
            let uplink = Uplink {
                grace: self.config.gateway.stop_grace / 4,
                pacer: Arc::clone(&pacer),
                link: (self.world.link)(Arc::clone(&config), identity),
                config,
                name: thing.as_str().into(),
                gateway: gateway.clone(),
                route: routes[own.device],
                topic,
                status_topic: status_topic.map(|t| t.render(&device.name)),
                filters: self.filters(routes, routes[own.device]),
                asks: Some(asks.clone()),
                store: Arc::clone(&self.store),
                clock: self.world.clock.clone(),
                metrics: Arc::clone(&self.metrics),
                seed: self.world.seed.wrapping_add(n),
            };
            let token = tasks.token(Stage::Uplink);
            tasks.spawn(format!("uplink {thing}"), Stage::Uplink, uplink.run(token));
        }
        let filters = self.filters(routes, Route::GATEWAY);
        let config = Arc::new(self.config.uplink);
        let identity = Identity::gateway(&config);
        let uplink = Uplink {
            grace: self.config.gateway.stop_grace / 4,
            pacer,
            link: (self.world.link)(Arc::clone(&config), identity),
            config,
            name: self.config.gateway.name.as_str().into(),
            gateway: self.config.gateway.name,
            route: Route::GATEWAY,
            topic: self.topic,
            status_topic: Some(self.status_topic),
            filters,
            asks: Some(asks),
            store: self.store,
            clock: self.world.clock,
            metrics: self.metrics,
            seed: self.world.seed,
        };
        let token = tasks.token(Stage::Uplink);
        tasks.spawn("uplink", Stage::Uplink, uplink.run(token));
    }

    fn filters(&self, routes: &[Route], route: Route) -> Vec<String> {
        let shadow = &self.config.shadow;
        let here = |(_, r): &(&Device, &Route)| **r == route;
        let devices: Vec<&Device> =
            self.config.devices.iter().zip(routes).filter(here).map(|(device, _)| device).collect();
        let mut things: Vec<&str> = devices.iter().map(|d| d.thing.as_str()).collect();
        let name = self.config.gateway.name.as_str();
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
