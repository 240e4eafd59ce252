//! The receiver in this process, which is used when `mqtt.url` is unset. In the configuration
//! and for whoever looks for one it is the *embedded broker*.
//!
//! It speaks MQTT 3.1, 3.1.1 and 5. Devices publish heartbeats to it, and nobody but this
//! service may subscribe: it distributes nothing, keeps no session, queues nothing, and
//! publishes no will. A heartbeat goes from the socket straight into the inbox. While the inbox
//! is full, nothing is read, and nothing is thrown away.
//!
//! The protocol (`codec`, `session`) knows no sockets. `accept` lets connections in, as far as
//! `seats` are free, `door` and `tls` are what happens before MQTT, and `newcomer` bounds what
//! clients may do before their CONNECT. `admission`
//! decides about clients, `clients` knows those that are connected, and `connection` serves one
//! of them, at a `pace`.

mod accept;
mod admission;
mod clients;
mod codec;
mod connection;
mod door;
mod entry;
mod limits;
mod newcomer;
mod pace;
mod seats;
mod session;
mod tls;
mod transport;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use log::{debug, error, warn};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use self::accept::Listeners;
use self::clients::Clients;
use self::codec::Reason;
use self::connection::Admitted;
use self::entry::Door;
use self::limits::{Limit, Limits};
use self::newcomer::Room;
use self::session::{Refusal, Topics, What};
use self::tls::{Tls, TlsError};
use crate::address::reachable;
use crate::clock::Clock;
use crate::config::{EmbeddedConfig, MqttConfig};
use crate::domain::EchoToken;
use crate::inbox::Inbox;
use crate::logging::line_budget::LineBudget;
use crate::metrics::Metrics;
use crate::mqtt::Broker;
use crate::process::accept::Acceptor;
use crate::users::{Users, UsersError};

/// The log target.
const TARGET: &str = "receiver";

/// The name of the receiver's threads.
const THREAD_NAME: &str = "receiver";

/// The number of threads. A gateway has other work.
const THREADS: usize = 2;

/// The number of files that the receiver has open for this service: its listeners with their
/// reserves, and its end of the client's connection.
pub(crate) fn open_files(config: &EmbeddedConfig) -> u64 {
    // If there is no plain listener, there is one for the service itself.
    let listeners = 1 + u64::from(config.tls_listen.is_some());
    listeners * accept::FILES + 1
}

/// The user name with which this service logs in to its own receiver.
const SERVICE_USER: &str = "heartbeatd";

/// The number of echoes that may be on their way to the inbox.
const ECHOES: usize = 16;

/// The longest time for telling clients that the service stops.
const STOP_TIMEOUT: Duration = Duration::from_millis(500);

/// A running receiver, which stops when it is dropped.
pub struct Receiver {
    address: Option<SocketAddr>,
    tls_address: Option<SocketAddr>,
    /// The address at which this service itself connects.
    own_address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<AbortHandle>,
    /// Makes the users be read again, if there are any.
    hangups: Option<futures::channel::mpsc::Sender<()>>,
    runtime: Option<tokio::runtime::Runtime>,
}

/// The reason why the receiver could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ReceiverError {
    /// The address is in use, or is not this machine's.
    #[error(
        "the embedded broker cannot listen on {address}: {why}; free the address, or set \
         {key} to another one, or set mqtt.url to the broker that uses it"
    )]
    Listen {
        /// The configuration key of the address.
        key: &'static str,
        /// The address that could not be bound.
        address: SocketAddr,
        /// The operating system's reason.
        why: std::io::Error,
    },
    /// The certificates cannot be used.
    #[error("the embedded broker cannot speak TLS: {0}")]
    Tls(String),
    /// The users file cannot be used.
    #[error("mqtt.embedded.users_file = {0}")]
    Users(#[from] UsersError),
    /// The operating system provides no threads or no random numbers.
    #[error("the embedded broker cannot be started: {0}")]
    Start(std::io::Error),
}

impl ReceiverError {
    /// True if the configuration is at fault.
    pub fn is_config(&self) -> bool {
        matches!(self, Self::Tls(_) | Self::Users(_))
    }
}

impl From<TlsError> for ReceiverError {
    fn from(error: TlsError) -> Self {
        Self::Tls(error.to_string())
    }
}

/// The state that all connections share.
struct Shared {
    topics: Topics,
    /// The client id of this service.
    client_id: String,
    /// The password of this service's own client.
    secret: String,
    limits: Limits,
    room: Arc<Room>,
    tls: Option<Tls>,
    /// Those that may connect; `None` if anyone may.
    users: Option<Users>,
    inbox: Arc<Inbox>,
    clients: Clients,
    connections: TaskTracker,
    echoes: mpsc::Sender<EchoToken>,
    clock: Clock,
    metrics: Arc<Metrics>,
    refused_connections: LineBudget,
    refused_messages: LineBudget,
    hurried: LineBudget,
}

