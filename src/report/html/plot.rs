//! A chart of any table of a study: lines or bars, on linear or logarithmic axes.

use super::chart::{self, BOTTOM, LEFT, Legend, RIGHT, Scale, TOP, Tick};
use super::elements::{CHARTS, COLOURS};
use super::number;
use crate::escape::markup as escaped;
use crate::report::cell::shown_cell;
use crate::study::{Cell, Chart, Mark, Table};
use std::fmt::Write;

/// Series with a colour of their own; chart.css has so many, and one for the others.
const COLOURED: usize = 6;

/// Longer series are drawn without a dot for each point.
const MOST_DOTS: usize = 60;

/// Characters of what stands under a bar.
const LONGEST_LABEL: usize = 14;

/// The chart as a figure of a page.
pub fn figure(id: &str, chart: &Chart, table: &Table) -> String {
    let ((description, inside, legend), title) = (drawn(chart, table), escaped(&chart.title));
    chart::figure(&escaped(id), (&title, &description), &inside, &legend, &title)
}

/// The chart as a file of its own.
pub fn svg(chart: &Chart, table: &Table) -> String {
    let (description, inside, legend) = drawn(chart, table);
    chart::file((&escaped(&chart.title), &description), &[COLOURS, CHARTS].concat(), &inside, &legend)
}

/// What it shows in words, its inside, and its legend.
fn drawn(chart: &Chart, table: &Table) -> (String, String, Legend) {
    let series = series(chart, table);
    let points: Vec<&Point> = series.iter().flat_map(|(_, points)| points).collect();
    let description = format!("{} against {}.", escaped(&chart.y), escaped(&chart.x));
    let finite = points.iter().filter(|point| axis(chart.log_y, point.y).is_finite());
    let Some(y) = span(finite.map(|point| axis(chart.log_y, point.y)), chart) else {
        return (format!("{description} There is nothing to draw."), String::new(), Legend::default());
    };
    let names = names(chart, table);
    let xs: Vec<f64> = points.iter().map(|point| point.x).collect();
    let (least, most) = (xs.iter().copied().fold(f64::MAX, f64::min), xs.iter().copied().fold(f64::MIN, f64::max));
    let counted = |row: &'_ Vec<Cell>| matches!(table.column(&chart.x).map(|at| &row[at]), Some(Cell::Count(_)));
    let whole = rows(chart, table).any(counted);
    let beside = if chart.mark == Mark::Bar || most == least { 0.5 } else { 0.0 };
    let scale = Scale { x: (least - beside, most + beside), y };
    let mut inside = chart::axes(
        &scale,
        (&escaped(&chart.x), &x_ticks(chart, &names, (least, most), whole)),
        (&escaped(&chart.y), &y_ticks(chart, y)),
    );
    for (at, (name, points)) in series.iter().enumerate() {
        let what = |point: &Point| format!("{}{}: {}", prefix(name), escaped(&point.label), number(point.y));
        match chart.mark {
            Mark::Line => inside += &line(chart, &scale, at, points, &what),
            Mark::Bar => inside += &bars(chart, &scale, (at, series.len(), most - least + 1.0), points, &what),
        }
    }
    let names = series.into_iter().enumerate().map(|(at, (name, _))| (at.min(COLOURED), escaped(&name)));
    let legend = if names.len() > 1 { Legend::of(names.collect()) } else { Legend::default() };
    (description, inside, legend)
}

/// A point: where along x, how high, and what stands there.
struct Point {
    x: f64,
    y: f64,
    label: String,
}

/// The rows that are drawn.
fn rows<'t>(chart: &'t Chart, table: &'t Table) -> impl Iterator<Item = &'t Vec<Cell>> {
    let is = |row: &Vec<Cell>, (column, text): &(String, String)| {
        table.column(column).is_some_and(|at| matches!(&row[at], Cell::Text(found) if found == text))
    };
    table.rows.iter().filter(move |row| chart.only.iter().all(|only| is(row, only)))
}

/// The names along x, where they are words.
fn names<'t>(chart: &'t Chart, table: &'t Table) -> Vec<&'t str> {
    let mut names = Vec::new();
    for row in rows(chart, table) {
        if let Some(Cell::Text(name)) = table.column(&chart.x).map(|at| &row[at])
            && !names.contains(&name.as_str())
        {
            names.push(name.as_str());
        }
    }
    names
}

/// The points of each series, in the order of the table.
fn series(chart: &Chart, table: &Table) -> Vec<(String, Vec<Point>)> {
    let (Some(x), Some(y)) = (table.column(&chart.x), table.column(&chart.y)) else { return Vec::new() };
    let by = chart.series.as_ref().and_then(|name| table.column(name));
    let names = names(chart, table);
    let mut all: Vec<(String, Vec<Point>)> = Vec::new();
    for row in rows(chart, table) {
        let name = by.map(|at| shown_cell(&row[at])).unwrap_or_default();
        let place = match &row[x] {
            Cell::Text(text) => names.iter().position(|name| name == text).map(|at| at as f64),
            cell => cell.number().map(|value| x_axis(chart, value)).filter(|x| x.is_finite()),
        };
        let (Some(place), Some(height)) = (place, row[y].number()) else { continue };
        let point = Point { x: place, y: height, label: shown_cell(&row[x]) };
        match all.iter_mut().find(|(known, _)| *known == name) {
            Some((_, points)) => points.push(point),
            None => all.push((name, vec![point])),
        }
    }
    all
}

