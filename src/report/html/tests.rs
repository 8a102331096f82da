use super::document;
use crate::audit::{Audit, AuditSettings, Unexamined, Verdict};
use crate::document::critical_set::CAUTION;
use crate::document::{Document, ModelIdentity};
use crate::integrity::lint::{Check, Examined, Location};
use crate::locate::{CriticalSetReport, Sharpness, SiteSelection};
use crate::rules::finding::{Finding, Severity, Waived};
use crate::rules::{Measurement, Rules, WhenNotExamined};
use scraper::{ElementRef, Html, Selector};
use serde_json::{Value, json};
use std::f64::consts::LN_10;

/// Ends elements and attributes, starts them, drives a terminal, turns the direction of writing around.
const HOSTILE: &str =
    "</style></title></p><script>x()</script>\" onload=\"x()\" 'y' <!-- ]]> &amp; \u{1b}[2J\0\u{202e}\u{200b}\u{fffe}";

/// A located set with this curve; `collapsed` where there is a critical set.
fn report(base: f64, curve: &[f64], collapsed: bool) -> Document<CriticalSetReport> {
    let neurons: Vec<String> = (0..curve.len()).map(|n| format!("model.layers.{n}.mlp.down_proj:out:{n}")).collect();
    let ranked = neurons.iter().enumerate().map(|(n, neuron)| {
        json!({"neuron": neuron, "layer": n, "importance": 3.5, "position": 0, "tensor": "t", "shape": [4, 8],
            "axis": "row", "index": n, "bias": null})
    });
    let set = json!({"neurons": neurons, "nll_nats": curve.last(), "damage": 2.0, "subsets": []});
    let mut report: Document<CriticalSetReport> = serde_json::from_value(json!({
        "schema": "achilles-audit/critical-set/v1", "tool": {"name": "t", "version": "0"},
        "model": {"source": "m", "architecture": "A", "config_sha256": "c"},
        "settings": {"ranking": "noise", "side": "out", "sites": "reference", "counting": "channels", "alpha": 5.0,
            "samples": 2, "samples_used": 2, "seed": 42, "epsilon": 1.0, "max_neurons": 9, "dtype": "f32",
            "device": "cpu", "text_sha256": "x", "tokens": 12},
        "base": {"nll_nats": 0.0, "perplexity": 1.0},
        "ranking": ranked.collect::<Vec<_>>(),
        "prefix": {"collapsed": collapsed, "n": curve.len(), "curve_nll_nats": curve},
        "critical_set": if collapsed { set } else { Value::Null },
        "timing_s": {"load": 0.0, "importance": 1.0, "search": 2.0, "minimize": 3.0},
    }))
    .unwrap();
    // JSON has no NaN.
    report.result.base.nll_nats = base;
    report.result.prefix.curve_nll_nats = curve.to_vec();
    report
}

fn audit(verdict: Verdict) -> Document<Audit> {
    let model = ModelIdentity { source: "m".into(), ..ModelIdentity::default() };
    let settings = AuditSettings {
        rules: "default".into(),
        rules_sha256: "r".into(),
        fail_on: Severity::Warning,
        not_examined: WhenNotExamined::Fail,
        require: vec![Measurement::Lint],
        date: "2030-01-31".parse().unwrap(),
    };
    let result = Audit {
        verdict,
        findings: Vec::new(),
        not_listed: 0,
        not_examined: Vec::new(),
        skipped: Vec::new(),
        judged: Rules::default_rules().unwrap().all().to_vec(),
        lint: Some(Examined::default()),
        critical_set: None,
        base: None,
        baseline: None,
        fingerprint: None,
        signature: None,
    };
    Document::new(model, settings, result)
}

fn finding(check: Check, severity: Severity) -> Finding {
    Finding {
        id: check.into(),
        severity,
        location: Location::file("a.py"),
        message: "a message".into(),
        why: "a reason".into(),
        evidence: Value::Null,
        waived: None,
    }
}

/// The page, which a parser of HTML finds no fault with.
fn page(audit: &Document<Audit>) -> Html {
    let text = document(audit);
    let page = Html::parse_document(&text);
    assert!(page.errors.is_empty(), "{:?}", page.errors);
    for (name, value) in all(&page, "svg *").into_iter().flat_map(|e| e.value().attrs()) {
        assert!(!value.contains("NaN") && !value.contains("inf,") && value != "inf", "{name} {value}");
    }
    page
}