impl Receiver {
    /// Starts listening on separate threads, for connections that may have at most `max_files`
    /// open files. What it receives goes into `inbox`.
    ///
    /// # Errors
    ///
    /// [`ReceiverError::Listen`] if an address cannot be bound, [`ReceiverError::Tls`] if the
    /// certificates cannot be used.
    pub async fn start(
        config: &MqttConfig,
        max_files: u64,
        inbox: Arc<Inbox>,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Result<Self, ReceiverError> {
        let secret = random_secret().map_err(ReceiverError::Start)?;
        let (echoes, received) = mpsc::channel(ECHOES);
        let limits = Limits::new(&config.embedded, max_files);
        limits.warn_of_too_few_files();
        let room = Room::new(limits.seats);
        let shared = Arc::new(Shared {
            topics: Topics { heartbeats: config.topic.clone(), echo: config.echo_topic() },
            client_id: config.client_id.clone(),
            secret,
            limits,
            room,
            tls: Tls::new(&config.embedded)?,
            users: open_users(&config.embedded, clock)?,
            inbox,
            clients: Clients::default(),
            connections: TaskTracker::new(),
            echoes,
            clock,
            metrics,
            refused_connections: LineBudget::new(TARGET, "connections that were refused or ended"),
            refused_messages: LineBudget::new(TARGET, "messages and subscriptions refused"),
            hurried: LineBudget::new(TARGET, "clients that send too fast"),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name(THREAD_NAME)
            .enable_all()
            .build()
            .map_err(ReceiverError::Start)?;
        // From here on, dropping it shuts the runtime down without blocking.
        let mut receiver = Self {
            address: None,
            tls_address: None,
            own_address: (Ipv4Addr::LOCALHOST, 0).into(),
            shared,
            accepting: None,
            hangups: None,
            runtime: None,
        };
        let runtime = receiver.runtime.insert(runtime).handle().clone();
        let listeners = {
            let _inside = runtime.enter();
            receiver.listen(&config.embedded)?
        };
        let shared = Arc::clone(&receiver.shared);
        let accepting = runtime.spawn(accept::run(listeners, shared, received));
        receiver.accepting = Some(accepting.abort_handle());
        receiver.hangups = receiver.shared.watch_users(&runtime);
        Ok(receiver)
    }

    /// Binds all addresses, and notes the real ones. Inside the runtime.
    fn listen(&mut self, config: &EmbeddedConfig) -> Result<Listeners, ReceiverError> {
        let plain = config.listen.address();
        let (door, asked) = match plain {
            Some(address) => (Door::Plain, address),
            None => (Door::Own, self.own_address),
        };
        let (acceptor, address) = bind("mqtt.embedded.listen", asked)?;
        self.address = plain.map(|_| address);
        self.own_address = reachable(address);
        let mut listeners = Listeners::new(door, acceptor);
        if let Some(asked) = config.tls_listen {
            let (acceptor, address) = bind("mqtt.embedded.tls_listen", asked)?;
            self.tls_address = Some(address);
            listeners.add(Door::Tls, acceptor);
        }
        Ok(listeners)
    }

    /// Reads the users again, and the certificates for new connections. Returns at once; the
    /// log says what came of it. False if there are neither.
    pub fn reload(&self) -> bool {
        let reads_users = self.hangups.clone().map(|mut hangups| {
            // If the channel is full, they are about to be read anyway.
            let _ = hangups.try_send(());
        });
        let (Some(runtime), Some(_)) = (&self.runtime, &self.shared.tls) else {
            return reads_users.is_some();
        };
        let shared = Arc::clone(&self.shared);
        runtime.spawn_blocking(move || {
            if let Some(tls) = &shared.tls {
                tls.reload();
            }
        });
        true
    }

    /// The address on which it listens without TLS, if it does. The port is the real one, even
    /// if 0 was asked for.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The address on which it listens with TLS, if it does.
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.tls_address
    }

    /// The address and the credentials with which this service connects to it.
    pub fn broker(&self) -> Broker {
        Broker {
            uri: format!("mqtt://{}", self.own_address),
            credentials: Some((SERVICE_USER.to_owned(), self.shared.secret.clone())),
            setting: "mqtt.embedded.listen",
        }
    }

    /// Lets nobody in any more, and tells the clients that the service stops. The inbox must be
    /// closed.
    pub async fn stop(self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
        self.shared.clients.end_all();
        self.shared.connections.close();
        // A client that does not read is not told.
        let _ = timeout(STOP_TIMEOUT, self.shared.connections.wait()).await;
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Waiting for its threads would block the caller.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Binds the address of that key, and returns the real one. Inside the runtime.
fn bind(key: &'static str, address: SocketAddr) -> Result<(Acceptor, SocketAddr), ReceiverError> {
    let failed = |why| ReceiverError::Listen { key, address, why };
    let acceptor = accept::listen(address).map_err(failed)?;
    let address = acceptor.local_addr().map_err(failed)?;
    Ok((acceptor, address))
}

fn open_users(config: &EmbeddedConfig, clock: Clock) -> Result<Option<Users>, UsersError> {
    config.users_file.as_deref().map(|file| Users::open(file, clock)).transpose()
}

impl Shared {
    /// Keeps the users as their file has them. A user that was removed or has changed is
    /// disconnected. Each item sent to the result makes the file be read at once.
    fn watch_users(
        self: &Arc<Self>,
        runtime: &tokio::runtime::Handle,
    ) -> Option<futures::channel::mpsc::Sender<()>> {
        let users = self.users.clone()?;
        let (hangups, received) = futures::channel::mpsc::channel(1);
        let shared = Arc::clone(self);
        runtime.spawn(users.watch(received, move |changes| {
            let gone = |name: &str| {
                changes.removed.iter().chain(&changes.changed).any(|user| user.name() == name)
            };
            shared.clients.end_of_users(gone);
        }));
        Some(hangups)
    }

    /// Passes an echo on to the accept loop, which puts it into the inbox: so it also proves
    /// that devices can connect.
    fn pass_on(&self, echo: EchoToken) {
        if self.echoes.try_send(echo).is_err() {
            error!(target: TARGET, "an echo is lost, because those before it were not taken");
        }
    }

    /// Counts and logs that a client that has said nothing is refused. It is told nothing: nothing
    /// is known of it, and its seat may be needed.
    fn refuse_newcomer(&self, address: SocketAddr, limit: Limit) {
        self.log_refusal(address, Refused::Newcomer, limit.label(), &limit.refusal().why);
    }

    /// Counts and logs that a connection was refused, or ended.
    fn log_refusal(
        &self,
        address: SocketAddr,
        refused: Refused<'_>,
        reason: &'static str,
        why: &str,
    ) {
        let is_listed = refusal_labels().any(|listed| listed == reason);
        debug_assert!(is_listed, "{reason} is not in the list");
        self.metrics.receiver_refused(reason, 1);
        if let Refused::Admitted(Admitted { place, peer, .. }) = refused
            && [Reason::SessionTakenOver.label(), Reason::KeepAliveTimeout.label()]
                .contains(&reason)
        {
            // Either happens whenever a device loses its network.
            let (client, user) = (place.id(), peer.user());
            debug!(target: TARGET, address:%, client, user, reason; "ended a connection: {why}");
            return;
        }
        self.refused_connections.spend(|| match refused {
            Refused::Newcomer => {
                warn!(target: TARGET, address:%, reason; "refused a connection: {why}");
            }
            Refused::Client { client, user } => warn!(
                target: TARGET, address:%, client, user, reason; "refused a connection: {why}"
            ),
            Refused::Admitted(Admitted { place, peer, .. }) => {
                let (client, user) = (place.id(), peer.user());
                warn!(
                    target: TARGET, address:%, client, user, reason; "ended a connection: {why}"
                );
            }
        });
    }

    /// A connection could not be accepted, because no file can be opened.
    fn has_no_files(&self) {
        self.metrics.receiver_refused(Limit::OPEN_FILES, 1);
        self.inbox.shut_out();
        self.room.make_room();
    }

    /// Counts and logs that a client has to wait before more of its messages are read.
    fn log_hurried(&self, address: SocketAddr, client: &Admitted) {
        self.metrics.receiver_refused(limits::MESSAGE_RATE, 1);
        let (client, user) = (client.place.id(), client.peer.user());
        self.hurried.spend(|| {
            warn!(
                target: TARGET, address:%, client, user;
                "a client sends more than mqtt.embedded.max_messages_per_second, and is read later"
            );
        });
    }

    /// Logs something that was refused on a connection that goes on.
    fn log_refused(
        &self,
        what: What,
        address: SocketAddr,
        client: &Admitted,
        Refusal { why, .. }: &Refusal,
    ) {
        let what = what.as_str();
        self.refused_messages.spend(|| {
            let (client, user) = (client.place.id(), client.peer.user());
            warn!(target: TARGET, address:%, client, user; "refused {what}: {why}");
        });
    }
}

/// The party that is refused, as far as it is known.
#[derive(Clone, Copy)]
enum Refused<'a> {
    /// It has sent no CONNECT.
    Newcomer,
    /// It has named itself in a CONNECT.
    Client { client: &'a str, user: Option<&'a str> },
    /// It was let in.
    Admitted(&'a Admitted),
}

/// Every value of the `reason` label of `heartbeatd_receiver_refused_total`.
pub(crate) fn refusal_labels() -> impl Iterator<Item = &'static str> {
    Reason::ALL
        .map(Reason::label)
        .into_iter()
        .chain(Limit::LABELS)
        .chain([door::TLS, accept::PANIC])
}

/// Returns 128 random bits that nothing else on this machine can guess.
fn random_secret() -> std::io::Result<String> {
    let mut bytes = [0; 16];
    openssl::rand::rand_bytes(&mut bytes)?;
    Ok(openssl::base64::encode_block(&bytes))
}
