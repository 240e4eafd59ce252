//! The page for people: its files are in the binary, below `page/`, and are sent as they are.
//!
//! They hold nothing secret, so they are served without a login; the page itself asks the API.
//! `index.html` answers all addresses of the page, so that each state of it can be linked to.
//! The files lie under a path with a version, the hash of all of them. A browser keeps them
//! until that changes, and never mixes those of two versions.

use std::io::Write as _;
use std::sync::LazyLock;

use actix_web::http::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY,
    CONTENT_TYPE, ETAG, HeaderName, IF_NONE_MATCH, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use actix_web::http::{Method, StatusCode};
use actix_web::web::{self, Bytes, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::{refusal, resource};
use crate::logging::escape::Hex;

/// Nothing is loaded from elsewhere, no script or style stands in a document, and no other
/// page may frame this one.
const POLICY: &str = "default-src 'self'; base-uri 'none'; frame-ancestors 'none'";

/// A file of the page.
struct File {
    /// Below `/page/VERSION/`.
    name: &'static str,
    content: &'static str,
}

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(File { name: $name, content: include_str!(concat!("page/", $name)) }),*]
    };
}

/// The document, whose references get the version.
const DOCUMENT: &str = include_str!("page/index.html");

/// All other files.
static FILES: &[File] = files![
    "api.js",
    "app.css",
    "app.js",
    "banner.js",
    "bar.js",
    "chart.js",
    "format.js",
    "html.js",
    "icons/asking.svg",
    "icons/blind.svg",
    "icons/offline.svg",
    "icons/well.svg",
    "keys.js",
    "live.js",
    "parts.js",
    "route.js",
    "stream.js",
    "strings.js",
    "vendor/LICENSE-htm",
    "vendor/LICENSE-preact",
    "vendor/LICENSE-signals",
    "vendor/LICENSE-uplot",
    "vendor/htm.js",
    "vendor/preact-hooks.js",
    "vendor/preact.js",
    "vendor/signals-core.js",
    "vendor/signals.js",
    "vendor/uplot.css",
    "vendor/uplot.js",
    "views/change.js",
    "views/device.js",
    "views/devices.js",
    "views/fleet.js",
    "views/listening.js",
    "views/login.js",
];

/// The page with its files, compressed at the first request.
static PAGE: LazyLock<Page> = LazyLock::new(Page::new);

struct Page {
    version: String,
    document: Body,
    files: Vec<(&'static File, Body)>,
}

/// A content, also compressed.
struct Body {
    content_type: &'static str,
    plain: Bytes,
    gzip: Bytes,
}

impl Page {
    fn new() -> Self {
        let version = version();
        let document = DOCUMENT.replace("\"/page/", &format!("\"/page/{version}/"));
        let files = FILES.iter().map(|file| (file, Body::of(file.name, file.content.into())));
        Self { document: Body::of("index.html", document), files: files.collect(), version }
    }

    fn file(&self, version: &str, name: &str) -> Option<&Body> {
        let (_, body) = self.files.iter().find(|(file, _)| file.name == name)?;
        (version == self.version).then_some(body)
    }
}

/// A hash of all files.
fn version() -> String {
    let mut hash = openssl::sha::Sha256::new();
    hash.update(DOCUMENT.as_bytes());
    for file in FILES {
        hash.update(file.name.as_bytes());
        hash.update(file.content.as_bytes());
    }
    Hex(&hash.finish()[..8]).to_string()
}

impl Body {
    fn of(name: &str, content: String) -> Self {
        let content_type = match name.rsplit_once('.') {
            Some((_, "html")) => "text/html; charset=utf-8",
            Some((_, "css")) => "text/css; charset=utf-8",
            Some((_, "js")) => "text/javascript; charset=utf-8",
            Some((_, "svg")) => "image/svg+xml",
            _ => "text/plain; charset=utf-8",
        };
        let gzip = gzip(content.as_bytes()).into();
        Self { content_type, plain: content.into(), gzip }
    }

