//! The check's eye in the cloud: one subscriber with a persistent session on the plain door.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rumqttc::{Client, Event, MqttOptions, Packet, QoS, SubscribeFilter};
use serde_json::Value;

use super::account::Arrived;
use super::wait::until_true;

#[derive(Clone, Debug)]
pub struct Message {
    pub topic: String,
    pub payload: Value,
}

pub struct Subscriber {
    shared: Arc<Shared>,
    client: Client,
}

#[derive(Default)]
struct Shared {
    messages: Mutex<Vec<Message>>,
    subscribed: AtomicUsize,
    stop: AtomicBool,
}

impl Subscriber {
    /// Returns when the broker has confirmed the subscription.
    pub fn start(port: u16) -> Subscriber {
        Subscriber::watching(port, "the-check", &["dt/#"])
    }

    /// An application with its own client id and filters.
    pub fn watching(port: u16, name: &str, filters: &[&str]) -> Subscriber {
        let filters: Vec<_> =
            filters.iter().map(|f| SubscribeFilter::new((*f).to_owned(), QoS::AtLeastOnce)).collect();
        let mut options = MqttOptions::new(name, "127.0.0.1", port);
        options.set_clean_session(false).set_keep_alive(Duration::from_secs(5));
        options.set_max_packet_size(1 << 20, 1 << 20);
        let (client, mut connection) = Client::new(options, 16);
        let shared = Arc::new(Shared::default());
        let (own, asks) = (shared.clone(), client.clone());
        std::thread::spawn(move || {
            for event in connection.iter() {
                if own.stop.load(Ordering::SeqCst) {
                    return;
                }
                match event {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        asks.try_subscribe_many(filters.clone()).unwrap();
                    }
                    Ok(Event::Incoming(Packet::SubAck(_))) => {
                        own.subscribed.fetch_add(1, Ordering::SeqCst);
                    }
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        let payload = serde_json::from_slice(&publish.payload)
                            .unwrap_or_else(|e| Value::String(format!("not JSON: {e}")));
                        let topic = publish.topic;
                        own.messages.lock().unwrap().push(Message { topic, payload });
                    }
                    Ok(_) => {}
                    // The broker is away: a pause between two attempts, nobody waits on it.
                    Err(_) => std::thread::sleep(Duration::from_millis(50)),
                }
            }
        });
        let subscriber = Subscriber { shared, client };
        subscriber.wait_subscribed(1);
        subscriber
    }

    /// Waits for the n-th confirmed subscription of this subscriber's life.
    #[track_caller]
    pub fn wait_subscribed(&self, n: usize) {
        until_true("the check's subscription", || self.subscriptions() >= n);
    }

    pub fn publish(&self, topic: &str, payload: &Value) {
        self.client.publish(topic, QoS::AtLeastOnce, false, payload.to_string()).unwrap();
    }

    pub fn subscriptions(&self) -> usize {
        self.shared.subscribed.load(Ordering::SeqCst)
    }

    pub fn messages(&self) -> Vec<Message> {
        self.shared.messages.lock().unwrap().clone()
    }

    pub fn arrived(&self) -> Arrived {
        Arrived::read(&self.shared.messages.lock().unwrap())
    }

    /// Payloads on topics that end in `suffix`, in the order of their arrival.
    pub fn payloads(&self, suffix: &str) -> Vec<Value> {
        let messages = self.shared.messages.lock().unwrap();
        messages.iter().filter(|m| m.topic.ends_with(suffix)).map(|m| m.payload.clone()).collect()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
    }
}
