//! The database: every SQL statement of the service, for SQLite and PostgreSQL.
//!
//! Statements are set-wise: the number of round trips does not depend on the number of
//! devices. The rules are in [`crate::domain`]. Where SQL repeats one, a test compares the
//! two.
//!
//! | files | what they are for |
//! |---|---|
//! | `heartbeats`, `silence`, `listening` | what the service writes: heartbeats, devices that fell silent, coverage |
//! | `history`, `outbox`, `delivery` | transitions, the alerts among them that wait for the sink, and the delivery under way |
//! | `fleet`, `removal`, `damage` | devices as people see and change them |
//! | `outages` | the outages that offline transitions begin, and their ends |
//! | `journal`, `samples` | what happens besides status changes, and the fleet over time |
//! | `reading`, `listing`, `newest`, `similar` | the reads of the API, on connections of their own: pages of devices and of transitions, ids like another |
//! | `open`, `exclusive`, `file` | opening a database, for one service at a time |
//! | `device_store`, `pool`, `transaction`, `confirmation` | the ways to it: connections, transactions, retries |
//! | `timeline` | the timeline of the database, for whatever a failover must not confuse |
//! | `error`, `driver_error`, `hint`, `unreadable` | what can go wrong |
//! | `rows`, `values`, `raw_id` | Rust values as SQL and back |
//! | `interference` | a way for tests to come between two steps |

mod confirmation;
mod damage;
mod delivery;
mod device_store;
mod driver_error;
mod error;
mod exclusive;
mod file;
mod fleet;
mod heartbeats;
mod hint;
mod history;
mod interference;
mod journal;
mod listening;
mod listing;
mod newest;
mod open;
mod outages;
mod outbox;
mod pool;
mod raw_id;
mod reading;
mod removal;
mod rows;
mod samples;
mod silence;
mod similar;
mod timeline;
mod transaction;
mod unreadable;
mod values;

use std::time::Duration;

pub use damage::{Damage, Found};
pub use device_store::DeviceStore;
use error::Result;
pub use error::{StoreError, Unusable};
pub use exclusive::{
    Beat, Clash, Holder, HoldingSession, JoinedGroup, LeftLately, Listener, Member, Taken,
};
pub use fleet::Device;
pub use heartbeats::{Recorded, RecordingRules};
#[doc(hidden)]
pub use interference::{Interference, Interfering, Outcome, Point};
pub use listening::Proven;
pub use listing::{DevicePage, DeviceQuery, Ids};
pub use newest::{Position, TransitionPage, TransitionQuery};
pub use open::OpenMode;
pub(crate) use open::open_files;
pub use outbox::OutboxSize;
pub use raw_id::RawId;
#[doc(hidden)]
pub use reading::ReadingLimits;
pub use reading::{Budget, Reader};
pub use removal::{REMOVED_AT_ONCE, Selected, Selection};
pub use samples::FleetSample;
pub use silence::{Grounds, Overdue, OwnTimeouts, Stale, StaleFrom};
pub use unreadable::Unreadable;
use values::{device_id, millis, time};

/// The time for which SQLite waits for another process's lock, and within which one of its
/// connections must become free. After it a statement fails; writes are retried with the next
/// flush. PostgreSQL has its own limits.
const PATIENCE: Duration = Duration::from_secs(5);
