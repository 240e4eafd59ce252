//! Accepts connections, even when the process has no file descriptor left.
//!
//! A few descriptors are held back. If a connection cannot be accepted for lack of a
//! descriptor, one of them is released for it and taken back when the connection ends. So
//! a probe of `/healthz` is answered, and this service's own client reaches its embedded
//! broker, even if something else takes all other descriptors.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::TcpStream;

use super::open_files;
use crate::logging::line_budget::LineBudget;

/// The pause after a failure that is unlikely to be over at once.
const PAUSE: Duration = Duration::from_millis(100);

/// A listener with descriptors held back.
pub(crate) struct Acceptor {
    target: &'static str,
    listener: tokio::net::TcpListener,
    reserve: Reserve,
    failures: LineBudget,
}

/// The descriptors that are held back, as copies of the listener's.
#[derive(Clone)]
pub(crate) struct Reserve(Arc<Mutex<Held>>);

struct Held {
    original: TcpListener,
    copies: Vec<TcpListener>,
    /// The number of copies if there are enough descriptors.
    full: usize,
}

/// The number of files that an acceptor holds open without any connection: the listener,
/// its clone and the reserve, which consists of copies of that clone.
pub(crate) const fn files(reserved: usize) -> u64 {
    2 + reserved as u64
}

impl Acceptor {
    /// An acceptor that holds `reserved` descriptors back and logs as `target`. Inside a tokio
    /// runtime.
    pub(crate) fn new(
        listener: TcpListener,
        reserved: usize,
        target: &'static str,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let original = listener.try_clone()?;
        let held = Held { original, copies: Vec::new(), full: reserved };
        let reserve = Reserve(Arc::new(Mutex::new(held)));
        reserve.refill();
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let failures = LineBudget::new(target, "connections that could not be accepted");
        Ok(Self { target, listener, reserve, failures })
    }

    pub(crate) fn reserve(&self) -> Reserve {
        self.reserve.clone()
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Waits for the next connection. Calls `make_room`, which may end another connection,
    /// if nothing else is left to try. Nothing is lost if it is dropped.
    pub(crate) async fn accept(&self, make_room: impl Fn()) -> (TcpStream, SocketAddr) {
        loop {
            let error = match self.listener.accept().await {
                Ok(accepted) => return accepted,
                Err(error) => error,
            };
            if open_files::is_exhausted(&error) && self.reserve.release_one() {
                continue;
            }
            self.failures.spend(|| {
                log::error!(target: self.target, "a connection could not be accepted: {error}");
            });
            make_room();
            tokio::time::sleep(PAUSE).await;
            self.reserve.refill();
        }
    }
}

impl Reserve {
    /// Fills the reserve again, as far as there are free descriptors.
    pub(crate) fn refill(&self) {
        let Held { original, copies, full } = &mut *self.0.lock();
        while copies.len() < *full
            && let Ok(copy) = original.try_clone()
        {
            copies.push(copy);
        }
    }

    /// Releases one descriptor. False if the reserve is empty.
    fn release_one(&self) -> bool {
        self.0.lock().copies.pop().is_some()
    }
}
