//! `/summary`: if the service may be believed, and how the fleet is. From memory, so it answers
//! while the database is away.

use super::{Answer, Context};
use crate::views::{Summary, SummaryView};

pub(super) fn show(context: &Context) -> Answer {
    Answer::ok(&view(context))
}

pub(super) fn view(context: &Context) -> SummaryView {
    let now = (context.clock)();
    Summary::of(context.board.snapshot(now), &context.about, now.wall).into()
}
