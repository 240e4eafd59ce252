//! Measures the time of the parts, on this machine:
//!
//! ```sh
//! cargo bench --bench micro
//! cargo bench --bench micro -- "parse"
//! ```

mod cases;
mod pure;
mod store;

use criterion::{criterion_group, criterion_main};

criterion_group!(benches, pure::parsing, pure::coalescing, pure::coverage, store::store);
criterion_main!(benches);
