//! From a rule file to rules: what it says, held against the rules there are.

use super::file::{self, LONGEST_GLOB, RuleFile, RuleText, Step, WaiverText};
use super::{Measurement, Rule, RuleId, Rules, Waiver, WhenNotExamined, unknown};
use crate::rules::finding::Severity;
use std::collections::{BTreeMap, BTreeSet};

/// Each waiver is looked for in the text, and each glob compiled.
const MOST_WAIVERS: usize = 1000;

/// default.yaml: nothing is below it, so it says all.
pub fn base(read: Result<RuleFile, String>, text: &str) -> Result<Rules, String> {
    let read = read?;
    let mut rules = Vec::new();
    for (name, rule) in &read.rules {
        let id = RuleId::of(name).ok_or_else(|| unknown(name))?;
        if rule.measurement != Some(id.measurement()) {
            return Err(format!("rule {id} has another measurement than {}", id.measurement().as_str()));
        }
        let why = rule.why.as_deref().or(id.why()).ok_or_else(|| format!("rule {id} has no why"))?;
        let severity = rule.severity.ok_or_else(|| format!("rule {id} has no severity"))?.severity();
        rules.push(Rule {
            id,
            measurement: id.measurement(),
            severity,
            thresholds: rule.thresholds.unwrap_or_default(),
            why: why.to_owned(),
        });
    }
    let places: BTreeMap<RuleId, usize> = rules.iter().enumerate().map(|(at, rule)| (rule.id, at)).collect();
    if let Some(lacking) = RuleId::all().find(|id| !places.contains_key(id)) {
        return Err(format!("lacks rule {lacking}"));
    }
    if places.len() != rules.len() {
        return Err("lists a rule twice".into());
    }
    let empty = Rules {
        name: String::new(),
        sha256: String::new(),
        fail_on: Severity::Warning,
        not_examined: WhenNotExamined::Fail,
        require: Vec::new(),
        longest_waiver_days: 366,
        waivers: Vec::new(),
        rules,
        places,
    };
    over(empty, read, text)
}

/// What a file says, over the rules that it extends.
pub fn over(mut base: Rules, read: RuleFile, text: &str) -> Result<Rules, String> {
    base.fail_on = read.fail_on.unwrap_or(base.fail_on);
    base.not_examined = read.not_examined.unwrap_or(base.not_examined);
    base.require = read.require.unwrap_or(base.require);
    base.longest_waiver_days = read.longest_waiver_days.unwrap_or(base.longest_waiver_days);
    let mut seen = BTreeSet::new();
    for (id, rule) in &read.rules {
        let key = [Step::Value("rules"), Step::Key(id)];
        if !seen.insert(id) {
            return Err(file::at(text, &key, format!("rule `{id}` is given twice; merge the two")));
        }
        match RuleId::of(id) {
            Some(id) => change(&mut base.rules[base.places[&id]], rule, text)?,
            None => return Err(file::at(text, &key, unknown(id))),
        }
    }
    if read.waivers.len() > MOST_WAIVERS {
        let problem = format!("{} waivers, expected at most {MOST_WAIVERS}: mend what they waive", read.waivers.len());
        return Err(file::at(text, &[Step::Value("waivers")], problem));
    }
    for (at, waiver) in read.waivers.iter().enumerate() {
        base.waivers.push(checked(waiver, at, text)?);
    }
    Ok(base)
}

fn change(below: &mut Rule, rule: &RuleText, text: &str) -> Result<(), String> {
    let at = |steps: &[Step<'_>], problem: String| {
        let path = [&[Step::Value("rules"), Step::Value(below.id.as_str())], steps].concat();
        file::at(text, &path, problem)
    };
    if let Some(other) = rule.measurement.filter(|m| *m != below.measurement) {
        let (id, own) = (&below.id, below.measurement.as_str());
        let problem = format!("rule `{id}` judges {own}, not {}; leave the key out", other.as_str());
        return Err(at(&[Step::Value("measurement")], problem));
    }
    if rule.why.as_ref().is_some_and(|why| why.trim().is_empty()) {
        return Err(at(
            &[Step::Value("why")],
            "is empty, expected a sentence; leave it out to keep the rule's own".into(),
        ));
    }
    let mut thresholds = below.thresholds;
    let mut given = rule.thresholds.unwrap_or_default();
    for (slot, given) in thresholds.slots().zip(given.slots()) {
        let (Some(value), name) = (*given.value, slot.name) else { continue };
        if slot.value.is_none() {
            let own: Vec<String> = below.thresholds.set().iter().map(|(name, _)| format!("`{name}`")).collect();
            let expected = if own.is_empty() { "none".into() } else { own.join(", ") };
            let problem = format!("rule `{}` has no threshold `{name}`, expected {expected}", below.id);
            return Err(at(&[Step::Value("thresholds"), Step::Key(name)], problem));
        }
        if let Err(expected) = slot.range.check(value) {
            let path = [Step::Value("thresholds"), Step::Value(name)];
            return Err(at(&path, format!("{name} is {value}, expected {expected}")));
        }
        *slot.value = Some(value);
    }
    below.thresholds = thresholds;
    below.severity = rule.severity.map_or(below.severity, |level| level.severity());
    if let Some(why) = &rule.why {
        below.why.clone_from(why);
    }
    Ok(())
}

fn checked(waiver: &WaiverText, at: usize, text: &str) -> Result<Waiver, String> {
    let entry = [Step::Value("waivers"), Step::Entry(at)];
    let wrong = |key: &str, problem: String| file::at(text, &[entry[0], entry[1], Step::Value(key)], problem);
    let rule = RuleId::of(&waiver.rule).ok_or_else(|| wrong("rule", unknown(&waiver.rule)))?;
    if rule.measurement() == Measurement::Waivers {
        return Err(wrong("rule", format!("`{rule}` is about waivers and cannot be waived; turn it off instead")));
    }
    if waiver.reason.trim().is_empty() {
        return Err(wrong("reason", "is empty, expected why this is let pass".into()));
    }
    if waiver.location.len() > LONGEST_GLOB {
        let problem = format!("has {} bytes, expected a glob of at most {LONGEST_GLOB}", waiver.location.len());
        return Err(wrong("location", problem));
    }
    let glob = crate::glob::one(&waiver.location).map_err(|problem| wrong("location", problem))?;
    Ok(Waiver {
        rule,
        location: waiver.location.clone(),
        glob,
        reason: waiver.reason.clone(),
        expires: waiver.expires.parse().map_err(|problem| wrong("expires", problem))?,
        line: file::line(text, &[entry[0], entry[1], Step::Key("rule")]),
    })
}
