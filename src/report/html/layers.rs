//! In which layers, and in which modules of them, the ranked neurons lie.

use super::chart::{self, BOTTOM, LEFT, Legend, RIGHT, Scale, Tick};
use super::escaped;
use crate::error::Count;
use crate::locate::RankedNeuron;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Kinds of module with a colour of their own; style.css has so many, and one for the others.
const COLOURS: usize = 6;

/// A bar a layer, of which each kind of module is a part.
pub fn figure(ranking: &[RankedNeuron]) -> String {
    let kinds = kinds(ranking);
    let mut layers: BTreeMap<usize, BTreeMap<usize, usize>> = BTreeMap::new();
    let mut outside = 0;
    for ranked in ranking {
        match ranked.layer {
            Some(layer) => *layers.entry(layer).or_default().entry(colour(&kinds, kind(ranked))).or_default() += 1,
            None => outside += 1,
        }
    }
    let Some(last) = layers.keys().next_back().copied() else { return String::new() };
    let total = |layer: &BTreeMap<usize, usize>| layer.values().sum::<usize>();
    let highest = layers.values().map(total).max().unwrap_or(1);

    let scale = Scale { x: (-0.5, last as f64 + 0.5), y: (0.0, highest as f64) };
    let ticks = |to: usize, at_most| chart::whole_ticks(0, to, at_most).map(|n| (n as f64, n.to_string())).collect();
    let (x_ticks, y_ticks): (Vec<Tick>, Vec<Tick>) = (ticks(last, 10), ticks(highest, 6));
    let mut inside = chart::axes(&scale, ("layer", &x_ticks), ("ranked neurons", &y_ticks));
    let width = ((RIGHT - LEFT) / (last + 1) as f64 * 0.8).min(40.0);
    for (layer, parts) in &layers {
        let mut below = 0;
        for (colour, count) in parts {
            let (top, bottom) = (scale.y((below + count) as f64), scale.y(below as f64));
            let (x, height) = (scale.x(*layer as f64) - width / 2.0, bottom - top);
            let name = kinds.get(*colour).filter(|_| *colour < COLOURS).map_or("other modules", |k| k.0);
            let _ = writeln!(
                inside,
                r#"<rect class="kind{colour}" x="{x:.1}" y="{top:.1}" width="{width:.1}" height="{height:.1}"><title>layer {layer}: {count} in {}</title></rect>"#,
                escaped(name)
            );
            below += count;
        }
    }
    let _ = writeln!(inside, r#"<line class="axis" x1="{LEFT}" x2="{RIGHT}" y1="{BOTTOM}" y2="{BOTTOM}"/>"#);

    let counted: Vec<String> = layers.iter().map(|(layer, parts)| format!("layer {layer}: {}", total(parts))).collect();
    let description = format!("Ranked neurons by layer: {}.", counted.join(", "));
    let elsewhere = match outside {
        0 => String::new(),
        n => format!(" {} in no layer.", Count(n, "is", "are")),
    };
    let caption = format!(
        "In which layer the first {} of the ranking lie.{elsewhere}{}",
        Count(ranking.len(), "neuron", "neurons"),
        legend(&kinds)
    );
    chart::figure("layers", ("Ranked neurons by layer and module", &description), &inside, &Legend::default(), &caption)
}

/// A module's path within its layer.
fn kind(ranked: &RankedNeuron) -> &str {
    ranked.neuron.site.module.in_layer()
}

/// The kinds of module in layers and how many neurons lie in them, most first.
fn kinds(ranking: &[RankedNeuron]) -> Vec<(&str, usize)> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for ranked in ranking.iter().filter(|r| r.layer.is_some()) {
        *counts.entry(kind(ranked)).or_default() += 1;
    }
    let mut kinds: Vec<_> = counts.into_iter().collect();
    kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    kinds
}

fn colour(kinds: &[(&str, usize)], kind: &str) -> usize {
    kinds.iter().position(|k| k.0 == kind).map_or(COLOURS, |at| at.min(COLOURS))
}

fn legend(kinds: &[(&str, usize)]) -> String {
    let mut out = String::new();
    let mut item = |colour: usize, name: &str, count: usize| {
        let _ = write!(
            out,
            " <span class=\"key\"><svg viewBox=\"0 0 10 10\" aria-hidden=\"true\"><rect class=\"kind{colour}\" width=\"10\" height=\"10\"/></svg> {} {count}</span>",
            escaped(name)
        );
    };
    for (at, (name, count)) in kinds.iter().take(COLOURS).enumerate() {
        item(at, name, *count);
    }
    let others: usize = kinds.iter().skip(COLOURS).map(|k| k.1).sum();
    if others > 0 {
        item(COLOURS, "other modules", others);
    }
    out
}
