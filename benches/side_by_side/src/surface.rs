//! Measures what people and programs ask over HTTP of a large fleet while its heartbeats are
//! being written, and the memory that it takes.

mod changes;
mod page;
mod past;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use publishers::Publisher;
use servers::process::free_port;

use crate::candidates::{Broker, Stage};
use crate::contestants::{Contestant, Heartbeatd};
use crate::database::{Database, Server};
use crate::http::{self, Stream, metric};
use crate::sample::Sample;
use crate::streams::{self, Streams};
use crate::throughput::Load;

/// The load and the repetitions of a measurement.
#[derive(Clone, Debug, clap::Args)]
pub struct Extent {
    /// The size of the fleet
    #[arg(long, default_value_t = 1_000_000)]
    pub devices: u64,
    /// The heartbeats that are published each second meanwhile
    #[arg(long, default_value_t = 10_000)]
    pub per_second: u64,
    /// The number of times that each request is made, one after the other
    #[arg(long, default_value_t = 60)]
    pub rounds: usize,
    /// The number of clients that ask at once for the memory of it
    #[arg(long, default_value_t = 8)]
    pub clients: usize,
    /// The number of streams that are open
    #[arg(long, default_value_t = 1_000)]
    pub streams: u64,
    /// The number of pairs with and without them, and of changes; 0 measures none
    #[arg(long, default_value_t = 6)]
    pub turns: usize,
    /// The number of devices that change their status
    #[arg(long, default_value_t = 100_000)]
    pub changing: usize,
    /// Leave the requests out
    #[arg(long)]
    pub no_requests: bool,
    /// The databases
    #[arg(long, value_delimiter = ',', default_value = "sqlite,postgresql")]
    pub databases: Vec<Server>,
}

/// The time for which the service only writes heartbeats before anything is asked.
const WARM_UP: Duration = Duration::from_secs(25);

/// The time for which many clients ask at once.
const CROWDED: Duration = Duration::from_secs(15);

/// The time between two looks at the memory.
const LOOK: Duration = Duration::from_millis(100);

/// The result for one database.
pub struct Outcome {
    pub server: Server,
    /// Each request with its latencies, in the order in which they are made.
    pub requests: Vec<(Request, Sample)>,
    /// The time of the whole first screen, one request after the other.
    pub first_screen: Sample,
    /// The heartbeats that were handled each second meanwhile.
    pub per_second: f64,
    /// The most memory while nothing was asked, while one client asked and while many did.
    pub memory: [u64; 3],
    /// The answers to many clients, and how many of them refused because of too many.
    pub crowd: (u64, u64),
}

impl Outcome {
    /// The bytes by which the memory has grown.
    pub fn growth(&self) -> u64 {
        let [before, alone, crowded] = self.memory;
        alone.max(crowded).saturating_sub(before)
    }
}

/// A request, or what opens a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub about: &'static str,
    pub path: String,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file of the page.
    File,
    /// A request of the first screen.
    First,
    /// A stream, until its first summary.
    Stream,
    /// Another request.
    Other,
}

impl Request {
    fn new(about: &'static str, kind: Kind, path: impl Into<String>) -> Self {
        Self { about, path: path.into(), kind }
    }

    /// Makes it, and returns the time until the answer has been read.
    fn time(&self, port: u16) -> anyhow::Result<Duration> {
        let began = Instant::now();
        if self.kind == Kind::Stream {
            let mut stream = Stream::open(port, &self.path)?.context("there is room")?;
            while !stream.message()?.contains("event: summary") {}
            return Ok(began.elapsed());
        }
        let answer = http::get(port, &self.path)?;
        let took = began.elapsed();
        answer.ok().with_context(|| self.path.clone())?;
        Ok(took)
    }
}

/// Measures everything, prints it, and writes a page into `folder` if there is one.
pub fn run(extent: &Extent, stage: &Stage, folder: Option<&Path>) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut outcomes = Vec::new();
    for &server in extent.databases.iter().filter(|_| !extent.no_requests) {
        let outcome = requests(server, extent, stage)?;
        eprintln!("{}", page::summary(&outcome));
        outcomes.push(outcome);
    }
    let mut open = Vec::<Streams>::new();
    if extent.turns > 0 && extent.streams > 0 {
        let load = Load { devices: 100_000, rounds: 60, connections: 50 };
        for kind in streams::Kind::ALL {
            open.push(streams::run(kind, extent.streams, extent.turns, load, stage)?);
        }
    }
    let mut changes = Vec::new();
    if extent.turns > 0 && extent.changing > 0 {
        for &server in &extent.databases {
            let changed = changes::run(server, extent.devices, extent.changing, extent.turns)?;
            eprintln!("{changed}");
            changes.push(changed);
        }
    }
    let page = page::page(extent, &outcomes, &open, &changes, began.elapsed());
    println!("{page}");
    if let Some(folder) = folder {
        std::fs::write(folder.join("benchmarks-api.md"), page)?;
    }
    Ok(())
}

