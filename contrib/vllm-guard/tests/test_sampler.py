import json
import random
import sys
import types

import pytest
import torch
from torch import nn

from achilles_vllm_guard import baseline, plugin
from achilles_vllm_guard.baseline import BadBaseline
from achilles_vllm_guard.settings import GuardError, Settings

HIDDEN, VOCABULARY, MAX_TOKENS = 8, 50, 6
SITES = [f"model.layers.{n}.{m}" for n in range(2) for m in ("input_layernorm", "mlp.down_proj")] + ["model.norm"]


class RMSNorm(nn.Module):
    """As vLLM's: it adds the residual, in place, and returns both."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(HIDDEN))

    def forward(self, x, residual=None):
        if residual is None:
            return x / x.norm(dim=-1, keepdim=True) * self.weight
        residual += x
        x.copy_(residual / residual.norm(dim=-1, keepdim=True) * self.weight)
        return x, residual


class RowParallelLinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(HIDDEN, HIDDEN), requires_grad=False)
        self.output_size, self.tp_size, self.reduce_results, self.skip_bias_add = HIDDEN, 1, True, False

    def forward(self, x):
        return x @ self.weight.T, None


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(VOCABULARY, HIDDEN)
        layers = []
        for _ in range(2):
            layer = nn.Module()
            layer.input_layernorm, layer.mlp = RMSNorm(), nn.Module()
            layer.mlp.down_proj = RowParallelLinear()
            layers.append(layer)
        self.model = nn.Module()
        self.model.layers, self.model.norm = nn.ModuleList(layers), RMSNorm()
        self.requires_grad_(False)

    def forward(self, input_ids, positions):
        residual, x = None, self.embed(input_ids) * (1 + (positions == 0))[:, None]
        for layer in self.model.layers:
            if residual is None:
                residual, x = x.clone(), layer.input_layernorm(x)
            else:
                x, residual = layer.input_layernorm(x, residual)
            x, _ = layer.mlp.down_proj(x)
        return self.model.norm(x, residual)[0]


def request(tokens, name=None, scheduled=None, **other):
    """What the scheduler tells of a new request."""
    fields = dict(num_computed_tokens=0, mm_features=[], lora_request=None, prompt_embeds=None)
    fields.update(req_id=name or str(tokens), prompt_token_ids=tokens, scheduled=scheduled or len(tokens or ()))
    return types.SimpleNamespace(**{**fields, **other})


class Worker:
    def __init__(self, model, **compilation):
        self.model, self.rank, self.device = model, 0, torch.device("cpu")
        self.parallel_config = types.SimpleNamespace(data_parallel_index=0, tensor_parallel_size=1)
        self.model_config = types.SimpleNamespace(model="nowhere", dtype=torch.float32)
        self.compilation_config = types.SimpleNamespace(**compilation)

    def get_model(self):
        return self.model

    def load_model(self):
        pass

    def execute_model(self, step):
        """Requests in an order of its own, tokens of others that decode between them, and padding."""
        ids, positions = [], []
        for new in reversed(step.scheduled_new_reqs):
            ids += [7, *new.prompt_token_ids[: new.scheduled]]
            positions += [31, *range(new.num_computed_tokens, new.num_computed_tokens + new.scheduled)]
        step.total_num_scheduled_tokens = len(ids)
        self.model(input_ids=torch.tensor([*ids, 0, 0]), positions=torch.tensor([*positions, 0, 0]))

    def run(self, *requests):
        scheduled = {new.req_id: new.scheduled for new in requests}
        total = sum(scheduled.values()) + len(scheduled)
        self.execute_model(
            types.SimpleNamespace(
                scheduled_new_reqs=list(requests), num_scheduled_tokens=scheduled, total_num_scheduled_tokens=total
            )
        )


def sketch(values):
    gamma, buckets = 1.01 / 0.99, {}
    for value in values:
        bucket = str(int(-(-torch.tensor(value).double().log().item() // torch.tensor(gamma).double().log().item())))
        buckets[bucket] = buckets.get(bucket, 0) + 1
    return {"zeros": 0, "range": [min(values), max(values)], "buckets": buckets}


def readings(model, tokens):
    """By hooks of the test's own, one prompt at a time: {site: [(l2, max_abs) of each position]}."""
    found, hooks = {}, []
    for site in SITES:
        module = model.get_submodule(site)

        def keep(_m, _i, out, site=site):
            x = (out[0] if isinstance(out, tuple) else out).double()
            found[site] = list(zip(x.norm(dim=1).tolist(), x.abs().amax(1).tolist(), strict=True))

        hooks.append(module.register_forward_hook(keep))
    model(torch.tensor(tokens), torch.arange(len(tokens)))
    for hook in hooks:
        hook.remove()
    return found


