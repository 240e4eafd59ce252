//! Decides which clients get in.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use log::warn;

use super::clients::{OfAnotherUser, Place};
use super::codec::{Accepted, Connect, Reason, Version};
use super::entry::{Door, Entry};
use super::limits::MAX_NAME;
use super::session::{Peer, Refusal};
use super::{SERVICE_USER, Shared, TARGET};
use crate::logging::escape::Quoted;
use crate::users::{Denied, InvalidUserName, User, UserName, Users};

/// The number of early take-overs in a row that is not a coincidence.
const TAKEN_OVER: u32 = 3;

/// A client that gets in.
pub(super) struct Admission {
    pub(super) peer: Peer,
    pub(super) place: Place,
    pub(super) accepted: Accepted,
    /// The time after which a silent client is gone.
    pub(super) keep_alive: Option<Duration>,
}

impl Shared {
    /// Decides about a client, and ends another connection with its client id.
    pub(super) async fn decide(
        &self,
        connect: &Connect,
        entry: &Entry,
        address: SocketAddr,
    ) -> Result<Admission, Refusal> {
        check_sizes(connect)?;
        let peer = self.identify(connect, entry, address.ip()).await?;
        let (id, assigned_id) = client_id(connect)?;
        let now = (self.clock)().monotonic;
        let place = self.clients.enter(&id, peer.user(), now).await;
        let place = place.map_err(|OfAnotherUser| {
            let why = format!("another user is connected with the client id {}", Quoted(&id));
            Refusal::new(Reason::ClientIdNotValid, why)
        })?;
        // From here on, it is among those that a change of the users ends.
        if !self.is_current(&peer) {
            return Err(Refusal::new(Reason::Busy, "its user has just changed; it may try again"));
        }
        if place.taken_over() >= TAKEN_OVER {
            let times = place.taken_over();
            self.refused_connections.spend(|| {
                warn!(
                    target: TARGET, client = id, address:%, times;
                    "connections with the same client id end each other again and again: each \
                     client needs its own"
                );
            });
        }
        let asked = connect.keep_alive;
        let keep_alive = match peer {
            Peer::Service => asked,
            Peer::Anyone | Peer::User(_) => self.keep_alive(connect),
        };
        let accepted = Accepted {
            assigned_id,
            keep_alive: (keep_alive != asked).then_some(keep_alive),
            ..Accepted::default()
        };
        // The standard's grace: half as much again.
        let keep_alive = Duration::from_secs(keep_alive.into()) * 3 / 2;
        let keep_alive = (!keep_alive.is_zero()).then_some(keep_alive);
        Ok(Admission { peer, place, accepted, keep_alive })
    }

    /// True if this service's own client connects.
    pub(super) fn is_service(&self, connect: &Connect) -> bool {
        *connect.client_id == *self.client_id
            && connect.user.as_deref() == Some(SERVICE_USER)
            && connect.password.as_deref().is_some_and(|password| self.is_secret(password))
    }

    async fn identify(
        &self,
        connect: &Connect,
        entry: &Entry,
        address: IpAddr,
    ) -> Result<Peer, Refusal> {
        if *connect.client_id == *self.client_id {
            if !self.is_service(connect) {
                let why = "the client id is this service's own (mqtt.client_id)";
                return Err(Refusal::new(Reason::ClientIdNotValid, why));
            }
            return Ok(Peer::Service);
        }
        if entry.door == Door::Own {
            let why = "this port is for the service itself: devices use mqtt.embedded.tls_listen";
            return Err(Refusal::new(Reason::NotAuthorized, why));
        }
        match (&entry.common_name, &self.users) {
            (Some(name), _) => self.user_of_certificate(name).map(Peer::User),
            (None, Some(users)) => log_in(users, connect, address).await.map(Peer::User),
            (None, None) => Ok(Peer::Anyone),
        }
    }

