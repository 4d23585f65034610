use tokio::io::DuplexStream;
use tokio::task::JoinHandle;

use super::super::core::{Act, Broker, Limits, Taken};
use super::super::packet::{Connect, Message, Qos};
use super::*;

struct Open;

impl Host for Open {
    fn admit(&self, _: &Principal, _: &Connect) -> Result<(), Reason> {
        Ok(())
    }

    fn may(&self, _: &Principal, _: &str, _: Act<'_>) -> bool {
        true
    }

    fn take(&self, _: &Principal, _: &str, _: &Message) -> Taken {
        Taken::Pass
    }
}

const CONNECT_3: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01c";
/// Keep-alive 2 s.
const CONNECT_5: &[u8] = b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x02\x00\x00\x01c";
const SUBSCRIBE_ALL: &[u8] = b"\x82\x06\x00\x01\x00\x01#\x00";

/// A client on a line that holds `room` bytes each way.
fn dial(bus: &Bus<Open>, room: usize) -> (DuplexStream, JoinHandle<()>) {
    let (near, far) = tokio::io::duplex(room);
    let who = Principal { certificate: None };
    (near, tokio::spawn(serve(bus.clone(), who, far, Duration::from_secs(5))))
}

fn bus() -> Bus<Open> {
    Bus::new(Broker::new(Open, Limits::default()))
}

async fn read(stream: &mut DuplexStream, n: usize) -> Vec<u8> {
    let mut bytes = vec![0; n];
    let all = timeout(Duration::from_secs(3600), stream.read_exact(&mut bytes)).await;
    all.expect("the bytes come").expect("as many bytes");
    bytes
}

/// On the paused clock an hour costs nothing, and a connection that hangs is seen.
async fn end(done: JoinHandle<()>) {
    timeout(Duration::from_secs(3600), done).await.expect("the connection ends").unwrap();
}

fn publish(payload: &str) -> Vec<u8> {
    let mut packet = vec![0x30, 3 + payload.len() as u8, 0, 1, b't'];
    packet.extend(payload.as_bytes());
    packet
}

#[tokio::test(start_paused = true)]
async fn a_message_and_goodbye_in_one_breath_is_routed() {
    let bus = bus();
    let inside = bus.subscribe("t");
    let (mut client, done) = dial(&bus, 4096);
    client.write_all(&[CONNECT_3, &publish("last"), &[0xe0, 0]].concat()).await.unwrap();
    client.shutdown().await.unwrap();
    end(done).await;
    assert_eq!(&inside.next().await.payload[..], b"last");
    assert_eq!(read(&mut client, 4).await, [0x20, 2, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn thousands_in_one_stream_arrive_in_order_through_a_narrow_line() {
    let bus = bus();
    let inside = bus.subscribe("t");
    let (mut client, done) = dial(&bus, 512);
    client.write_all(CONNECT_3).await.unwrap();
    let all: Vec<u8> = (0..4000).flat_map(|i| publish(&i.to_string())).chain([0xe0, 0]).collect();
    timeout(Duration::from_secs(3600), client.write_all(&all)).await.expect("all is taken").unwrap();
    end(done).await;
    for i in 0..4000 {
        let message = inside.try_next().expect("it waits");
        assert_eq!(&message.payload[..], i.to_string().as_bytes());
    }
}

#[tokio::test(start_paused = true)]
async fn silence_beyond_one_and_a_half_keep_alives_ends_the_connection() {
    let bus = bus();
    let (mut client, done) = dial(&bus, 4096);
    client.write_all(CONNECT_5).await.unwrap();
    let connack = read(&mut client, 2).await;
    read(&mut client, usize::from(connack[1])).await;
    let began = Instant::now();
    tokio::time::sleep(Duration::from_secs(2)).await;
    client.write_all(&[0xc0, 0]).await.unwrap();
    assert_eq!(read(&mut client, 2).await, [0xd0, 0], "a ping keeps it alive");
    assert_eq!(read(&mut client, 3).await, [0xe0, 1, 0x8d]);
    // On the paused clock: 2 s until the ping and 3 s of silence.
    assert_eq!(began.elapsed().as_secs(), 5);
    end(done).await;
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_not_waited_for() {
    let bus = bus();
    let (mut client, done) = dial(&bus, 4096);
    end(done).await;
    assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_kick_ends_a_write_that_the_client_does_not_take() {
    let bus = bus();
    let (mut client, done) = dial(&bus, 64);
    client.write_all(&[CONNECT_3, SUBSCRIBE_ALL].concat()).await.unwrap();
    assert_eq!(read(&mut client, 9).await, [0x20, 2, 0, 0, 0x90, 3, 0, 1, 0]);
    for _ in 0..100 {
        bus.publish(Message {
            topic: "t".into(),
            payload: vec![0u8; 1000].into(),
            qos: Qos::AtMostOnce,
            retain: false,
            props: Default::default(),
        });
    }
    // The first bytes are here, so the broker stands in its write.
    let mut got = read(&mut client, 64).await;
    let began = Instant::now();
    assert_eq!(bus.broker().kick(bus.now(), |_, _| true, Reason::ADMINISTRATIVE, false), 1);
    end(done).await;
    assert!(began.elapsed() < WRITE_MAX, "it did not wait for the write");
    // Nothing stands behind the torn packet, no second beginning and no DISCONNECT.
    client.read_to_end(&mut got).await.unwrap();
    let beginnings: Vec<_> = (0..got.len()).filter(|at| [0x30, 0xe0].contains(&got[*at])).collect();
    assert_eq!(beginnings, [0], "of {} bytes", got.len());
}

#[tokio::test(start_paused = true)]
async fn a_malformed_packet_ends_the_connection_and_what_follows_is_not_taken() {
    let bus = bus();
    let inside = bus.subscribe("#");
    let (mut client, done) = dial(&bus, 4096);
    client.write_all(&[CONNECT_5, &[0x30, 4, 0, 1, b'+', 0], &publish("x")].concat()).await.unwrap();
    end(done).await;
    let mut all = vec![];
    client.read_to_end(&mut all).await.unwrap();
    assert_eq!(all[all.len() - 3..], [0xe0, 1, 0x90]);
    assert!(inside.try_next().is_none());
}
