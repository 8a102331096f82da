use super::*;

fn says(yaml: &str) -> String {
    let text = format!("schema: achilles-audit/rules/v1\n{yaml}");
    match Rules::parse(&text, Path::new("gate.yaml")) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("accepted: {yaml}"),
    }
}

fn parse(yaml: &str) -> Rules {
    Rules::parse(&format!("schema: achilles-audit/rules/v1\n{yaml}"), Path::new("gate.yaml")).unwrap()
}

#[test]
fn the_shipped_rules_are_sound() {
    let default = Rules::default_rules().unwrap();
    assert_eq!(default.rules.len(), RuleId::all().count());
    assert_eq!((default.fail_on, default.not_examined), (Severity::Warning, WhenNotExamined::Fail));
    for rule in &default.rules {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        assert!(rule.id.as_str().split('-').all(|part| !part.is_empty() && part.chars().all(plain)), "{}", rule.id);
        assert!(rule.why.ends_with('.') && rule.why.starts_with(char::is_uppercase), "{}: {}", rule.id, rule.why);
    }
    let release = Rules::release().unwrap();
    assert_eq!(release.require, [Measurement::Lint, Measurement::CriticalSet, Measurement::Fingerprint]);
    assert_eq!(release.rule(RuleId::BasePerplexityHigh).thresholds.perplexity, Some(300.0));
    for (strict, usual) in release.rules.iter().zip(&default.rules) {
        assert!(strict.severity >= usual.severity, "{} is milder in release.yaml", strict.id);
    }
    // A clean model has a critical set.
    assert_eq!(release.rule(RuleId::CriticalSetSmall).severity, Some(Severity::Note));
}

#[test]
fn a_file_changes_what_it_names_and_nothing_else() {
    let rules = parse(
        "extends: release\nfail_on: error\nnot_examined: allow\nrequire: [signature]\nrules:\n  zero-row: {severity: off}\n  \
         critical-set-small: {thresholds: {neurons: 2}, why: Our own reason.}\n",
    );
    assert_eq!((rules.fail_on, rules.not_examined), (Severity::Error, WhenNotExamined::Allow));
    assert_eq!(rules.require, [Measurement::Signature]);
    let release = Rules::release().unwrap();
    for (ours, below) in rules.rules.iter().zip(&release.rules) {
        match ours.id.as_str() {
            "zero-row" => assert_eq!(*ours, Rule { severity: None, ..below.clone() }),
            "critical-set-small" => {
                assert_eq!(ours.thresholds, Thresholds { neurons: Some(2.0), ..below.thresholds });
                assert_eq!((ours.why.as_str(), ours.severity), ("Our own reason.", below.severity));
            }
            _ => assert_eq!(ours, below),
        }
    }
}

