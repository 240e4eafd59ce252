//! The clients that are connected, each known by its client id.
//!
//! A client id is in use once. A new connection with it wins: the old one hands over what has
//! arrived and gives up its place. Then the new one is accepted, while the old one is told.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use compact_str::CompactString;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// A connection that lasts for less than this before another one takes its client id over.
const EARLY: Duration = Duration::from_secs(5);

/// All connected clients.
#[derive(Clone, Debug, Default)]
pub(super) struct Clients(Arc<Mutex<HashMap<CompactString, Arc<Client>>>>);

/// One connected client, as others see it.
#[derive(Debug)]
pub(super) struct Client {
    /// The name of the user that is logged in, if any is.
    user: Option<CompactString>,
    since: Instant,
    /// The number of times in a row that the client id was taken over early.
    taken_over: u32,
    ending: Mutex<Option<Ending>>,
    end: Notify,
    ended: Notify,
}

/// The reason why a connection has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Another connection has its client id.
    TakenOver,
    /// Its user was removed or has other rights.
    UserChanged,
    /// The service is stopping.
    Stopping,
}

/// The place of a connected client. It is given up when it is dropped, if not before.
#[derive(Debug)]
pub(super) struct Place {
    clients: Clients,
    id: CompactString,
    client: Arc<Client>,
}

/// Another user is connected with the client id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OfAnotherUser;

impl Clients {
    /// Takes the place of the client `id`, after the end of a connection that has it.
    pub(super) async fn enter(
        &self,
        id: &str,
        user: Option<&str>,
        now: Instant,
    ) -> Result<Place, OfAnotherUser> {
        let mut taken_over = 0;
        loop {
            let other = match self.0.lock().entry(id.into()) {
                Entry::Vacant(vacant) => {
                    let client = Arc::new(Client {
                        user: user.map(Into::into),
                        since: now,
                        taken_over,
                        ending: Mutex::new(None),
                        end: Notify::new(),
                        ended: Notify::new(),
                    });
                    vacant.insert(Arc::clone(&client));
                    return Ok(Place { clients: self.clone(), id: id.into(), client });
                }
                Entry::Occupied(other) => Arc::clone(other.get()),
            };
            if other.user.as_deref() != user {
                return Err(OfAnotherUser);
            }
            let early = now.saturating_duration_since(other.since) < EARLY;
            taken_over = if early { other.taken_over + 1 } else { 1 };
            let mut ended = std::pin::pin!(other.ended.notified());
            ended.as_mut().enable();
            other.end(Ending::TakenOver);
            // It may have ended before `ended` was there to notice.
            if self.has(id, &other) {
                ended.await;
            }
        }
    }

    /// Ends the connections of the users that `is_changed`.
    pub(super) fn end_of_users(&self, is_changed: impl Fn(&str) -> bool) {
        for client in self.0.lock().values() {
            if client.user.as_deref().is_some_and(&is_changed) {
                client.end(Ending::UserChanged);
            }
        }
    }

    /// Ends all connections, because the service is stopping.
    pub(super) fn end_all(&self) {
        for client in self.0.lock().values() {
            client.end(Ending::Stopping);
        }
    }

    fn has(&self, id: &str, client: &Arc<Client>) -> bool {
        self.0.lock().get(id).is_some_and(|there| Arc::ptr_eq(there, client))
    }
}

impl Client {
    fn end(&self, ending: Ending) {
        self.ending.lock().get_or_insert(ending);
        self.end.notify_one();
    }

    /// Resolves when the connection has to end.
    pub(super) async fn ending(&self) -> Ending {
        loop {
            if let Some(ending) = *self.ending.lock() {
                return ending;
            }
            self.end.notified().await;
        }
    }
}

impl Place {
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// The number of times in a row that its client id was taken over early.
    pub(super) fn taken_over(&self) -> u32 {
        self.client.taken_over
    }

    /// Gives it up: the client takes in nothing any more.
    pub(super) fn leave(&self) {
        let mut clients = self.clients.0.lock();
        if clients.get(&self.id).is_some_and(|there| Arc::ptr_eq(there, &self.client)) {
            clients.remove(&self.id);
        }
        drop(clients);
        self.client.ended.notify_waiters();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}
