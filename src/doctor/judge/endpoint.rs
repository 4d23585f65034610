//! Modbus endpoints on the network. PURE.

use crate::doctor::finding::Finding;

pub const NAME: &str = "modbus-endpoint";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reached {
    /// The agent has it; many converters take one connection only, so it was not tried.
    ByAgent,
    /// The agent tries, and says why it does not succeed.
    NotByAgent(String),
    /// Somebody accepts connections; milliseconds.
    Accepts {
        millis: u64,
    },
    NoName(String),
    Refused,
    NoAnswer(String),
    /// An agent is there that cannot be asked.
    Unknown,
}

pub fn judge(bus: &str, place: &str, reached: &Reached) -> Finding {
    let subject = format!("{bus} {place}");
    let failed = |found: String, advice: &str| Finding::failed(NAME, subject.as_str(), found, advice);
    match reached {
        Reached::ByAgent => Finding::ok(NAME, subject, "the agent is connected"),
        Reached::NotByAgent(why) if why.is_empty() => {
            Finding::skipped(NAME, subject, "the agent has not tried yet")
        }
        Reached::NotByAgent(why) => {
            failed(format!("the agent cannot connect: {why}"), "look after its power, cable and address")
        }
        Reached::Accepts { millis } => {
            Finding::ok(NAME, subject, format!("it accepts connections ({millis} ms)"))
        }
        Reached::NoName(why) => failed(
            format!("its name is not found: {why}"),
            "correct the host of the bus, or write its address instead",
        ),
        Reached::Refused => failed(
            "somebody answers there and refuses the connection".into(),
            "check the port, whether Modbus TCP is switched on, and whether another master has it",
        ),
        Reached::NoAnswer(why) => failed(
            format!("nobody answers there: {why}"),
            "look after its power and cable, and whether its address is in this network",
        ),
        Reached::Unknown => {
            Finding::skipped(NAME, subject, "an agent runs that may have it, so it was not tried")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Outcome::{self, Failed, Ok, Skipped};

    #[test]
    fn who_answers_is_told() {
        let check = |reached: Reached, expected: Outcome, words: &str| {
            let found = judge("hall", "192.0.2.10:502", &reached);
            assert_eq!(found.subject, "hall 192.0.2.10:502");
            assert_eq!(found.result, expected, "{found:?}");
            assert!(found.found.contains(words), "{found:?}");
        };
        check(Reached::ByAgent, Ok, "connected");
        check(Reached::NotByAgent("connection refused".into()), Failed, "refused");
        check(Reached::NotByAgent(String::new()), Skipped, "not tried");
        check(Reached::Accepts { millis: 3 }, Ok, "3 ms");
        check(Reached::NoName("unknown".into()), Failed, "not found");
        check(Reached::Refused, Failed, "refuses");
        check(Reached::NoAnswer("timed out".into()), Failed, "timed out");
        check(Reached::Unknown, Skipped, "may have it");
    }
}
