//! Waiting exactly.
//!
//! Silence between RTU frames is 2.005 ms at 19200 baud; tokio's timers count in whole
//! milliseconds and round up, which would make each cycle of a full line a few percent
//! longer. A timerfd is exact to some microseconds and costs no spinning. Where time is
//! simulated (or a timerfd cannot be had) tokio's timers are used.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

#[derive(Debug)]
pub enum Pause {
    Exact(AsyncFd<OwnedFd>),
    /// In whole milliseconds of tokio's clock.
    Coarse,
}

impl Pause {
    pub fn exact() -> Pause {
        // Deprecated for types that may change their descriptor behind its back, which an
        // `OwnedFd` cannot; its successor would need `unsafe`.
        #[allow(deprecated)]
        let register = AsyncFd::new;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)
            .map_err(io::Error::from)
            .and_then(register);
        timer.map_or(Pause::Coarse, Pause::Exact)
    }

    /// Returns no earlier than `moment`.
    pub async fn until(&self, moment: Instant) {
        let wait = moment.saturating_duration_since(Instant::now());
        if wait.is_zero() {
            return;
        }
        match self {
            Pause::Exact(timer) if exactly(timer, wait).await.is_ok() => {}
            _ => tokio::time::sleep_until(moment).await,
        }
    }
}

async fn exactly(timer: &AsyncFd<OwnedFd>, wait: Duration) -> io::Result<()> {
    let once = Itimerspec {
        it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
        it_value: Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: wait.subsec_nanos().into(),
        },
    };
    timerfd_settime(timer, TimerfdTimerFlags::empty(), &once)?;
    loop {
        let mut ready = timer.readable().await?;
        let mut expirations = [0_u8; 8];
        let read = ready.try_io(|timer| Ok(rustix::io::read(timer, &mut expirations)?));
        match read {
            Ok(outcome) => return outcome.map(drop),
            Err(_would_block) => continue,
        }
    }
}
