//! One client's connection: from its socket to the inbox, and the answers back.
//!
//! A connection waits for a turn of the inbox before it reads. So while the inbox has no room,
//! what the client sends stays in the socket, and then with the client. It holds no buffer
//! while it waits, except for the beginning of a packet.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use log::debug;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::io::poll_read_buf;

use super::admission::beginning;
use super::clients::{Ending, Place};
use super::codec::{Connect, Reason};
use super::entry::Entry;
use super::limits::Limit;
use super::newcomer::{Newcomer, Seated};
use super::pace::Pace;
use super::session::{Intake, Next, Peer, Refusal, Refusals, Session, Taken};
use super::transport::Transport;
use super::{Refused, Shared};
use crate::inbox::turns::{MAX_TURN, Share};
use crate::inbox::{Batch, Closed, Turn};

/// The maximum number of bytes that are read in one turn.
const MAX_READ: usize = 16 * 1024;

// The smallest message has 5 bytes: two of its header, two of its topic's length, and a topic
// of one. A packet whose beginning was read before adds one.
const _: () = assert!(MAX_READ / 5 < MAX_TURN);

/// The maximum number of bytes that are read from a connection that was taken over: a device
/// may just have sent them.
const MAX_LAST_READ: usize = 1024 * 1024;

/// The longest time for the decision about a client, which may have to wait for others.
const DECISION_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest time for which a client may not take its answers.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest time for which a connection that was refused stays open for the client to read
/// why.
const LINGER: Duration = Duration::from_secs(1);

const STOPPING: &str = "the service is stopping";

thread_local! {
    /// The bytes of the turn that runs on this thread.
    static BUFFER: RefCell<BytesMut> = RefCell::default();
    /// An empty batch, with the room that the last turn on this thread needed.
    static BATCH: Cell<Batch> = Cell::default();
}

/// A connection and the protocol on it.
struct Connection<T> {
    transport: T,
    address: SocketAddr,
    entry: Entry,
    session: Session,
    /// The beginning of a packet, or what follows a CONNECT that is being decided about.
    rest: BytesMut,
    share: Share,
    shared: Arc<Shared>,
    /// The time at which the client's last packet was complete.
    heard: Instant,
    /// The number of messages that its pace has not been asked about.
    messages: usize,
}

/// The end of a connection.
#[derive(Debug)]
enum End {
    /// By the client, or by the network.
    Closed,
    /// By this server.
    Refused(Refusal),
    /// By this server, which cannot serve everybody.
    Limited(Limit),
    /// By this server, which has told everybody why.
    Answered,
    /// The service is stopping.
    Stopping,
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        debug!(target: "receiver", "a connection broke: {error}");
        Self::Closed
    }
}

impl From<Closed> for End {
    fn from(_: Closed) -> Self {
        Self::Stopping
    }
}

/// The result of reading in one turn.
enum Read {
    /// Nothing was there.
    Nothing,
    /// The client has closed the connection.
    End,
    /// This many bytes.
    Bytes(usize, Next),
}

/// Serves a client until its connection ends.
pub(super) async fn serve<T: Transport>(
    transport: T,
    address: SocketAddr,
    entry: Entry,
    newcomer: Newcomer,
    shared: Arc<Shared>,
) {
    let session = Session::new(shared.limits.max_packet);
    let mut connection = Connection {
        transport,
        address,
        entry,
        session,
        rest: BytesMut::new(),
        share: Share::default(),
        shared,
        heard: Instant::now(),
        messages: 0,
    };
    connection.run(newcomer).await;
}

impl<T: Transport> Connection<T> {
    async fn run(&mut self, mut newcomer: Newcomer) {
        let connect = match newcomer.bounded(self.await_connect()).await {
            Ok(Ok(connect)) => connect,
            Ok(Err(end)) => {
                let _ = newcomer.bounded(self.end(end, None)).await;
                return;
            }
            Err(limit) => return self.shared.refuse_newcomer(self.address, limit),
        };
        let seated = match self.seat(newcomer, &connect) {
            Ok(seated) => seated,
            Err((mut newcomer, limit)) => {
                let refusing = self.refuse_connect(&connect, limit.label(), limit.refusal());
                let _ = newcomer.bounded(refusing).await;
                return;
            }
        };
        // The seat is kept until the socket is closed, also that of a client that is refused.
        match self.open(&connect).await {
            Ok((place, peer, keep_alive)) => {
                drop(connect);
                let client = Admitted { place, peer, _seated: seated };
                let gauge = self.shared.metrics.receiver_connected();
                let end = self.receive(&client, keep_alive).await;
                self.end(end, Some(&client)).await;
                drop(gauge);
            }
            Err(end) => {
                self.end(end, None).await;
                drop(seated);
            }
        }
    }

