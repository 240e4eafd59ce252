//! Accepts connections, even when the process has no file descriptor left.
//!
//! A few descriptors are held back. If a connection cannot be accepted for lack of a
//! descriptor, one of them is released for it and taken back when the connection ends. So
//! a probe of `/healthz` is answered even if something else takes all other descriptors.

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::time::Duration;

use actix_rt::net::TcpStream;

use crate::logging::line_budget::LineBudget;
use crate::process::open_files;

/// The number of descriptors that are held back.
const RESERVED: usize = 16;

/// The number of files that HTTP holds open without any connection: the listener, its
/// clone and the reserve, which consists of copies of that clone.
pub(crate) const OPEN_FILES: u64 = 2 + RESERVED as u64;

/// The pause after a failure that is unlikely to be over at once.
const PAUSE: Duration = Duration::from_millis(100);

/// A listener with descriptors held back.
pub(super) struct Acceptor {
    listener: tokio::net::TcpListener,
    reserve: Reserve,
    failures: LineBudget,
}

/// The descriptors that are held back, as copies of the listener's.
#[derive(Clone)]
pub(super) struct Reserve(Rc<RefCell<Held>>);

struct Held {
    original: TcpListener,
    copies: Vec<TcpListener>,
}

impl Acceptor {
    pub(super) fn new(listener: TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let original = listener.try_clone()?;
        let reserve = Reserve(Rc::new(RefCell::new(Held { original, copies: Vec::new() })));
        reserve.refill();
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let failures = LineBudget::new("http", "connections that could not be accepted");
        Ok(Self { listener, reserve, failures })
    }

    pub(super) fn reserve(&self) -> Reserve {
        self.reserve.clone()
    }

    /// Waits for the next connection. Calls `make_room`, which may end another connection,
    /// if nothing else is left to try.
    pub(super) async fn accept(&self, make_room: impl Fn()) -> (TcpStream, SocketAddr) {
        loop {
            let error = match self.listener.accept().await {
                Ok(accepted) => return accepted,
                Err(error) => error,
            };
            if open_files::is_exhausted(&error) && self.reserve.release_one() {
                continue;
            }
            self.failures.spend(|| {
                log::error!(target: "http", "a connection could not be accepted: {error}");
            });
            make_room();
            actix_rt::time::sleep(PAUSE).await;
            self.reserve.refill();
        }
    }
}

impl Reserve {
    /// Fills the reserve again, as far as there are free descriptors.
    pub(super) fn refill(&self) {
        let Held { original, copies } = &mut *self.0.borrow_mut();
        while copies.len() < RESERVED
            && let Ok(copy) = original.try_clone()
        {
            copies.push(copy);
        }
    }

    /// Releases one descriptor. False if the reserve is empty.
    fn release_one(&self) -> bool {
        self.0.borrow_mut().copies.pop().is_some()
    }
}
