//! A connection whose broker is the test, which gives any answer at any time.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use futures::channel::oneshot;
use futures::future::LocalBoxFuture;
use heartbeatd::clock::system_clock;
use heartbeatd::domain::{EchoToken, GroupMark};
use heartbeatd::mqtt::{ClientError, Connection, Granted, Inbox};

pub type Answer<T> = oneshot::Sender<T>;
pub type Subscribed = Result<Granted, ClientError>;

pub const TOPIC: &str = "devices/+/heartbeat";
pub const GRANTED: Granted = Granted { asked: 1, granted: 1 };

pub fn no_answer() -> Subscribed {
    Err(ClientError::NoAnswer { topic: TOPIC.to_owned() })
}

pub fn refused() -> Subscribed {
    let (topic, client_id) = (TOPIC.to_owned(), "heartbeatd".to_owned());
    Err(ClientError::Subscribe { topic, client_id, why: "not authorized".to_owned() })
}

/// The requests of a process that the broker has not answered.
pub struct Asked {
    pub inbox: Arc<Inbox>,
    /// The topic of echoes. `None` if being connected is the evidence.
    pub echo_topic: Option<&'static str>,
    pub number: Cell<u64>,
    pub connects: RefCell<Vec<Answer<Result<(), ClientError>>>>,
    pub diagnoses: RefCell<Vec<Answer<Option<String>>>>,
    pub goodbyes: RefCell<Vec<Answer<()>>>,
    pub subscriptions: RefCell<Vec<Answer<Subscribed>>>,
    /// The echoes that go to the broker. None if being connected is the evidence.
    pub echoes: RefCell<Vec<EchoToken>>,
    /// The number of echoes that were sent, wherever they go.
    pub sent: Cell<usize>,
}

impl Asked {
    pub fn nothing(inbox: Inbox, echo_topic: Option<&'static str>) -> Self {
        Self {
            inbox: Arc::new(inbox),
            echo_topic,
            number: Cell::new(0),
            connects: RefCell::default(),
            diagnoses: RefCell::default(),
            goodbyes: RefCell::default(),
            subscriptions: RefCell::default(),
            echoes: RefCell::default(),
            sent: Cell::new(0),
        }
    }
}

pub struct Line(pub Rc<Asked>);

fn ask<T: 'static>(asked: &RefCell<Vec<Answer<T>>>) -> LocalBoxFuture<'static, T> {
    let (answer, answered) = oneshot::channel();
    asked.borrow_mut().push(answer);
    Box::pin(async {
        match answered.await {
            Ok(answer) => answer,
            // No answer will come, because the process is dead or the test has ended.
            Err(_canceled) => std::future::pending().await,
        }
    })
}

impl Connection for Line {
    fn inbox(&self) -> Arc<Inbox> {
        Arc::clone(&self.0.inbox)
    }

    fn broker(&self) -> &str {
        "mqtt://test"
    }

    fn client_id(&self) -> &str {
        "heartbeatd"
    }

    fn topic(&self) -> &str {
        TOPIC
    }

    fn echo_topic(&self) -> Option<&str> {
        self.0.echo_topic
    }

    fn number(&self) -> u64 {
        self.0.number.get()
    }

    fn connect(&self) -> LocalBoxFuture<'static, Result<(), ClientError>> {
        ask(&self.0.connects)
    }

    fn subscribe(&self, _mark: GroupMark) -> LocalBoxFuture<'static, Subscribed> {
        ask(&self.0.subscriptions)
    }

    fn unsubscribe(&self, _mark: GroupMark) -> LocalBoxFuture<'static, bool> {
        Box::pin(std::future::ready(true))
    }

    fn send_echo(&self, token: EchoToken) {
        self.0.sent.update(|sent| sent + 1);
        match self.0.echo_topic {
            Some(_) => self.0.echoes.borrow_mut().push(token),
            None => self.0.inbox.offer_echo(token, system_clock()),
        }
    }

    fn disconnect(&self) -> LocalBoxFuture<'static, ()> {
        ask(&self.0.goodbyes)
    }

    fn diagnose(&self) -> LocalBoxFuture<'static, Option<String>> {
        ask(&self.0.diagnoses)
    }
}