    /// Answers a request. `kept` says how long a browser may use it without asking.
    fn answer(&self, request: &HttpRequest, kept: &'static str) -> HttpResponse {
        let tag = format!("W/\"{}\"", PAGE.version);
        if matches(request, IF_NONE_MATCH, |seen| seen == tag || seen == "*") {
            return head(HttpResponse::build(StatusCode::NOT_MODIFIED), &tag, kept).finish();
        }
        let mut answer = head(HttpResponse::Ok(), &tag, kept);
        answer.insert_header((CONTENT_TYPE, self.content_type));
        if takes_gzip(request) {
            return answer.insert_header((CONTENT_ENCODING, "gzip")).body(self.gzip.clone());
        }
        answer.body(self.plain.clone())
    }
}

fn head(mut answer: HttpResponseBuilder, tag: &str, kept: &'static str) -> HttpResponseBuilder {
    answer
        .insert_header((ETAG, tag))
        .insert_header((CACHE_CONTROL, kept))
        .insert_header((VARY, "accept-encoding"))
        .insert_header((CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((REFERRER_POLICY, "no-referrer"))
        .insert_header(("cross-origin-opener-policy", "same-origin"))
        .insert_header(("cross-origin-resource-policy", "same-origin"));
    answer
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    // A vector takes everything.
    encoder.write_all(content).and_then(|()| encoder.finish()).unwrap_or_default()
}

/// True if one of the values of a header, which are separated by commas, is as asked.
fn matches(request: &HttpRequest, name: HeaderName, is: impl Fn(&str) -> bool) -> bool {
    let values = request.headers().get_all(name).filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|value| is(value.trim()))
}

fn takes_gzip(request: &HttpRequest) -> bool {
    matches(request, ACCEPT_ENCODING, |coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = weight.trim().strip_prefix("q=").map_or(Ok(1.0), str::parse::<f32>);
        name.trim().eq_ignore_ascii_case("gzip") && weight.is_ok_and(|weight| weight > 0.0)
    })
}

/// Adds the addresses of the page, and its files.
pub(super) fn configure(config: &mut ServiceConfig) {
    for address in ["/", "/devices", "/devices/{rest:.*}", "/listening"] {
        config.service(resource(address, document));
    }
    config.service(resource("/page/{version}/{name:.*}", file));
}

/// The page that says that there is no such one, for a browser.
pub(super) fn missing(request: &HttpRequest) -> Option<HttpResponse> {
    let is_browser = matches(request, ACCEPT, |kind| kind.starts_with("text/html"));
    let shown = || {
        let mut answer =
            head(HttpResponse::NotFound(), &format!("W/\"{}\"", PAGE.version), "no-store");
        answer.insert_header((CONTENT_TYPE, PAGE.document.content_type));
        answer.body(PAGE.document.plain.clone())
    };
    (is_browser && request.method() == Method::GET).then(shown)
}

async fn document(request: HttpRequest) -> HttpResponse {
    PAGE.document.answer(&request, "no-cache")
}

async fn file(request: HttpRequest, path: web::Path<(String, String)>) -> HttpResponse {
    let (version, name) = path.into_inner();
    match PAGE.file(&version, &name) {
        Some(body) => body.answer(&request, "public, max-age=31536000, immutable"),
        None => refusal::nothing(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    /// The files that a file of the page refers to, by their names.
    fn references(name: &str, content: &str) -> Vec<String> {
        let quoted = |after: &'static str| {
            content.split(after).skip(1).filter_map(|rest| rest.split(['"', '\'']).next())
        };
        if name.ends_with(".html") {
            return quoted("\"/page/").map(str::to_owned).collect();
        }
        let folder = Path::new(name).parent().expect("a name").display().to_string();
        let mut found = Vec::new();
        for start in ["from '", "from\"", "import('", "import '"] {
            for path in quoted(start).filter(|path| path.starts_with('.')) {
                let mut parts: Vec<&str> = folder.split('/').filter(|p| !p.is_empty()).collect();
                for part in path.split('/') {
                    match part {
                        "." => (),
                        ".." => drop(parts.pop()),
                        part => parts.push(part),
                    }
                }
                found.push(parts.join("/"));
            }
        }
        found
    }

    fn content(name: &str) -> &'static str {
        let file = FILES.iter().find(|file| file.name == name);
        file.unwrap_or_else(|| panic!("{name} is not in the binary")).content
    }

    #[test]
    fn every_file_of_the_page_is_in_the_binary() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http/page");
        let mut folders = vec![root.clone()];
        let mut on_disk = BTreeSet::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder of the repository") {
                let path = entry.expect("it is there").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(&root).expect("it is below");
                    on_disk.insert(name.display().to_string());
                }
            }
        }
        // The list of hashes is for scripts/test.sh.
        assert!(on_disk.remove("index.html") && on_disk.remove("vendor/SHA256SUMS"));
        let embedded: BTreeSet<_> = FILES.iter().map(|file| file.name.to_owned()).collect();
        assert_eq!(embedded, on_disk);
    }

    #[test]
    fn nothing_comes_from_elsewhere_or_stands_in_the_document() {
        for refused in ["<style", "style=", "onclick", "http://", "https://"] {
            assert!(!DOCUMENT.contains(refused), "{refused}");
        }
        assert_eq!(DOCUMENT.matches("<script").count(), 1);
        assert!(DOCUMENT.contains("<script type=\"module\" src="));
        for file in FILES.iter().filter(|file| !file.name.contains("LICENSE")) {
            let code = file.content.replace("http://www.w3.org/2000/svg", "");
            let own = !file.name.starts_with("vendor/");
            assert!(!own || !code.contains("://"), "{} refers to elsewhere", file.name);
            assert!(!own || !code.contains("innerHTML"), "{} writes markup", file.name);
            assert!(!own || !code.contains("dangerously"), "{} writes markup", file.name);
        }
    }

    /// The first screen is the document, the files that it names, and all that these import.
    #[test]
    fn the_first_screen_takes_at_most_60_kb() {
        let mut wanted: Vec<String> = references("index.html", DOCUMENT);
        let preloaded: BTreeSet<String> = wanted.iter().cloned().collect();
        let mut seen = BTreeSet::new();
        while let Some(name) = wanted.pop() {
            if seen.insert(name.clone()) && name.ends_with(".js") {
                wanted.extend(references(&name, content(&name)));
            }
        }
        let late: Vec<_> = seen.difference(&preloaded).map(String::as_str).collect();
        assert_eq!(late, ["chart.js", "vendor/uplot.js"], "only the chart is loaded later");
        let size = |name: &str| gzip(content(name).as_bytes()).len();
        let first: usize = preloaded.iter().map(|name| size(name)).sum();
        let first = first + gzip(DOCUMENT.as_bytes()).len();
        let chart: usize = late.iter().map(|name| size(name)).sum();
        println!("first screen {first} bytes gzipped, the chart another {chart}");
        assert!(first <= 60 * 1024, "{first} bytes");
    }
}
