//! What the MQTT client dials: the broker, or the near end of a WebSocket to it.

use std::sync::Arc;

use rumqttc::Transport;
use rustls::ClientConfig;
#[cfg(feature = "websocket")]
use tokio::time::timeout;

use super::Failed;
#[cfg(feature = "websocket")]
use super::{keys, websocket};
use crate::config;

pub struct Way {
    pub host: String,
    pub port: u16,
    pub transport: Transport,
    /// Has to live as long as the connection.
    pub holds: Option<Box<dyn Send + Sync>>,
}

/// Opens ways to one broker.
pub struct Ways {
    config: Arc<config::Uplink>,
    /// What signs the URL, if it is signed.
    #[cfg(feature = "websocket")]
    keys: Option<keys::Keyring>,
}

impl Ways {
    pub fn new(config: Arc<config::Uplink>) -> Ways {
        #[cfg(feature = "websocket")]
        let keys = {
            let sigv4 = config.websocket.as_ref().and_then(|w| w.sigv4.as_ref());
            sigv4.map(|s| keys::Keyring::new(s.source.clone()))
        };
        Ways {
            config,
            #[cfg(feature = "websocket")]
            keys,
        }
    }

    /// `tls` as `None`: in the clear.
    pub async fn open(&mut self, tls: Option<Arc<ClientConfig>>) -> Result<Way, Failed> {
        #[cfg(feature = "websocket")]
        if self.config.websocket.is_some() {
            return self.websocket(tls).await;
        }
        let transport = match tls {
            None => Transport::Tcp,
            Some(tls) => Transport::tls_with_config(rumqttc::TlsConfiguration::Rustls(tls)),
        };
        Ok(Way { host: self.config.host.clone(), port: self.config.port, transport, holds: None })
    }

    /// Opens the WebSocket, signed if there are keys; the client dials its near end.
    #[cfg(feature = "websocket")]
    async fn websocket(&mut self, tls: Option<Arc<ClientConfig>>) -> Result<Way, Failed> {
        let c = &*self.config;
        let url = keys::url(c, self.keys.as_mut()).await.map_err(Failed::nobodys)?;
        let server_name = match &c.security {
            config::Security::Tls(tls) => tls.server_name.as_str(),
            config::Security::Plain => c.host.as_str(),
        };
        let opened = websocket::open(&c.host, c.port, server_name, tls, &url);
        let Ok(bridge) = timeout(c.connect_timeout, opened).await else {
            return Err(super::unanswered(c.connect_timeout));
        };
        let bridge = bridge?;
        let host = bridge.place.to_string_lossy().into_owned();
        Ok(Way { host, port: c.port, transport: Transport::Unix, holds: Some(Box::new(bridge)) })
    }
}
