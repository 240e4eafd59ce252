//! Access control by tokens, logins and the origin of a request.
//!
//! Tokens are compared as SHA-256, in a time that tells nothing about them. Wrong ones are
//! slowed down like wrong passwords. A login is a cookie with a random text of its own, so that
//! no browser ever keeps a token. Logins are kept in memory and end with the service.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use actix_web::HttpRequest;
use actix_web::http::header::{AUTHORIZATION, COOKIE, HOST, HeaderName, ORIGIN};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::problem::{Kind, Problem};
use crate::base64url;
use crate::config::{HttpConfig, Scope, TokenHash};
use crate::users::throttle::{Allowed, Source, Throttle};

/// The least right that lets a request in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    Nothing,
    /// The right to read, which everybody may have.
    Read,
    /// A token with the right to change devices.
    Operate,
}

/// The holder of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) name: String,
    pub(super) scope: Scope,
}

/// The time after which a login ends if it is not used.
const LOGIN: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The maximum number of logins. One more ends the one that was used least recently.
const MAX_LOGINS: usize = 1_000;

/// The maximum number of pairs of an address and a token that was let in from there.
const MAX_KNOWN: usize = 10_000;

/// The name of the holder of `http.token`.
const ADMIN: &str = "http.token";

/// Decides who may do what.
pub(in crate::http) struct Access {
    tokens: Vec<(Holder, TokenHash)>,
    /// True if everybody may read.
    open: bool,
    /// The names by which a service on loopback may be called; `None` for any.
    names: Option<Vec<String>>,
    cookie: String,
    guesses: Mutex<Guesses>,
    logins: Mutex<Logins>,
}

#[derive(Default)]
struct Guesses {
    throttle: Throttle,
    /// Tokens that were right, by the address that they came from.
    known: HashSet<(Source, usize)>,
}

/// The logins, by the hash of what the cookie holds.
#[derive(Default)]
struct Logins(HashMap<[u8; 32], Login>);

/// A login. Whoever watches it learns of its end when this is dropped.
struct Login {
    /// The number of the token.
    token: usize,
    used: Instant,
    lasts: watch::Sender<()>,
}

/// The login by which something was permitted that goes on; for no login, one that never ends.
pub(super) struct Permitted(Option<watch::Receiver<()>>);

impl Permitted {
    /// True if the login has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.0.as_ref().is_some_and(|login| login.has_changed().is_err())
    }

    /// Resolves when the login has ended.
    pub(super) async fn ended(&mut self) {
        match &mut self.0 {
            // Nothing is ever sent.
            Some(login) => while login.changed().await.is_ok() {},
            None => std::future::pending().await,
        }
    }
}

impl Access {
    /// The access to a service with this configuration that listens on `address`.
    pub(in crate::http) fn new(config: &HttpConfig, address: SocketAddr) -> Self {
        let admin = config.token.as_ref().map(|token| {
            let holder = Holder { name: ADMIN.to_owned(), scope: Scope::Admin };
            (holder, TokenHash::of(token.reveal()))
        });
        let others = config.tokens.iter().map(|token| {
            let name = token.name.as_str().to_owned();
            (Holder { name, scope: token.scope }, token.sha256)
        });
        let tokens: Vec<_> = admin.into_iter().chain(others).collect();
        let local = address.ip().to_canonical().is_loopback();
        Self {
            open: config.public || (local && tokens.is_empty()),
            names: local.then(|| config.names.clone()),
            // Cookies do not distinguish ports, but several services may run on one host.
            cookie: format!("heartbeatd-{}", address.port()),
            tokens,
            guesses: Mutex::default(),
            logins: Mutex::default(),
        }
    }

    /// True if reading needs a token.
    pub(super) fn login_required(&self) -> bool {
        !self.open
    }

    /// The name of the cookie of a login.
    pub(super) fn cookie_name(&self) -> &str {
        &self.cookie
    }

