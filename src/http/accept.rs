//! Accepts connections, also when there are no descriptors left.
//!
//! A few descriptors are held back. If a connection cannot be accepted for lack of one,
//! one of them is given up for it, and taken again when the connection ends: whatever
//! takes all others, a probe of `/healthz` is answered.

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::time::Duration;

use actix_rt::net::TcpStream;

use crate::limits;
use crate::line_budget::LineBudget;

/// How many descriptors are held back.
const RESERVED: usize = 16;

/// The files that HTTP has open without a connection: the listener, the original of its
/// copies, and these.
pub(crate) const OPEN_FILES: u64 = 2 + RESERVED as u64;

/// How long to wait after a failure that will not be over at once.
const PAUSE: Duration = Duration::from_millis(100);

/// A listener with descriptors held back.
pub(super) struct Acceptor {
    listener: tokio::net::TcpListener,
    reserve: Reserve,
    failures: LineBudget,
}

/// Descriptors held back, as copies of the listener's.
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

    /// The next connection. `make_room` may end another one, if that is all that is left
    /// to do.
    pub(super) async fn accept(&self, make_room: impl Fn()) -> (TcpStream, SocketAddr) {
        loop {
            let error = match self.listener.accept().await {
                Ok(accepted) => return accepted,
                Err(error) => error,
            };
            if limits::is_exhausted(&error) && self.reserve.give_up_one() {
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
    /// Takes again what was given up, as far as there is something to take.
    pub(super) fn refill(&self) {
        let Held { original, copies } = &mut *self.0.borrow_mut();
        while copies.len() < RESERVED
            && let Ok(copy) = original.try_clone()
        {
            copies.push(copy);
        }
    }

    /// False if there is none left.
    fn give_up_one(&self) -> bool {
        self.0.borrow_mut().copies.pop().is_some()
    }
}
