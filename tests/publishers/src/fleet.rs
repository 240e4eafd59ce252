//! The load: a fleet that publishes as fast as a broker takes it.
//!
//! The publisher shares the processors with what is measured, so it does as little as it can:
//!
//! - One thread serves all connections, and waits only when none of them can go on.
//! - The packets of a round are made once. Before they are written, only the time, the uptime
//!   and the packet id in them are changed.
//! - They are written in large pieces.
//!
//! At QoS 1 every acknowledgement is read and must be the one that is due.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::heartbeat::{MAX_DEVICES, Told, change, heartbeat};
use crate::packet::{ACCEPTED, CONNECT, PUBACK, packet, text};

/// The number of packets that are written at once, which are 64 KB.
const PIECE: usize = 512;

/// The most messages of QoS 1 that a connection has on their way; fewer than there are packet
/// ids. Their acknowledgements fit into the socket, so that nobody has to wait for them to be
/// read.
const WINDOW: u64 = 10_000;

/// The longest time for which a working broker takes nothing from any connection.
const PATIENCE: Duration = Duration::from_secs(60);

/// A fleet and its connections, each of which publishes for an equal part of the devices.
pub struct Fleet {
    connections: Vec<Connection>,
    poll: Poll,
    events: Events,
}

/// The result of a step of a connection.
enum Step {
    /// It can go on.
    More,
    /// It can go on after such an event.
    Wait(Interest),
    Done,
}

impl Fleet {
    /// Connects, to publish at QoS 0 or 1.
    ///
    /// # Errors
    ///
    /// If the broker is not there or refuses a connection, or if there are more devices than
    /// ids of 7 digits.
    pub fn connect(port: u16, qos: u8, devices: u64, connections: u64) -> anyhow::Result<Self> {
        ensure!(devices <= MAX_DEVICES, "at most {MAX_DEVICES} devices");
        let (poll, events) = (Poll::new()?, Events::with_capacity(1024));
        let mut order = order(devices);
        let mut fleet = Self { connections: Vec::new(), poll, events };
        for number in 0..connections {
            let share = devices * (number + 1) / connections - devices * number / connections;
            let devices = order.by_ref().take(usize::try_from(share)?);
            let mut connection = Connection::open(port, number, qos, devices)
                .with_context(|| format!("connection {} of {connections}", number + 1))?;
            let token = Token(fleet.connections.len());
            fleet.poll.registry().register(&mut connection.stream, token, Interest::READABLE)?;
            fleet.connections.push(connection);
        }
        Ok(fleet)
    }

    /// Publishes one heartbeat of each device, in an arbitrary order that ends with the
    /// device of [`last_of`].
    ///
    /// # Errors
    ///
    /// If a connection is lost, the broker takes nothing for a minute, or an acknowledgement
    /// is not the one that is due.
    pub fn publish(&mut self, round: u64) -> anyhow::Result<()> {
        let mut told = Told::now(round);
        for connection in &mut self.connections {
            connection.written = 0;
            connection.changed = 0;
        }
        self.run(|connection| connection.write(&mut told))
    }

    /// Waits until everything that was published at QoS 1 is acknowledged.
    ///
    /// # Errors
    ///
    /// As for [`publish`](Self::publish).
    pub fn await_acknowledged(&mut self) -> anyhow::Result<()> {
        self.run(Connection::await_acknowledged)
    }

    /// Lets one connection after the other do a step, until all are done.
    fn run(
        &mut self,
        mut step: impl FnMut(&mut Connection) -> anyhow::Result<Step>,
    ) -> anyhow::Result<()> {
        let Self { connections, poll, events } = self;
        let mut ready: VecDeque<usize> = (0..connections.len()).collect();
        let mut waiting = 0;
        loop {
            while let Some(number) = ready.pop_front() {
                let connection = &mut connections[number];
                match step(connection)? {
                    Step::More => ready.push_back(number),
                    Step::Done => (),
                    Step::Wait(interest) => {
                        let (stream, token) = (&mut connection.stream, Token(number));
                        poll.registry().reregister(stream, token, interest)?;
                        connection.waits = true;
                        waiting += 1;
                    }
                }
            }
            if waiting == 0 {
                return Ok(());
            }
            await_events(poll, events)?;
            for Token(number) in events.iter().map(mio::event::Event::token) {
                // One that is done may still have events.
                if std::mem::take(&mut connections[number].waits) {
                    ready.push_back(number);
                    waiting -= 1;
                }
            }
        }
    }
}

