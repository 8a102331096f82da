//! The phase transition, as in Figure 2 of arXiv 2510.10238: perplexity against the number of masked neurons.

use super::chart::{self, BOTTOM, LEFT, Legend, RIGHT, Scale, TOP, Tick};
use super::number;
use crate::document::Document;
use crate::evaluate::metrics::perplexity;
use crate::locate::CriticalSetReport;
use std::f64::consts::{LN_10, LOG10_E};
use std::fmt::Write;

/// Longer curves are drawn without a dot for each point.
const MOST_DOTS: usize = 60;

/// The curve with the base and the threshold of collapse.
pub fn figure(report: &Document<CriticalSetReport>) -> String {
    let CriticalSetReport { base, prefix, .. } = &report.result;
    let base = base.nll_nats;
    let threshold = base + report.settings.search.epsilon * LN_10;
    let nlls: Vec<f64> = std::iter::once(base).chain(prefix.curve_nll_nats.iter().copied()).collect();
    let scale = scale(&nlls, threshold);
    let last = nlls.len() - 1;

    let x_ticks: Vec<Tick> = chart::whole_ticks(0, last.max(1), 8).map(|n| (n as f64, n.to_string())).collect();
    let decades = chart::whole_ticks(scale.y.0 as usize, scale.y.1 as usize, 7);
    let y_ticks: Vec<Tick> = decades.map(|decade| (decade as f64, chart::power_of_ten(decade as i64))).collect();
    let mut inside = chart::axes(&scale, ("masked neurons", &x_ticks), ("perplexity", &y_ticks));
    inside += &level(&scale, "base", base, &format!("base {}", number(perplexity(base))), 15.0);
    inside += &level(&scale, "threshold", threshold, &format!("collapse from {}", number(perplexity(threshold))), -6.0);
    inside += &line(&scale, &nlls);
    inside += &end(&scale, &nlls, prefix.collapsed);

    let (at_base, at_end) = (number(perplexity(base)), shown(nlls[last]));
    let description = format!(
        "With no neuron masked perplexity is {at_base}, with {last} masked it is {at_end}; the threshold of collapse is {}.",
        number(perplexity(threshold))
    );
    let epsilon = report.settings.search.epsilon;
    let outcome = match (prefix.collapsed, report.result.is_gradual()) {
        (true, false) => format!("collapse at n = {last}"),
        (true, true) => format!("gradual, ε reached at n = {last}"),
        (false, _) => "no collapse".into(),
    };
    let caption = format!(
        "Perplexity with the first n of the ranking masked, on a logarithmic scale: {outcome} (ε = {epsilon}: \
         10<sup>{epsilon}</sup> times the base)."
    );
    chart::figure(
        "curve",
        ("Perplexity against the number of masked neurons", &description),
        &inside,
        &Legend::default(),
        &caption,
    )
}

/// Whole powers of ten around all that is shown.
fn scale(nlls: &[f64], threshold: f64) -> Scale {
    let finite = nlls.iter().copied().chain([threshold]).filter(|nll| nll.is_finite()).map(|nll| nll * LOG10_E);
    let (low, high) = finite.fold((f64::INFINITY, 0.0_f64), |(low, high), y| (low.min(y), high.max(y)));
    let low = if low.is_finite() { low.floor().max(0.0) } else { 0.0 };
    Scale { x: (0.0, (nlls.len() - 1).max(1) as f64), y: (low, high.ceil().max(low + 1.0)) }
}

/// Where an NLL lies. One that is not finite is off the scale, so at its top.
fn height(scale: &Scale, nll: f64) -> f64 {
    if nll.is_finite() { scale.y(nll * LOG10_E) } else { TOP }
}

/// A level line with its name, `below` the line or, where negative, above.
fn level(scale: &Scale, class: &str, nll: f64, name: &str, below: f64) -> String {
    if !nll.is_finite() {
        return String::new();
    }
    let y = height(scale, nll);
    format!(
        r#"<line class="{class}" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1}" y2="{y:.1}"/>
<text class="end" x="{}" y="{:.1}">{name}</text>
"#,
        RIGHT - 6.0,
        (y + below).min(BOTTOM - 4.0)
    )
}

fn line(scale: &Scale, nlls: &[f64]) -> String {
    let mut out = String::from("<polyline class=\"curve\" points=\"");
    for (n, nll) in nlls.iter().enumerate() {
        let _ = write!(out, "{:.1},{:.1} ", scale.x(n as f64), height(scale, *nll));
    }
    out += "\"/>\n";
    for (n, nll) in nlls.iter().enumerate().filter(|(_, nll)| nlls.len() <= MOST_DOTS || !nll.is_finite()) {
        let class = if nll.is_finite() { "dot" } else { "dot infinite" };
        let (x, y) = (scale.x(n as f64), height(scale, *nll));
        let _ = writeln!(
            out,
            r#"<circle class="{class}" cx="{x:.1}" cy="{y:.1}" r="3"><title>{n} masked: {}</title></circle>"#,
            shown(*nll)
        );
    }
    out
}

/// The last point, by name.
fn end(scale: &Scale, nlls: &[f64], collapsed: bool) -> String {
    let n = nlls.len() - 1;
    let (x, y) = (scale.x(n as f64), height(scale, nlls[n]));
    let class = if collapsed { "collapse" } else { "dot" };
    format!(
        r#"<circle class="{class}" cx="{x:.1}" cy="{y:.1}" r="5"/>
<text class="end" x="{RIGHT}" y="{:.1}">{}</text>
"#,
        y - 10.0,
        shown(nlls[n])
    )
}

fn shown(nll: f64) -> String {
    if nll.is_finite() { number(perplexity(nll)) } else { "not finite".into() }
}
