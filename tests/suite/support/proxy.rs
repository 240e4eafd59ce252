//! A network that fails: a TCP proxy that swallows everything, hangs up or adds a message
//! when the test says so.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use super::database::TestDatabase;

/// A proxy in front of a port of this machine.
pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    target: AtomicU16,
    /// True if new connections are swallowed.
    swallows: AtomicBool,
    /// True if new connections are closed.
    refuses: AtomicBool,
    /// Bytes that are added after everything that the client says.
    interjection: Mutex<Vec<u8>>,
    connections: Mutex<Vec<Connection>>,
}

/// Both ends of one connection.
struct Connection {
    client: TcpStream,
    server: TcpStream,
    /// True if nothing goes through any more, without either side being told.
    swallowed: Arc<AtomicBool>,
}

impl Proxy {
    pub fn to(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared {
            target: AtomicU16::new(target),
            swallows: AtomicBool::new(false),
            refuses: AtomicBool::new(false),
            interjection: Mutex::default(),
            connections: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                accepting.accept(client);
            }
        });
        Self { port, shared }
    }

    /// Starts a proxy in front of a PostgreSQL. Returns the URL of the database through
    /// it.
    pub fn to_database(database: &TestDatabase) -> (Self, String) {
        let mut url: url::Url = database.url.parse().expect("a URL");
        let proxy = Self::to(url.port().expect("a port"));
        url.set_port(Some(proxy.port)).expect("it has a host");
        (proxy, url.into())
    }

    /// Makes everything vanish from now on: no byte, no FIN, no RST goes through.
    pub fn swallow(&self) {
        self.shared.swallows.store(true, Ordering::SeqCst);
        for connection in self.shared.connections().iter() {
            connection.swallowed.store(true, Ordering::SeqCst);
        }
    }

    /// Closes all connections, and new ones at once.
    pub fn refuse(&self) {
        self.shared.refuses.store(true, Ordering::SeqCst);
        self.hang_up();
    }

    /// Closes all connections towards the client, and new ones at once. The server is told nothing,
    /// as if the machine in between had died and another one had its address now.
    pub fn die(&self) {
        self.shared.refuses.store(true, Ordering::SeqCst);
        for connection in self.shared.connections().iter() {
            connection.swallowed.store(true, Ordering::SeqCst);
            // It may already be closed.
            let _ = connection.client.shutdown(Shutdown::Both);
        }
    }

    /// Closes all connections. New ones lead to another port.
    pub fn redirect(&self, target: u16) {
        self.shared.target.store(target, Ordering::SeqCst);
        self.hang_up();
    }

    fn hang_up(&self) {
        for connection in self.shared.connections().drain(..) {
            // It may already be closed.
            let _ = connection.client.shutdown(Shutdown::Both);
            let _ = connection.server.shutdown(Shutdown::Both);
        }
    }

    /// Makes new connections work. A swallowed one stays swallowed.
    pub fn heal(&self) {
        self.interject(&[]);
        self.shared.swallows.store(false, Ordering::SeqCst);
        self.shared.refuses.store(false, Ordering::SeqCst);
    }

    /// Adds `packet` in the client's name, from now on, after everything that the client
    /// says.
    pub fn interject(&self, packet: &[u8]) {
        *self.shared.interjection.lock().expect("no thread panics") = packet.to_vec();
    }
}

impl Shared {
    fn connections(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.connections.lock().expect("no thread panics")
    }

    fn accept(self: &Arc<Self>, client: TcpStream) {
        if self.refuses.load(Ordering::SeqCst) {
            return;
        }
        let target = self.target.load(Ordering::SeqCst);
        let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else { return };
        let swallowed = Arc::new(AtomicBool::new(self.swallows.load(Ordering::SeqCst)));
        for (from, to) in [(&client, &server), (&server, &client)] {
            let shared = std::ptr::eq(to, &raw const server).then(|| Arc::clone(self));
            let (from, to) = (from.try_clone().expect("it is open"), to.try_clone());
            let (to, swallowed) = (to.expect("it is open"), Arc::clone(&swallowed));
            std::thread::spawn(move || forward(from, to, &swallowed, shared.as_deref()));
        }
        self.connections().push(Connection { client, server, swallowed });
    }
}

/// Forwards bytes. With `to_server`, the proxy may add some.
fn forward(
    mut from: TcpStream,
    mut to: TcpStream,
    swallowed: &AtomicBool,
    to_server: Option<&Shared>,
) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let mut said = buffer[..length].to_vec();
        if let Some(shared) = to_server {
            // The client writes whole packets.
            said.extend(shared.interjection.lock().expect("no thread panics").iter());
        }
        if !swallowed.load(Ordering::SeqCst) && to.write_all(&said).is_err() {
            break;
        }
    }
    if !swallowed.load(Ordering::SeqCst) {
        // The other end may already be closed.
        let _ = to.shutdown(Shutdown::Both);
    }
}
