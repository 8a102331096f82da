//! Activation monitoring, for people.

use super::table::{number, push, right, table};
use crate::error::Count;
use crate::monitor::{Baseline, Checked, Extreme, Outside, Statistic, Tokens};
use std::fmt::Write;

/// Sites that are listed.
const ROWS: usize = 20;

/// A recorded baseline, in a few lines.
pub fn recorded(baseline: &Baseline) -> String {
    let s = &baseline.settings;
    let largest = baseline.calibration_scores.first().copied().unwrap_or_default();
    let smallest = 1.0 / (s.calibration_prompts + 1) as f64;
    let recorded = format!(
        "{} recorded; profiles of {}, calibrated on {} (largest score {largest:.2})\n\
         a single prompt can be told from chance at alpha {smallest:.2e}, several below it\n",
        Count(baseline.sites.len(), "site", "sites"),
        Count(s.profile_prompts, "prompt", "prompts"),
        Count(s.calibration_prompts, "other", "others"),
    );
    recorded + &super::weights::line(&baseline.model)
}

/// The verdict, and the sites outside their profile.
pub fn checked(checked: &Checked) -> String {
    let mut out = String::new();
    let verdict = if checked.alarm { "ALARM" } else { "no alarm" };
    let _ = writeln!(
        out,
        "{verdict}: {} of {} outside (score above {:.2}); by chance so many with probability {:.2e}, alpha {}",
        checked.prompts_outside,
        Count(checked.prompts, "prompt", "prompts"),
        checked.threshold,
        checked.p_value,
        checked.alpha,
    );
    let (examined, all) = (checked.sites_examined, Count(checked.sites, "site", "sites"));
    let _ = writeln!(out, "examined {examined} of {all} of the baseline; {} outside", checked.outside.len());
    for site in checked.not_finite.iter().take(ROWS) {
        let _ = writeln!(out, "not finite: {} ({} NaN, {} infinite)", site.site, site.nan, site.inf);
    }
    if checked.not_finite.len() > ROWS {
        let _ = writeln!(out, "not finite: {} more", checked.not_finite.len() - ROWS);
    }
    if checked.outside.is_empty() {
        return out;
    }
    let mut rows = table(&["site", "of", "prompts", "median", "baseline", "its range", "deviation", "channel", "was"]);
    for site in checked.outside.iter().take(ROWS) {
        let channel = |c: Option<(usize, f64)>| c.map(|(c, share)| format!("{c} ({:.0}%)", share * 100.0));
        let (low, high) = site.baseline_range;
        rows.add_row(vec![
            format!("{}:{}", site.site.module.short(), site.site.side),
            what(site),
            site.prompts.to_string(),
            number(site.median),
            number(site.baseline_median),
            format!("{} to {}", number(low), number(high)),
            format!("{:.1}", site.deviation),
            channel(site.channel).unwrap_or_default(),
            channel(site.baseline_channel).unwrap_or_default(),
        ]);
    }
    right(&mut rows, &[2, 3, 4, 6]);
    push(&mut out, &rows);
    if checked.outside.len() > ROWS {
        let _ = writeln!(out, "and {} more (--format json lists all)", checked.outside.len() - ROWS);
    }
    out
}

/// `max |x|, first token`.
fn what(site: &Outside) -> String {
    let name = match site.statistic {
        Statistic::L2 => "L2 norm",
        Statistic::MaxAbs => "max |x|",
    };
    match (site.tokens, site.extreme) {
        (Tokens::First, _) => format!("{name}, first token"),
        (Tokens::Rest, Extreme::Smallest) => format!("smallest {name}, rest"),
        (Tokens::Rest, Extreme::Largest) => format!("largest {name}, rest"),
    }
}