fn await_events(poll: &mut Poll, events: &mut Events) -> anyhow::Result<()> {
    match poll.poll(events, Some(PATIENCE)) {
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
        Err(error) => Err(error.into()),
        Ok(()) if events.is_empty() => bail!("the broker takes nothing for {PATIENCE:?}"),
        Ok(()) => Ok(()),
    }
}

/// A connection that publishes for some of the devices.
struct Connection {
    stream: TcpStream,
    qos: u8,
    /// A heartbeat of each of its devices.
    packets: Vec<u8>,
    /// The length of each of these packets.
    packet: usize,
    /// The number of their bytes that are changed for this round.
    changed: usize,
    /// The number of their bytes that are written in this round.
    written: usize,
    /// The number of messages so far.
    sent: u64,
    /// The number of bytes of acknowledgements so far.
    acknowledged: u64,
    /// True while too many messages are on their way.
    full: bool,
    /// True while it waits for an event.
    waits: bool,
}

impl Connection {
    fn open(
        port: u16,
        number: u64,
        qos: u8,
        devices: impl Iterator<Item = u64>,
    ) -> anyhow::Result<Self> {
        let mut stream = net::TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let client_id = text(&format!("side-by-side-{number}"));
        // MQTT 3.1.1, a clean session, and no keep-alive.
        let level = [4, 0b10, 0, 0];
        stream.write_all(&packet(CONNECT, &[&text("MQTT"), &level[..], &client_id].concat()))?;
        let mut answer = [0; ACCEPTED.len()];
        stream.read_exact(&mut answer)?;
        ensure!(answer == ACCEPTED, "the broker refuses it: {answer:?}");
        stream.set_nonblocking(true)?;

        let told = Told::now(0);
        let heartbeats: Vec<_> = devices.map(|device| heartbeat(device, qos, 0, &told)).collect();
        Ok(Self {
            stream: TcpStream::from_std(stream),
            qos,
            packets: heartbeats.concat(),
            packet: heartbeats.first().map_or(1, Vec::len),
            changed: 0,
            written: 0,
            sent: 0,
            acknowledged: 0,
            full: false,
            waits: false,
        })
    }

    /// Writes a piece of the round.
    fn write(&mut self, told: &mut Told) -> anyhow::Result<Step> {
        if self.written == self.changed {
            if self.written == self.packets.len() {
                return Ok(Step::Done);
            }
            if !self.has_room()? {
                return Ok(Step::Wait(Interest::READABLE));
            }
            told.update();
            self.change_piece(told);
        }
        match self.stream.write(&self.packets[self.written..self.changed]) {
            Ok(written) => {
                self.written += written;
                Ok(Step::More)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                Ok(Step::Wait(Interest::WRITABLE))
            }
            Err(error) => Err(error).context("the broker reads"),
        }
    }

    fn change_piece(&mut self, told: &Told) {
        let end = (self.changed + PIECE * self.packet).min(self.packets.len());
        for packet in self.packets[self.changed..end].chunks_exact_mut(self.packet) {
            self.sent += 1;
            change(packet, (self.qos > 0).then(|| packet_id(self.sent)), told);
        }
        self.changed = end;
    }

    /// True if a piece may be on its way besides what is already. Once there are too many, half
    /// of them must have arrived: otherwise the pieces would become small.
    fn has_room(&mut self) -> anyhow::Result<bool> {
        if self.qos == 0 {
            return Ok(true);
        }
        let most = if self.full { WINDOW / 2 } else { WINDOW - PIECE as u64 };
        if self.on_their_way() > most {
            self.read_acknowledgements()?;
        }
        self.full = self.on_their_way() > most;
        Ok(!self.full)
    }

    fn on_their_way(&self) -> u64 {
        self.sent - self.acknowledged / PUBACK_LENGTH
    }

    fn await_acknowledged(&mut self) -> anyhow::Result<Step> {
        if self.qos == 0 {
            return Ok(Step::Done);
        }
        self.read_acknowledgements()?;
        let all = self.acknowledged == self.sent * PUBACK_LENGTH;
        Ok(if all { Step::Done } else { Step::Wait(Interest::READABLE) })
    }

