//! Clients on real sockets; the test is the ingest.

use std::cell::{Cell, RefCell};

use bytes::Bytes;
use futures::FutureExt;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::*;
use crate::clock::{Clock, Reading, system_clock};
use crate::inbox::{Content, Inbox};
use crate::logging::line_budget::LineBudget;
use crate::metrics::Metrics;
use crate::process::panics;
use crate::receiver::Topics;
use crate::receiver::door;
use crate::receiver::entry::Door;
use crate::receiver::limits::Limits;
use crate::receiver::newcomer::Room;
use crate::users::{PasswordHash, Users};

/// The time that an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

const ACCEPTED: [u8; 4] = [0x20, 2, 0, 0];

/// A receiver without an accept loop.
struct Scene {
    shared: Arc<Shared>,
    listener: TcpListener,
}

impl Scene {
    async fn new() -> Self {
        Self::with(system_clock, Inbox::new(usize::MAX), None).await
    }

    async fn with(clock: Clock, inbox: Inbox, users: Option<Users>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let (echoes, _received) = mpsc::channel(1);
        let embedded = crate::config::Config::default().mqtt.embedded;
        let limits = Limits {
            connect_timeout: Duration::from_millis(100),
            max_packet: 1024,
            ..Limits::new(&embedded, 100)
        };
        let shared = Shared {
            topics: Topics {
                heartbeats: "devices/+/heartbeat".parse().expect("a topic"),
                echo: None,
            },
            client_id: "heartbeatd".to_owned(),
            secret: "secret".to_owned(),
            room: Room::new(limits.seats),
            tls: None,
            users,
            limits,
            inbox: Arc::new(inbox.at_once()),
            clients: Default::default(),
            connections: Default::default(),
            echoes,
            clock,
            metrics: Arc::new(Metrics::new()),
            refused_connections: LineBudget::new("receiver", "lines"),
            refused_messages: LineBudget::new("receiver", "lines"),
            hurried: LineBudget::new("receiver", "lines"),
        };
        Self { shared: Arc::new(shared), listener }
    }

    /// A connection, and the task that serves it.
    async fn connect(&self) -> (TcpStream, JoinHandle<()>) {
        let address = self.listener.local_addr().expect("it is bound");
        let (client, accepted) = tokio::join!(TcpStream::connect(address), self.listener.accept());
        let (server, address) = accepted.expect("it connects");
        let newcomer = self.shared.room.arrive(address.ip(), &self.shared.limits);
        let entry = Entry { door: Door::Plain, common_name: None };
        let serving = serve(server, address, entry, newcomer, Arc::clone(&self.shared));
        let served = tokio::spawn(serving);
        (client.expect("it connects"), served)
    }

    /// The devices in the inbox, one for each heartbeat.
    fn heard(&self) -> Vec<String> {
        let Content { heartbeats, events } = self.shared.inbox.rest();
        assert!(events.is_empty(), "{events:?}");
        heartbeats.iter().map(|heartbeat| heartbeat.device_id.to_string()).collect()
    }
}

fn packet(first: u8, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let size = u8::try_from(body.len()).expect("a small packet");
    assert!(size < 128);
    [&[first, size], &*body].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).expect("short").to_be_bytes(), text.as_bytes()].concat()
}

fn connect(id: &str, keep_alive: u16) -> Vec<u8> {
    packet(0x10, &[&text("MQTT"), &[4, 2], &keep_alive.to_be_bytes(), &text(id)])
}

/// With the password "secret".
fn connect_as(id: &str, user: &str) -> Vec<u8> {
    let fields = [text(id), text(user), text("secret")].concat();
    packet(0x10, &[&text("MQTT"), &[4, 0xc2, 0, 60], &fields])
}

fn connect_v5(id: &str) -> Vec<u8> {
    packet(0x10, &[&text("MQTT"), &[5, 2, 0, 0, 0], &text(id)])
}

/// A heartbeat at QoS 1 with packet id 7.
fn heartbeat(device: &str) -> Vec<u8> {
    packet(0x32, &[&text(&format!("devices/{device}/heartbeat")), &[0, 7]])
}

const ACKNOWLEDGED: [u8; 4] = [0x40, 2, 0, 7];

async fn answer<const N: usize>(client: &mut TcpStream) -> [u8; N] {
    let mut answer = [0; N];
    let read = timeout(PATIENCE, client.read_exact(&mut answer));
    read.await.expect("it does not wait for ever").expect("an answer");
    answer
}

async fn rest(client: &mut TcpStream) -> Bytes {
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.expect("it is closed politely");
    rest.into()
}

