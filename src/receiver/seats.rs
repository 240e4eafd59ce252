//! Seats for connections: how many there are in all, for one address, and without a CONNECT.
//! This only counts. Its owner ends the connections that have to leave.
//!
//! - Every connection has a seat from the moment it is accepted until its socket is closed,
//!   so that no more sockets are open than [`Bounds::files`].
//! - Before its CONNECT a connection is a *newcomer*. If there are too many of them, or no
//!   seat is left, one has to leave: the oldest of the address that has most of them. So
//!   silent sockets never keep a device out that sends its CONNECT, also not one whose network
//!   is slow, unless they come from as many addresses.
//! - With its CONNECT a newcomer becomes a client. Clients leave [`Bounds::for_newcomers`]
//!   seats alone, so there is always one for the CONNECT of this service's own client, which
//!   is not counted among them.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
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
    newcomers: Newcomers<W>,
    /// The number of clients from each address that has any.
    clients: HashMap<Source, u64>,
    /// The sum of these.
    total: u64,
    /// True if a client found no room in all, and no other has left since.
    turns_away: bool,
}

/// The addresses that count as one: a host has a whole /64 of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

/// The newcomers, in the order in which they have to leave.
#[derive(Debug)]
struct Newcomers<W> {
    all: HashMap<Number, (Source, W)>,
    of: HashMap<Source, BTreeSet<Number>>,
    /// Each address with the number of its newcomers and the oldest of them. The last one is
    /// the address that has most; of several the one with the oldest newcomer.
    crowds: BTreeSet<(usize, Reverse<Number>, Source)>,
}

impl<W> Default for Newcomers<W> {
    fn default() -> Self {
        Self { all: HashMap::new(), of: HashMap::new(), crowds: BTreeSet::new() }
    }
}

impl<W> Newcomers<W> {
    fn len(&self) -> u64 {
        self.all.len() as u64
    }

    fn insert(&mut self, number: Number, source: Source, newcomer: W) {
        self.all.insert(number, (source, newcomer));
        self.change(source, |numbers| numbers.insert(number));
    }

    fn remove(&mut self, number: Number) -> Option<W> {
        let (source, newcomer) = self.all.remove(&number)?;
        self.change(source, |numbers| numbers.remove(&number));
        Some(newcomer)
    }

    /// Takes the oldest newcomer of the address that has most.
    fn pop(&mut self) -> Option<W> {
        let (_, Reverse(oldest), _) = *self.crowds.last()?;
        self.remove(oldest)
    }

    fn change(&mut self, source: Source, change: impl FnOnce(&mut BTreeSet<Number>) -> bool) {
        let numbers = self.of.entry(source).or_default();
        if let Some(oldest) = numbers.first() {
            self.crowds.remove(&(numbers.len(), Reverse(*oldest), source));
        }
        change(numbers);
        if let Some(oldest) = numbers.first() {
            self.crowds.insert((numbers.len(), Reverse(*oldest), source));
        } else {
            self.of.remove(&source);
        }
    }
}

impl<W> Seats<W> {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            next: 0,
            taken: 0,
            newcomers: Newcomers::default(),
            clients: HashMap::new(),
            total: 0,
            turns_away: false,
        }
    }

    /// True if one more connection may be accepted.
    pub(super) fn have_room(&self) -> bool {
        self.taken < self.bounds.files
    }

    /// Gives a seat to a connection that was accepted. Returns its number, and another newcomer
    /// if that has to leave.
    pub(super) fn arrive(&mut self, source: Source, newcomer: W) -> (Number, Option<W>) {
        let number = Number(self.next);
        self.next += 1;
        self.taken += 1;
        let is_full = self.newcomers.len() >= self.bounds.newcomers;
        let leaves = if is_full { self.make_room() } else { None };
        self.newcomers.insert(number, source, newcomer);
        (number, leaves)
    }

    /// Takes the newcomer that has to leave, if there is one. Its seat is free when it has left.
    pub(super) fn make_room(&mut self) -> Option<W> {
        self.newcomers.pop()
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
        self.newcomers.remove(number);
        Ok(())
    }

    /// True while a device that wants to connect is kept out, as far as anybody knows: one
    /// was, and there has been no room since.
    pub(super) fn turn_away(&self) -> bool {
        self.turns_away
    }

    /// Makes a newcomer this service's own client, which has a seat whatever the bounds.
    pub(super) fn connect_service(&mut self, number: Number) {
        self.newcomers.remove(number);
    }

    /// A connection has closed its socket. `client` is its address if it was made a client.
    pub(super) fn leave(&mut self, number: Number, client: Option<Source>) {
        self.taken -= 1;
        self.newcomers.remove(number);
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
        let (number, _) = seats.arrive(source(address), 0);
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
        let left: Vec<_> = (1..=5).map(|n| seats.arrive(source("10.0.0.1"), n).1).collect();
        assert_eq!(left, [None, None, None, Some(1), Some(2)]);
    }

    #[test]
    fn the_address_with_most_newcomers_makes_room_for_the_others() {
        let mut seats = Seats::new(Bounds { newcomers: 4, ..BOUNDS });
        let mut arrive = |address, n| seats.arrive(source(address), n).1;
        assert_eq!(arrive("10.0.0.1", 1), None);
        let crowd: Vec<_> = (2..=9).map(|n| arrive("10.0.0.66", n)).collect();
        let left = [None, None, None, Some(2), Some(3), Some(4), Some(5), Some(6)];
        assert_eq!(crowd, left, "the first device stays, however many come");
        assert_eq!(arrive("10.0.0.2", 10), Some(7));
        assert_eq!(arrive("10.0.0.3", 11), Some(8));
        assert_eq!(arrive("10.0.0.4", 12), Some(1), "each has one, and this is the oldest");
        for n in 0..12 {
            seats.leave(Number(n), None);
        }
        let Newcomers { all, of, crowds } = &seats.newcomers;
        assert!(all.is_empty() && of.is_empty() && crowds.is_empty());
    }

    #[test]
    fn a_newcomer_that_has_sent_its_connect_does_not_have_to_leave() {
        let mut seats = Seats::new(Bounds { newcomers: 2, ..BOUNDS });
        let (first, _) = seats.arrive(source("10.0.0.1"), 1);
        seats.arrive(source("10.0.0.1"), 2);
        seats.connect(first, source("10.0.0.1")).expect("there is room");
        assert_eq!(seats.arrive(source("10.0.0.1"), 3).1, None);
        assert_eq!(seats.arrive(source("10.0.0.1"), 4).1, Some(2));
    }

    #[test]
    fn no_more_sockets_are_open_than_files_and_those_who_have_to_leave_count_until_they_have() {
        let mut seats = Seats::new(BOUNDS);
        let numbers: Vec<_> = (0..20).map(|n| seats.arrive(source("10.0.0.1"), n).0).collect();
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
        let (own, _) = seats.arrive(source("10.0.0.1"), 0);
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
        assert!(seats.clients.is_empty() && seats.newcomers.all.is_empty());
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
