//! A picture of the run: panels one below the other over the same time, and across all of them a
//! band for each checkpoint.

use crate::plan::Arguments;
use crate::results::{Checkpoint, Figures, Results, TimedSample};
use crate::run::describe;
use anyhow::{Result, anyhow};
use plotters::coord::ranged1d::ValueFormatter;
use plotters::prelude::*;

/// Width of the picture.
const WIDTH: u32 = 1200;
/// Height of a panel.
const PANEL: u32 = 210;
/// Height of the title.
const TITLE: u32 = 60;

/// Colours of lines, told apart by people who see colours differently too (Okabe and Ito, 2008).
const COLOURS: [RGBColor; 4] = [
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(230, 159, 0),
    RGBColor(213, 94, 0),
];
/// The colour of checkpoints.
const BAND: RGBColor = RGBColor(204, 121, 167);

/// Points of one line, over seconds.
type Points = Vec<(f64, f64)>;

/// One panel.
struct Panel {
    title: &'static str,
    lines: Vec<(&'static str, Points)>,
    is_logarithmic: bool,
}

impl Panel {
    fn new(title: &'static str, lines: Vec<(&'static str, Points)>) -> Panel {
        Panel {
            title,
            lines,
            is_logarithmic: false,
        }
    }

    fn is_empty(&self) -> bool {
        self.lines.iter().all(|(_, points)| points.is_empty())
    }

    /// The greatest value, and the least that is not zero.
    fn bounds(&self) -> (f64, f64) {
        let values = self.lines.iter().flat_map(|(_, points)| points);
        let values = values.map(|(_, value)| *value).filter(|value| *value > 0.0);
        values.fold((f64::MIN_POSITIVE, f64::MAX), |(max, min), value| {
            (value.max(max), value.min(min))
        })
    }
}

/// The picture, as its file's name asks: alone, or within a page that has the figures too.
pub fn render(arguments: &Arguments, results: &Results) -> Result<String> {
    let picture = picture(arguments, results)?;
    let is_page = arguments
        .report
        .as_deref()
        .and_then(|path| path.extension())
        .is_some_and(|ending| ending == "html");
    if !is_page {
        return Ok(picture);
    }
    let title = escape(&format!("{}: {}", results.version, describe(arguments)));
    let summary = escape(&super::text::render(arguments, results));
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n\
         <style>body {{ font-family: sans-serif; max-width: {WIDTH}px; margin: auto }}\n\
         pre {{ background: #f4f4f4; padding: 1em; overflow-x: auto }}\n\
         svg {{ width: 100%; height: auto }}</style></head>\n\
         <body>\n<pre>{summary}</pre>\n{picture}\n</body></html>\n"
    ))
}

/// Text as it must stand in a page.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// The panels that have anything to show.
fn panels(results: &Results) -> Vec<Panel> {
    let seconds = &results.main.seconds;
    // A second's figures stand in its middle.
    let over = |value: &dyn Fn(&crate::record::Second) -> f64| -> Points {
        let each = seconds.iter().enumerate();
        each.map(|(index, second)| (index as f64 + 0.5, value(second)))
            .collect()
    };
    let quantile = |pick: fn(&Figures) -> f64| {
        let all = over(&|second| pick(&Figures::of(&second.times)) / 1e3);
        // A second without an answer has no times, and no place on a logarithmic axis.
        all.into_iter().filter(|(_, ms)| *ms > 0.0).collect()
    };
    let sampled = |value: &dyn Fn(&TimedSample) -> Option<f64>| -> Points {
        let run = results.samples.iter().filter(|timed| timed.at_s >= 0.0);
        run.filter_map(|timed| Some((timed.at_s, value(timed)?)))
            .collect()
    };
    let mut rates = vec![("", over(&|second| second.times.len() as f64))];
    if let Some(writers) = &results.writers {
        let each = writers.seconds.iter().enumerate();
        let points = each.map(|(index, second)| (index as f64 + 0.5, second.times.len() as f64));
        rates = vec![("load", rates.remove(0).1), ("writers", points.collect())];
    }
    let mut times = Panel::new(
        "response time, ms",
        vec![
            ("p50", quantile(|figures| figures.p50)),
            ("p99", quantile(|figures| figures.p99)),
            ("p99.9", quantile(|figures| figures.p999)),
            ("max", quantile(|figures| figures.max)),
        ],
    );
    times.is_logarithmic = true;
    let mut wal: Points = results.wal_rate();
    wal.retain(|(at_s, _)| *at_s >= 0.0);
    wal.iter_mut().for_each(|(_, rate)| *rate /= 1e6);
    let dirty = sampled(&|timed| Some(timed.sample.dirty_pages? as f64));
    let redo = sampled(&|timed| Some(timed.sample.redo_bytes? as f64 / 1e6));
    let estimate = sampled(&|timed| Some(timed.sample.recovery_estimate_ms? as f64 / 1e3));
    let mut panels = vec![
        Panel::new("operations/s", rates),
        times,
        Panel::new("log, MB/s", vec![("", wal)]),
        Panel::new("dirty pages", vec![("", dirty)]),
        Panel::new("log to redo, MB", vec![("", redo)]),
        Panel::new("recovery estimate, s", vec![("", estimate)]),
    ];
    panels.retain(|panel| !panel.is_empty());
    panels
}

