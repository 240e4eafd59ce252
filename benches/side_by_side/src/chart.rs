//! Charts, as SVG.

use std::path::Path;

use anyhow::anyhow;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

const FONT: &str = "sans-serif";
const SIZE: (u32, u32) = (800, 420);

/// The heights of a heading and of a bar.
const HEADING: u32 = 50;
const BAR: u32 = 26;

/// A line and its name.
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// The title and the axes' names of a line chart.
pub struct Axes<'a> {
    pub title: &'a str,
    pub x: &'a str,
    pub y: &'a str,
}

/// Draws one bar each, from top to bottom, with its value at its end.
pub fn bars(path: &Path, title: &str, bars: &[(String, f64)]) -> anyhow::Result<()> {
    let longest = bars.iter().map(|(_, value)| *value).fold(1.0, f64::max);
    let count = bars.len() as f64;
    let height = HEADING + BAR * u32::try_from(bars.len())?;
    let area = SVGBackend::new(path, (SIZE.0, height)).into_drawing_area();
    let draw = || -> Result<(), Box<dyn std::error::Error>> {
        area.fill(&WHITE)?;
        let (heading, body) = area.split_vertically(HEADING);
        heading.draw(&Text::new(title.to_owned(), (10, 14), (FONT, 20)))?;
        let (names, plot) = body.split_horizontally(290);
        let plot: DrawingArea<_, Cartesian2d<RangedCoordf64, RangedCoordf64>> = plot
            .apply_coord_spec(Cartesian2d::new(
                0.0..longest * 1.2,
                0.0..count,
                plot.get_pixel_range(),
            ));
        for (index, (name, value)) in bars.iter().enumerate() {
            let (top, bottom) = (index as f64 + 0.15, index as f64 + 0.85);
            let color = if name.starts_with("heartbeatd") {
                RGBColor(31, 119, 180)
            } else {
                RGBColor(150, 150, 150)
            };
            plot.draw(&Rectangle::new([(0.0, top), (*value, bottom)], color.filled()))?;
            let number = thousands(*value);
            plot.draw(&Text::new(format!(" {number}"), (*value, top + 0.1), (FONT, 14)))?;
            names.draw(&Text::new(
                name.clone(),
                (10, BAR as i32 * index as i32 + 6),
                (FONT, 14),
            ))?;
        }
        area.present()?;
        Ok(())
    };
    draw().map_err(|error| anyhow!("{}: {error}", path.display()))
}

/// A vertical axis for values over several orders of magnitude.
pub fn logarithmic(least: f64, most: f64) -> impl AsRangedCoord<Value = f64, CoordDescType: Axis> {
    (least * 0.7..most * 1.4).log_scale()
}

/// A linear vertical axis.
pub fn from_zero(_: f64, most: f64) -> impl AsRangedCoord<Value = f64, CoordDescType: Axis> {
    0.0..most * 1.2
}

/// The traits that plotters needs of an axis.
pub trait Axis: Ranged<ValueType = f64> + ValueFormatter<f64> {}

impl<T: Ranged<ValueType = f64> + ValueFormatter<f64>> Axis for T {}

/// Draws lines over a logarithmic horizontal axis. `vertical` makes the other axis from
/// the least and the greatest value.
pub fn lines<Y>(
    path: &Path,
    axes: &Axes<'_>,
    series: &[Series],
    vertical: impl Fn(f64, f64) -> Y,
) -> anyhow::Result<()>
where
    Y: AsRangedCoord<Value = f64, CoordDescType: Axis>,
{
    let points = || series.iter().flat_map(|series| &series.points);
    let xs =
        (points().map(|p| p.0).fold(f64::MAX, f64::min), points().map(|p| p.0).fold(0.0, f64::max));
    let ys =
        (points().map(|p| p.1).fold(f64::MAX, f64::min), points().map(|p| p.1).fold(0.0, f64::max));
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    let draw = || -> Result<(), Box<dyn std::error::Error>> {
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(axes.title, (FONT, 20))
            .margin(12)
            .margin_right(48)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d((xs.0..xs.1 * 1.05).log_scale(), vertical(ys.0, ys.1))?;
        chart
            .configure_mesh()
            .x_desc(axes.x)
            .y_desc(axes.y)
            .x_label_formatter(&|value| thousands(*value))
            .y_label_formatter(&|value| thousands(*value))
            .light_line_style(WHITE)
            .draw()?;
        for (index, Series { name, points }) in series.iter().enumerate() {
            let color = Palette99::pick(index).to_rgba();
            chart
                .draw_series(
                    LineSeries::new(points.iter().copied(), color.stroke_width(2)).point_size(3),
                )?
                .label(name.as_str())
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2))
                });
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()?;
        area.present()?;
        Ok(())
    };
    draw().map_err(|error| anyhow!("{}: {error}", path.display()))
}

/// Formats `1234567` as `1,234,567`, and a small fraction with one digit after the point.
pub fn thousands(value: f64) -> String {
    if value < 10.0 && value.fract() != 0.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::thousands;

    #[test]
    fn a_number_is_grouped_by_thousands() {
        assert_eq!(thousands(1_234_567.4), "1,234,567");
        assert_eq!(thousands(999.6), "1,000");
        assert_eq!(thousands(123.0), "123");
        assert_eq!(thousands(2.34), "2.3");
        assert_eq!(thousands(3.0), "3");
    }
}