fn prefix(name: &str) -> String {
    if name.is_empty() { String::new() } else { format!("{}, ", escaped(name)) }
}

fn axis(log: bool, value: f64) -> f64 {
    if log { value.log10() } else { value }
}

/// Along x zero has a place on a logarithmic axis, too.
fn x_axis(chart: &Chart, value: f64) -> f64 {
    match chart.log_x {
        true if value == 0.0 => ZERO,
        log => axis(log, value),
    }
}

/// Where zero stands on a logarithmic axis of whole numbers.
const ZERO: f64 = -0.5;

/// What y goes from and to, with room above; none of nothing.
fn span(values: impl Iterator<Item = f64>, chart: &Chart) -> Option<(f64, f64)> {
    let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
    if low > high {
        return None;
    }
    Some(match chart.log_y {
        true => (low.floor(), high.ceil().max(low.floor() + 1.0)),
        false => (low.min(0.0), if high > low.min(0.0) { high } else { low.min(0.0) + 1.0 }),
    })
}

fn y_ticks(chart: &Chart, (low, high): (f64, f64)) -> Vec<Tick> {
    match chart.log_y {
        true => decades(low, high),
        false => chart::ticks(low, high, 6.0).map(|at| (at, tidy(at))).collect(),
    }
}

fn decades(low: f64, high: f64) -> Vec<Tick> {
    let step = (((high - low) / 7.0).ceil() as i64).max(1);
    let (low, high) = (low.ceil() as i64, high.floor() as i64);
    (low..=high).filter(|at| (at - low) % step == 0).map(|at| (at as f64, chart::power_of_ten(at))).collect()
}

/// `whole`: there is nothing between whole numbers.
fn x_ticks(chart: &Chart, names: &[&str], (low, high): (f64, f64), whole: bool) -> Vec<Tick> {
    if !names.is_empty() {
        let every = names.len().div_ceil(9);
        let short = |name: &str| match name.char_indices().nth(LONGEST_LABEL) {
            None => escaped(name),
            Some((at, _)) => format!("{}…", escaped(&name[..at])),
        };
        return names.iter().enumerate().step_by(every).map(|(at, name)| (at as f64, short(name))).collect();
    }
    match chart.log_x {
        true => {
            let zero = (low == ZERO).then(|| (ZERO, "0".into()));
            zero.into_iter().chain(decades(low.max(if low == ZERO { 0.0 } else { low }), high)).collect()
        }
        false if whole => {
            chart::whole_ticks(low as usize, high as usize, 8).map(|at| (at as f64, at.to_string())).collect()
        }
        false => chart::ticks(low, high.max(low + 1.0), 8.0).map(|at| (at, tidy(at))).collect(),
    }
}

/// A tick without the noise of its last digits.
fn tidy(value: f64) -> String {
    format!("{value:.6}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Where it stands; what is not finite stands at the top.
fn height(chart: &Chart, scale: &Scale, value: f64) -> f64 {
    let y = axis(chart.log_y, value);
    if y.is_finite() {
        scale.y(y)
    } else if value == 0.0 {
        BOTTOM
    } else {
        TOP
    }
}

fn line(chart: &Chart, scale: &Scale, at: usize, points: &[Point], what: &dyn Fn(&Point) -> String) -> String {
    let colour = at.min(COLOURED);
    let mut out = format!("<polyline class=\"line{colour}\" points=\"");
    for point in points {
        let _ = write!(out, "{:.1},{:.1} ", scale.x(point.x), height(chart, scale, point.y));
    }
    out += "\"/>\n";
    for point in points.iter().filter(|point| points.len() <= MOST_DOTS || !point.y.is_finite()) {
        let class = if point.y.is_finite() { format!("kind{colour}") } else { "infinite".into() };
        let (x, y) = (scale.x(point.x), height(chart, scale, point.y));
        let title = what(point);
        let _ =
            writeln!(out, r#"<circle class="{class}" cx="{x:.1}" cy="{y:.1}" r="3"><title>{title}</title></circle>"#);
    }
    out
}

/// The bars of one of so many series that share a place.
fn bars(
    chart: &Chart,
    scale: &Scale,
    (at, series, places): (usize, usize, f64),
    points: &[Point],
    what: &dyn Fn(&Point) -> String,
) -> String {
    let all = ((RIGHT - LEFT) / places * 0.8).min(60.0);
    let width = all / series as f64;
    let zero = if chart.log_y { BOTTOM } else { scale.y(0.0) };
    let mut out = String::new();
    for point in points {
        let x = scale.x(point.x) - all / 2.0 + width * at as f64;
        let y = height(chart, scale, point.y);
        let (top, tall) = (y.min(zero), (zero - y).abs());
        let (colour, title) = (at.min(COLOURED), what(point));
        let _ = writeln!(
            out,
            r#"<rect class="kind{colour}" x="{x:.1}" y="{top:.1}" width="{width:.1}" height="{tall:.1}"><title>{title}</title></rect>"#
        );
    }
    out
}
