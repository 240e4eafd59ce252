//! Seats for connections: how many there are in all, for one address, and without a CONNECT.
//! This only counts. Its owner ends the connections that have to leave.
//!
//! - Every connection has a seat from the moment it is accepted until its socket is closed,
//!   so that no more sockets are open than [`Bounds::files`].
//! - Before its CONNECT a connection is a *newcomer*. If there are too many of them, or no
//!   seat is left, the oldest has to leave: silent sockets never keep a device out that
//!   sends its CONNECT.
//! - With its CONNECT a newcomer becomes a client. Clients leave [`Bounds::for_newcomers`]
//!   seats alone, so there is always one for the CONNECT of this service's own client, which
//!   is not counted among them.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};

/// The bounds of the number of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// The maximum number of sockets, those of newcomers included.
    pub(super) files: u64,
    /// The maximum number of clients, if it is not the number of files that decides.
    pub(super) clients: Option<u64>,
    /// The maximum number of clients from one address.
    pub(super) per_address: u64,
    /// The maximum number of newcomers.
    pub(super) newcomers: u64,
}

impl Bounds {
    /// The seats that clients leave to newcomers.
    pub(super) fn for_newcomers(&self) -> u64 {
        const LEAST: u64 = 4;
        const MOST: u64 = 1024;
        (self.files / 16).clamp(LEAST, MOST)
    }

    /// The maximum number of clients that open files allow.
    pub(super) fn clients_by_files(&self) -> u64 {
        self.files.saturating_sub(self.for_newcomers())
    }
}

/// The reason why a client gets no seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoSeat {
    #[error("{0} clients are connected, and mqtt.embedded.max_connections allows no more")]
    Clients(u64),
    #[error(
        "{0} clients are connected, as many as open files allow: raise the limit (LimitNOFILE of \
         the unit, ulimit -n)"
    )]
    Files(u64),
    #[error(
        "{0} clients are connected from its address, and \
         mqtt.embedded.max_connections_per_address allows no more"
    )]
    Address(u64),
}

/// The number of a seat. Later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Number(u64);

/// All seats. `W` tells a newcomer that it has to leave.
#[derive(Debug)]
pub(super) struct Seats<W> {
    bounds: Bounds,
    next: u64,
    taken: u64,
    newcomers: BTreeMap<Number, W>,
    /// The number of clients from each address that has any.
    clients: HashMap<Source, u64>,
    /// The sum of these.
    total: u64,
    /// True if a client found no room in all, and no other has left since.
    turns_away: bool,
}

/// The addresses that count as one: a host has a whole /64 of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Source(IpAddr);

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
            }
            address @ IpAddr::V4(_) => address,
        })
    }
}

