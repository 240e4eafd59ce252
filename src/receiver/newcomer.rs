//! Connections whose CONNECT has not arrived, and the seats that all connections have.

use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

use super::limits::{Limit, Limits};
use super::seats::{Bounds, NoSeat, Number, Seats, Source};

/// All seats, as connections share them.
#[derive(Debug)]
pub(super) struct Room {
    seats: Mutex<Seats<oneshot::Sender<()>>>,
    /// A seat was left.
    left: Notify,
}

/// The seat of a connection. It is left when it is dropped.
#[derive(Debug)]
struct Seat {
    room: Arc<Room>,
    number: Number,
    source: Source,
    is_client: bool,
}

/// A connection before its CONNECT, which may have to leave.
#[derive(Debug)]
pub(super) struct Newcomer {
    seat: Seat,
    has_to_leave: oneshot::Receiver<()>,
    limits: (std::time::Duration, Instant),
}

/// The seat of a client, which it keeps until its socket is closed.
#[derive(Debug)]
pub(super) struct Seated {
    _seat: Seat,
}

impl Room {
    pub(super) fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self { seats: Mutex::new(Seats::new(bounds)), left: Notify::new() })
    }

    /// Waits until a seat is free, for which a newcomer may have to leave. For one
    /// caller at a time.
    pub(super) async fn free(&self) {
        loop {
            {
                let mut seats = self.seats.lock();
                if seats.have_room() {
                    return;
                }
                // Dropping it tells the newcomer.
                drop(seats.make_room());
            }
            self.left.notified().await;
        }
    }

    /// Makes a newcomer leave.
    pub(super) fn make_room(&self) {
        drop(self.seats.lock().make_room());
    }

    /// True while a device that wants to connect is kept out.
    pub(super) fn turns_away(&self) -> bool {
        self.seats.lock().turn_away()
    }

    /// Gives a seat to a connection that was accepted.
    pub(super) fn arrive(self: &Arc<Self>, address: IpAddr, limits: &Limits) -> Newcomer {
        let (newcomer, has_to_leave) = oneshot::channel();
        let source = address.into();
        let (number, _leaves) = self.seats.lock().arrive(source, newcomer);
        let patience = limits.connect_timeout;
        Newcomer {
            seat: Seat { room: Arc::clone(self), number, source, is_client: false },
            has_to_leave,
            limits: (patience, Instant::now() + patience),
        }
    }
}

impl Newcomer {
    /// Does something that the client may have to wait for. Fails if it takes too long, or if
    /// the seat is needed.
    pub(super) async fn bounded<T>(&mut self, step: impl Future<Output = T>) -> Result<T, Limit> {
        let (patience, deadline) = self.limits;
        tokio::select! {
            biased;
            done = timeout_at(deadline, step) => done.map_err(|_| Limit::ConnectTimeout(patience)),
            _ = &mut self.has_to_leave => Err(Limit::Pending),
        }
    }

    /// Lets the CONNECT of a client in, unless there are too many.
    pub(super) fn connect(mut self) -> Result<Seated, (Self, NoSeat)> {
        let Seat { room, number, source, .. } = &self.seat;
        let connected = room.seats.lock().connect(*number, *source);
        match connected {
            Ok(()) => {
                self.seat.is_client = true;
                Ok(Seated { _seat: self.seat })
            }
            Err(no_seat) => Err((self, no_seat)),
        }
    }

    /// Lets this service's own client in.
    pub(super) fn connect_service(self) -> Seated {
        self.seat.room.seats.lock().connect_service(self.seat.number);
        Seated { _seat: self.seat }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let client = self.is_client.then_some(self.source);
        self.room.seats.lock().leave(self.number, client);
        self.room.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::time::Duration;

    use futures::FutureExt;

    use super::*;
    use crate::config::Config;

    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn limits(files: u64) -> Limits {
        Limits::new(&Config::default().mqtt.embedded, files)
    }

    fn room(limits: &Limits) -> Arc<Room> {
        Room::new(limits.seats)
    }

    #[tokio::test(start_paused = true)]
    async fn a_newcomer_has_to_send_its_connect_in_time() {
        let limits = limits(100);
        let mut newcomer = room(&limits).arrive(HOME, &limits);
        let began = Instant::now();
        let late = newcomer.bounded(pending::<()>()).await;
        assert_eq!(late, Err(Limit::ConnectTimeout(Duration::from_secs(10))));
        assert_eq!(began.elapsed(), Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_newcomer_leaves_its_seat_to_the_next_one() {
        let limits = limits(16);
        let room = room(&limits);
        let mut newcomers: Vec<_> = (0..16).map(|_| room.arrive(HOME, &limits)).collect();
        assert!(room.free().now_or_never().is_none(), "it waits until the oldest has left");
        let mut oldest = newcomers.remove(0);
        assert_eq!(oldest.bounded(pending::<()>()).await, Err(Limit::Pending));
        drop(oldest);
        assert!(room.free().now_or_never().is_some());
        assert_eq!(newcomers[0].bounded(ready(())).await, Ok(()), "the others stay");
    }

    #[tokio::test]
    async fn a_client_keeps_its_seat_until_it_ends() {
        let limits = limits(16);
        let room = room(&limits);
        let seated: Vec<_> =
            (0..12).flat_map(|_| room.arrive(HOME, &limits).connect().ok()).collect();
        assert_eq!(seated.len(), 12);
        let (newcomer, no_seat) = room.arrive(HOME, &limits).connect().expect_err("no room");
        assert_eq!(no_seat, NoSeat::Files(12));
        let _own = newcomer.connect_service();
        drop(seated);
        assert!(room.arrive(HOME, &limits).connect().is_ok());
    }
}
