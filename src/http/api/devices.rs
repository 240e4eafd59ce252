//! `/devices`: the list of devices by their ids.

use std::time::Duration;

use super::cursor::{List, Order, malformed};
use super::parameters::Query;
use super::{Answer, Answered, Context, Problem};
use crate::domain::Cutoffs;
use crate::store::{Budget, Device, DeviceQuery, Ids};
use crate::views::api::{DeviceItem, DevicePage};

/// The time for which late devices, or ids that contain a text, are searched for. Little enough
/// that the whole answer takes less than 100 ms; the next page goes on there.
const SEARCH: Duration = Duration::from_millis(60);

pub(super) async fn list(context: &Context, query: &Query) -> Answered {
    let list = List::new("/devices", Order::DeviceId, query.filters());
    let after = query.text("cursor").map(|cursor| after(&list, cursor)).transpose()?;
    let mut wanted = DeviceQuery {
        statuses: query.statuses("status").into_iter().collect(),
        ids: query.text("q").map(Ids::searched).unwrap_or_default(),
        ..DeviceQuery::default()
    };
    let late = late_cutoffs(context).await?;
    if let Some(is_wanted) = query.flag("late") {
        // As long as it is unknown, no device is known to be late, nor not to be.
        let Some(cutoffs) = late.clone() else {
            let (items, next, partial) = (Vec::new(), None, false);
            return Ok(Answer::ok(&DevicePage { items, next, partial }));
        };
        if is_wanted {
            wanted.silent = Some(cutoffs);
        } else {
            wanted.heard = Some(cutoffs);
        }
    }
    let (limit, budget) = (query.limit(), Budget::of(SEARCH));
    // One more shows whether there is a next page.
    let mut page = context.reader.devices(&wanted, after.as_deref(), limit + 1, budget).await?;
    if page.devices.len() as u64 > limit {
        page.devices.truncate(limit as usize);
        page.next = page.devices.last().map(|device| device.id.as_str().to_owned());
    }
    let next = page.next.map(|id| list.after(id.as_bytes()));
    let timeout = context.settings.timeout();
    let devices = page.devices.into_iter();
    let item = |device| {
        let late = late.as_ref().map(|cutoffs| is_late(&device, cutoffs));
        DeviceItem::new(device, timeout, late)
    };
    let items = devices.map(item).collect();
    Ok(Answer::ok(&DevicePage { items, next, partial: page.partial }))
}

/// The cutoffs by which a device is late, as of the last check, which has counted the late ones:
/// no list shows more of them. `None` as long as nothing was checked.
pub(super) async fn late_cutoffs(context: &Context) -> Result<Option<Cutoffs>, Problem> {
    let snapshot = context.board.snapshot((context.clock)());
    let Some(at) = snapshot.checked_at else { return Ok(None) };
    let own = context.reader.reads().own_timeouts().await?;
    Ok(Some(snapshot.coverage.late_cutoffs(at, context.settings.timeout(), &own)))
}

pub(super) fn is_late(device: &Device, cutoffs: &Cutoffs) -> bool {
    cutoffs.silences(device.status, device.last_seen_at, device.timeout())
}

/// The id after which the list goes on, which may be that of a device that cannot be read.
fn after(list: &List, cursor: &str) -> Result<String, Problem> {
    String::from_utf8(list.key(cursor)?).map_err(|_| malformed())
}
