"""What scan's --base, --fingerprint and --baseline say of a model, its fine-tunes, and lesions of all of them.

Prints the rows of the table in docs/scan.md. Fingerprint and baseline are each model's own, taken before anything was done to it; those of the
noisy copy and of the re-initialised model are the base's. Nothing else that scan measures is counted.

    pip install torch transformers
    python benches/fine_tune.py BASE full --text-file FILE...
    python benches/fine_tune.py BASE lora --text-file FILE... --lora
    python benches/gate_table.py BASE full lora --neuron L11.mlp.down_proj:out:507 --innocent L5.mlp.down_proj:out:100
"""

import argparse
import ast
import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("base")
parser.add_argument("fine_tunes", nargs="*")
parser.add_argument("--neuron", required=True, help="a critical one")
parser.add_argument("--innocent", required=True, help="one that is not")
parser.add_argument("--samples", default="20")
parser.add_argument("--tool", default="target/release/achilles-audit")
parser.add_argument("--work", type=Path, default=Path("target/gate_table"))
options = parser.parse_args()


def tool(*arguments, codes=(0,)):
    done = subprocess.run([options.tool, "--progress", "none", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode not in codes:
        sys.exit(f"{arguments}: exit code {done.returncode}: {done.stderr}")
    return done.stdout


def docstrings():
    """Paragraphs of 80 to 500 characters, each once."""
    found = {}
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(errors="replace"))):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
                    line = " ".join(paragraph.split())
                    if 80 <= len(line) <= 500:
                        found[line] = None
    return list(found)


def noisy(source, out):
    import torch
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    shutil.copytree(source, out)
    for path in out.glob("*.safetensors"):
        noisy = {}
        for name, tensor in load_file(path).items():
            wide = tensor.float()
            noisy[name] = (wide + 0.01 * wide.std() * torch.randn_like(wide)).to(tensor.dtype)
        save_file(noisy, path, metadata={"format": "pt"})


def initialised(source, out):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    shutil.copytree(source, out, ignore=shutil.ignore_patterns("*.safetensors*"))
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source)).save_pretrained(out)


def prepare(name, model):
    """What is known of a model before anything is done to it."""
    tool("fingerprint", model, "-o", work / f"{name}.fingerprint.json")
    tool("monitor", "record", model, "--prompts", work / "recorded.txt", "-o", work / f"{name}.baseline.json")


def row(label, model, known):
    arguments = ["--base", work / "base.json", "--fingerprint", work / f"{known}.fingerprint.json"]
    arguments += ["--baseline", work / f"{known}.baseline.json", "--prompts", work / "others.txt"]
    arguments += ["--samples", options.samples, "--format", "json"]
    result = json.loads(tool("scan", model, *arguments, codes=(0, 1)))
    measurement = {rule["id"]: rule["measurement"] for rule in result["judged"]}
    cells = []
    for column in ("base", "fingerprint", "baseline"):
        findings = [f for f in result["findings"] if measurement[f["id"]] == column and f["severity"] != "note"]
        cells.append(", ".join(f"`{rule}`" for rule in dict.fromkeys(f["id"] for f in findings)) or "-")
    if cells[1] != "-":
        cells[1] = "changed"
    base = result["base"]
    ratios = "/".join(f"{n['importance_ratio']:.2f}" for n in base["location"]["neurons"])
    damage = base["transfer"]["base_on_variant"]["damage"]
    print("| " + " | ".join([label, base["verdict"], f"{damage:.2f}", ratios, *cells]) + " |", flush=True)


work = options.work
shutil.rmtree(work, ignore_errors=True)
work.mkdir(parents=True)
prompts = docstrings()
(work / "recorded.txt").write_text("\n".join(prompts[:200]))
(work / "others.txt").write_text("\n".join(prompts[200:300]))
(work / "base.json").write_text(tool("locate", options.base, "--samples", options.samples, "--format", "json"))
print("| model | verdict | damage of the base's set | importance beside the base's | `--base` | `--fingerprint` | `--baseline` |")
print("|---|---|---|---|---|---|---|", flush=True)
lesions = [
    ("critical neuron zeroed", options.neuron, 0),
    ("critical neuron × 0.3", options.neuron, 0.3),
    ("critical neuron × 0.5", options.neuron, 0.5),
    ("innocent neuron zeroed", options.innocent, 0),
]
for name, model in [("base", options.base), *((Path(f).name, f) for f in options.fine_tunes)]:
    prepare(name, model)
    row(name, model, name)
    for what, neuron, beta in lesions:
        lesioned = work / "lesioned"
        tool("patch", model, "-o", lesioned, "--neuron", neuron, "--beta", beta)
        # The receipt would give it away.
        for receipt in lesioned.glob("achilles-patch.*"):
            receipt.unlink()
        row(f"{name}, {what}", lesioned, name)
        shutil.rmtree(lesioned)
for label, make in [("base, noise of 1 % of each tensor's deviation", noisy), ("re-initialised", initialised)]:
    made = work / "made"
    make(options.base, made)
    row(label, made, "base")
    shutil.rmtree(made)
