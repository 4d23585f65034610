//! Programs of the machine, asked with a limit in time and in bytes.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

/// What it printed, or why there is nothing. Ended when the time is over.
pub fn ask(program: &str, arguments: &[&str], limit: Duration, bytes_max: u64) -> Result<String, String> {
    let spawned = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .env("SYSTEMD_PAGER", "")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = spawned.map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => format!("this machine has no {program}"),
        _ => format!("{program}: {e}"),
    })?;
    let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(format!("{program} has no output"));
    };
    // Its complaints are few; what is beyond stays in the pipe and is thrown away with it.
    let (done, answer) = sync_channel(1);
    let reader = std::thread::spawn(move || {
        let (mut text, mut complaint) = (Vec::new(), Vec::new());
        let read = out.take(bytes_max).read_to_end(&mut text);
        let _ = err.take(COMPLAINT_MAX).read_to_end(&mut complaint);
        let _ = done.send((read.map(|_| text), complaint));
    });
    let answered = answer.recv_timeout(limit);
    // It has answered, or it never will.
    let _ = child.kill();
    let ended = child.wait();
    let _ = reader.join();
    match answered {
        Err(_) => Err(format!("{program} did not answer within {limit:?}")),
        Ok((Err(e), _)) => Err(format!("{program}: {e}")),
        Ok((Ok(text), complaint)) => {
            let text = String::from_utf8_lossy(&text).into_owned();
            let failed = ended.is_ok_and(|status| status.code().is_some_and(|code| code != 0));
            let complaint = String::from_utf8_lossy(&complaint).trim().to_owned();
            match failed && text.trim().is_empty() {
                true => Err(first_line(program, &complaint)),
                false => Ok(text),
            }
        }
    }
}

fn first_line(program: &str, complaint: &str) -> String {
    match complaint.lines().next() {
        Some(line) => line.to_owned(),
        None => format!("{program} failed without a word"),
    }
}

const COMPLAINT_MAX: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_answers_within_its_limits_or_is_ended() {
        let limit = Duration::from_secs(20);
        assert_eq!(ask("echo", &["a"], limit, 100).unwrap(), "a\n");
        assert_eq!(ask("printf", &["12345"], limit, 3).unwrap(), "123");
        assert!(ask("no-such-program-here", &[], limit, 3).unwrap_err().contains("has no"));
        assert!(ask("sh", &["-c", "echo wrong >&2; exit 3"], limit, 99).unwrap_err().contains("wrong"));
        let slow = ask("sleep", &["60"], Duration::from_millis(50), 9).unwrap_err();
        assert!(slow.contains("did not answer"), "{slow}");
    }
}
