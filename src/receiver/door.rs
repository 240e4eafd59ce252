//! The steps between accepting a connection and speaking MQTT on it.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;

use super::entry::{Door, Entry};
use super::newcomer::Newcomer;
use super::tls::Secured;
use super::{Refused, Shared, connection};

/// The label of a connection that does not speak what its listener expects, or whose
/// certificate is refused.
pub(super) const TLS: &str = "tls";

/// Serves a connection until it ends.
pub(super) async fn serve(
    stream: TcpStream,
    address: SocketAddr,
    door: Door,
    mut newcomer: Newcomer,
    shared: Arc<Shared>,
) {
    let entry = Entry { door, common_name: None };
    match (newcomer.bounded(first_byte(&stream)).await, &shared.tls, door) {
        (Ok(Some(HANDSHAKE)), _, Door::Plain | Door::Own) => {
            let why = "it speaks TLS, which it has to do with the port of \
                       mqtt.embedded.tls_listen";
            shared.log_refusal(address, Refused::Newcomer, TLS, why);
        }
        (Ok(Some(CONNECT)), _, Door::Tls) => {
            let why = "it speaks MQTT without TLS, which mqtt.embedded.tls_listen requires";
            shared.log_refusal(address, Refused::Newcomer, TLS, why);
        }
        (Ok(Some(_)), Some(tls), Door::Tls) => {
            match newcomer.bounded(tls.handshake(stream)).await {
                Ok(Ok(Secured { stream, common_name })) => {
                    let entry = Entry { common_name, ..entry };
                    connection::serve(stream, address, entry, newcomer, shared).await;
                }
                Ok(Err(why)) => shared.log_refusal(address, Refused::Newcomer, TLS, &why),
                Err(limit) => shared.refuse_newcomer(address, limit),
            }
        }
        (Ok(Some(_)), _, _) => {
            connection::serve(stream, address, entry, newcomer, shared).await;
        }
        // A port scan, or a probe of a load balancer.
        (Ok(None), _, _) => (),
        (Err(limit), _, _) => shared.refuse_newcomer(address, limit),
    }
}

/// The first byte of a TLS handshake, and of a CONNECT.
const HANDSHAKE: u8 = 0x16;
const CONNECT: u8 = 0x10;

/// Waits for the first byte, and leaves it there. `None` if the client closes the connection.
async fn first_byte(stream: &TcpStream) -> Option<u8> {
    let mut byte = [0];
    stream.peek(&mut byte).await.ok().filter(|count| *count > 0).map(|_| byte[0])
}
