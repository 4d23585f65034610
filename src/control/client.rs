//! Asking the running agent. Blocking: the verbs that ask have nothing else to do.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::ask::{Answer, Ask, Why};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// Nobody listens.
    #[error("no agent answers at {path}: {source}")]
    Unreachable { path: String, source: std::io::Error },
    /// Somebody listens and says nothing, so the line may well have its owner.
    #[error("{0}")]
    Mute(String),
    /// The agent or the mode of its socket says no.
    #[error("{0}")]
    Refused(String),
    /// The line, or the device behind it, cannot be reached by the agent.
    #[error("{0}")]
    Line(String),
    /// The agent does not understand.
    #[error("{0}")]
    Failed(String),
}

/// Longer than any read on a line may take.
const ANSWER_WAIT: Duration = Duration::from_secs(40);

pub fn ask(path: &Path, ask: &Ask) -> Result<Answer, NoAnswer> {
    ask_within(path, ask, ANSWER_WAIT)
}

/// The same for whoever must not wait so long.
pub fn ask_within(path: &Path, ask: &Ask, wait: Duration) -> Result<Answer, NoAnswer> {
    let at = path.display();
    let stream = UnixStream::connect(path).map_err(|source| match source.kind() {
        ErrorKind::PermissionDenied => {
            NoAnswer::Refused(format!("{at}: permission denied; ask as root or as a member of its group"))
        }
        _ => NoAnswer::Unreachable { path: at.to_string(), source },
    })?;
    let line = talk(stream, ask, wait)
        .map_err(|e| NoAnswer::Mute(format!("the agent at {at} said nothing: {e}")))?;
    match serde_json::from_str(&line) {
        Ok(Answer::Error { error, why: Why::Refused }) => Err(NoAnswer::Refused(error)),
        Ok(Answer::Error { error, why: Why::Failed }) => Err(NoAnswer::Failed(error)),
        Ok(Answer::Error { error, why: Why::Unreachable }) => Err(NoAnswer::Line(error)),
        Ok(answer) => Ok(answer),
        Err(e) => Err(NoAnswer::Failed(format!("the agent's answer is not understood: {e}"))),
    }
}

fn talk(mut stream: UnixStream, ask: &Ask, wait: Duration) -> std::io::Result<String> {
    stream.set_read_timeout(Some(wait))?;
    stream.set_write_timeout(Some(wait))?;
    let mut line = serde_json::to_string(ask)?;
    line.push('\n');
    // An agent that refuses may hang up before it has read: its answer still counts.
    let sent = stream.write_all(line.as_bytes());
    let mut answer = String::new();
    let got = BufReader::new(stream).read_line(&mut answer);
    if answer.is_empty() {
        sent.and(got)?;
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(answer)
}
