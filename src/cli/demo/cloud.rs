//! The cloud of the demonstration: the house's own broker over TLS on a loopback port. It
//! asks for a client certificate and can be cut and mended.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::broker::bus::{Bus, Subscriber};
use crate::broker::core::{Act, Broker, Host, Limits, Principal, Taken};
use crate::broker::listener::{self, Doors};
use crate::broker::packet::{Connect, Message, Reason};
use crate::identity::issue::{Authority, Issued};

/// A gateway may speak below `dt/<its client id>/` and hear nothing.
pub struct Tenant;

impl Host for Tenant {
    fn admit(&self, who: &Principal, _: &Connect) -> Result<(), Reason> {
        if who.certificate.is_some() { Ok(()) } else { Err(Reason::NOT_AUTHORIZED) }
    }

    fn may(&self, _: &Principal, client: &str, act: Act<'_>) -> bool {
        let Act::Publish { topic, .. } = act else { return false };
        let own = topic.strip_prefix("dt/").and_then(|rest| rest.strip_prefix(client));
        own.is_some_and(|rest| rest.starts_with('/'))
    }

    fn take(&self, _: &Principal, _: &str, _: &Message) -> Taken {
        Taken::Pass
    }
}

pub struct Cloud {
    pub address: SocketAddr,
    bus: Bus<Tenant>,
    tls: Arc<rustls::ServerConfig>,
    serving: Option<(CancellationToken, JoinHandle<()>)>,
}

impl Cloud {
    pub async fn open(server: &Issued, clients: &Authority) -> anyhow::Result<Cloud> {
        let chain = vec![CertificateDer::from_pem_slice(server.certificate.as_bytes())?];
        let key = PrivateKeyDer::from_pem_slice(server.key.as_bytes())?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(clients.certificate.as_bytes())?)?;
        let tls = Arc::new(listener::server_config(chain, key, Some(roots))?);
        // The reader in this process takes at once; the queue only has to bear a drained backlog.
        let limits = Limits { queue_messages: 50_000, queue_bytes: 64 * 1024 * 1024, ..Limits::default() };
        let bus = Bus::new(Broker::new(Tenant, limits));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut cloud = Cloud { address, bus, tls, serving: None };
        cloud.mend().await?;
        Ok(cloud)
    }

    pub fn subscribe(&self, filter: &str) -> Subscriber<Tenant> {
        self.bus.subscribe(filter)
    }

    /// Messages that the broker could not hand to its readers.
    pub fn dropped(&self) -> u64 {
        self.bus.broker().dropped()
    }

    /// Listens, at the same address as before.
    pub async fn mend(&mut self) -> anyhow::Result<()> {
        let listener =
            TcpListener::bind(self.address).await.context("listening for the demonstration's cloud")?;
        self.address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let doors = Doors::default();
        let task = tokio::spawn(listener::run(
            self.bus.clone(),
            listener,
            Arc::clone(&self.tls),
            doors,
            stop.clone(),
        ));
        self.serving = Some((stop, task));
        Ok(())
    }

    /// Hangs up on everyone and refuses connections.
    pub async fn cut(&mut self) {
        if let Some((stop, task)) = self.serving.take() {
            stop.cancel();
            let _ = task.await;
        }
    }
}