    /// Refuses a request that calls the service by a name that is not its own: a page of
    /// another site may have had its own name resolved to this machine.
    pub(in crate::http) fn check_host(&self, request: &HttpRequest) -> Result<(), Problem> {
        let Some(names) = &self.names else { return Ok(()) };
        let host = text(request, &HOST).or(request.uri().host());
        // Only browsers can be misled, and they send one.
        let Some(host) = host else { return Ok(()) };
        let name = without_port(host);
        let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let own = name.eq_ignore_ascii_case("localhost")
            || address.is_ok_and(|address| address.to_canonical().is_loopback())
            || names.iter().any(|own| own.eq_ignore_ascii_case(name));
        if own {
            return Ok(());
        }
        let detail = format!(
            "the service listens on loopback and is not called {}; list that name in http.names \
             if it is right",
            crate::logging::escape::in_quotes(name)
        );
        Err(Problem::new(Kind::Forbidden, detail))
    }

    /// Refuses a request that a page of another origin makes. A program other than a browser
    /// sends no `Origin`.
    pub(super) fn check_origin(&self, request: &HttpRequest) -> Result<(), Problem> {
        let Some(origin) = request.headers().get(ORIGIN) else { return Ok(()) };
        let origin = origin.to_str().unwrap_or_default();
        let (_, origin_host) = origin.split_once("://").unwrap_or_default();
        let same = text(request, &HOST).is_some_and(|host| host.eq_ignore_ascii_case(origin_host));
        if same {
            return Ok(());
        }
        let detail = "the request comes from a page of another origin; only the service's own \
                      page and programs without a browser may change anything";
        Err(Problem::new(Kind::Forbidden, detail))
    }

    /// The holder of the token or of the login that the request presents, if it presents one.
    pub(super) fn holder(&self, request: &HttpRequest) -> Result<Option<&Holder>, Problem> {
        if let Some(token) = bearer(request)? {
            let index = self.look_up(token, address(request), Instant::now())?;
            return Ok(Some(&self.tokens[index].0));
        }
        let Some(login) = self.cookie(request) else { return Ok(None) };
        let index = self.logins.lock().find(&login, Instant::now());
        Ok(index.map(|index| &self.tokens[index].0))
    }

    /// The login that permits what the request asks for, if one does.
    pub(super) fn permitted(&self, request: &HttpRequest) -> Permitted {
        if request.headers().contains_key(AUTHORIZATION) {
            return Permitted(None);
        }
        let login = self.cookie(request);
        Permitted(login.and_then(|login| self.logins.lock().watch(&login)))
    }

    /// Lets a request in, or says what it lacks.
    pub(super) fn admit(&self, need: Need, holder: Option<&Holder>) -> Result<(), Problem> {
        let least = match need {
            Need::Nothing => return Ok(()),
            Need::Read if self.open => return Ok(()),
            Need::Read => Scope::Read,
            Need::Operate => Scope::Operate,
        };
        match holder {
            Some(holder) if holder.scope >= least => Ok(()),
            Some(Holder { name, scope }) => {
                let detail = format!("the token {name} has the scope {scope}; {least} is needed");
                Err(Problem::new(Kind::Forbidden, detail))
            }
            None if self.tokens.is_empty() => {
                let detail = "changing something needs a token, and none is configured: \
                              `heartbeatd token new NAME --scope operate` creates one";
                Err(Problem::new(Kind::Unauthorized, detail))
            }
            None => {
                let detail = format!(
                    "send `Authorization: Bearer TOKEN` with a token of the scope {least} or a \
                     larger one"
                );
                Err(Problem::new(Kind::Unauthorized, detail))
            }
        }
    }

    /// Logs in with a token: the holder, and the header that sets the cookie.
    pub(super) fn log_in(
        &self,
        token: &str,
        request: &HttpRequest,
    ) -> Result<(&Holder, String), Problem> {
        let now = Instant::now();
        let index = self.look_up(token, address(request), now)?;
        let mut random = [0; 32];
        if openssl::rand::rand_bytes(&mut random).is_err() {
            return Err(Problem::new(Kind::Busy, "no random bytes are available").retry_after(1));
        }
        let login = base64url::encode(&random);
        self.logins.lock().add(&login, index, now);
        let set = self.set_cookie(&login, LOGIN, request);
        Ok((&self.tokens[index].0, set))
    }