#[tokio::test]
async fn a_heartbeat_is_acknowledged_when_the_inbox_has_it() {
    let scene = Scene::new().await;
    let (mut client, _served) = scene.connect().await;
    client.write_all(&connect("pump", 0)).await.expect("it is open");
    assert_eq!(answer(&mut client).await, ACCEPTED);
    client.write_all(&heartbeat("pump")).await.expect("it is open");
    assert_eq!(answer(&mut client).await, ACKNOWLEDGED);
    assert_eq!(scene.heard(), ["pump"]);
}

#[tokio::test]
async fn what_the_inbox_did_not_take_is_not_acknowledged() {
    let scene = Scene::new().await;
    let (mut client, served) = scene.connect().await;
    client.write_all(&connect("pump", 0)).await.expect("it is open");
    assert_eq!(answer(&mut client).await, ACCEPTED);
    scene.shared.inbox.close();
    client.write_all(&heartbeat("pump")).await.expect("it is open");
    assert_eq!(rest(&mut client).await, "");
    drop(client);
    served.await.expect("it does not panic");
    assert!(scene.heard().is_empty());
}

thread_local! {
    /// The inbox that a reading of the clock closes.
    static CLOSES: RefCell<Option<Arc<Inbox>>> = RefCell::default();
}

fn closing_clock() -> Reading {
    if let Some(inbox) = CLOSES.take() {
        inbox.close();
    }
    system_clock()
}

#[tokio::test]
async fn what_was_read_and_the_inbox_does_not_take_any_more_is_not_acknowledged() {
    let scene = Scene::with(closing_clock, Inbox::new(usize::MAX), None).await;
    let (mut client, served) = scene.connect().await;
    client.write_all(&connect("pump", 0)).await.expect("it is open");
    assert_eq!(answer(&mut client).await, ACCEPTED);
    // Between the two halves of a turn.
    CLOSES.set(Some(Arc::clone(&scene.shared.inbox)));
    client.write_all(&heartbeat("pump")).await.expect("it is open");
    assert_eq!(rest(&mut client).await, "");
    assert!(CLOSES.take().is_none(), "it was read");
    drop(client);
    served.await.expect("it does not panic");
    assert!(scene.heard().is_empty());
}

#[tokio::test]
async fn what_comes_together_with_the_connect_counts() {
    let scene = Scene::new().await;
    let (mut client, served) = scene.connect().await;
    let all = [connect("pump", 0), heartbeat("pump"), heartbeat("fan"), vec![0xe0, 0]].concat();
    client.write_all(&all).await.expect("it is open");
    client.shutdown().await.expect("it is open");
    assert_eq!(rest(&mut client).await, [&ACCEPTED[..], &ACKNOWLEDGED, &ACKNOWLEDGED].concat());
    served.await.expect("it does not panic");
    assert_eq!(scene.heard(), ["pump", "fan"]);
}

#[tokio::test]
async fn packets_may_arrive_byte_by_byte_and_end_in_the_middle_of_one() {
    let scene = Scene::new().await;
    let (mut client, served) = scene.connect().await;
    client.set_nodelay(true).expect("it is open");
    let all = [connect("pump", 0), heartbeat("pump"), heartbeat("fan")[..9].to_vec()].concat();
    for byte in all {
        client.write_all(&[byte]).await.expect("it is open");
        tokio::task::yield_now().await;
    }
    client.shutdown().await.expect("it is open");
    assert_eq!(rest(&mut client).await, [ACCEPTED, ACKNOWLEDGED].concat());
    served.await.expect("it ends");
    assert_eq!(scene.heard(), ["pump"]);
}

#[tokio::test]
async fn a_new_connection_with_a_client_id_that_is_in_use_wins() {
    let scene = Scene::new().await;
    let (mut old, ended) = scene.connect().await;
    old.write_all(&connect_v5("pump")).await.expect("it is open");
    let [0x20, size] = answer(&mut old).await else { panic!("not a CONNACK") };
    let mut connack = vec![0; size.into()];
    old.read_exact(&mut connack).await.expect("the rest of it");

    // What the old one has sent until then counts first.
    let topic = text("devices/pump/heartbeat");
    old.write_all(&packet(0x30, &[&topic, &[0]])).await.expect("it is open");
    let (mut new, _served) = scene.connect().await;
    new.write_all(&connect("pump", 0)).await.expect("it is open");
    assert_eq!(answer(&mut new).await, ACCEPTED);
    assert_eq!(scene.heard(), ["pump"]);

    const TAKEN_OVER: u8 = 0x8e;
    let told = rest(&mut old).await;
    assert_eq!((told[0], told[2]), (0xe0, TAKEN_OVER), "{told:?}");
    drop(old);
    ended.await.expect("it does not panic");
    new.write_all(&heartbeat("pump")).await.expect("it is open");
    assert_eq!(answer(&mut new).await, ACKNOWLEDGED);
}

