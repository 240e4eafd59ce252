//! A handmade broker for what no real one does on request: invalid topics, subscriptions
//! that are never answered, connections that end at once.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use publishers::packet::{self, packet};

/// The behaviour of a broker, which speaks MQTT 3.1.1 or 5, as the client asks.
#[derive(Clone, Default)]
pub struct Behaviour {
    /// The topics of empty messages that follow the answer to a subscription.
    pub messages: Vec<Vec<u8>>,
    /// The number of subscriptions that are never answered.
    pub unanswered: usize,
    /// The number of connections that are closed as soon as they are subscribed.
    pub closes: usize,
    /// The return code of CONNACK.
    pub connack: u8,
    /// True if it speaks only MQTT 3.1.1, and says so to a client that asks for 5.
    pub refuses_v5: bool,
    /// The code with which each subscription is refused.
    pub suback: Option<u8>,
    /// The reason code of a DISCONNECT of MQTT 5 that follows the answer to a subscription.
    pub disconnect: Option<u8>,
    /// True if its CONNACK says that it has no shared subscriptions. It grants them nevertheless.
    pub has_no_shares: bool,
    /// The highest QoS that is granted, and accepted in a PUBLISH.
    pub refuses_qos_above: Option<u8>,
}

/// A broker that listens until the test program ends.
pub struct FakeBroker {
    pub port: u16,
    subscriptions: Arc<AtomicUsize>,
}

impl FakeBroker {
    pub fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let subscriptions = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&subscriptions);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (behaviour, counted) = (behaviour.clone(), Arc::clone(&counted));
                // The thread ends with the client's connection.
                std::thread::spawn(move || serve(stream, &behaviour, &counted));
            }
        });
        Self { port, subscriptions }
    }

    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// The number of subscriptions that it was asked for.
    pub fn subscriptions(&self) -> usize {
        self.subscriptions.load(Ordering::SeqCst)
    }
}

fn serve(mut stream: TcpStream, behaviour: &Behaviour, subscriptions: &AtomicUsize) -> Option<()> {
    let mut v5 = false;
    loop {
        let (first, body) = packet::read(&mut stream)?;
        let answer = match first >> 4 {
            1 => {
                let (_name, rest) = text(&body);
                v5 = rest[0] == 5;
                if v5 && behaviour.refuses_v5 {
                    let refused = packet(0x20, &[0, 1]);
                    return stream.write_all(&refused).ok();
                }
                let properties: &[u8] = match (v5, behaviour.has_no_shares) {
                    (true, true) => &[2, 42, 0],
                    (true, false) => &[0],
                    (false, _) => &[],
                };
                packet(0x20, &[&[0, behaviour.connack], properties].concat())
            }
            8 => {
                let number = subscriptions.fetch_add(1, Ordering::SeqCst);
                if number < behaviour.unanswered {
                    continue;
                }
                let answer = suback(&body, v5, behaviour);
                if number < behaviour.closes {
                    // It answers and closes the connection.
                    return stream.write_all(&answer).ok();
                }
                if let Some(code) = behaviour.disconnect {
                    let goodbye = packet(0xe0, &[code, 0]);
                    stream.write_all(&[answer, goodbye].concat()).ok()?;
                    // Reads until the client leaves. Unread input would reset the
                    // connection, and the DISCONNECT would be lost.
                    return std::io::copy(&mut stream, &mut std::io::sink()).ok().map(drop);
                }
                let messages = behaviour.messages.iter().map(|topic| publish(topic, b"", v5));
                [answer, messages.collect::<Vec<_>>().concat()].concat()
            }
            3 => {
                let qos = (first >> 1) & 3;
                if behaviour.refuses_qos_above.is_some_and(|max| qos > max) {
                    return None;
                }
                let (topic, rest) = text(&body);
                let rest = if qos > 0 { &rest[2..] } else { rest };
                let payload = if v5 { &rest[1..] } else { rest };
                let (_, id) = text(&body);
                let ack = if qos == 1 { packet(0x40, &id[..2]) } else { Vec::new() };
                [ack, publish(topic, payload, v5)].concat()
            }
            12 => packet(0xd0, &[]),
            14 => return None,
            _ => continue,
        };
        stream.write_all(&answer).ok()?;
    }
}

fn suback(body: &[u8], v5: bool, behaviour: &Behaviour) -> Vec<u8> {
    let mut answer = body[..2].to_vec();
    let mut filters = &body[2..];
    if v5 {
        answer.push(0);
        filters = &filters[1..];
    }
    while !filters.is_empty() {
        let (_, rest) = text(filters);
        let qos = rest[0] & 3;
        let granted = behaviour.refuses_qos_above.map_or(qos, |max| qos.min(max));
        answer.push(behaviour.suback.unwrap_or(granted));
        filters = &rest[1..];
    }
    packet(0x90, &answer)
}

/// Encodes a message at QoS 0.
fn publish(topic: &[u8], payload: &[u8], v5: bool) -> Vec<u8> {
    let length = u16::try_from(topic.len()).expect("short").to_be_bytes();
    let properties: &[u8] = if v5 { &[0] } else { &[] };
    packet(0x30, &[&length, topic, properties, payload].concat())
}

fn text(bytes: &[u8]) -> (&[u8], &[u8]) {
    let length = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    bytes[2..].split_at(length)
}
