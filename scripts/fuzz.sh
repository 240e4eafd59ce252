#!/usr/bin/env bash
# Sends the receiver's protocol malformed bytes, guided by the coverage of its code, for ten
# minutes or as many seconds as the first argument says. Ends with 0 if nothing is found.
#
# libFuzzer runs on a stable compiler: the flags that instrument the code are those of cargo-fuzz
# without its sanitizer, which has nothing to find where `unsafe` is forbidden. The protocol and
# the rules that it needs are built alone, because no other code is to guide.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/install.sh
install_packages cc:gcc c++:g++
need_cargo

seconds=${1:-600}
sources=$PWD/src
crate=$PWD/target/fuzz
mkdir -p "$crate/src/logging" "$crate/src/receiver" "$crate/src/users" "$crate/corpus"

for file in clock.rs domain inbox.rs inbox logging/escape.rs users/name.rs users/rights.rs \
    receiver/codec receiver/codec.rs receiver/session receiver/session.rs; do
    ln -sfn "$sources/$file" "$crate/src/$file"
done
cp Cargo.lock "$crate/"

# The versions are those of Cargo.lock.
cat >"$crate/Cargo.toml" <<'TOML'
[package]
name = "fuzz"
version = "0.0.0"
edition = "2024"

[workspace]

[dependencies]
bytes = "1"
chrono = { version = "0.4", default-features = false, features = ["clock", "serde", "std"] }
compact_str = { version = "0.10", features = ["serde"] }
hashbrown = { version = "0.17", default-features = false, features = ["default-hasher", "inline-more"] }
libfuzzer-sys = "0.4"
log = { version = "0.4", features = ["kv"] }
nonmax = { version = "0.5", default-features = false }
parking_lot = "0.12"
serde = { version = "1", features = ["derive"] }
serde_json = { version = "1", features = ["raw_value"] }
thiserror = "2"
tokio = { version = "1", default-features = false, features = ["sync", "time"] }
unicode-properties = { version = "0.1", default-features = false, features = ["general-category"] }

[profile.release]
debug-assertions = true
overflow-checks = true
TOML

cat >"$crate/src/main.rs" <<'RUST'
#![no_main]
#![allow(dead_code, unused_imports)]

mod clock;
mod domain;
mod inbox;

mod logging {
    pub mod escape;
}

// Without the passwords of users, which no packet reaches here.
mod users {
    mod name;
    mod rights;

    use name::{InvalidUserName, UserName};
    use rights::Rights;

    #[derive(Debug)]
    pub struct User {
        name: UserName,
        rights: Rights,
    }

    impl User {
        pub fn name(&self) -> &str {
            self.name.as_str()
        }

        pub fn rights(&self) -> &Rights {
            &self.rights
        }
    }
}

mod receiver {
    mod codec;
    mod session;

    const SERVICE_USER: &str = "heartbeatd";
    const MAX_PACKET: usize = 16 * 1024;

    use bytes::BytesMut;
    use session::{Intake, Next, Peer, Session, Taken, Topics};

    /// What a session has counted and answered, and whether it has ended.
    #[derive(Debug, PartialEq)]
    struct Seen {
        heartbeats: usize,
        rejections: usize,
        has_ended: bool,
    }

    fn send<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Seen {
        let topics = Topics {
            heartbeats: "+".parse().expect("a pattern"),
            echo: Some("heartbeatd-echo-1".to_owned()),
        };
        let mut session = Session::new(MAX_PACKET as u32);
        let mut seen = Seen { heartbeats: 0, rejections: 0, has_ended: false };
        let mut rest = BytesMut::new();
        for piece in pieces {
            rest.extend_from_slice(piece);
            let received = rest.len();
            let mut taken = Taken::default();
            let mut intake = Intake::new(&topics, chrono::DateTime::UNIX_EPOCH, &mut taken);
            let mut next = session.handle(&mut rest, &mut intake);
            if let Next::Decide(connect) = next {
                session.accept(&connect, Peer::Anyone, Default::default());
                next = session.handle(&mut rest, &mut intake);
            }
            seen.heartbeats += taken.batch.heartbeats.len();
            seen.rejections += taken.batch.rejections.len();
            assert!(session.answers().len() <= received * 5 / 4 + 2048, "too many answers");
            seen.has_ended = matches!(next, Next::Ended | Next::End(_));
            if seen.has_ended {
                break;
            }
            assert!(rest.len() < MAX_PACKET, "more than one packet waits");
        }
        seen
    }

    pub fn fuzz(bytes: &[u8]) {
        // The first byte says how the others are cut.
        let Some((&size, stream)) = bytes.split_first() else { return };
        let at_once = send(std::iter::once(stream));
        assert_eq!(send(stream.chunks(1 + usize::from(size))), at_once);
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| receiver::fuzz(bytes));
RUST

# A CONNECT of each version, and a message, to begin with.
seed() { printf "$2" >"$crate/corpus/$1"; }
seed 3.1 '\002\020\020\000\006MQIsdp\003\002\000\074\000\002id\062\005\000\001a\000\001'
seed 3.1.1 '\002\020\016\000\004MQTT\004\002\000\074\000\002id\064\005\000\001a\000\001\142\002\000\001'
seed 5 '\002\020\017\000\004MQTT\005\002\000\074\000\000\002id\062\011\000\001a\000\001\003\043\000\001\340\000'

cd "$crate"
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares \
-Ccodegen-units=1"
# With --target the flags leave build scripts and macros alone, which could not be linked.
host=$(rustc -vV | sed -n 's/^host: //p')
cargo build --release --quiet --target "$host" --target-dir target
exec "target/$host/release/fuzz" corpus -max_total_time="$seconds" -max_len=4096 -print_final_stats=1 \
    -timeout=10