fn all<'a>(page: &'a Html, selector: &str) -> Vec<ElementRef<'a>> {
    page.select(&Selector::parse(selector).unwrap()).collect()
}

fn texts(page: &Html, selector: &str) -> Vec<String> {
    all(page, selector).into_iter().map(|e| e.text().collect::<String>()).collect()
}

/// The points of the curve.
fn points(page: &Html) -> Vec<(f64, f64)> {
    let points = all(page, "polyline.curve")[0].attr("points").unwrap();
    let point = |p: &str| {
        let (x, y) = p.split_once(',').unwrap();
        (x.parse().unwrap(), y.parse().unwrap())
    };
    points.split_whitespace().map(point).collect()
}

#[test]
fn the_verdict_comes_first() {
    for (verdict, class, says) in [
        (Verdict::Pass, "pass", "PASS"),
        (Verdict::Fail, "fail", "FAIL"),
        (Verdict::NotExamined, "unknown", "NOT EXAMINED"),
    ] {
        let page = page(&audit(verdict));
        assert_eq!(texts(&page, "main > :first-child h1 strong"), [says]);
        assert_eq!(all(&page, "h1")[0].attr("class"), Some(class));
        assert_eq!(texts(&page, "title")[0], format!("{says}: m"));
        assert!(texts(&page, "header p")[0].contains(&format!("exit code {}", verdict.exit_code())));
    }
}

#[test]
fn nothing_that_is_said_becomes_markup() {
    let mut audit = audit(Verdict::Fail);
    let hostile = || HOSTILE.to_owned();
    audit.model = ModelIdentity {
        source: hostile(),
        architecture: Some(Some(hostile())),
        config_sha256: Some(Some(hostile())),
        chat_template_sha256: Some(Some(hostile())),
        hub: None,
        tokenizer_class: Some(Some(hostile())),
        weights: Some(hostile()),
    };
    audit.settings.rules = hostile();
    audit.settings.rules_sha256 = hostile();
    audit.result.judged[0].why = hostile();
    let left = Unexamined { measurement: Measurement::Lint, why: hostile() };
    (audit.result.not_examined, audit.result.skipped) = (vec![left.clone()], vec![left]);
    let waived = Waived { reason: hostile(), expires: "2030-01-31".parse().unwrap() };
    audit.result.findings = vec![Finding {
        id: Check::CustomCode.into(),
        severity: Severity::Error,
        location: Location::file(HOSTILE).tensor(HOSTILE),
        message: hostile(),
        why: hostile(),
        evidence: json!({HOSTILE: {HOSTILE: [HOSTILE, {HOSTILE: HOSTILE}]}}),
        waived: None,
    }];
    audit.result.findings.push(Finding {
        waived: Some(waived),
        evidence: json!([HOSTILE]),
        ..audit.result.findings[0].clone()
    });
    let mut found = report(4.4, &[4.4, 9.9], true);
    let s = &mut found.settings;
    s.search.sites = SiteSelection::Glob(hostile());
    for text in [&mut s.device, &mut s.text_sha256] {
        *text = hostile();
    }
    found.result.ranking[0].tensor = Some(hostile());
    audit.result.critical_set = Some(found);

    let page = page(&audit);
    let tags = [
        "a",
        "article",
        "body",
        "caption",
        "circle",
        "code",
        "dd",
        "desc",
        "div",
        "dl",
        "dt",
        "figcaption",
        "figure",
        "h1",
        "h2",
        "h3",
        "head",
        "header",
        "html",
        "li",
        "line",
        "main",
        "meta",
        "p",
        "path",
        "polyline",
        "rect",
        "section",
        "span",
        "strong",
        "style",
        "sup",
        "svg",
        "table",
        "tbody",
        "td",
        "text",
        "th",
        "thead",
        "title",
        "tr",
        "ul",
    ];
    for element in all(&page, "*") {
        assert!(tags.contains(&element.value().name()), "{element:?}");
        for (name, value) in element.value().attrs() {
            assert!(!name.starts_with("on") && !value.contains("x()"), "{element:?}");
        }
    }
    assert!(all(&page, "script").is_empty());
    let shown = page.root_element().text().collect::<String>();
    assert!(shown.matches("<script>x()</script>").count() >= 20, "{shown}");
    assert!(!shown.contains(['\u{1b}', '\0', '\u{202e}', '\u{200b}', '\u{fffe}']));
}

