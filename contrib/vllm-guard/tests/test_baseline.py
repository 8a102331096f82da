import json
import math
from pathlib import Path

import pytest

from achilles_vllm_guard import baseline
from achilles_vllm_guard.baseline import BadBaseline, Prompt, Rule, Spread
from achilles_vllm_guard.sampler import Check

DATA = Path(__file__).parent / "data"


def dumped(kept):
    """As the sampler reads them, of the lines that `monitor check --activations` takes."""
    places, prompts = {site.name: place for place, site in enumerate(kept.sites)}, {}
    for line in map(json.loads, (DATA / "dump.jsonl").read_text().splitlines()):
        prompt, place = prompts.setdefault(line["prompt"], Prompt()), places[line["site"]]
        if line["l2"] is None:
            prompt.not_finite[place] = line["nan"], line["inf"]
            continue
        for statistic in ("l2", "max_abs"):
            key, value = (place, "rest" if line["position"] else "first", statistic), line[statistic]
            least, most = prompt.extremes.get(key, (value, value))
            prompt.extremes[key] = min(least, value), max(most, value)
    return prompts


def test_scores_and_verdict_are_those_of_the_tool():
    """`check.json` is what `achilles-audit monitor check` made of `dump.jsonl` and `baseline.json`."""
    kept, tool = baseline.read(DATA / "baseline.json"), json.loads((DATA / "check.json").read_text())
    result = tool["result"]
    rule = Rule.of(kept, result["prompts"], result["alpha"])
    check = Check(kept, rule)
    for number, prompt in dumped(kept).items():
        assert math.isclose(check.add((number,), prompt), result["scores"][str(number)], rel_tol=1e-12)
    assert rule.threshold == result["threshold"] and check.outside == result["prompts_outside"]
    assert math.isclose(rule.p_value(check.outside), result["p_value"], rel_tol=1e-9)
    assert check.outside >= rule.fewest and check.alarm and check.over
    assert [kept.sites[at].name for at in sorted(check.worst)] == [site["site"] for site in result["outside"]]
    for (_, found), site in zip(sorted(check.worst.items()), result["outside"], strict=True):
        assert [found.tokens, found.statistic, found.extreme] == [site[k] for k in ("tokens", "statistic", "extreme")]
        spread = kept.sites[found.site].spreads[found.tokens, found.statistic, found.extreme]
        assert math.isclose(found.size, site["deviation"], rel_tol=1e-12)
        assert math.isclose(spread.median, site["baseline_median"], rel_tol=1e-12)
        assert [spread.smallest, spread.largest] == site["baseline_range"]
    told = [(kept.sites[at].name, *counts) for at, counts in check.not_finite.items()]
    assert told == [(site["site"], site["nan"], site["inf"]) for site in result["not_finite"]]


def test_chances_are_those_of_drawing():
    assert math.isclose(baseline.p_value(19, 1, 1, 1), 1 / 20)
    assert math.isclose(baseline.p_value(99, 1, 5, 1), 5 / 100)
    assert math.isclose(baseline.p_value(3, 2, 1, 2), 0.1)
    assert baseline.p_value(3, 2, 1, 0) == 1 and baseline.p_value(2, 3, 2, 3) <= 1


def test_a_deviation_is_one_at_the_end_of_the_range():
    spread = Spread(20.0, 10.0, 80.0)
    for value, size in ((80, 1), (10, 1), (320, 2), (20, 0), (2.5, 3)):
        assert math.isclose(spread.deviation(value), size, abs_tol=1e-9)
    assert 100 < spread.deviation(0.0) < math.inf
    rests = Spread(0.0, 0.0, 5.0)
    assert [rests.deviation(0.0), rests.deviation(5.0)] == [0, 0] and rests.deviation(50.0) > 1


def test_the_rule_takes_as_many_prompts_as_chance_asks_for():
    kept = baseline.read(DATA / "baseline.json")
    assert Rule.of(kept, 10, 0.01).fewest < Rule.of(kept, 10, 1e-4).fewest <= 10
    with pytest.raises(BadBaseline, match="1 prompts against 8 calibration prompts cannot be told from chance"):
        Rule.of(kept, 1, 0.01)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.update(schema="achilles-audit/vault/v1"), "its schema is 'achilles-audit/vault/v1'"),
        (lambda d: d.pop("settings"), "KeyError"),
        (lambda d: d.update(sites=[]), "it has no sites"),
        (lambda d: d["sites"].append(d["sites"][0]), "or one twice"),
        (lambda d: d.update(calibration_scores=[1.0, 2.0]), "largest first"),
        (lambda d: d.update(calibration_scores=[float("nan")]), "largest first"),
        (lambda d: d["settings"].update(max_tokens=1), "max_tokens is 1"),
        (lambda d: d["sites"][0]["first"]["l2"]["largest"].update(range=None), "values but no range"),
        (lambda d: d["sites"][0]["first"]["l2"]["largest"].update(range=[2.0, 1.0]), "are none"),
        (lambda d: d["sites"][0].update(rest=[]), "TypeError"),
    ],
)
def test_what_is_no_baseline_is_refused(tmp_path, change, says):
    document = json.loads((DATA / "baseline.json").read_text())
    change(document)
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps(document))
    with pytest.raises(BadBaseline, match=says) as error:
        baseline.read(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_what_is_no_json_is_refused(tmp_path):
    (tmp_path / "b").write_bytes(b"\xff\x00")
    for path in (tmp_path / "b", tmp_path / "missing", tmp_path):
        with pytest.raises(BadBaseline, match=str(path)):
            baseline.read(path)