    /// Reads the acknowledgements that are there.
    fn read_acknowledgements(&mut self) -> anyhow::Result<()> {
        let mut buffer = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => bail!("the broker has closed a connection"),
                Ok(read) => self.compare(&buffer[..read])?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("the broker answers"),
            }
        }
    }

    /// Compares bytes with the acknowledgements that are due: one for each message, in the
    /// order in which they were sent.
    fn compare(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        for byte in bytes {
            let message = self.acknowledged / PUBACK_LENGTH + 1;
            let [high, low] = packet_id(message).to_be_bytes();
            let due = [PUBACK, 2, high, low][(self.acknowledged % PUBACK_LENGTH) as usize];
            ensure!(
                *byte == due && message <= self.sent,
                "the broker does not acknowledge message {message} of {} next",
                self.sent
            );
            self.acknowledged += 1;
        }
        Ok(())
    }
}

const PUBACK_LENGTH: u64 = 4;

/// The packet id of a connection's message, counted from 1 on.
fn packet_id(message: u64) -> u16 {
    ((message - 1) % u64::from(u16::MAX)) as u16 + 1
}

/// The numbers below `devices`, scattered by steps of a prime that does not divide their
/// count.
fn order(devices: u64) -> impl Iterator<Item = u64> + Clone {
    const PRIME: u64 = 2_654_435_761;
    (0..devices).map(move |step| step * PRIME % devices)
}

/// The device that a round ends with.
pub fn last_of(devices: u64) -> u64 {
    order(devices).last().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    use super::*;
    use crate::heartbeat::id;
    use crate::packet::read;

    /// The number of messages on each topic.
    type Messages = BTreeMap<String, u64>;

    /// The messages of all connections, which are still open.
    type Received = (Messages, Vec<net::TcpStream>);

    /// A broker that answers a message with these packet ids.
    fn broker(
        connections: usize,
        answers: fn(u16) -> Vec<u16>,
    ) -> (u16, JoinHandle<anyhow::Result<Received>>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let broker = std::thread::spawn(move || {
            let streams = listener.incoming().take(connections).map(|stream| {
                let mut stream = stream?;
                stream.set_nodelay(true)?;
                read(&mut stream).context("a CONNECT")?;
                stream.write_all(&ACCEPTED)?;
                Ok(stream)
            });
            let mut streams: Vec<net::TcpStream> = streams.collect::<anyhow::Result<_>>()?;
            let mut messages = Messages::new();
            for stream in &mut streams {
                while let Some((_, body)) = read(stream) {
                    let (topic, rest) = body[2..].split_at(usize::from(body[1]));
                    *messages.entry(String::from_utf8(topic.to_owned())?).or_default() += 1;
                    for id in answers(u16::from_be_bytes([rest[0], rest[1]])) {
                        let [high, low] = id.to_be_bytes();
                        stream.write_all(&[PUBACK, 2, high, low])?;
                    }
                }
            }
            Ok((messages, streams))
        });
        (port, broker)
    }

    #[test]
    fn each_device_publishes_once_a_round_through_one_of_the_connections() {
        let (port, broker) = broker(3, |id| vec![id]);
        let mut fleet = Fleet::connect(port, 1, 10, 3).expect("it is there");
        let shares: Vec<_> = fleet.connections.iter().map(|c| c.packets.len() / c.packet).collect();
        assert_eq!(shares, [3, 3, 4]);
        for round in 1..=2 {
            fleet.publish(round).expect("they are taken");
        }
        // The broker of this test serves one connection after the other.
        for connection in &mut fleet.connections {
            connection.stream.shutdown(net::Shutdown::Write).expect("it is open");
        }
        let (messages, _open) = broker.join().expect("no panic").expect("it works");
        fleet.await_acknowledged().expect("all are acknowledged");
        let expected = (0..10).map(|device| (format!("devices/{}/heartbeat", id(device)), 2));
        assert_eq!(messages, expected.collect());
    }

    #[test]
    fn an_acknowledgement_that_is_not_due_is_an_error() {
        for answers in [|id| vec![id, id], |id| vec![id + 1], |id| vec![id, id + 1]] {
            let (port, broker) = broker(1, answers);
            let mut fleet = Fleet::connect(port, 1, 1, 1).expect("it is there");
            fleet.publish(1).expect("it is taken");
            fleet.connections[0].stream.shutdown(net::Shutdown::Write).expect("it is open");
            // Then everything is answered.
            let (_, _open) = broker.join().expect("no panic").expect("it works");
            let error = fleet.await_acknowledged().expect_err("it is not due").to_string();
            assert!(error.contains("does not acknowledge"), "{error}");
        }
    }

    #[test]
    fn packet_ids_are_never_zero_and_come_again_after_all_others() {
        assert_eq!([1, 2, 65_535, 65_536].map(packet_id), [1, 2, 65_535, 1]);
    }
}