    /// The user that a certificate names. What else the client says of itself does not matter.
    fn user_of_certificate(&self, name: &str) -> Result<Arc<User>, Refusal> {
        if let Some(users) = &self.users {
            return users.get(name).ok_or_else(|| {
                let name = Quoted(name);
                let why = format!(
                    "its certificate is of {name}, and there is no such user: \
                     `heartbeatd user add` adds one"
                );
                Refusal::new(Reason::NotAuthorized, why)
            });
        }
        let name: UserName = name.parse().map_err(|invalid: InvalidUserName| {
            let why = format!("the common name of its certificate: {invalid}");
            Refusal::new(Reason::BadUserNameOrPassword, why)
        })?;
        Ok(Arc::new(User::of_own_name(name)))
    }

    /// True if nothing about the user has changed since it was let in.
    fn is_current(&self, peer: &Peer) -> bool {
        match (peer, &self.users) {
            (Peer::User(user), Some(users)) => users.is_current(user),
            _ => true,
        }
    }

    fn is_secret(&self, password: &[u8]) -> bool {
        let secret = self.secret.as_bytes();
        password.len() == secret.len() && openssl::memcmp::eq(password, secret)
    }

    fn keep_alive(&self, connect: &Connect) -> u16 {
        match connect.keep_alive {
            0 => self.limits.max_keep_alive,
            asked => asked.min(self.limits.max_keep_alive),
        }
    }
}

/// Checks the user name and the password of a CONNECT.
async fn log_in(users: &Users, connect: &Connect, address: IpAddr) -> Result<Arc<User>, Refusal> {
    let Some(name) = connect.user.as_deref() else {
        let why = "it gives no user name, and mqtt.embedded.users_file is set";
        return Err(Refusal::new(Reason::BadUserNameOrPassword, why));
    };
    let password = connect.password.as_deref().unwrap_or_default();
    users.verify(name, password, address).await.map_err(|denied| {
        let why = denied.to_string();
        match denied {
            // A stranger must not learn which names there are.
            Denied::UnknownUser | Denied::WrongPassword => {
                Refusal::new(Reason::BadUserNameOrPassword, why)
                    .told("the user name or the password is wrong")
            }
            Denied::Throttled { .. } | Denied::Busy => Refusal::new(Reason::Busy, why),
        }
    })
}

fn check_sizes(connect: &Connect) -> Result<(), Refusal> {
    if connect.has_method {
        let why = "no authentication method is supported: log in with a user name and a password";
        return Err(Refusal::new(Reason::BadAuthenticationMethod, why));
    }
    if connect.client_id.len() > MAX_NAME {
        let why = format!(
            "the client id has {} bytes, more than {MAX_NAME}: {}…",
            connect.client_id.len(),
            Quoted(beginning(&connect.client_id))
        );
        return Err(Refusal::new(Reason::ClientIdNotValid, why));
    }
    if let Some(user) = connect.user.as_deref()
        && user.len() > MAX_NAME
    {
        let why = format!("the user name has {} bytes, more than {MAX_NAME}", user.len());
        return Err(Refusal::new(Reason::BadUserNameOrPassword, why));
    }
    Ok(())
}

/// The client id, and the one that was chosen if the client has none.
fn client_id(connect: &Connect) -> Result<(String, Option<String>), Refusal> {
    if !connect.client_id.is_empty() {
        return Ok((connect.client_id.to_string(), None));
    }
    if connect.version == Version::V31 {
        let why = "the client id is empty, which MQTT 3.1 does not allow";
        return Err(Refusal::new(Reason::ClientIdNotValid, why));
    }
    let mut random = [0; 12];
    openssl::rand::rand_bytes(&mut random).map_err(|error| {
        Refusal::new(Reason::Unavailable, format!("no random numbers for a client id: {error}"))
    })?;
    let id = format!("auto-{}", openssl::base64::encode_block(&random));
    Ok((id.clone(), Some(id)))
}

/// The beginning of a text from a client that may have no such name, up to 64 bytes.
pub(super) fn beginning(text: &str) -> &str {
    &text[..text.floor_char_boundary(64)]
}
