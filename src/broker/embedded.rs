//! The broker in this process: rmqtt behind a guard that lets through only what a
//! heartbeat service needs.
//!
//! - Any client may publish heartbeats (with `mqtt.embedded.users_file`: any user).
//! - Only this service may subscribe, and only it may use its own client id.
//! - A device id may not begin with `$`, because rmqtt takes a topic with such a level
//!   for invalid, acknowledges the message and loses it.
//! - A topic with a control character closes the connection, because paho would abort the
//!   process at a U+0000.
//! - A last will may not be a heartbeat, because it is sent when its device is gone. It
//!   is refused at the CONNECT, because rmqtt does not ask the guard when it sends it.

mod users;

use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use log::warn;
use rmqtt::context::ServerContext;
use rmqtt::hook::{Handler, HookResult, Parameter, ReturnType, Type};
use rmqtt::server::MqttServer;
use rmqtt::types::{
    AuthResult, ConnectInfo, LastWill, Publish, PublishAclResult, Subscribe, SubscribeReturn,
};

use self::users::Users;
pub use self::users::UsersError;
use super::THREAD_NAME;
use crate::address::reachable;
use crate::config::MqttConfig;
use crate::domain::TopicPattern;
use crate::domain::device_id::is_reserved;
use crate::logging::escape::Quoted;
use crate::logging::line_budget::LineBudget;
use crate::mqtt::Broker;

/// By default rmqtt uses as many threads as the machine has cores; a gateway has other
/// work.
const THREADS: usize = 2;

/// rmqtt's defaults cut bursts short: of 500,000 messages at QoS 1 77,000 arrived. With
/// these limits all of them do.
const MAX_QUEUED: usize = 1_000_000;
const MAX_INFLIGHT: NonZeroU16 = NonZeroU16::MAX;
const MAX_RATE: (NonZeroU32, Duration) = (NonZeroU32::MAX, Duration::from_secs(1));

/// The user name with which this service logs in to its own broker.
const SERVICE_USER: &str = "heartbeatd";

/// A running broker, which stops when it is dropped.
pub struct EmbeddedBroker {
    address: SocketAddr,
    secret: String,
    runtime: Option<tokio::runtime::Runtime>,
}

/// The reason why the broker could not be started.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// The address is in use, or is not this machine's.
    #[error(
        "the embedded broker cannot listen on {address}: {why}; free the address, or set \
         mqtt.embedded.listen to another one, or set mqtt.url to the broker that uses it"
    )]
    Listen {
        /// The address that could not be bound.
        address: SocketAddr,
        /// The operating system's reason.
        why: String,
    },
    /// The users cannot be read.
    #[error(transparent)]
    Users(#[from] UsersError),
    /// The operating system provides no threads or no random numbers.
    #[error("the embedded broker cannot be started: {0}")]
    Start(std::io::Error),
}

impl EmbeddedError {
    /// True if the configuration is at fault.
    pub fn is_config(&self) -> bool {
        matches!(self, Self::Users(_))
    }
}

/// Checks a file of users. The error says what is wrong with it.
pub(crate) fn check_users_file(path: &std::path::Path) -> Result<(), String> {
    Users::read(path).map(drop).map_err(|error| error.why)
}

