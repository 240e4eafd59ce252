//! `/fleet`: the number of devices in each status over time.

use super::parameters::Query;
use super::timeline::known;
use super::window::window;
use super::{Answer, Answered, Context};
use crate::views::api::FleetView;

pub(super) async fn show(context: &Context, query: &Query) -> Answered {
    let now = (context.clock)().wall;
    let window = window(context, query, 96, now)?;
    let bounds: Vec<_> = (0..window.len()).map(|part| window.start(part)).collect();
    let bounds = [bounds, vec![window.to]].concat();
    let samples = context.reader.fleet(&bounds).await?;
    let known = known(context, window.from, window.to).await?;
    Ok(Answer::ok(&FleetView::new(window, samples, &known, now)))
}