impl<W> Seats<W> {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            next: 0,
            taken: 0,
            newcomers: BTreeMap::new(),
            clients: HashMap::new(),
            total: 0,
            turns_away: false,
        }
    }

    /// True if one more connection may be accepted.
    pub(super) fn have_room(&self) -> bool {
        self.taken < self.bounds.files
    }

    /// Gives a seat to a connection that was accepted. Returns its number, and the oldest
    /// newcomer if that has to leave.
    pub(super) fn arrive(&mut self, newcomer: W) -> (Number, Option<W>) {
        let number = Number(self.next);
        self.next += 1;
        self.taken += 1;
        let is_full = self.newcomers.len() as u64 >= self.bounds.newcomers;
        let leaves = if is_full { self.make_room() } else { None };
        self.newcomers.insert(number, newcomer);
        (number, leaves)
    }

    /// Takes the oldest newcomer, which has to leave. Its seat is free when it has left.
    pub(super) fn make_room(&mut self) -> Option<W> {
        self.newcomers.pop_first().map(|(_, oldest)| oldest)
    }

    /// Makes a newcomer a client, whose CONNECT has arrived.
    pub(super) fn connect(&mut self, number: Number, source: Source) -> Result<(), NoSeat> {
        let Bounds { clients, per_address, .. } = self.bounds;
        let by_files = self.bounds.clients_by_files();
        if let Some(clients) = clients.filter(|clients| self.total >= *clients) {
            self.turns_away = true;
            return Err(NoSeat::Clients(clients));
        }
        if self.total >= by_files {
            self.turns_away = true;
            return Err(NoSeat::Files(by_files));
        }
        let from_source = self.clients.entry(source).or_default();
        if *from_source >= per_address {
            return Err(NoSeat::Address(per_address));
        }
        *from_source += 1;
        self.total += 1;
        self.newcomers.remove(&number);
        Ok(())
    }

    /// True while a device that wants to connect is kept out, as far as anybody knows: one
    /// was, and there has been no room since.
    pub(super) fn turn_away(&self) -> bool {
        self.turns_away
    }

    /// Makes a newcomer this service's own client, which has a seat whatever the bounds.
    pub(super) fn connect_service(&mut self, number: Number) {
        self.newcomers.remove(&number);
    }

    /// A connection has closed its socket. `client` is its address if it was made a client.
    pub(super) fn leave(&mut self, number: Number, client: Option<Source>) {
        self.taken -= 1;
        self.newcomers.remove(&number);
        let Some(source) = client else { return };
        self.total -= 1;
        self.turns_away = false;
        if let Some(from_source) = self.clients.get_mut(&source) {
            *from_source -= 1;
            if *from_source == 0 {
                self.clients.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { files: 20, clients: None, per_address: 100, newcomers: 100 };

    fn source(address: &str) -> Source {
        address.parse::<IpAddr>().expect("an address").into()
    }

    /// Lets a client from that address in.
    fn client(seats: &mut Seats<u32>, address: &str) -> Result<Number, NoSeat> {
        let (number, _) = seats.arrive(0);
        let connected = seats.connect(number, source(address));
        if connected.is_err() {
            seats.leave(number, None);
        }
        connected.map(|()| number)
    }

    fn clients(seats: &mut Seats<u32>, address: &str) -> usize {
        (0..1000).map_while(|_| client(seats, address).ok()).count()
    }

    #[test]
    fn the_oldest_newcomer_leaves_if_there_are_too_many() {
        let mut seats = Seats::new(Bounds { newcomers: 3, ..BOUNDS });
        let left: Vec<_> = (1..=5).map(|n| seats.arrive(n).1).collect();
        assert_eq!(left, [None, None, None, Some(1), Some(2)]);
    }

    #[test]
    fn a_newcomer_that_has_sent_its_connect_does_not_have_to_leave() {
        let mut seats = Seats::new(Bounds { newcomers: 2, ..BOUNDS });
        let (first, _) = seats.arrive(1);
        seats.arrive(2);
        seats.connect(first, source("10.0.0.1")).expect("there is room");
        assert_eq!(seats.arrive(3).1, None);
        assert_eq!(seats.arrive(4).1, Some(2));
    }

    #[test]
    fn no_more_sockets_are_open_than_files_and_those_who_have_to_leave_count_until_they_have() {
        let mut seats = Seats::new(BOUNDS);
        let numbers: Vec<_> = (0..20).map(|n| seats.arrive(n).0).collect();
        assert!(!seats.have_room());
        assert_eq!(seats.make_room(), Some(0));
        assert!(!seats.have_room(), "its socket is still open");
        seats.leave(numbers[0], None);
        assert!(seats.have_room());
    }

    #[test]
    fn clients_leave_seats_to_newcomers_and_to_the_service_itself() {
        let mut seats = Seats::new(BOUNDS);
        assert_eq!(clients(&mut seats, "10.0.0.1"), 16);
        assert_eq!(client(&mut seats, "10.0.0.2"), Err(NoSeat::Files(16)));
        let (own, _) = seats.arrive(0);
        seats.connect_service(own);
        assert!(seats.have_room(), "for the CONNECT of a device that takes its connection over");
        seats.leave(own, None);
    }

    #[test]
    fn a_seat_that_is_left_can_be_taken_again() {
        let mut seats = Seats::new(Bounds { clients: Some(1), ..BOUNDS });
        for _ in 0..100 {
            let number = client(&mut seats, "10.0.0.1").expect("there is room");
            assert_eq!(client(&mut seats, "10.0.0.1"), Err(NoSeat::Clients(1)));
            seats.leave(number, Some(source("10.0.0.1")));
        }
        assert_eq!((seats.taken, seats.total), (0, 0));
        assert!(seats.clients.is_empty() && seats.newcomers.is_empty());
    }

    #[test]
    fn one_address_leaves_seats_to_the_others_and_an_ipv6_host_is_one_address() {
        let mut seats = Seats::new(Bounds { per_address: 2, ..BOUNDS });
        for (first, same, other) in [
            ("10.0.0.1", "::ffff:10.0.0.1", "10.0.0.2"),
            ("127.0.0.1", "127.0.0.1", "127.0.0.2"),
            ("2001:db8:1:2::1", "2001:db8:1:2:ffff::", "2001:db8:1:3::1"),
        ] {
            assert_eq!(clients(&mut seats, first), 2, "{first}");
            assert_eq!(client(&mut seats, same), Err(NoSeat::Address(2)), "{same}");
            assert!(client(&mut seats, other).is_ok(), "{other}");
        }
    }

    #[test]
    fn the_least_number_of_files_has_room_for_devices() {
        let least = Bounds { files: 16, ..BOUNDS };
        assert_eq!((least.for_newcomers(), least.clients_by_files()), (4, 12));
        let many = Bounds { files: 1_048_448, ..BOUNDS };
        assert_eq!(many.clients_by_files(), 1_047_424);
    }

    #[test]
    fn a_client_is_turned_away_until_another_one_has_left() {
        let mut seats = Seats::new(Bounds { clients: Some(1), per_address: 1, ..BOUNDS });
        let number = client(&mut seats, "10.0.0.1").expect("there is room");
        assert!(!seats.turn_away(), "a full house keeps nobody out");
        assert!(client(&mut seats, "10.0.0.2").is_err());
        assert!(seats.turn_away(), "it may try again at any time");
        seats.leave(number, Some(source("10.0.0.1")));
        assert!(!seats.turn_away());
        let mut seats = Seats::new(Bounds { per_address: 1, ..BOUNDS });
        assert_eq!(clients(&mut seats, "10.0.0.1"), 1);
        assert!(!seats.turn_away(), "one address concerns no other");
    }

    #[test]
    fn a_refused_client_leaves_no_trace() {
        let mut seats = Seats::new(Bounds { clients: Some(0), ..BOUNDS });
        for n in 0..=255 {
            assert!(client(&mut seats, &format!("10.0.0.{n}")).is_err());
        }
        assert!(seats.clients.is_empty());
    }
}
