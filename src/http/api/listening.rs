//! `/listening`: when the service was provably listening, and why it was not.

use super::parameters::Query;
use super::timeline::known;
use super::window::window;
use super::{Answer, Answered, Context};
use crate::views::api::{EchoLatency, ListeningView};

pub(super) async fn show(context: &Context, query: &Query) -> Answered {
    let now = (context.clock)().wall;
    let window = window(context, query, 1, now)?;
    // Nothing is known about the future.
    let stretch = (window.from, window.to.min(now).max(window.from));
    let known = known(context, stretch.0, stretch.1).await?;
    let [p50, p99] = context.metrics.echo_latency([0.5, 0.99]);
    let latency = EchoLatency { p50, p99 };
    let instance = context.settings.instance();
    Ok(Answer::ok(&ListeningView::new(stretch, instance, &known, latency)))
}