#[tokio::test]
async fn a_new_connection_does_not_wait_until_the_old_one_has_closed() {
    let scene = Scene::new().await;
    let (mut old, served) = scene.connect().await;
    old.write_all(&connect("pump", 0)).await.expect("it is open");
    assert_eq!(answer(&mut old).await, ACCEPTED);
    // The network of the old one is gone: it never closes.
    let (mut new, _served) = scene.connect().await;
    new.write_all(&connect("pump", 0)).await.expect("it is open");
    assert_eq!(answer(&mut new).await, ACCEPTED);
    assert!(!served.is_finished(), "it waited for the old one");
    assert_eq!(rest(&mut old).await, "");
}

#[tokio::test]
async fn a_client_that_is_silent_for_longer_than_its_keep_alive_is_gone() {
    let scene = Scene::new().await;
    let (mut client, _served) = scene.connect().await;
    let began = Instant::now();
    client.write_all(&connect("pump", 1)).await.expect("it is open");
    assert_eq!(rest(&mut client).await, ACCEPTED[..]);
    assert!(began.elapsed() >= Duration::from_millis(1500), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_packet_that_arrives_byte_by_byte_and_never_ends_keeps_no_connection_open() {
    let scene = Scene::new().await;
    let (mut client, _served) = scene.connect().await;
    client.write_all(&connect("pump", 1)).await.expect("it is open");
    assert_eq!(answer(&mut client).await, ACCEPTED);
    let (mut reading, mut writing) = client.into_split();
    let endless = async {
        // The beginning of a message of 1,000 bytes.
        for byte in [0x30, 0xe8, 0x07].into_iter().chain(std::iter::repeat_n(0, 250)) {
            writing.write_all(&[byte]).await.expect("it is open");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        end = reading.read_u8() => assert!(end.is_err(), "{end:?}"),
        () = endless => panic!("it is still open"),
    }
}

#[tokio::test]
async fn a_connection_without_a_connect_is_closed() {
    let scene = Scene::new().await;
    for beginning in [&[][..], &connect("pump", 0)[..12]] {
        let (mut client, served) = scene.connect().await;
        client.write_all(beginning).await.expect("it is open");
        assert_eq!(rest(&mut client).await, "");
        drop(client);
        served.await.expect("it does not panic");
    }
}

#[tokio::test]
async fn a_packet_that_is_too_large_ends_the_connection_before_it_has_arrived() {
    let scene = Scene::new().await;
    let (mut client, _served) = scene.connect().await;
    client.write_all(&connect("pump", 0)).await.expect("it is open");
    assert_eq!(answer(&mut client).await, ACCEPTED);
    client.write_all(&[0x30, 0xff, 0xff, 0xff, 0x7f]).await.expect("it is open");
    assert_eq!(rest(&mut client).await, "");
}

thread_local! {
    /// The number of readings after which the clock of a test panics, once.
    static BREAKS_AFTER: Cell<Option<u32>> = const { Cell::new(None) };
}

/// A clock that panics when it is told to: in whatever part of a connection reads it then.
fn fragile_clock() -> Reading {
    let left = BREAKS_AFTER.get();
    BREAKS_AFTER.set(left.and_then(|left| left.checked_sub(1)));
    assert!(left != Some(0), "on purpose");
    system_clock()
}

/// Everything that a client does, until its connection is closed. Returns its answers.
async fn connect_and_publish(scene: &Scene) -> (Bytes, Result<(), tokio::task::JoinError>) {
    let (mut client, served) = scene.connect().await;
    let mut answers = Vec::new();
    for packet in [connect("pump", 0), heartbeat("pump"), vec![0xe0, 0]] {
        // It may be closed already.
        let _ = client.write_all(&packet).await;
        let mut answer = [0; 4];
        match client.read(&mut answer).await {
            Ok(read) if read > 0 => answers.extend_from_slice(&answer[..read]),
            _ => break,
        }
    }
    (answers.into(), served.await)
}

#[tokio::test]
async fn a_connection_that_panics_gives_back_all_that_it_held() {
    let inbox = Inbox::new(1).with_turns(2 * MAX_TURN, MAX_TURN);
    let mut scene = Scene::with(fragile_clock, inbox, None).await;
    let shared = Arc::get_mut(&mut scene.shared).expect("nobody is connected");
    shared.limits.seats.clients = Some(1);
    shared.room = Room::new(shared.limits.seats);

    let mut panics = 0;
    for readings in 0.. {
        BREAKS_AFTER.set(Some(readings));
        let (answers, served) = connect_and_publish(&scene).await;
        let Err(panicked) = served else { break };
        assert!(panicked.is_panic());
        panics += 1;
        let acknowledged = usize::from(answers.ends_with(&ACKNOWLEDGED));
        assert_eq!(scene.heard().len(), acknowledged, "what does not count is not acknowledged");

        let page = scene.shared.metrics.encode().expect("it is written");
        assert!(page.contains("heartbeatd_receiver_connections 0\n"), "{page}");
        let turn = || scene.shared.inbox.turn(&Share::default()).now_or_never();
        assert!(turn().zip(turn()).is_some(), "all of the inbox has room");
        let now = std::time::Instant::now();
        let place = scene.shared.clients.enter("pump", None, now).now_or_never();
        assert_eq!(place.expect("its place is free").expect("it is nobody's").taken_over(), 0);
        // It has the only seat.
        let (answers, served) = connect_and_publish(&scene).await;
        assert_eq!(answers, [ACCEPTED, ACKNOWLEDGED].concat(), "{readings}");
        served.expect("it does not panic");
        assert_eq!(scene.heard(), ["pump"]);
    }
    // It reads the CONNECT, decides about it, reads a heartbeat, puts it into the inbox, and
    // reads the DISCONNECT.
    assert_eq!(panics, 5);
}

#[tokio::test]
async fn others_have_their_turns_after_a_connection_panicked_in_its_own() {
    let inbox = Inbox::new(1).with_turns(MAX_TURN, MAX_TURN);
    let scene = Scene::with(fragile_clock, inbox, None).await;
    let (mut pump, pump_served) = scene.connect().await;
    let (mut fan, _served) = scene.connect().await;
    for (client, id) in [(&mut pump, "pump"), (&mut fan, "fan")] {
        client.write_all(&connect(id, 0)).await.expect("it is open");
        assert_eq!(answer(client).await, ACCEPTED);
    }
    let turn = scene.shared.inbox.turn(&Share::default()).await.expect("it is open");
    pump.write_all(&heartbeat("pump")).await.expect("it is open");
    wait_a_bit().await;
    fan.write_all(&heartbeat("fan")).await.expect("it is open");
    wait_a_bit().await;
    // The old connection has to hand over what it has before this one is let in.
    let (mut again, _served) = scene.connect().await;
    again.write_all(&connect("pump", 0)).await.expect("it is open");
    wait_a_bit().await;
    BREAKS_AFTER.set(Some(0));
    drop(turn);
    assert!(pump_served.await.is_err_and(|end| end.is_panic()), "it was the first to wait");
    assert_eq!(answer(&mut fan).await, ACKNOWLEDGED);
    assert_eq!(scene.heard(), ["fan"]);
    assert_eq!(answer(&mut again).await, ACCEPTED);
    again.write_all(&heartbeat("pump")).await.expect("it is open");
    assert_eq!(answer(&mut again).await, ACKNOWLEDGED);
}

#[tokio::test]
async fn a_user_that_changes_between_its_check_and_its_place_is_not_let_in() {
    const BUSY: [u8; 4] = [0x20, 2, 0, 3];
    let hash = PasswordHash::of(b"secret").expect("it is computed");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("users");
    let write = |lines: &str| {
        std::fs::write(&file, lines.replace("HASH", &hash.to_string())).expect("a file");
    };
    for (after, answered) in
        [("eve:HASH\n", BUSY), ("ann:HASH:x\n", BUSY), ("eve:HASH\nann:HASH\n", ACCEPTED)]
    {
        write("ann:HASH\n");
        let users = Users::open(&file, system_clock).expect("it is valid");
        let inbox = Inbox::new(usize::MAX);
        let scene = Scene::with(system_clock, inbox, Some(users.clone())).await;
        // An earlier connection has its place. It is told to end once the password is checked.
        let now = std::time::Instant::now();
        let place = scene.shared.clients.enter("pump", Some("ann"), now).await.expect("free");
        let (mut client, _served) = scene.connect().await;
        client.write_all(&connect_as("pump", "ann")).await.expect("it is open");
        assert_eq!(place.client().ending().await, Ending::TakenOver);
        write(after);
        users.reload().expect("it is valid");
        drop(place);
        assert_eq!(answer(&mut client).await, answered, "{after}");
    }
}

/// Lets the connections get as far as they can.
async fn wait_a_bit() {
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
}
/// A future that is moved into another one easily has its room twice, for each idle connection.
#[tokio::test]
async fn the_task_of_a_connection_has_less_than_three_kilobytes() {
    let scene = Scene::new().await;
    let address = scene.listener.local_addr().expect("it is bound");
    let stream = TcpStream::connect(address).await.expect("it connects");
    let newcomer = scene.shared.room.arrive(address.ip(), &scene.shared.limits);
    let serving = door::serve(stream, address, Door::Plain, newcomer, Arc::clone(&scene.shared));
    let task = panics::contained(address, serving);
    assert!(size_of_val(&task) < 3000, "{} bytes", size_of_val(&task));
}
