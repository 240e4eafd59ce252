//! Many heartbeats, none of them lost.

use std::collections::VecDeque;

use paho_mqtt as paho;

/// Publishes `payload` as `count` devices in turn, `times` each, at QoS 1 through
/// one connection, and waits until the broker has acknowledged everything.
///
/// `mosquitto_pub -l` cannot do that: it exits before it has sent everything that it
/// read.
///
/// # Panics
///
/// If the broker refuses or loses the connection.
pub fn flood(port: u16, client_id: &str, count: usize, times: usize, payload: &str) {
    const WINDOW: usize = 1000;
    let create = paho::CreateOptionsBuilder::new()
        .server_uri(format!("mqtt://127.0.0.1:{port}"))
        .client_id(client_id)
        .max_buffered_messages(2 * WINDOW as i32)
        .persistence(None)
        .finalize();
    let client = paho::AsyncClient::new(create).expect("a client");
    let mut options = paho::ConnectOptionsBuilder::new();
    let options = options.max_inflight(WINDOW as i32).finalize();
    client.connect(options).wait().expect("the broker is there");
    let mut unacknowledged = VecDeque::new();
    for number in 0..count * times {
        let topic = format!("devices/{client_id}-{}/heartbeat", number % count);
        unacknowledged.push_back(client.publish(paho::Message::new(topic, payload, 1)));
        if unacknowledged.len() >= WINDOW {
            let oldest = unacknowledged.pop_front().expect("it is not empty");
            oldest.wait().expect("it is acknowledged");
        }
    }
    for token in unacknowledged {
        token.wait().expect("it is acknowledged");
    }
    client.disconnect(None).wait().expect("it is connected");
}
