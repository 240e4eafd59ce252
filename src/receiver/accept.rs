//! Lets connections in, up to the limits.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures::future::select_all;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;

use super::door;
use super::entry::Door;
use super::{Shared, TARGET};
use crate::domain::EchoToken;
use crate::inbox::turns::Share;
use crate::inbox::{Batch, Closed};
use crate::process::accept::{self, Acceptor, Reserve};
use crate::process::panics;

/// The number of connections that the system completes before they are accepted. A fleet that
/// comes back connects at once.
const BACKLOG: u32 = 4096;

/// The number of descriptors that each listener holds back, so that this service's own client
/// gets in even if something else takes all others.
const RESERVED: usize = 2;

/// The number of files that a listener holds open without any connection.
pub(super) const FILES: u64 = accept::files(RESERVED);

/// The label of a connection whose task has panicked.
pub(super) const PANIC: &str = "panic";

/// Binds the address. Inside a tokio runtime.
pub(super) fn listen(address: SocketAddr) -> io::Result<Acceptor> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // The connections of a killed process hold the address for a minute.
    socket.set_reuseaddr(true)?;
    // Connections inherit it. One whose client is gone without a word ends within hours, even
    // if it has the longest keep-alive.
    socket.set_keepalive(true)?;
    socket.bind(address)?;
    Acceptor::new(socket.listen(BACKLOG)?.into_std()?, RESERVED, TARGET)
}

/// All listeners.
pub(super) struct Listeners(Vec<(Door, Acceptor)>);

impl Listeners {
    /// The first listener.
    pub(super) fn new(door: Door, acceptor: Acceptor) -> Self {
        Self(vec![(door, acceptor)])
    }

    pub(super) fn add(&mut self, door: Door, acceptor: Acceptor) {
        self.0.push((door, acceptor));
    }

    /// Waits for a connection to any of them. Nothing is lost if it is dropped.
    async fn accept(&mut self, shared: &Shared) -> Accepted {
        // None of them can keep the others waiting.
        self.0.rotate_left(1);
        let accepting = self.0.iter().map(|(door, acceptor)| {
            Box::pin(async move {
                let (stream, address) = acceptor.accept(|| shared.has_no_files()).await;
                Accepted { stream, address, door: *door, reserve: acceptor.reserve() }
            })
        });
        select_all(accepting).await.0
    }
}

/// A connection that was accepted.
struct Accepted {
    stream: TcpStream,
    address: SocketAddr,
    door: Door,
    reserve: Reserve,
}

/// Accepts connections for ever, of all listeners in one loop. Echoes go through it, so that
/// they prove that it does.
pub(super) async fn run(
    mut listeners: Listeners,
    shared: Arc<Shared>,
    mut echoes: mpsc::Receiver<EchoToken>,
) {
    loop {
        tokio::select! {
            accepted = next(&mut listeners, &shared) => admit(accepted, &shared),
            Some(echo) = echoes.recv() => {
                tokio::spawn(put(echo, Arc::clone(&shared)));
            }
        }
    }
}

/// Waits for a free seat, and then for a connection.
async fn next(listeners: &mut Listeners, shared: &Shared) -> Accepted {
    shared.room.free().await;
    listeners.accept(shared).await
}

fn admit(accepted: Accepted, shared: &Arc<Shared>) {
    let Accepted { stream, address, door, reserve } = accepted;
    // Answers are small, and none waits for another.
    let _ = stream.set_nodelay(true);
    let newcomer = shared.room.arrive(address.ip(), &shared.limits);
    let shared = Arc::clone(shared);
    let connections = shared.connections.clone();
    connections.spawn(async move {
        let serving = door::serve(stream, address, door, newcomer, Arc::clone(&shared));
        if panics::contained(address, serving).await.is_err() {
            shared.metrics.receiver_refused(PANIC, 1);
        }
        reserve.refill();
    });
}

async fn put(echo: EchoToken, shared: Arc<Shared>) -> Result<(), Closed> {
    let turn = shared.inbox.last_turn().await?;
    if shared.room.turns_away() {
        // Also if nobody has tried to connect since the last echo: it must not prove that
        // everybody is heard.
        shared.inbox.shut_out();
    }
    let mut batch = Batch { echo: Some(echo), ..Batch::default() };
    turn.put(&mut batch, &mut Share::default(), shared.clock)
}
