//! The heartbeat of a device of the benchmarks, as a packet.
//!
//! All of them are equally long, so each field has the same place in every packet, and can be
//! changed there.

use chrono::{SecondsFormat, Utc};

use crate::packet::{PUBLISH, packet, text};

/// The number of devices whose ids are equally long.
pub(crate) const MAX_DEVICES: u64 = 10_000_000;

const BEFORE_TIME: &str = r#"{"timestamp":""#;
const BEFORE_UPTIME: &str = r#"","uptime_seconds":"#;
const BEFORE_MEMORY: &str = r#","free_memory":"#;

/// The lengths of the fields that change.
const TIME: usize = "2026-11-26T12:00:00.000Z".len();
const UPTIME: usize = 7;
const PACKET_ID: usize = 2;

/// The distances of these fields from the end of the packet, which has 6 digits of memory and
/// a brace.
const UPTIME_AT: usize = UPTIME + BEFORE_MEMORY.len() + 7;
const TIME_AT: usize = TIME + BEFORE_UPTIME.len() + UPTIME_AT;
const PACKET_ID_AT: usize = PACKET_ID + BEFORE_TIME.len() + TIME_AT;

/// The id of a device by its number.
pub fn id(device: u64) -> String {
    format!("device-{device:07}")
}

/// The uptime that devices tell in a round, in seconds. A round is one heartbeat from each
/// device, and devices publish once a minute.
pub fn uptime(round: u64) -> u64 {
    1_000_000 + round * 60
}

/// The time and the uptime that heartbeats tell.
#[derive(Debug)]
pub(crate) struct Told {
    millis: i64,
    time: String,
    uptime: String,
}

impl Told {
    pub(crate) fn now(round: u64) -> Self {
        let mut told = Self { millis: 0, time: String::new(), uptime: uptime(round).to_string() };
        told.update();
        told
    }

    /// Takes the time again, which is not formatted more often than it changes.
    pub(crate) fn update(&mut self) {
        let now = Utc::now();
        if now.timestamp_millis() != self.millis {
            self.millis = now.timestamp_millis();
            self.time = now.to_rfc3339_opts(SecondsFormat::Millis, true);
        }
    }
}

/// A device's heartbeat.
pub(crate) fn heartbeat(device: u64, qos: u8, packet_id: u16, told: &Told) -> Vec<u8> {
    let topic = text(&format!("devices/{}/heartbeat", id(device)));
    let packet_id = packet_id.to_be_bytes();
    let packet_id = if qos > 0 { &packet_id[..] } else { &[] };
    let Told { time, uptime, .. } = told;
    let memory = 100_000 + device % 50_000;
    let payload = format!("{BEFORE_TIME}{time}{BEFORE_UPTIME}{uptime}{BEFORE_MEMORY}{memory}}}");
    packet(PUBLISH | (qos << 1), &[&topic, packet_id, payload.as_bytes()].concat())
}

/// Changes what a heartbeat tells, and its packet id if it has one.
pub(crate) fn change(packet: &mut [u8], packet_id: Option<u16>, told: &Told) {
    let end = packet.len();
    packet[end - TIME_AT..][..TIME].copy_from_slice(told.time.as_bytes());
    packet[end - UPTIME_AT..][..UPTIME].copy_from_slice(told.uptime.as_bytes());
    if let Some(id) = packet_id {
        packet[end - PACKET_ID_AT..][..PACKET_ID].copy_from_slice(&id.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(time: &str, round: u64) -> Told {
        Told { millis: 0, time: time.to_owned(), uptime: uptime(round).to_string() }
    }

    #[test]
    fn a_heartbeat_that_is_changed_is_like_one_that_is_made() {
        let (earlier, later) =
            (told("2026-11-26T09:08:07.006Z", 1), told("2027-12-27T19:18:17.016Z", 9_000));
        for (qos, packet_id) in [(0, None), (1, Some(0xabcd))] {
            for device in [0, 7, MAX_DEVICES - 1] {
                let mut changed = heartbeat(device, qos, 1, &earlier);
                change(&mut changed, packet_id, &later);
                assert_eq!(changed, heartbeat(device, qos, packet_id.unwrap_or(1), &later));
                assert_eq!(changed.len(), heartbeat(0, qos, 1, &earlier).len());
            }
        }
    }

    #[test]
    fn the_time_is_told_in_milliseconds() {
        assert_eq!(Told::now(1).time.len(), TIME);
    }
}
