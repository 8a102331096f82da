//! Waivers against what was found.

use crate::integrity::lint::Location;
use crate::rules::finding::{Finding, RuleObservation, Waived};
use crate::rules::{Date, Measurement, RuleId, Rules};

/// Marks what is waived; what is to be said of the waivers themselves comes back. A waiver of what was not measured may
/// yet be needed.
pub fn waive(findings: &mut [Finding], rules: &Rules, took_place: &[Measurement], today: Date) -> Vec<RuleObservation> {
    let mut about = Vec::new();
    for waiver in &rules.waivers {
        let (line, expires) = (waiver.line, waiver.expires);
        let pattern = &waiver.location;
        let name = format!("line {line}: the waiver of {} at {pattern:?}", waiver.rule);
        let mut seen = |rule: RuleId, message: String| {
            let evidence = serde_json::json!({"line": line, "rule": waiver.rule, "location": pattern,
                "reason": waiver.reason, "expires": expires});
            about.push(RuleObservation {
                rule,
                location: Location::file(rules.name.clone()).line(line),
                message,
                evidence,
            });
        };
        if expires < today {
            seen(RuleId::WaiverExpired, format!("{name} expired on {expires}"));
            continue;
        }
        let (days, most) = (expires.days_after(today), rules.longest_waiver_days);
        if days > i64::from(most) {
            let why =
                format!("would hold for {days} days, until {expires}; expected at most {most} (longest_waiver_days)");
            seen(RuleId::WaiverTooLong, format!("{name} {why}"));
            continue;
        }
        let mut used = false;
        let mut names_a_part_of = None;
        for finding in findings.iter_mut().filter(|f| f.id == waiver.rule) {
            if finding.location.is_matched(|place| waiver.names(place)) {
                finding.waived = Some(Waived { reason: waiver.reason.clone(), expires });
                used = true;
            } else if (Location { more: None, ..finding.location.clone() }).is_matched(|place| waiver.names(place)) {
                names_a_part_of = Some(finding.location.to_string());
            }
        }
        if !used && took_place.contains(&waiver.rule.measurement()) {
            let why = match names_a_part_of {
                Some(place) => format!("waives nothing: it does not name all of {place}"),
                None => "matches no finding".into(),
            };
            seen(RuleId::WaiverUnused, format!("{name} {why}"));
        }
    }
    about
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// The last day on which a waiver may expire, by the rules, and the day after it.
    #[test]
    fn waivers_hold_until_the_last_day_that_the_rules_allow() {
        let today = "2027-01-31".parse().unwrap();
        let told = |limit: &str, expires: &str| -> Vec<String> {
            let waiver = format!("waivers: [{{rule: zero-row, location: '*', reason: x, expires: {expires}}}]");
            let text = format!("schema: achilles-audit/rules/v1\n{limit}\n{waiver}");
            let rules = Rules::parse(&text, Path::new("gate.yaml")).unwrap();
            let about = waive(&mut [], &rules, &[Measurement::Lint], today);
            about.iter().map(|seen| format!("{}: {}", seen.rule, seen.message)).collect()
        };
        let unused = "waiver-unused: line 3: the waiver of zero-row at \"*\" matches no finding";
        let expired = "waiver-expired: line 3: the waiver of zero-row at \"*\" expired on 2027-01-30";
        assert_eq!(told("", "2027-01-30"), [expired]);
        assert_eq!(told("", "2027-01-31"), [unused]);
        assert_eq!(told("", "2028-02-01"), [unused]);
        let too_long = "waiver-too-long: line 3: the waiver of zero-row at \"*\" would hold for 367 days, until \
                        2028-02-02; expected at most 366 (longest_waiver_days)";
        assert_eq!(told("", "2028-02-02"), [too_long]);
        assert_eq!(told("longest_waiver_days: 367", "2028-02-02"), [unused]);
        assert!(told("longest_waiver_days: 30", "2027-03-03")[0].contains("at most 30 (longest_waiver_days)"));
    }
}