    async fn await_connect(&mut self) -> Result<Box<Connect>, End> {
        loop {
            self.transport.readable().await?;
            // No turn is needed: a CONNECT puts nothing into the inbox.
            match self.read(&mut Taken::default(), MAX_READ).await? {
                Read::Nothing | Read::Bytes(_, Next::Read) => (),
                Read::End | Read::Bytes(_, Next::Ended) => return Err(End::Closed),
                Read::Bytes(_, Next::Decide(connect)) => return Ok(connect),
                Read::Bytes(_, Next::End(refusal)) => {
                    self.answer().await?;
                    return Err(End::Refused(refusal));
                }
            }
        }
    }

    /// Gives the client a seat, as far as there are any.
    fn seat(&self, newcomer: Newcomer, connect: &Connect) -> Result<Seated, (Newcomer, Limit)> {
        if self.shared.is_service(connect) {
            return Ok(newcomer.connect_service());
        }
        newcomer.connect().map_err(|(newcomer, no_seat)| {
            let limit = Limit::Seat(no_seat);
            if limit.shuts_out() {
                self.shared.inbox.shut_out();
            }
            (newcomer, limit)
        })
    }

    /// Decides about a CONNECT and answers it.
    async fn open(&mut self, connect: &Connect) -> Result<(Place, Peer, Option<Duration>), End> {
        let deciding = self.shared.decide(connect, &self.entry, self.address);
        let decided = timeout(DECISION_TIMEOUT, deciding).await.unwrap_or_else(|_elapsed| {
            let waited = crate::duration::format(DECISION_TIMEOUT);
            Err(Refusal::new(Reason::Busy, format!("it was not its turn within {waited}")))
        });
        let admission = match decided {
            Ok(admission) => admission,
            Err(refusal) => {
                self.log_refused_connect(connect, refusal.reason.label(), &refusal);
                self.session.end(&refusal);
                self.answer().await?;
                return Err(End::Answered);
            }
        };
        let keep_alive = admission.keep_alive;
        self.session.accept(connect, admission.peer.clone(), admission.accepted);
        self.answer().await?;
        Ok((admission.place, admission.peer, keep_alive))
    }

    /// Refuses a CONNECT, tells the client and the log, and ends the connection.
    async fn refuse_connect(
        &mut self,
        connect: &Connect,
        label: &'static str,
        refusal: Refusal,
    ) -> Result<(), End> {
        self.log_refused_connect(connect, label, &refusal);
        self.session.end(&refusal);
        self.answer().await?;
        self.end(End::Answered, None).await;
        Ok(())
    }

    fn log_refused_connect(&self, connect: &Connect, label: &'static str, refusal: &Refusal) {
        let client = beginning(&connect.client_id);
        let user = self.entry.common_name.as_deref().or(connect.user.as_deref());
        let refused = Refused::Client { client, user: user.map(beginning) };
        self.shared.log_refusal(self.address, refused, label, &refusal.why);
    }

    /// Takes in what the client sends, until the connection has to end.
    async fn receive(&mut self, client: &Admitted, keep_alive: Option<Duration>) -> End {
        // What came together with the CONNECT.
        if !self.rest.is_empty()
            && let Err(end) = self.take_turn(client, 0).await
        {
            return end;
        }
        let mut pace = Pace::new(self.heard.into_std());
        let mut pause = None;
        loop {
            let ending = tokio::select! {
                biased;
                ending = client.place.client().ending() => Some(ending),
                ready = self.readable_after(pause.take(), keep_alive) => match ready {
                    Ok(()) => None,
                    Err(end) => return end,
                },
            };
            match ending {
                None => (),
                Some(Ending::Stopping) => return End::Stopping,
                Some(ending) => {
                    let rest = self.receive_rest(client).await;
                    return rest.err().unwrap_or_else(|| End::Refused(refusal_of(ending)));
                }
            }
            match self.take_turn(client, MAX_READ).await {
                Ok(_) => tokio::task::yield_now().await,
                Err(end) => return end,
            }
            pause = self.pause(&mut pace, client);
        }
    }