def some_prompts(seed, count):
    g = random.Random(seed)
    return [[g.randrange(VOCABULARY) for _ in range(g.randint(2, MAX_TOKENS))] for _ in range(count)]


def write_baseline(path, model, spoil=lambda document: None):
    """As `monitor record` does."""
    prompts = [readings(model, tokens) for tokens in some_prompts(1, 60)]
    sites = []
    for site in SITES:
        profiles = {}
        for tokens, some in (("first", slice(0, 1)), ("rest", slice(1, None))):
            profiles[tokens] = {"nan": 0, "inf": 0, "channels": {}}
            for at, statistic in enumerate(("l2", "max_abs")):
                values = [[reading[at] for reading in prompt[site][some]] for prompt in prompts]
                kinds = {"positions": sum(values, []), "smallest": map(min, values), "largest": map(max, values)}
                profiles[tokens][statistic] = {kind: sketch(list(of)) for kind, of in kinds.items()}
        sites.append({"site": f"{site}:out", "channels": HIDDEN, **profiles})
    document = {
        "schema": baseline.SCHEMA,
        "model": {"source": "here"},
        "settings": {"dtype": "f32", "max_tokens": MAX_TOKENS},
        "calibration_scores": [3.0 - n / 100 for n in range(100)],
        "sites": sites,
    }
    spoil(document)
    path.write_text(json.dumps(document))
    return path


def attached(tmp_path, model=None, spoil=lambda document: None, compilation=None, **settings):
    model = model or Model()
    path = write_baseline(tmp_path / "baseline.json", model, spoil)
    environ = {"BASELINE": path, "EVENTS": tmp_path / "events.jsonl", **settings}
    made = Settings.of({f"ACHILLES_GUARD_{key}": str(value) for key, value in environ.items()})
    worker = Worker(model, **(compilation or {}))
    worker.achilles_guard = plugin.Attached(worker, made, None, tmp_path, baseline.read(path))
    worker.load_model()
    return worker


def sampler(worker):
    return worker.achilles_guard.sampler


def run(worker, *requests):
    sampler(worker).due_at = 0.0
    worker.run(*requests)


def counters(worker):
    return worker.achilles_guard.guard.report.counters


def events(tmp_path):
    file = tmp_path / "events.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_what_is_read_is_what_the_model_computes_of_the_prompt_alone(tmp_path):
    worker = attached(tmp_path)
    seen = []
    sampler(worker).check.add = lambda tokens, prompt: seen.append((tokens, prompt)) or 0.0
    prompts = [*some_prompts(2, 4), [3] * 20]  # the last is longer than the baseline's were cut to
    run(worker, *map(request, prompts))
    assert [tokens for tokens, _ in seen] == [tuple(tokens[:MAX_TOKENS]) for tokens in prompts]
    for tokens, prompt in seen:
        expected = readings(worker.model, list(tokens))
        assert len(prompt.extremes) == 4 * len(SITES) and not prompt.not_finite
        for (site, where, statistic), found in prompt.extremes.items():
            some = slice(0, 1) if where == "first" else slice(1, None)
            values = [reading[("l2", "max_abs").index(statistic)] for reading in expected[SITES[site]][some]]
            assert found == pytest.approx((min(values), max(values)), rel=1e-5)