    /// Logs out: the header that removes the cookie.
    pub(super) fn log_out(&self, request: &HttpRequest) -> String {
        if let Some(login) = self.cookie(request) {
            self.logins.lock().0.remove(&hash(&login));
        }
        self.set_cookie("", Duration::ZERO, request)
    }

    fn set_cookie(&self, value: &str, lasts: Duration, request: &HttpRequest) -> String {
        let secure = if is_behind_tls(request) { "; Secure" } else { "" };
        let (name, lasts) = (&self.cookie, lasts.as_secs());
        format!("{name}={value}; Path=/; Max-Age={lasts}; HttpOnly; SameSite=Strict{secure}")
    }

    fn cookie(&self, request: &HttpRequest) -> Option<String> {
        let headers = request.headers().get_all(COOKIE).filter_map(|value| value.to_str().ok());
        let mut cookies = headers.flat_map(|header| header.split(';'));
        let value = cookies.find_map(|cookie| {
            let (name, value) = cookie.trim().split_once('=')?;
            (name == self.cookie).then_some(value)
        });
        value.filter(|value| !value.is_empty()).map(str::to_owned)
    }

    /// The number of a token. Wrong ones are slowed down: each by itself, and an address from
    /// which many come as a whole. A long one is looked at even then, so that wrong ones from
    /// the same proxy cannot keep it out.
    fn look_up(&self, token: &str, from: IpAddr, now: Instant) -> Result<usize, Problem> {
        let (from, hash) = (Source::from(from), TokenHash::of(token));
        let key = hash.key();
        let mut guesses = self.guesses.lock();
        let (known_here, wait) = match guesses.throttle.ask(from, key, now) {
            Allowed::Yes => (false, Duration::ZERO),
            Allowed::KnownHere(wait) => (true, wait),
            Allowed::No(wait) => return Err(too_many(wait)),
        };
        // All of them are compared, so that the time says nothing.
        let mut found = None;
        for (index, (_, other)) in self.tokens.iter().enumerate() {
            if other.matches(&hash) {
                found = Some(index);
            }
        }
        let cannot_be_guessed = token.len() >= LONG_TOKEN;
        let may = |index: &usize| {
            !known_here || cannot_be_guessed || guesses.known.contains(&(from, *index))
        };
        match found.filter(may) {
            Some(index) => {
                if guesses.known.len() >= MAX_KNOWN {
                    guesses.known.clear();
                }
                guesses.known.insert((from, index));
                guesses.throttle.succeeded(from, key);
                Ok(index)
            }
            None if known_here => Err(too_many(wait)),
            None => {
                guesses.throttle.failed(from, key, now);
                Err(Problem::new(Kind::Unauthorized, "the token is not a known one"))
            }
        }
    }
}

/// The length, in bytes, from which a token cannot be guessed at any speed, however it was
/// chosen. Those of `heartbeatd token new` are longer.
const LONG_TOKEN: usize = 32;

impl Logins {
    fn add(&mut self, login: &str, token: usize, now: Instant) {
        self.0.retain(|_, login| now.saturating_duration_since(login.used) < LOGIN);
        if self.0.len() >= MAX_LOGINS {
            let oldest = self.0.iter().min_by_key(|(_, login)| login.used);
            if let Some(key) = oldest.map(|(key, _)| *key) {
                self.0.remove(&key);
            }
        }
        self.0.insert(hash(login), Login { token, used: now, lasts: watch::Sender::new(()) });
    }

    fn find(&mut self, login: &str, now: Instant) -> Option<usize> {
        let login = self.0.get_mut(&hash(login))?;
        if now.saturating_duration_since(login.used) >= LOGIN {
            return None;
        }
        login.used = now;
        Some(login.token)
    }

    fn watch(&self, login: &str) -> Option<watch::Receiver<()>> {
        self.0.get(&hash(login)).map(|login| login.lasts.subscribe())
    }
}

fn too_many(wait: Duration) -> Problem {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    let detail = format!("too many wrong tokens came from this address; wait {seconds} s");
    Problem::new(Kind::Busy, detail).retry_after(seconds)
}

fn hash(login: &str) -> [u8; 32] {
    openssl::sha::sha256(login.as_bytes())
}