fn requests(server: Server, extent: &Extent, stage: &Stage) -> anyhow::Result<Outcome> {
    let database = Database::new(server)?;
    past::make(&database, extent.devices)?;
    let http = free_port();
    let settings = [
        ("HEARTBEAT__TIMEOUT", past::TIMEOUT),
        ("HEARTBEAT__CHECK_INTERVAL", "10s"),
        ("HTTP__LISTEN", &*format!("127.0.0.1:{http}")),
    ];
    let service = Heartbeatd::start(stage, database, Broker::Embedded, free_port(), &settings)?;
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let publishing = scope.spawn(|| publish(service.port(), extent, &enough));
        let measured = ask(&service, http, extent);
        enough.store(true, Ordering::Relaxed);
        publishing.join().expect("it does not panic")?;
        measured
    })
}

fn publish(port: u16, extent: &Extent, enough: &AtomicBool) -> anyhow::Result<()> {
    let devices = (0..extent.devices).filter(|&number| past::publishes(number)).cycle();
    let mut publisher = Publisher::connect(port, 1)?;
    publisher.steady(devices, extent.per_second, || enough.load(Ordering::Relaxed))
}

/// Asks while the heartbeats are being published.
fn ask(service: &Heartbeatd, http: u16, extent: &Extent) -> anyhow::Result<Outcome> {
    let before = with_memory(service, || {
        std::thread::sleep(WARM_UP);
        Ok(())
    })?
    .1;
    let all = all_requests(http, extent.devices)?;
    let (counted, began) = (metric(http, "heartbeatd_heartbeats_total")?, Instant::now());
    let ((latencies, first_screen), alone) =
        with_memory(service, || one_by_one(http, &all, extent.rounds))?;
    let counted = metric(http, "heartbeatd_heartbeats_total")? - counted;
    let per_second = counted as f64 / began.elapsed().as_secs_f64();
    let (crowd, crowded) = with_memory(service, || crowd(http, &all, extent.clients))?;
    let requests = all.into_iter().zip(latencies).collect();
    Ok(Outcome {
        server: service.database.server,
        requests,
        first_screen,
        per_second,
        memory: [before, alone, crowded],
        crowd,
    })
}

/// Does something, and returns with it the most memory that the service had meanwhile.
fn with_memory<T>(
    service: &Heartbeatd,
    work: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<(T, u64)> {
    let (done, most) = (AtomicBool::new(false), AtomicU64::new(0));
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                most.fetch_max(service.memory(), Ordering::Relaxed);
                std::thread::sleep(LOOK);
            }
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        result
    });
    Ok((result?, most.into_inner()))
}

/// Makes each request so many times, one after the other. Returns the latencies of each, and
/// those of the first screen as a whole.
fn one_by_one(http: u16, all: &[Request], rounds: usize) -> anyhow::Result<(Vec<Sample>, Sample)> {
    let mut latencies = vec![Vec::new(); all.len()];
    let mut first_screens = Vec::new();
    for _ in 0..rounds {
        let mut first_screen = Duration::ZERO;
        for (request, latencies) in all.iter().zip(&mut latencies) {
            let took = request.time(http)?;
            latencies.push(took);
            if request.kind != Kind::Other {
                first_screen += took;
            }
        }
        first_screens.push(first_screen);
    }
    Ok((latencies.into_iter().map(Sample::of).collect(), Sample::of(first_screens)))
}

/// Lets many clients ask at once. Returns the number of answers, and of those that say that
/// there are too many.
fn crowd(http: u16, all: &[Request], clients: usize) -> anyhow::Result<(u64, u64)> {
    let end = Instant::now() + CROWDED;
    let ask = |client: usize| -> anyhow::Result<(u64, u64)> {
        let (mut answers, mut busy) = (0, 0);
        let lists = all.iter().filter(|request| request.kind != Kind::Stream);
        for request in lists.cycle().skip(client * 7) {
            if Instant::now() > end {
                break;
            }
            let answer = http::get(http, &request.path)?;
            answers += 1;
            if answer.status == 429 {
                busy += 1;
            } else {
                answer.ok().with_context(|| request.path.clone())?;
            }
        }
        Ok((answers, busy))
    };
    let of_clients: Vec<anyhow::Result<(u64, u64)>> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..clients).map(|client| scope.spawn(move || ask(client))).collect();
        clients.into_iter().map(|client| client.join().expect("it does not panic")).collect()
    });
    let mut all = (0, 0);
    for of_client in of_clients {
        let (answers, busy) = of_client?;
        all = (all.0 + answers, all.1 + busy);
    }
    Ok(all)
}