def test_clean_prompts_do_not_alarm(tmp_path):
    worker = attached(tmp_path)
    for tokens in some_prompts(3, 200):
        run(worker, request(tokens))
    assert counters(worker)["baseline_checks"] > 15 and not events(tmp_path)
    status = json.loads((tmp_path / "dp0-rank0.json").read_text())
    assert status["gauges"]["baseline_outside"] == 0 and status["gauges"]["baseline_sites"] == len(SITES)


def test_damage_is_told_once_and_its_first_site_named(tmp_path, caplog):
    worker = attached(tmp_path)
    weight = worker.model.model.layers[0].mlp.down_proj.weight
    before = weight.clone()
    guard = worker.achilles_guard.guard
    guard.next_check = float("inf")
    weight.mul_(1e4)
    prompts = iter(some_prompts(4, 60))
    for _ in range(20):
        run(worker, request(next(prompts)))
    (event,) = events(tmp_path)
    assert event["kind"] == "baseline" and event["action"] == "alarm"
    assert event["tensor"] == event["sites_outside"][0] == "model.layers.0.mlp.down_proj:out"
    # 100 calibration prompts, 10 at a time: 4 of them are less likely than 1e-4, and the alarm does not wait for more.
    assert (event["prompts"], event["prompts_outside"]) == (4, 4) and event["p_value"] <= event["alpha"] == 1e-4
    assert guard.next_check < float("inf")
    (line,) = [line for line in caplog.messages if "left the baseline" in line]
    assert "4 of 4 prompts have a score above 3" in line and line.endswith("left as it is [dp0-rank0]")
    assert guard.report.gauges["baseline_outside"] == 1
    assert guard.report.differences["baseline"] == {event["tensor"]: 1}
    weight.copy_(before)
    for _ in range(14):
        run(worker, request(next(prompts)))
    assert guard.report.gauges["baseline_outside"] == 0
    weight.mul_(1e4)
    for _ in range(20):
        run(worker, request(next(prompts)))
    assert len(events(tmp_path)) == 2


def test_values_that_are_not_finite_are_told_at_once(tmp_path):
    worker = attached(tmp_path)
    worker.model.model.layers[1].mlp.down_proj.weight[3] = float("nan")
    run(worker, request([1, 2, 3]))
    (event,) = events(tmp_path)
    assert event["tensor"] == "model.layers.1.mlp.down_proj:out" and (event["nan"], event["inf"]) == (3, 0)


def test_what_cannot_be_compared_is_left_out(tmp_path):
    worker = attached(tmp_path)
    run(
        worker,
        request([4]),
        request([1, 2, 3, 4], num_computed_tokens=2, scheduled=2),
        request([5, 6, 7, 8], scheduled=3),
        request([9, 10], mm_features=[object()]),
        request([9, 11], lora_request=object()),
        request([9, 12], prompt_embeds=object()),
    )
    assert counters(worker)["baseline_prompts"] == 0
    for _ in range(3):
        run(worker, request([1, 2, 3], "a"), request([1, 2, 3], "b"))
    assert counters(worker)["baseline_prompts"] == 1 and counters(worker)["failed_samples"] == 0


def test_no_more_than_asked_for_are_sampled(tmp_path):
    worker = attached(tmp_path, BASELINE_SECONDS=1000, BASELINE_PROMPTS=5)
    first, second = some_prompts(5, 8), some_prompts(6, 8)
    worker.run(*map(request, first))
    worker.run(*map(request, second))
    assert counters(worker)["baseline_prompts"] == 5 and counters(worker)["baseline_checks"] == 1


def test_a_reading_that_fails_is_counted_and_the_step_done(tmp_path, caplog):
    worker = attached(tmp_path)
    worker.model.model.norm.register_forward_hook(lambda *_: done.append(True))
    done, sampler(worker)._on_output = [], lambda *_: 1 / 0
    run(worker, request([1, 2, 3]))
    assert done == [True] and counters(worker)["failed_samples"] == 1 and "could not be read" in caplog.text
    sampler(worker).due_at = 0.0
    worker.achilles_guard._before_step(object())
    assert counters(worker)["failed_samples"] == 2