fn text<'r>(request: &'r HttpRequest, name: &HeaderName) -> Option<&'r str> {
    // One that is not a text is not the name of anything.
    request.headers().get(name).map(|value| value.to_str().unwrap_or("?"))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn address(request: &HttpRequest) -> IpAddr {
    request.peer_addr().map_or(IpAddr::from([0, 0, 0, 0]), |address| address.ip())
}

fn bearer(request: &HttpRequest) -> Result<Option<&str>, Problem> {
    let Some(value) = request.headers().get(AUTHORIZATION) else { return Ok(None) };
    let token = str::from_utf8(value.as_bytes()).ok().and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    let detail = "`Authorization: Bearer TOKEN` is expected";
    token.map(Some).ok_or_else(|| Problem::new(Kind::Unauthorized, detail))
}

/// True if a proxy in front says that its client uses TLS.
fn is_behind_tls(request: &HttpRequest) -> bool {
    let says = |name: &str, expected: &str| {
        let value = request.headers().get(name).and_then(|value| value.to_str().ok());
        value.is_some_and(|value| value.to_ascii_lowercase().contains(expected))
    };
    says("x-forwarded-proto", "https") || says("forwarded", "proto=https")
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;
    use crate::config::Config;

    const TOKEN: &str = "a-token-of-an-admin";
    const LONG: &str = "hb_00000000000000000000000000000";

    fn access(change: impl FnOnce(&mut HttpConfig), address: &str) -> Access {
        let mut config = Config::default().http;
        change(&mut config);
        Access::new(&config, address.parse().expect("an address"))
    }

    fn with_token(config: &mut HttpConfig) {
        config.token = Some(TOKEN.to_owned().into());
        let read = |name: &str| crate::config::TokenConfig {
            name: name.parse().expect("a name"),
            scope: Scope::Read,
            sha256: TokenHash::of(name),
        };
        let mut robot = read("robot");
        robot.sha256 = TokenHash::of(LONG);
        config.tokens = vec![read("dashboard"), robot];
    }

    fn request(headers: &[(&str, &str)]) -> HttpRequest {
        let peer = "192.0.2.1:4711".parse().expect("an address");
        let request = headers.iter().fold(TestRequest::get(), |request, (name, value)| {
            request.insert_header((*name, *value))
        });
        request.peer_addr(peer).to_http_request()
    }

    #[test]
    fn on_loopback_without_tokens_reading_is_free_and_writing_is_not() {
        let access = access(|_| (), "127.0.0.1:8080");
        assert!(!access.login_required());
        access.admit(Need::Read, None).expect("reading is free");
        let problem = access.admit(Need::Operate, None).expect_err("writing is not");
        assert_eq!(problem.kind, Kind::Unauthorized);
    }

    #[test]
    fn with_a_token_everybody_needs_one_unless_reading_is_public() {
        let closed = access(with_token, "127.0.0.1:8080");
        assert_eq!(closed.admit(Need::Read, None).expect_err("x").kind, Kind::Unauthorized);
        let public = |config: &mut HttpConfig| {
            with_token(config);
            config.public = true;
        };
        let open = access(public, "0.0.0.0:8080");
        open.admit(Need::Read, None).expect("it is public");
        let reader = request(&[("authorization", "bearer dashboard")]);
        let reader = open.holder(&reader).expect("it is right");
        assert_eq!(open.admit(Need::Operate, reader).expect_err("x").kind, Kind::Forbidden);
        let bearer = format!("Bearer {TOKEN}");
        let admin = request(&[("authorization", &bearer)]);
        let admin = open.holder(&admin).expect("it is right");
        open.admit(Need::Operate, admin).expect("an admin may");
    }

    #[test]
    fn a_login_is_a_cookie_that_works_until_the_logout() {
        let access = access(with_token, "127.0.0.1:8080");
        let (holder, set) = access.log_in(TOKEN, &request(&[])).expect("it is right");
        assert_eq!((holder.name.as_str(), holder.scope), ("http.token", Scope::Admin));
        assert!(set.starts_with("heartbeatd-8080=") && !set.contains(TOKEN), "{set}");
        assert!(set.ends_with("HttpOnly; SameSite=Strict"), "{set}");
        let cookie = set.split(';').next().expect("a pair").to_owned();
        let cookie = request(&[("cookie", &format!("other=1; {cookie}"))]);
        assert!(access.holder(&cookie).expect("no token").is_some());
        let stream = access.permitted(&cookie);
        assert!(!stream.has_ended());
        let gone = access.log_out(&cookie);
        assert!(stream.has_ended(), "with its login");
        assert!(!access.permitted(&request(&[])).has_ended(), "without a login");
        assert!(gone.contains("Max-Age=0"), "{gone}");
        assert_eq!(access.holder(&cookie).expect("no token"), None);
        let behind_tls = request(&[("x-forwarded-proto", "https")]);
        let (_, set) = access.log_in(TOKEN, &behind_tls).expect("it is right");
        assert!(set.ends_with("; Secure"), "{set}");
    }

    #[test]
    fn logins_are_bounded_and_end() {
        let (mut logins, now) = (Logins::default(), Instant::now());
        for n in 0..=MAX_LOGINS as u64 {
            logins.add(&n.to_string(), 0, now + Duration::from_secs(n));
        }
        assert_eq!((logins.0.len(), logins.find("0", now)), (MAX_LOGINS, None));
        assert_eq!(logins.find("1", now + LOGIN), Some(0));
        assert_eq!(logins.find("2", now + LOGIN + LOGIN), None);
    }

    #[test]
    fn wrong_tokens_are_slowed_down_but_not_those_who_were_let_in() {
        let access = access(with_token, "127.0.0.1:8080");
        let (here, now) = (IpAddr::from([192, 0, 2, 1]), Instant::now());
        assert_eq!(access.look_up("dashboard", here, now).expect("it is right"), 1);
        for n in 0..30 {
            let problem = access.look_up(&format!("guess-{n}"), here, now).expect_err("wrong");
            assert_eq!(problem.kind, Kind::Unauthorized, "{n}");
        }
        assert_eq!(access.look_up("guess", here, now).expect_err("x").kind, Kind::Busy);
        assert_eq!(access.look_up(TOKEN, here, now).expect_err("x").kind, Kind::Busy);
        assert_eq!(access.look_up("dashboard", here, now).expect("known here"), 1);
        let there = IpAddr::from([192, 0, 2, 2]);
        assert_eq!(access.look_up(TOKEN, there, now).expect("another address"), 0);
        let long = access.look_up(LONG, here, now).expect("it cannot be guessed");
        assert_eq!(long, 2);
        let wrong = access.look_up(&LONG.replace('0', "1"), here, now).expect_err("wrong");
        assert_eq!(wrong.kind, Kind::Busy);
        let later = now + Duration::from_secs(2);
        assert_eq!(access.look_up(TOKEN, here, later).expect("after a while"), 0);
    }

    #[test]
    fn a_service_on_loopback_is_called_by_its_names() {
        let local = access(|http| http.names = vec!["gateway.lan".to_owned()], "[::1]:8080");
        for host in ["localhost", "LOCALHOST:8080", "127.0.0.1:80", "[::1]:8080", "Gateway.lan"] {
            local.check_host(&request(&[("host", host)])).expect(host);
        }
        for host in ["evil.example", "evil.example:8080", "localhost.evil.example", "10.0.0.1"] {
            let problem = local.check_host(&request(&[("host", host)])).expect_err(host);
            assert_eq!(problem.kind, Kind::Forbidden);
        }
        let other = access(with_token, "0.0.0.0:8080");
        other.check_host(&request(&[("host", "evil.example")])).expect("any name");
    }

    #[test]
    fn a_page_of_another_origin_changes_nothing() {
        let access = access(with_token, "127.0.0.1:8080");
        let check = |headers: &[(&str, &str)]| access.check_origin(&request(headers));
        check(&[("host", "localhost:8080")]).expect("not a browser");
        check(&[("host", "localhost:8080"), ("origin", "http://localhost:8080")]).expect("its own");
        check(&[("host", "a.lan"), ("origin", "https://a.lan")]).expect("behind a proxy");
        for origin in ["http://localhost:8081", "http://evil.example", "null", ""] {
            let headers = [("host", "localhost:8080"), ("origin", origin)];
            assert_eq!(check(&headers).expect_err(origin).kind, Kind::Forbidden);
        }
    }
}