fn picture(arguments: &Arguments, results: &Results) -> Result<String> {
    let panels = panels(results);
    let checkpoints = results.checkpoints();
    let height = TITLE + PANEL * panels.len() as u32;
    let length_s = results.length.as_secs_f64();
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, (WIDTH, height)).into_drawing_area();
        let drawn = |error| anyhow!("the report could not be drawn: {error}");
        root.fill(&WHITE).map_err(drawn)?;
        let (head, body) = root.split_vertically(TITLE);
        let style = ("sans-serif", 20).into_font();
        head.draw_text(&results.version, &style.clone().into(), (10, 8))
            .map_err(drawn)?;
        let style = ("sans-serif", 14).into_font();
        let note = format!("{} (bands: checkpoints)", describe(arguments));
        head.draw_text(&note, &style.into(), (10, 34))
            .map_err(drawn)?;
        let areas = body.split_evenly((panels.len(), 1));
        for (panel, area) in panels.iter().zip(&areas) {
            draw(panel, area, &checkpoints, length_s)
                .map_err(|error| anyhow!("the report could not be drawn: {error}"))?;
        }
        root.present().map_err(drawn)?;
    }
    Ok(text)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

fn draw(panel: &Panel, area: &Area<'_>, checkpoints: &[Checkpoint], length_s: f64) -> Drawn {
    let (max, min) = panel.bounds();
    let mut builder = ChartBuilder::on(area);
    builder
        .caption(panel.title, ("sans-serif", 14))
        .x_label_area_size(24)
        .y_label_area_size(70)
        .margin_right(20);
    if panel.is_logarithmic {
        let range = (min / 1.5..max * 1.5).log_scale();
        let mut chart = builder.build_cartesian_2d(0.0..length_s, range)?;
        bands(&mut chart, checkpoints, (min / 1.5, max * 1.5), length_s)?;
        lines(panel, &mut chart)
    } else {
        let mut chart = builder.build_cartesian_2d(0.0..length_s, 0.0..max * 1.1)?;
        bands(&mut chart, checkpoints, (0.0, max * 1.1), length_s)?;
        lines(panel, &mut chart)
    }
}

type Chart<'a, 'b, Y> =
    ChartContext<'a, SVGBackend<'b>, Cartesian2d<plotters::coord::types::RangedCoordf64, Y>>;

/// The checkpoints within a run; one that was over at once is as wide as a line.
fn bands<Y: Ranged<ValueType = f64>>(
    chart: &mut Chart<'_, '_, Y>,
    checkpoints: &[Checkpoint],
    (low, high): (f64, f64),
    length_s: f64,
) -> Drawn {
    let spans = checkpoints.iter().map(|checkpoint| {
        let end_s = checkpoint.end_s.unwrap_or(length_s);
        let line_s = length_s / f64::from(WIDTH);
        (
            checkpoint.start_s.max(0.0),
            end_s.max(checkpoint.start_s + line_s).min(length_s),
        )
    });
    let within = spans.filter(|(from, to)| to > from);
    chart.draw_series(
        within.map(|(from, to)| Rectangle::new([(from, low), (to, high)], BAND.mix(0.3).filled())),
    )?;
    Ok(())
}

fn lines<'a, Y>(panel: &Panel, chart: &mut Chart<'a, 'a, Y>) -> Drawn
where
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(12)
        .y_labels(6)
        .x_label_formatter(&|seconds| format!("{seconds:.0} s"))
        .draw()?;
    for ((name, points), colour) in panel.lines.iter().zip(COLOURS) {
        let series = LineSeries::new(points.iter().copied(), colour.stroke_width(2));
        let drawn = chart.draw_series(series)?;
        if !name.is_empty() {
            drawn.label(*name).legend(move |(x, y)| {
                PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2))
            });
        }
    }
    if panel.lines.iter().any(|(name, _)| !name.is_empty()) {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .draw()?;
    }
    Ok(())
}
