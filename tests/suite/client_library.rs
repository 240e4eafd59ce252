//! Situations that the client library must survive. `vendor/*/PATCH.md` lists those that
//! it did not.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use paho_mqtt as paho;

#[test]
fn a_connection_that_is_reset_while_messages_are_written_aborts_nothing() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    for round in 0..5 {
        let client = paho::AsyncClient::new(
            paho::CreateOptionsBuilder::new()
                .server_uri(format!("mqtt://127.0.0.1:{port}"))
                .client_id(format!("reset-{round}"))
                .persistence(None)
                .finalize(),
        )
        .expect("a client");
        let connected = client.connect(paho::ConnectOptions::new());
        let (peer, _) = listener.accept().expect("the client connects");
        let peer = answer_connect(peer);
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

const SOON: Duration = Duration::from_secs(10);

fn answer_connect(mut peer: TcpStream) -> TcpStream {
    let mut connect = [0; 2];
    peer.read_exact(&mut connect).expect("a CONNECT");
    let mut rest = vec![0; usize::from(connect[1])];
    peer.read_exact(&mut rest).expect("all of it");
    peer.write_all(&[0x20, 2, 0, 0]).expect("the client takes it");
    peer
}