#[test]
fn mistakes_are_told_with_line_and_column() {
    let waiver = |rule: &str, location: &str, reason: &str, expires: &str| {
        format!("waivers:\n- rule: {rule}\n  location: {location}\n  reason: {reason}\n  expires: {expires}\n")
    };
    let table = [
        (
            "fail-on: error".into(),
            "line 2, column 1: unknown key `fail-on`, expected one of `schema`, `extends`, `fail_on`, `not_examined`, \
             `require`, `longest_waiver_days`, `rules`, `waivers`",
        ),
        (
            "fail_on: fatal".into(),
            "line 2, column 10: fail_on: unknown value `fatal`, expected one of `note`, `warning`, `error`",
        ),
        (
            "extends: strict".into(),
            "line 2, column 10: extends: unknown value `strict`, expected `default` or `release`",
        ),
        (
            "not_examined: pass".into(),
            "line 2, column 15: not_examined: unknown value `pass`, expected `fail` or `allow`",
        ),
        (
            "require: [lint, lesions]".into(),
            "line 2, column 17: require[1]: unknown value `lesions`, expected one of `lint`, `critical-set`, `fingerprint`, `signature`, `base`, `baseline`",
        ),
        (
            "rules:\n  zero-rows: {severity: error}".into(),
            "line 3, column 3: rules: unknown rule `zero-rows`; did you mean `zero-row`? `achilles-audit rules list` lists them",
        ),
        (
            "rules:\n  what-ever: {}".into(),
            "line 3, column 3: rules: unknown rule `what-ever`; `achilles-audit rules list` lists them",
        ),
        (
            "rules:\n  zero-row: {}\n  zero-row: {}".into(),
            "line 3, column 3: rules: rule `zero-row` is given twice; merge the two",
        ),
        (
            "rules:\n  zero-row:\n    sevrity: error".into(),
            "line 4, column 5: rules.zero-row: unknown key `sevrity`, expected one of `severity`, `measurement`, `thresholds`, `why`",
        ),
        (
            "rules:\n  zero-row: {severity: bad}".into(),
            "line 3, column 24: rules.zero-row.severity: unknown value `bad`, expected one of `error`, `warning`, `note`, `off`",
        ),
        (
            "rules:\n  zero-row: {measurement: signature}".into(),
            "line 3, column 27: rules.zero-row.measurement: rule `zero-row` judges lint, not signature; leave the key out",
        ),
        (
            "rules:\n  critical-set-small:\n    thresholds: {rows: 1}".into(),
            "line 4, column 18: rules.critical-set-small.thresholds: unknown key `rows`, expected one of `neurons`, `damage`, `perplexity`, `rank`, `share`, `ratio`, `alpha`",
        ),
        (
            "rules:\n  critical-set-small:\n    thresholds: {perplexity: 1}".into(),
            "line 4, column 18: rules.critical-set-small.thresholds: rule `critical-set-small` has no threshold `perplexity`, expected \
             `neurons`, `damage`",
        ),
        (
            "rules:\n  critical-set-small:\n    thresholds: {neurons: -1}".into(),
            "line 4, column 27: rules.critical-set-small.thresholds.neurons: neurons is -1, expected a finite number above 0",
        ),
        (
            "rules:\n  activations-outside:\n    thresholds: {alpha: 1}".into(),
            "line 4, column 25: rules.activations-outside.thresholds.alpha: alpha is 1, expected a probability between 0 and 1",
        ),
        (
            "rules:\n  base-neuron-changed:\n    thresholds: {ratio: 1.5}".into(),
            "line 4, column 25: rules.base-neuron-changed.thresholds.ratio: ratio is 1.5, expected a number above 0 and at most 1",
        ),
        (
            "rules:\n  critical-set-small:\n    thresholds: {neurons: many}".into(),
            "line 4, column 27: rules.critical-set-small.thresholds.neurons: invalid type: string \"many\", expected f64",
        ),
        (
            "rules:\n  zero-row: {why: ''}".into(),
            "line 3, column 19: rules.zero-row.why: is empty, expected a sentence; leave it out to keep the rule's own",
        ),
        (
            "rules: [zero-row]".into(),
            "line 2, column 8: rules: invalid type: sequence, expected rules by their ids, such as `zero-row: {severity: error}`",
        ),
        (
            waiver("zero-rwo", "'*'", "x", "2030-01-01"),
            "line 3, column 9: waivers[0].rule: unknown rule `zero-rwo`; did you mean `zero-row`? `achilles-audit rules list` lists them",
        ),
        (
            waiver("waiver-unused", "'*'", "x", "2030-01-01"),
            "line 3, column 9: waivers[0].rule: `waiver-unused` is about waivers and cannot be waived; turn it off instead",
        ),
        (
            waiver("zero-row", "'[a'", "x", "2030-01-01"),
            "line 4, column 13: waivers[0].location: is not a glob: unclosed character class; missing ']'",
        ),
        (
            waiver("zero-row", "'*'", "' '", "2030-01-01"),
            "line 5, column 11: waivers[0].reason: is empty, expected why this is let pass",
        ),
        (
            waiver("zero-row", "'*'", "x", "2030-02-29"),
            "line 6, column 12: waivers[0].expires: \"2030-02-29\" is not a day, expected YYYY-MM-DD such as 2027-03-31",
        ),
        (
            waiver("zero-row", "'*'", "x", "31.12.2030"),
            "line 6, column 12: waivers[0].expires: \"31.12.2030\" is not a day, expected YYYY-MM-DD such as 2027-03-31",
        ),
        ("waivers:\n- rule: zero-row\n".into(), "line 3, column 3: waivers[0]: missing key `location`"),
    ];
    let told: Vec<String> = table.iter().map(|(yaml, _): &(String, &str)| says(yaml)).collect();
    let expected: Vec<String> = table.iter().map(|(_, says)| format!("gate.yaml: {says}")).collect();
    let wrong: Vec<_> = told.iter().zip(&expected).filter(|(told, expected)| told != expected).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let no_form = Rules::parse("rules: {}", Path::new("x")).unwrap_err().to_string();
    assert_eq!(no_form, "x: line 1, column 1: missing key `schema`, expected `schema: achilles-audit/rules/v1`");
    let other = Rules::parse("schema: v2", Path::new("x")).unwrap_err().to_string();
    assert_eq!(other, "x: line 1, column 9: schema: unknown value `v2`, expected `achilles-audit/rules/v1`");
    let broken = Rules::parse("schema: [", Path::new("x")).unwrap_err().to_string();
    assert!(broken.starts_with("x: line ") && broken.lines().count() == 1, "{broken}");
}