/// The requests: first those of the first screen, as the page makes them.
fn all_requests(http: u16, devices: u64) -> anyhow::Result<Vec<Request>> {
    let document = String::from_utf8(http::get(http, "/")?.ok()?)?;
    let mut files: Vec<_> =
        document.split('"').filter(|text| text.starts_with("/page/")).map(str::to_owned).collect();
    files.sort();
    files.dedup();
    let app = files.iter().find(|file| file.ends_with("/app.js")).context("the program")?;
    let chart = ["chart.js", "vendor/uplot.js"].map(|file| app.replace("app.js", file));
    files.extend(chart);
    let mut all = vec![Request::new("the page", Kind::File, "/")];
    all.extend(files.into_iter().map(|file| Request::new("a file of it", Kind::File, file)));

    let api = |path: &str| format!("/api/v1{path}");
    let open = api("/outages?open=true&limit=100");
    let newest = http::get(http, &open)?.json()?;
    let found_at = newest["items"][0]["found_at"].as_str().context("an outage that lasts")?;
    let steps_over = format!("{open}&until={found_at}");
    for (about, kind, path) in [
        ("stream, until the first summary", Kind::Stream, api("/events/stream?summary=1s")),
        ("summary", Kind::First, api("/summary")),
        ("who may do what", Kind::First, api("/whoami")),
        ("outages that last", Kind::First, open.clone()),
        ("outages that last, before a burst", Kind::First, steps_over),
        ("last changes", Kind::First, api("/transitions?limit=100")),
        ("the chart of a day", Kind::First, api("/fleet")),
    ] {
        all.push(Request::new(about, kind, path));
    }
    let some = devices / 2 + 1;
    let id = publishers::id(some);
    let prefix = &id[..id.len() - 3];
    for (about, path) in [
        ("devices", "/devices".to_owned()),
        ("devices, far behind", deep(http, "/devices", 200)?),
        ("online ones", "/devices?status=online".to_owned()),
        ("online ones, far behind", deep(http, "/devices?status=online", 200)?),
        ("offline ones", "/devices?status=offline".to_owned()),
        ("offline ones, far behind", deep(http, "/devices?status=offline", 50)?),
        ("in error", "/devices?status=error".to_owned()),
        ("never heard", "/devices?status=provisioning".to_owned()),
        ("offline or in error", "/devices?status=offline&status=error".to_owned()),
        ("late ones, of which there are few", "/devices?late=true".to_owned()),
        ("a prefix", format!("/devices?q={prefix}")),
        ("a prefix, offline ones", format!("/devices?q={prefix}&status=offline")),
        ("a text within, a page of it", "/devices?q=*17*".to_owned()),
        ("a text within, that hardly any has", "/devices?q=*999999*".to_owned()),
        ("a device", format!("/devices/{id}")),
        ("its day", format!("/devices/{id}/timeline")),
        ("its changes", format!("/transitions?device={id}")),
        ("changes", "/transitions".to_owned()),
        ("changes, far behind", deep(http, "/transitions", 50)?),
        ("changes to error", "/transitions?to=error".to_owned()),
        ("outages", "/outages".to_owned()),
        ("outages, far behind", deep(http, "/outages?open=true", 50)?),
        ("outages that one check found", format!("/outages?found_at={found_at}")),
        ("listening of a day", "/listening".to_owned()),
        ("1,000 events, far behind", "/events?after=1000-1000&limit=1000".to_owned()),
    ] {
        all.push(Request::new(about, Kind::Other, api(&path)));
    }
    for (about, path) in [("metrics", "/metrics"), ("health", "/healthz")] {
        all.push(Request::new(about, Kind::Other, path));
    }
    Ok(all)
}

/// The path of a page that many pages of a thousand come before, or of the last one.
fn deep(http: u16, path: &str, pages: usize) -> anyhow::Result<String> {
    let join = if path.contains('?') { '&' } else { '?' };
    let mut cursor = String::new();
    for _ in 0..pages {
        let page = http::get(http, &format!("/api/v1{path}{join}limit=1000{cursor}"))?.json()?;
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    let cursor = cursor.strip_prefix('&').unwrap_or_default();
    Ok(format!("{path}{join}{cursor}"))
}