    /// The time for which nothing is read from a client that sends too fast.
    fn pause(&mut self, pace: &mut Pace, client: &Admitted) -> Option<Duration> {
        let (messages, now) = (std::mem::take(&mut self.messages), self.heard.into_std());
        let pause = pace.spend(messages, self.shared.limits.messages_per_second, now);
        if pause.is_some() {
            self.shared.log_hurried(self.address, client);
        }
        pause
    }

    /// Waits for something to read, at the earliest after a pause.
    async fn readable_after(
        &mut self,
        pause: Option<Duration>,
        keep_alive: Option<Duration>,
    ) -> Result<(), End> {
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
            // It may have been heard if anybody had listened.
            self.heard = Instant::now();
        }
        self.readable(keep_alive).await
    }

    /// Waits for something to read, for as long as the client's keep-alive allows.
    async fn readable(&mut self, keep_alive: Option<Duration>) -> Result<(), End> {
        let readable = self.transport.readable();
        let Some(keep_alive) = keep_alive else { return Ok(readable.await?) };
        match timeout_at(self.heard + keep_alive, readable).await {
            Ok(readable) => Ok(readable?),
            Err(_elapsed) => {
                let silent = crate::duration::format(keep_alive);
                let why = format!("it sent no packet for {silent}, 1.5 times its keep-alive");
                Err(End::Refused(Refusal::new(Reason::KeepAliveTimeout, why)))
            }
        }
    }

    /// Takes in what has arrived on a connection that ends, up to a bound.
    async fn receive_rest(&mut self, client: &Admitted) -> Result<(), End> {
        let mut received = 0;
        while received < MAX_LAST_READ {
            match self.take_turn(client, MAX_READ).await? {
                0 => break,
                bytes => received += bytes,
            }
        }
        Ok(())
    }

    /// Reads once, at most `max` bytes, and hands over what was in them, then answers. Returns
    /// the number of bytes.
    async fn take_turn(&mut self, client: &Admitted, max: usize) -> Result<usize, End> {
        let turn = self.shared.inbox.turn(&self.share).await?;
        let mut taken = Taken { batch: BATCH.take(), refusals: Refusals::default() };
        let read = self.read(&mut taken, max).await?;
        let Taken { batch, refusals } = taken;
        self.messages += batch.len() + refusals.len();
        let answers = self.session.answers();
        // From here on the messages count. Without that they are not acknowledged.
        self.hand_over(turn, batch)?;
        self.note(refusals, client);
        if !answers.is_empty() {
            tokio::select! {
                written = self.write(&answers) => written?,
                ending = client.place.client().ending() => {
                    return Err(End::Refused(refusal_of(ending)));
                }
            }
        }
        match read {
            Read::Nothing => Ok(0),
            Read::Bytes(bytes, Next::Read) => Ok(bytes),
            Read::End | Read::Bytes(_, Next::Ended | Next::Decide(_)) => Err(End::Closed),
            Read::Bytes(_, Next::End(refusal)) => Err(End::Refused(refusal)),
        }
    }

    fn hand_over(&mut self, turn: Turn, mut batch: Batch) -> Result<(), Closed> {
        if batch.is_empty() {
            BATCH.set(batch);
            return Ok(());
        }
        for heartbeat in &batch.heartbeats {
            if let Some(error) = &heartbeat.payload_error {
                self.shared.metrics.payload_unreadable(error);
            }
        }
        if let Some(echo) = batch.echo.take() {
            self.shared.pass_on(echo);
        }
        turn.put(&mut batch, &mut self.share, self.shared.clock)?;
        BATCH.set(batch);
        Ok(())
    }

    fn note(&self, refusals: Refusals, client: &Admitted) {
        for (reason, count) in refusals.counts {
            self.shared.metrics.receiver_refused(reason.label(), count);
        }
        if let Some((what, refusal)) = refusals.first {
            self.shared.log_refused(what, self.address, client, &refusal);
        }
    }

    /// Reads what is there, without waiting and at most `max` bytes, and handles it after what
    /// was left before. If `max` is 0, only this: whole packets may have come together with the
    /// CONNECT, and a turn has room for what is read at once.
    async fn read(&mut self, taken: &mut Taken, max: usize) -> io::Result<Read> {
        let Self { transport, session, rest, shared, heard, .. } = self;
        poll_fn(|cx| {
            BUFFER.with_borrow_mut(|buffer| {
                buffer.clear();
                buffer.reserve(rest.len() + max);
                buffer.extend_from_slice(rest);
                let mut into = (&mut *buffer).limit(max);
                let read = match poll_read_buf(Pin::new(&mut *transport), cx, &mut into) {
                    Poll::Ready(read) if max > 0 => Some(read?),
                    Poll::Ready(_) | Poll::Pending => None,
                };
                if buffer.is_empty() {
                    let end = if read.is_some() { Read::End } else { Read::Nothing };
                    return Poll::Ready(Ok(end));
                }
                let mut intake = Intake::new(&shared.topics, (shared.clock)().wall, taken);
                let arrived = buffer.len();
                let next = session.handle(buffer, &mut intake);
                // Parts of a packet that never ends are no sign of life.
                if buffer.len() < arrived {
                    *heard = Instant::now();
                }
                *rest = BytesMut::from(&**buffer);
                Poll::Ready(Ok(match (read, next) {
                    (Some(0), Next::Read) => Read::End,
                    (None, Next::Read) => Read::Nothing,
                    (read, next) => Read::Bytes(read.unwrap_or(0), next),
                }))
            })
        })
        .await
    }

    /// Sends the answers, if there are any.
    async fn answer(&mut self) -> Result<(), End> {
        let answers = self.session.answers();
        if answers.is_empty() { Ok(()) } else { self.write(&answers).await }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), End> {
        match timeout(WRITE_TIMEOUT, self.transport.write_all(bytes)).await {
            Ok(written) => Ok(written?),
            Err(_elapsed) => Err(End::Limited(Limit::Answers)),
        }
    }

    async fn end(&mut self, end: End, client: Option<&Admitted>) {
        let is_told = self.note_end(end, client);
        if let Some(client) = client {
            // All that it has sent is in the inbox. Its successor need not wait until it is told,
            // which takes long if its network is gone.
            client.place.leave();
        }
        if is_told {
            let _ = self.answer().await;
            let _ = timeout(LINGER, self.linger()).await;
        }
    }

    /// Logs the end, and prepares the answer that says why. False if there is nobody to tell.
    fn note_end(&mut self, end: End, client: Option<&Admitted>) -> bool {
        match end {
            End::Closed => return false,
            End::Answered => (),
            End::Stopping => self.session.end(&Refusal::new(Reason::ShuttingDown, STOPPING)),
            End::Refused(refusal) => self.end_for(refusal.reason.label(), &refusal, client),
            End::Limited(limit) => {
                self.end_for(limit.label(), &limit.refusal(), client);
                // It would not take this either.
                return false;
            }
        }
        true
    }

    fn end_for(&mut self, label: &'static str, refusal: &Refusal, client: Option<&Admitted>) {
        self.session.end(refusal);
        let refused = client.map_or(Refused::Newcomer, Refused::Admitted);
        self.shared.log_refusal(self.address, refused, label, &refusal.why);
    }

    /// Closes the connection and waits until the client has, because what it has sent and
    /// nobody has read would make the system throw away the answers.
    async fn linger(&mut self) -> io::Result<()> {
        self.transport.shutdown().await?;
        let mut discarded = BytesMut::with_capacity(1024);
        loop {
            discarded.clear();
            let read =
                poll_fn(|cx| poll_read_buf(Pin::new(&mut self.transport), cx, &mut discarded));
            if read.await? == 0 {
                return Ok(());
            }
        }
    }
}

/// A client that was admitted.
pub(super) struct Admitted {
    pub(super) place: Place,
    pub(super) peer: Peer,
    /// Kept until the connection is closed.
    _seated: Seated,
}

fn refusal_of(ending: Ending) -> Refusal {
    match ending {
        Ending::TakenOver => {
            Refusal::new(Reason::SessionTakenOver, "another connection has the same client id")
        }
        Ending::UserChanged => {
            Refusal::new(Reason::Administrative, "its user was removed or has changed")
        }
        Ending::Stopping => Refusal::new(Reason::ShuttingDown, STOPPING),
    }
}

#[cfg(test)]
mod tests;
