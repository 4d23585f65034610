//! Modbus endpoints on the network: tried only where no agent can have the connection.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use tokio::time::Instant;

use super::agent;
use crate::doctor::judge::endpoint::Reached;
use crate::model::device::{Bus, Host, TcpEndpoint, Transport};

/// For one connection; a converter answers in milliseconds.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(3);

pub fn endpoints(buses: &[Bus]) -> impl Iterator<Item = (&Bus, &TcpEndpoint)> {
    buses.iter().filter_map(|bus| match &bus.transport {
        Transport::Tcp(endpoint) | Transport::RtuOverTcp(endpoint) => Some((bus, endpoint)),
        Transport::Serial(_) => None,
    })
}

pub fn place(endpoint: &TcpEndpoint) -> String {
    match &endpoint.host {
        Host::Address(address) => SocketAddr::new(*address, endpoint.port).to_string(),
        Host::Name(name) => format!("{name}:{}", endpoint.port),
    }
}

/// What the agent says, where there is one.
pub fn by_agent(agent: &agent::Seen, bus: &Bus) -> Option<Reached> {
    if agent.agent.is_absent() {
        return None;
    }
    let Some(status) = &agent.status else { return Some(Reached::Unknown) };
    let found = status.buses.iter().find(|b| b.bus == bus.name.as_str());
    Some(match found.map(|b| b.state.as_str()) {
        // `closed` is the rest between two rounds of polls.
        Some("open" | "closed") => Reached::ByAgent,
        Some(why) => Reached::NotByAgent(why.chars().filter(|c| !c.is_control()).collect()),
        None => Reached::Unknown,
    })
}

pub fn reach(place: &str) -> Reached {
    let addresses: Vec<SocketAddr> = match place.to_socket_addrs() {
        Ok(found) => found.collect(),
        Err(e) => return Reached::NoName(e.to_string()),
    };
    let begin = Instant::now();
    match connect(&addresses, CONNECT_LIMIT) {
        Ok(_) => Reached::Accepts { millis: u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX) },
        Err((_, e)) if e.kind() == std::io::ErrorKind::ConnectionRefused => Reached::Refused,
        Err((_, e)) => Reached::NoAnswer(e.to_string()),
    }
}

/// The first address that answers; else what the last one said. All share the limit.
pub fn connect(
    addresses: &[SocketAddr],
    limit: Duration,
) -> Result<(SocketAddr, TcpStream), (Option<SocketAddr>, std::io::Error)> {
    let share = limit / u32::try_from(addresses.len().max(1)).unwrap_or(1);
    let mut last = (None, std::io::Error::other("the name has no address"));
    for address in addresses {
        match TcpStream::connect_timeout(address, share.max(Duration::from_millis(100))) {
            Ok(stream) => return Ok((*address, stream)),
            Err(e) => last = (Some(*address), e),
        }
    }
    Err(last)
}