def test_a_compiled_model_is_refused_or_not_sampled(tmp_path, caplog):
    for compilation, says in (
        ({"mode": types.SimpleNamespace(name="VLLM_COMPILE")}, r"compiled \(VLLM_COMPILE\)"),
        ({"mode": 0, "cudagraph_mode": types.SimpleNamespace(name="FULL")}, r"CUDA graphs \(FULL\)"),
    ):
        with pytest.raises(BadBaseline, match=f"{says}, which leaves hooks out; serve with --enforce-eager"):
            attached(tmp_path, compilation=compilation)
        worker = attached(tmp_path, compilation=compilation, BAD_VAULT="warn")
        assert sampler(worker) is None and "activations cannot be sampled" in caplog.text
    graphs = {"mode": 0, "cudagraph_mode": types.SimpleNamespace(name="FULL_DECODE_ONLY")}
    assert sampler(attached(tmp_path, compilation=graphs)) is not None


def test_sites_that_vllm_merges_are_left_out_and_another_model_is_refused(tmp_path):
    def elsewhere(document):
        for site in document["sites"][1:]:
            site["site"] = site["site"].replace("mlp.down_proj", "mlp.up_proj").replace("norm", "nrom")

    worker = attached(tmp_path, spoil=elsewhere)
    assert worker.achilles_guard.guard.report.gauges["baseline_sites"] == 1
    with pytest.raises(BadBaseline, match="none of its sites"):
        attached(tmp_path, spoil=lambda document: document.update(sites=[{**document["sites"][0], "site": "x:out"}]))
    with pytest.raises(BadBaseline, match="9 channels in the baseline and 8 here: it is of another model"):
        attached(tmp_path, spoil=lambda document: document["sites"][1].update(channels=9))


def test_partial_sums_are_no_output(tmp_path):
    model = Model()
    model.model.layers[0].mlp.down_proj.tp_size, model.model.layers[0].mlp.down_proj.reduce_results = 2, False
    model.model.layers[1].mlp.down_proj.skip_bias_add = True
    worker = attached(tmp_path, model)
    assert worker.achilles_guard.guard.report.gauges["baseline_sites"] == len(SITES) - 2


def test_the_first_of_a_tensor_parallel_group_samples(tmp_path):
    worker = attached(tmp_path)
    worker.rank, worker.parallel_config.tensor_parallel_size = 1, 2
    assert not worker.achilles_guard._can_sample(worker.achilles_guard.profile)


def test_now_and_then_a_prompt_is_computed_without_the_cache(monkeypatch):
    class Scheduler:
        def add_request(self, request):
            return request.skip_reading_prefix_cache

    module = types.ModuleType("scheduler")
    module.Scheduler = Scheduler
    for name in ("vllm", "vllm.v1", "vllm.v1.core", "vllm.v1.core.sched"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "vllm.v1.core.sched.scheduler", module)
    plugin._compute_in_full(1000)
    scheduler = Scheduler()

    def asked(tokens, **other):
        return scheduler.add_request(request(tokens, skip_reading_prefix_cache=False, **other))

    assert not asked(None) and not asked([1] * 10000) and not asked([1, 2], kv_transfer_params={"do_remote_prefill": 1})
    assert asked([1, 2]) and not asked([3, 4])
    scheduler.achilles_sample_at = 0.0
    assert asked([3, 4])


@pytest.mark.parametrize(
    ("key", "value"),
    [("BASELINE", "/nowhere"), ("BASELINE_PROMPTS", "0"), ("BASELINE_PROMPTS", "1.5"), ("FALSE_ALARM_RATE", "2")],
)
def test_settings_that_cannot_be(key, value):
    with pytest.raises(GuardError, match=f"ACHILLES_GUARD_{key}={value}"):
        Settings.of({"ACHILLES_GUARD_BASELINE": __file__, f"ACHILLES_GUARD_{key}": value})
