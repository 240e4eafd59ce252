//! Situations that the client library must survive. `vendor/*/PATCH.md` lists those that
//! it did not.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use paho_mqtt as paho;

#[test]
fn a_connection_that_is_reset_while_messages_are_written_aborts_nothing() {
    let broker = Listener::start();
    for round in 0..5 {
        let client = broker.client(&format!("reset-{round}"));
        let connected = client.connect(paho::ConnectOptions::new());
        let peer = broker.accept();
        connected.wait().expect("it is connected");

        let messages = (0..2_000)
            .map(|_| client.try_publish(paho::Message::new("a/b", "whatever", 1)))
            .collect::<Vec<_>>();
        // Closing with unread input resets the connection.
        peer.peek(&mut [0]).expect("messages arrive");
        drop(peer);
        let failed = messages.into_iter().any(|message| {
            message.is_err() || message.is_ok_and(|sent| sent.wait_for(SOON).is_err())
        });
        assert!(failed, "nothing was acknowledged");
    }
}

#[test]
fn a_connection_that_is_lost_is_made_again_after_a_second_or_two() {
    let broker = Listener::start();
    let client = broker.client("lost");
    let second = Duration::from_secs(1);
    let (connected, is_connected) = mpsc::channel();
    client.set_connected_callback(move |_| _ = connected.send(()));
    let mut options = paho::ConnectOptionsBuilder::new_v3();
    client.connect(options.automatic_reconnect(second, 10 * second).finalize());
    let mut waits = Vec::new();
    let mut lost = Instant::now();
    for _ in 0..6 {
        let peer = broker.accept();
        waits.push(lost.elapsed());
        is_connected.recv_timeout(SOON).expect("it is connected");
        drop(peer);
        lost = Instant::now();
    }
    // The first connection was made at once. A look every 3 s that has made one makes the next one
    // 3 s later.
    let waits = &waits[1..];
    assert!(waits.iter().any(|wait| *wait < 5 * second / 2), "{waits:?}");
}

#[test]
fn clients_that_are_given_up_as_they_are_refused_block_no_other() {
    let refusing = Listener::start();
    let port = refusing.port();
    let (done, is_done) = mpsc::channel();
    std::thread::spawn(move || {
        for _ in 0..ATTEMPTS {
            let mut peer = refusing.accept_without_answer();
            // Bad user name or password.
            let _gone = peer.write_all(&[0x20, 3, 0, 0x86, 0]);
        }
    });
    std::thread::spawn(move || {
        for number in 0..ATTEMPTS {
            let client = client_of(port, &format!("refused-{number}"));
            let connecting = client.connect(paho::ConnectOptionsBuilder::new_v5().finalize());
            assert!(connecting.wait().is_err(), "it is refused");
            drop(client);
        }
        let _ = done.send(());
    });
    is_done.recv_timeout(6 * SOON).expect("each client is destroyed, and the next one made");
}

/// The number of refused clients of which one was destroyed in a callback, each time it was tried.
const ATTEMPTS: usize = 300;

const SOON: Duration = Duration::from_secs(10);

/// The end of a broker that only lets clients in.
struct Listener(TcpListener);

impl Listener {
    fn start() -> Self {
        Self(TcpListener::bind(("127.0.0.1", 0)).expect("a free port"))
    }

    fn port(&self) -> u16 {
        self.0.local_addr().expect("it is bound").port()
    }

    fn client(&self, id: &str) -> paho::AsyncClient {
        client_of(self.port(), id)
    }

    /// Waits for a client, and lets it in.
    fn accept(&self) -> TcpStream {
        let mut peer = self.accept_without_answer();
        peer.write_all(&[0x20, 2, 0, 0]).expect("the client takes it");
        peer
    }

    /// Waits for a client and its CONNECT.
    fn accept_without_answer(&self) -> TcpStream {
        let (mut peer, _) = self.0.accept().expect("a client connects");
        let mut connect = [0; 2];
        peer.read_exact(&mut connect).expect("a CONNECT");
        let mut rest = vec![0; usize::from(connect[1])];
        peer.read_exact(&mut rest).expect("all of it");
        peer
    }
}

fn client_of(port: u16, id: &str) -> paho::AsyncClient {
    let options = paho::CreateOptionsBuilder::new()
        .server_uri(format!("mqtt://127.0.0.1:{port}"))
        .client_id(id)
        .persistence(None)
        .finalize();
    paho::AsyncClient::new(options).expect("a client")
}