#[test]
fn nothing_is_fetched() {
    let mut audit = audit(Verdict::Pass);
    audit.result.critical_set = Some(report(4.4, &[4.4, 9.9], true));
    let text = document(&audit);
    for away in ["http:", "https:", "url(", "@import", "src=", "<link", "<script"] {
        assert!(!text.contains(away), "{away}");
    }
}

#[test]
fn the_curve_rises_to_its_collapse() {
    let mut audit = audit(Verdict::Pass);
    // Perplexity 10^2.5, 10^2.5, 10^5.5.
    let (base, high) = (2.5 * LN_10, 5.5 * LN_10);
    audit.result.critical_set = Some(report(base, &[base, high], true));
    let page = page(&audit);
    // The plot: 50 to 468, and from 254 (10²) up to 26 (10⁶).
    assert_eq!(points(&page), [(50.0, 225.5), (259.0, 225.5), (468.0, 54.5)]);
    let level = |class: &str| all(&page, class)[0].attr("y1").unwrap().parse::<f64>().unwrap();
    assert_eq!((level("line.base"), level("line.threshold")), (225.5, 168.5));
    let labels = texts(&page, "#curve-title ~ text.end");
    assert_eq!(labels[..5], ["10²", "10³", "10⁴", "10⁵", "10⁶"]);
    assert!(texts(&page, "#curve-desc")[0].contains("is 316.2, with 2 masked it is 316228"));
    assert!(texts(&page, "figcaption")[0].contains("collapse at n = 2"));
    assert_eq!(all(&page, "circle.collapse").len(), 1);
    let members = texts(&page, "table:first-of-type tbody th");
    assert_eq!(members[..2], ["L0.mlp.down_proj:out:0", "L1.mlp.down_proj:out:1"]);
    assert_eq!(texts(&page, "tbody td")[1], "row 0 of t [4, 8]");
}

