//! The text format that Prometheus had before OpenMetrics, version 0.0.4.

use std::fmt::Write;

/// Rewrites a page of OpenMetrics. There a family of counters is called `x`, and its series
/// `x_total`; here both have the name of the series. A family of type `info` is a gauge.
pub(super) fn from_open_metrics(page: &str) -> String {
    let mut text = String::with_capacity(page.len());
    let mut help = None;
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                kind => ("", kind),
            };
            if let Some((_, help)) = help.take().filter(|(of, _)| *of == name) {
                let _ = writeln!(text, "# HELP {name}{suffix} {help}");
            }
            let _ = writeln!(text, "# TYPE {name}{suffix} {kind}");
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_have_the_names_of_their_series() {
        let page = "# HELP a_heartbeats Heartbeats accepted.\n# TYPE a_heartbeats counter\n\
                    a_heartbeats_total{reason=\"x y\"} 3\n\
                    # HELP a_build The version.\n# TYPE a_build info\na_build_info{v=\"1\"} 1\n\
                    # HELP a_seconds Time.\n# TYPE a_seconds histogram\n# UNIT a_seconds seconds\n\
                    a_seconds_bucket{le=\"+Inf\"} 1\n# EOF\n";
        let text = "# HELP a_heartbeats_total Heartbeats accepted.\n\
                    # TYPE a_heartbeats_total counter\na_heartbeats_total{reason=\"x y\"} 3\n\
                    # HELP a_build_info The version.\n# TYPE a_build_info gauge\n\
                    a_build_info{v=\"1\"} 1\n\
                    # HELP a_seconds Time.\n# TYPE a_seconds histogram\n\
                    a_seconds_bucket{le=\"+Inf\"} 1\n";
        assert_eq!(from_open_metrics(page), text);
    }
}
