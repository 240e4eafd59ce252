//! A network that fails: a TCP proxy that a test can have swallow everything, hang
//! up, or say something of its own.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// A proxy in front of a port of this machine.
pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    target: u16,
    /// Connections that are made are swallowed.
    swallows: AtomicBool,
    /// Connections that are made are closed.
    refuses: AtomicBool,
    connections: Mutex<Vec<Connection>>,
}

/// Both ends of one connection.
struct Connection {
    client: TcpStream,
    server: TcpStream,
    /// Nothing goes through any more, and nobody is told.
    swallowed: Arc<AtomicBool>,
}

impl Proxy {
    pub fn to(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared {
            target,
            swallows: AtomicBool::new(false),
            refuses: AtomicBool::new(false),
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

    /// From now on, what is sent vanishes: no byte, no FIN, no RST.
    pub fn swallow(&self) {
        self.shared.swallows.store(true, Ordering::SeqCst);
        for connection in self.shared.connections().iter() {
            connection.swallowed.store(true, Ordering::SeqCst);
        }
    }

    /// Hangs up, and lets nobody in.
    pub fn refuse(&self) {
        self.shared.refuses.store(true, Ordering::SeqCst);
        for connection in self.shared.connections().drain(..) {
            // It may have been closed already.
            let _ = connection.client.shutdown(Shutdown::Both);
            let _ = connection.server.shutdown(Shutdown::Both);
        }
    }

    /// Connections that are made from now on work; one that was swallowed does not.
    pub fn heal(&self) {
        self.shared.swallows.store(false, Ordering::SeqCst);
        self.shared.refuses.store(false, Ordering::SeqCst);
    }

    /// Says something to the server in the client's name.
    pub fn say(&self, packet: &[u8]) {
        for connection in self.shared.connections().iter() {
            (&connection.server).write_all(packet).expect("the server listens");
        }
    }
}

impl Shared {
    fn connections(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.connections.lock().expect("nobody panics")
    }

    fn accept(&self, client: TcpStream) {
        if self.refuses.load(Ordering::SeqCst) {
            return;
        }
        let Ok(server) = TcpStream::connect(("127.0.0.1", self.target)) else { return };
        let swallowed = Arc::new(AtomicBool::new(self.swallows.load(Ordering::SeqCst)));
        for (from, to) in [(&client, &server), (&server, &client)] {
            let (from, to) = (from.try_clone().expect("it is open"), to.try_clone());
            let (to, swallowed) = (to.expect("it is open"), Arc::clone(&swallowed));
            std::thread::spawn(move || forward(from, to, &swallowed));
        }
        self.connections().push(Connection { client, server, swallowed });
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, swallowed: &AtomicBool) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if !swallowed.load(Ordering::SeqCst) && to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    if !swallowed.load(Ordering::SeqCst) {
        // The other end may be closed already.
        let _ = to.shutdown(Shutdown::Both);
    }
}