#[test]
fn a_gradual_collapse_is_not_called_one() {
    let mut audit = audit(Verdict::Pass);
    let mut located = report(4.4, &[5.4, 6.8], true);
    located.result.sharpness =
        Some(Sharpness { largest_step: 0.61, largest_step_at: 2, above_epsilon: 0.04, gradual: true });
    audit.result.critical_set = Some(located);
    let page = page(&audit);
    assert!(texts(&page, "figcaption")[0].contains("gradual, ε reached at n = 2"));
    let told = texts(&page, "h2 ~ p").join("\n");
    for part in
        ["gradual: without 2 neurons", "largest step of damage 0.61, at n = 2; the set is 0.04 above ε", CAUTION]
    {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(!told.contains("COLLAPSE"), "{told}");
}

#[test]
fn a_curve_without_collapse() {
    let mut audit = audit(Verdict::Pass);
    audit.result.critical_set = Some(report(4.4, &[4.4, 4.5, 4.3], false));
    let page = page(&audit);
    assert!(texts(&page, "figcaption")[0].contains("no collapse"));
    assert!(all(&page, "circle.collapse").is_empty());
    assert!(!texts(&page, "caption").contains(&"The critical set".to_owned()));
}

#[test]
fn what_is_not_finite_is_at_the_top() {
    for odd in [f64::NAN, f64::INFINITY] {
        let mut audit = audit(Verdict::Pass);
        audit.result.critical_set = Some(report(4.4, &[odd, 4.4, odd], true));
        let page = page(&audit);
        let at: Vec<f64> = points(&page).iter().map(|p| p.1).collect();
        assert!(at[1] == 26.0 && at[3] == 26.0 && at[2] == at[0] && at[0] > 100.0, "{at:?}");
        assert_eq!(texts(&page, "circle.infinite title"), ["1 masked: not finite", "3 masked: not finite"]);
    }
}

#[test]
fn odd_curves_have_places() {
    for (base, curve) in
        [(4.4, vec![]), (0.0, vec![0.0]), (4.4, vec![4.4; 500]), (2e300, vec![1e3]), (f64::NAN, vec![1.0])]
    {
        let mut audit = audit(Verdict::Pass);
        audit.result.critical_set = Some(report(base, &curve, false));
        let page = page(&audit);
        for (x, y) in points(&page) {
            assert!((0.0..=480.0).contains(&x) && (0.0..=300.0).contains(&y), "{base} {x} {y}");
        }
    }
}

#[test]
fn layers_are_counted_by_module() {
    let mut found = report(4.4, &[4.4, 4.4, 4.4], false);
    for (at, neuron, layer) in [
        (0, "model.layers.2.mlp.up_proj:out:1", Some(2)),
        (1, "model.layers.2.mlp.down_proj:out:1", Some(2)),
        (2, "model.norm:out:1", None),
    ] {
        found.result.ranking[at].neuron = neuron.parse().unwrap();
        found.result.ranking[at].layer = layer;
    }
    let mut audit = audit(Verdict::Pass);
    audit.result.critical_set = Some(found);
    let page = page(&audit);
    assert_eq!(texts(&page, "rect title"), ["layer 2: 1 in mlp.down_proj", "layer 2: 1 in mlp.up_proj"]);
    let bars = all(&page, "#layers-title ~ rect");
    let side = |at: usize, name: &str| bars[at].attr(name).unwrap().parse::<f64>().unwrap();
    // One on the other, each half of the plot.
    assert_eq!((side(0, "y"), side(0, "height"), side(1, "y")), (140.0, 114.0, 26.0));
    assert_eq!(texts(&page, "#layers-desc"), ["Ranked neurons by layer: layer 2: 2."]);
    assert!(texts(&page, "figcaption")[1].contains("1 is in no layer."), "{:?}", texts(&page, "figcaption"));
}

#[test]
fn findings_are_told_with_their_evidence() {
    let mut audit = audit(Verdict::Fail);
    audit.result.findings =
        vec![finding(Check::CustomCode, Severity::Warning), finding(Check::ZeroRow, Severity::Note)];
    audit.result.findings[0].evidence = json!({"auto_map": null, "indices": [1, 2], "lines": [{"axis": "row"}], "ok": true,
        "damage": [4.678663838492381, 1.0, 1e-300, 12]});
    let waived = Waived { reason: "reviewed".into(), expires: "2030-01-31".parse().unwrap() };
    audit.result.findings.push(Finding { waived: Some(waived), ..finding(Check::Nan, Severity::Error) });
    audit.result.findings[1].evidence = json!({"long": "ä".repeat(1000)});
    let page = page(&audit);
    assert_eq!(texts(&page, "article h3"), ["warning custom-code", "note zero-row", "waived error nan"]);
    assert_eq!(texts(&page, "#finding-0 dt"), ["auto map", "indices", "lines", "ok", "damage"]);
    assert_eq!(texts(&page, "#finding-0 dd"), ["–", "1, 2", "axis row", "yes", "4.6786638, 1.0, 1e-300, 12"]);
    assert_eq!(texts(&page, "#finding-1 dd"), [format!("{}… (JSON holds all)", "ä".repeat(600))]);
    assert_eq!(texts(&page, "#finding-2 .waiver"), ["Waived until 2030-01-31: reviewed"]);
    let head = &texts(&page, "header p")[0];
    assert!(head.contains("0 errors, 1 warning, 1 note, 1 waived") && head.contains("speaks against it: custom-code."));
    assert_eq!(all(&page, "header a")[0].attr("href"), Some("#finding-0"));
}

#[test]
fn what_is_missing_is_left_out() {
    let empty = page(&audit(Verdict::Pass));
    assert!(all(&empty, "figure, article, #not-examined").is_empty());
    assert_eq!(texts(&empty, "#findings p"), ["None."]);
    assert_eq!(texts(&empty, "h2"), ["Findings", "Examined", "Settings", "Rules judged"]);
    let mut audit = audit(Verdict::NotExamined);
    audit.result.not_examined =
        vec![Unexamined { measurement: Measurement::Fingerprint, why: "none was given".into() }];
    let page = page(&audit);
    assert_eq!(texts(&page, "#not-examined li"), ["fingerprint: none was given"]);
    assert!(texts(&page, "header p")[0].contains("1 thing was not examined"));
}
