//! The rules for heartbeats, statuses and silence: pure, without I/O and without a clock.
//!
//! Time comes in as an argument, so a test of a rule only has to name instants.

mod clock_watch;
pub mod coverage;
pub mod delivery;
pub mod device_id;
pub mod entries;
pub mod event;
pub mod evidence;
mod group_mark;
pub mod heartbeat;
mod idempotency_key;
mod json;
mod own_timeout;
pub mod past;
pub mod payload;
pub mod pending;
mod reading;
mod registration;
pub mod rounds;
mod service_state;
pub mod similar_id;
pub mod standby;
pub mod status;
pub mod stops;
mod subscription;
mod timestamp;
pub mod together;
mod topic;

pub use clock_watch::{ClockStep, ClockWatch};
pub use coverage::{
    BothCutoffs, Change, ClockOffset, Confirmed, Coverage, Cutoff, Cutoffs, Gap, GapCause,
    Interval, Intervals, Judge, Listened, Listener, Saved, Saving, Stay,
};
pub use device_id::DeviceId;
pub use entries::{Entries, NodeState, Returned};
pub use event::{Entry, Event, EventKind, EventPlace, Happening};
pub use evidence::{Evidence, Verdict};
pub use group_mark::GroupMark;
pub use heartbeat::{Heartbeat, Rejection};
pub use idempotency_key::{DatabaseTimeline, IdempotencyKey, InvalidTimeline};
pub use own_timeout::{OwnTimeout, UnusableTimeout};
pub use past::{Heard, Past};
pub use payload::PayloadError;
pub use pending::{Batch, Pending, sort_by_device};
pub use reading::Reading;
pub use registration::RegistrationBudget;
pub use rounds::{EchoIgnored, EchoToken, Echoed, Proof, Rounds};
pub use service_state::ServiceState;
pub use similar_id::{likest, spellings};
pub use status::{EndedOutage, GivenUp, OpenOutage, Recovery, Status, Transition};
pub use stops::{Dated, Stop, Stops};
pub use subscription::{Configured, Difference, Subscription};
pub use together::{Burst, Outages};
pub use topic::{InvalidTopicPattern, TopicPattern};
