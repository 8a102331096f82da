#!/usr/bin/env python3
"""Runs lm-evaluation-harness over a base checkpoint and others, and sets the results beside each other.

    python contrib/lm-eval/compare.py BASE LESIONED [MORE ...] -o results [--model hf|vllm] [--tasks mmlu_pro,ifeval]

Needs lm_eval 0.4.13 (`pip install "lm_eval[hf]==0.4.13"`, or with vLLM), run by the same Python. The tasks are any
that it knows; those of this folder (achilles_choices, achilles_completions), the default, need no download.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
OURS = "achilles_choices,achilles_completions"


def main():
    args = parsed()
    out = pathlib.Path(args.output).resolve()
    out.mkdir(parents=True, exist_ok=True)
    models = [str(pathlib.Path(m).resolve()) if pathlib.Path(m).exists() else m for m in [args.base, *args.others]]
    results = [evaluated(model, out / f"{at}-{pathlib.Path(model).name}.json", args) for at, model in enumerate(models)]
    rows = compared(models, results)
    (out / "comparison.json").write_text(json.dumps(rows, indent=2) + "\n")
    table = markdown(models, rows)
    (out / "comparison.md").write_text(table)
    print(table, end="")


def parsed():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", help="checkpoint folder or hub id")
    parser.add_argument("others", nargs="+", help="checkpoints to hold beside it, such as one that `patch` wrote")
    parser.add_argument("-o", "--output", required=True, help="folder for the results")
    parser.add_argument("--model", default="hf", choices=["hf", "vllm"], help="what runs the checkpoints")
    parser.add_argument("--model-args", default="dtype=float32", help="more arguments of lm_eval's model")
    parser.add_argument("--tasks", default=OURS, help="lm_eval's tasks, separated by commas")
    parser.add_argument("--limit", help="examples of each task at most")
    parser.add_argument("--batch-size", default="8")
    return parser.parse_args()


def evaluated(model, path, args):
    """lm_eval's results of one checkpoint, which it also leaves in `path`."""
    command = [
        sys.executable, "-m", "lm_eval", "run", "--model", args.model,
        "--model_args", f"pretrained={model},{args.model_args}", "--tasks", args.tasks,
        "--include_path", str(HERE / "tasks"), "--batch_size", args.batch_size, "--output_path", str(path.with_suffix("")),
    ]
    if args.limit:
        command += ["--limit", args.limit]
    # The data files of this folder's tasks are named from it.
    done = subprocess.run(command, cwd=HERE / "tasks", env=os.environ, stdout=subprocess.DEVNULL)
    if done.returncode != 0:
        sys.exit(f"compare.py: lm_eval failed on {model} (exit code {done.returncode}); what it said is above")
    found = sorted(path.with_suffix("").rglob("results_*.json"), key=os.path.getmtime)
    if not found:
        sys.exit(f"compare.py: lm_eval left no results of {model} in {path.with_suffix('')}")
    path.write_text(found[-1].read_text())
    return json.loads(path.read_text())["results"]


def compared(models, results):
    """A row for each metric of each task: its value and standard error in each checkpoint."""
    rows = []
    for task, metrics in results[0].items():
        for key, value in metrics.items():
            name, _, _ = key.partition(",")
            if name in ("alias", "sample_len") or name.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            values = [of.get(task, {}).get(key) for of in results]
            errors = [of.get(task, {}).get(key.replace(name, f"{name}_stderr", 1)) for of in results]
            rows.append({"task": task, "metric": key, "models": models, "values": values, "stderr": errors})
    return rows


def markdown(models, rows):
    def shown(value, error):
        if not isinstance(value, (int, float)):
            return "-"
        return f"{value:.4f}" + (f" ± {error:.4f}" if isinstance(error, (int, float)) else "")

    lines = ["| task | metric | " + " | ".join(pathlib.Path(model).name for model in models) + " |"]
    lines.append("|---|---|" + "---|" * len(models))
    for row in rows:
        cells = [shown(value, error) for value, error in zip(row["values"], row["stderr"])]
        lines.append(f"| {row['task']} | {row['metric']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