impl EmbeddedBroker {
    /// Starts listening on separate threads, for at most `max_clients` clients besides
    /// this service.
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::Listen`] if the address cannot be bound,
    /// [`EmbeddedError::Users`] if `mqtt.embedded.users_file` cannot be used.
    pub async fn start(config: &MqttConfig, max_clients: u64) -> Result<Self, EmbeddedError> {
        let users = config.embedded.users_file.as_deref().map(Users::read).transpose()?;
        let secret = random_secret().map_err(EmbeddedError::Start)?;
        let guard = Arc::new(Guard {
            topic: config.topic.clone(),
            echo_topic: config.echo_topic(),
            client_id: config.client_id.clone(),
            secret: secret.clone(),
            users,
            max_clients,
            refusals: LineBudget::new("embedded_broker", "what was refused"),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name(THREAD_NAME)
            .enable_all()
            .build()
            .map_err(EmbeddedError::Start)?;
        let address = config.embedded.listen;
        let serving = runtime.spawn(serve(address, guard));
        // From here on, dropping it shuts the runtime down without blocking.
        let mut broker = Self { address, secret, runtime: Some(runtime) };
        let failed = |why: String| EmbeddedError::Listen { address, why };
        let served = serving.await.map_err(|error| failed(error.to_string()))?;
        broker.address = served.map_err(|error| failed(root(&error)))?;
        Ok(broker)
    }

    /// The address that it listens on. The port is the real one, even if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address and the credentials with which this service connects to it.
    pub fn broker(&self) -> Broker {
        Broker {
            uri: format!("mqtt://{}", reachable(self.address)),
            credentials: Some((SERVICE_USER.to_owned(), self.secret.clone())),
        }
    }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        // rmqtt cannot be stopped, and waiting for it would block the caller.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Binds the address and leaves the broker running on the current runtime.
async fn serve(address: SocketAddr, guard: Arc<Guard>) -> Result<SocketAddr, rmqtt::net::Error> {
    // To rmqtt, "busy" means that the whole machine is, and then it refuses devices.
    let context = ServerContext::new().busy_check_enable(false).build().await;
    let hooks = context.extends.hook_mgr().register();
    for hook in
        [Type::ClientAuthenticate, Type::MessagePublishCheckAcl, Type::ClientSubscribeCheckAcl]
    {
        let (guard, context) = (Arc::clone(&guard), context.clone());
        hooks.add(hook, Box::new(GuardHandler { guard, context })).await;
    }
    hooks.start().await;
    let listener = rmqtt::net::Builder::new()
        .name("embedded")
        .laddr(address)
        // The connections of a killed process hold the address for a minute.
        .reuseaddr(Some(true))
        // The guard decides about anonymous clients, because it sees every client.
        .allow_anonymous(false)
        .max_mqueue_len(MAX_QUEUED)
        .max_inflight(MAX_INFLIGHT)
        .mqueue_rate_limit(MAX_RATE.0, MAX_RATE.1)
        .bind()?
        .tcp()?;
    let bound = listener.local_addr()?;
    let server = MqttServer::new(context).listener_by_id(listener, bound.port()).build();
    tokio::spawn(server.run());
    Ok(bound)
}

/// Decides what each client may do.
struct Guard {
    topic: TopicPattern,
    echo_topic: Option<String>,
    client_id: String,
    secret: String,
    users: Option<Users>,
    /// The maximum number of clients that may be connected besides this service.
    max_clients: u64,
    refusals: LineBudget,
}

impl Guard {
    fn authenticate(&self, client: &ConnectInfo) -> Result<(), String> {
        if let Some(will) = client.last_will()
            && let topic = will_topic(&will)
            && (has_control(topic) || self.topic.device_level(topic).is_some())
        {
            return Err(format!(
                "its last will would be published on {}: a will is not a heartbeat, because it is \
                 sent when the device is gone",
                Quoted(topic)
            ));
        }
        let name = client.username().map(|name| &**name);
        let password = client.password().map_or(&[][..], |password| password);
        if **client.client_id() == *self.client_id {
            let is_service =
                name == Some(SERVICE_USER) && openssl_eq(password, self.secret.as_bytes());
            return if is_service {
                Ok(())
            } else {
                Err("the client id is this service's own (mqtt.client_id)".to_owned())
            };
        }
        match (&self.users, name) {
            (None, _) => Ok(()),
            (Some(users), Some(name)) if users.verify(name, password) => Ok(()),
            (Some(_), Some(name)) => Err(format!("user {} or its password is wrong", Quoted(name))),
            (Some(_), None) => Err("it gives no user name".to_owned()),
        }
    }

    fn may_publish(&self, client_id: &str, publish: &Publish) -> Result<(), Refusal> {
        let topic = &*publish.topic;
        if has_control(topic) {
            let why = format!("the topic {} has a control character", Quoted(topic));
            return Err(Refusal { why, disconnect: true });
        }
        if self.echo_topic.as_deref() == Some(topic) && client_id == self.client_id {
            return Ok(());
        }
        let why = match self.topic.device_level(topic) {
            Some(device) if is_reserved(device) => {
                format!("the topic {} is reserved for echoes of the service", Quoted(topic))
            }
            Some(device) if device.starts_with('$') => format!(
                "the device id {} begins with '$', so the embedded broker cannot pass on its \
                 heartbeats: give the device another id, or set mqtt.url to another broker",
                Quoted(device)
            ),
            Some(_) => return Ok(()),
            None => {
                format!(
                    "the topic {} is not a device's, which would be {}",
                    Quoted(topic),
                    self.topic
                )
            }
        };
        Err(Refusal { why, disconnect: false })
    }

    fn may_subscribe(&self, client_id: &str, subscribe: &Subscribe) -> Result<(), String> {
        if client_id == self.client_id {
            return Ok(());
        }
        Err(format!("only this service may subscribe, not to {}", Quoted(&subscribe.topic_filter)))
    }

    fn log_refusal(&self, client_id: &str, what: &str, why: &str) {
        self.refusals.spend(|| {
            let client = client_id;
            warn!(target: "embedded_broker", client; "refused {what}: {why}");
        });
    }
}

struct Refusal {
    why: String,
    disconnect: bool,
}

struct GuardHandler {
    guard: Arc<Guard>,
    context: ServerContext,
}

impl GuardHandler {
    fn authenticate(&self, client: &ConnectInfo) -> Result<(), String> {
        let (guard, connected) = (&self.guard, self.context.connections.count());
        if **client.client_id() != *guard.client_id
            && u64::try_from(connected).is_ok_and(|connected| connected >= guard.max_clients)
        {
            return Err(format!("{connected} are connected, as many as open files allow"));
        }
        guard.authenticate(client)
    }
}

#[async_trait]
impl Handler for GuardHandler {
    async fn hook(&self, parameter: &Parameter, _earlier: Option<HookResult>) -> ReturnType {
        let guard = &self.guard;
        let answer = match parameter {
            Parameter::ClientAuthenticate(client) => {
                HookResult::AuthResult(match self.authenticate(client) {
                    Ok(()) => AuthResult::Allow(false, None),
                    Err(why) => {
                        guard.log_refusal(client.client_id(), "a connection", &why);
                        AuthResult::NotAuthorized
                    }
                })
            }
            Parameter::MessagePublishCheckAcl(session, publish) => {
                let client_id = &session.id.client_id;
                HookResult::PublishAclResult(match guard.may_publish(client_id, publish) {
                    Ok(()) => PublishAclResult::allow(),
                    Err(Refusal { why, disconnect }) => {
                        guard.log_refusal(client_id, "a message", &why);
                        PublishAclResult::rejected(disconnect, Some(why.into()))
                    }
                })
            }
            Parameter::ClientSubscribeCheckAcl(session, subscribe) => {
                let client_id = &session.id.client_id;
                HookResult::SubscribeAclResult(match guard.may_subscribe(client_id, subscribe) {
                    Ok(()) => SubscribeReturn::new_success(subscribe.opts.qos(), None),
                    Err(why) => {
                        guard.log_refusal(client_id, "a subscription", &why);
                        SubscribeReturn::new_failure(NOT_AUTHORIZED)
                    }
                })
            }
            _ => return (true, None),
        };
        (false, Some(answer))
    }
}

const NOT_AUTHORIZED: rmqtt::codec::v5::SubscribeAckReason =
    rmqtt::codec::v5::SubscribeAckReason::NotAuthorized;

fn will_topic<'a>(will: &'a LastWill<'a>) -> &'a str {
    match will {
        LastWill::V3(will) => &will.topic,
        LastWill::V5(will) => &will.topic,
    }
}

fn has_control(topic: &str) -> bool {
    topic.contains(char::is_control)
}

fn openssl_eq(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && openssl::memcmp::eq(a, b)
}

/// Returns 128 random bits that nothing else on this machine can guess.
fn random_secret() -> std::io::Result<String> {
    let mut bytes = [0; 16];
    openssl::rand::rand_bytes(&mut bytes)?;
    Ok(openssl::base64::encode_block(&bytes))
}

/// The innermost cause, because rmqtt's errors begin with what was tried.
fn root(error: &rmqtt::net::Error) -> String {
    error.root_cause().to_string()
}