/// The schema's validator is another's: what the tool reads and what the schema allows have to be the same.
#[test]
fn the_schema_agrees() {
    let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
    let (mut schemas, mut compiler) = (boon::Schemas::new(), boon::Compiler::new());
    compiler.add_resource("rules.json", schema.clone()).unwrap();
    let form = compiler.compile("rules.json", &mut schemas).unwrap();
    let valid = |yaml: &str| schemas.validate(&serde_yaml::from_str(yaml).unwrap(), form).is_ok();
    assert!(valid(include_str!("../../rules/default.yaml")) && valid(include_str!("../../rules/release.yaml")));
    let listed: Vec<&str> =
        schema["definitions"]["rule"]["enum"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
    let default = Rules::default_rules().unwrap();
    assert_eq!(listed, default.rules.iter().map(|r| r.id.as_str()).collect::<Vec<_>>());
    let waiver = "waivers: [{rule: zero-row, location: '*', reason: x, expires: 2030-01-01}]";
    for yaml in [
        "",
        "fail_on: note",
        "extends: release\nnot_examined: allow\nrequire: [lint]",
        "rules: {zero-row: {severity: off, why: x}}",
        "rules: {critical-set-small: {thresholds: {neurons: 0.5}}}",
        "longest_waiver_days: 4000000",
        waiver,
    ] {
        parse(yaml);
        assert!(valid(&format!("schema: achilles-audit/rules/v1\n{yaml}")), "{yaml}");
    }
    for yaml in [
        "fail-on: error".to_owned(),
        "fail_on: off".into(),
        "rules: {zero-rows: {severity: error}}".into(),
        "rules: {zero-row: {severity: bad}}".into(),
        "rules: {zero-row: {sevrity: error}}".into(),
        "rules: {zero-row: {why: ''}}".into(),
        "rules: {critical-set-small: {thresholds: {neurons: 0}}}".into(),
        "rules: {critical-set-small: {thresholds: {rows: 1}}}".into(),
        "require: [waivers]".into(),
        "longest_waiver_days: -1".into(),
        "longest_waiver_days: 4294967296".into(),
        "longest_waiver_days: soon".into(),
        waiver.replace("reason: x, ", ""),
        waiver.replace("2030-01-01", "soon"),
        waiver.replace("zero-row", "zero"),
    ] {
        says(&yaml);
        assert!(!valid(&format!("schema: achilles-audit/rules/v1\n{yaml}")), "{yaml}");
    }
}

/// Whoever tells of something by a rule gets that rule's words and severity.
#[test]
fn every_rule_is_found_by_its_id_and_has_a_reason() {
    let rules = Rules::default_rules().unwrap();
    assert_eq!(rules.all().len(), RuleId::all().count());
    for id in RuleId::all() {
        let rule = rules.rule(id);
        assert_eq!((rule.id, RuleId::of(id.as_str()), rule.measurement), (id, Some(id), id.measurement()));
        assert!(!rule.why.is_empty(), "{id}");
    }
    assert!(RuleId::of("zero-rows").is_none());
}
