"""A hardened model in a real vLLM: hardened_vllm.py BASE HARDENED NEURON [--binary achilles-audit]

BASE and HARDENED are model folders, NEURON is the critical row that HARDENED has spares of, such as
L11.mlp.down_proj:out:507. Both are lesioned by `achilles-audit patch` into a temporary folder, and all four answer 50
questions greedily, in up to 32 tokens. Prints the continuation of "The capital of France is" by each, how many answers of the hardened model
are the base's, and, of those that are not, the log-probabilities of both models' first token that differs. Computed in float32: in bfloat16 the logits of a model this small are often equal (DTYPE=bfloat16 shows it).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

COUNTRIES = "France Germany Italy Spain Portugal Japan Egypt Canada Greece Norway".split()
QUESTIONS = (
    [f"What is the capital of {country}?" for country in COUNTRIES]
    + [f"What is {a} plus {b}?" for a, b in [(2, 3), (7, 8), (10, 15), (20, 22), (100, 1)]]
    + [f"Translate into French: {word}" for word in ["water", "bread", "the house", "good morning", "thank you"]]
    + [
        "Who wrote Romeo and Juliet?", "What is the largest planet?", "How many days are in a week?",
        "What is H2O?", "Which animal is the tallest?", "What is the boiling point of water?",
        "Name three primary colors.", "What do bees make?", "What is the opposite of hot?", "How many legs has a spider?",
        "What is photosynthesis?", "Who painted the Mona Lisa?", "What is the speed of light?",
        "What is the square root of 81?", "Name a programming language.", "What is the longest river?",
        "Write a sentence about a cat.", "What is the freezing point of water?", "Which month comes after May?",
        "What is a noun?", "Write a Python function that adds two numbers.", "What is gravity?",
        "Name two fruits.", "What color is the sky?", "What is the past tense of go?", "How do you make tea?",
        "What is an atom?", "Which ocean is the largest?", "What is a prime number?", "Give a synonym for happy.",
    ]
)


def answer(folder):
    """In a process of its own: answers with the log-probabilities of their tokens."""
    from vllm import LLM, SamplingParams

    llm = LLM(model=folder, dtype=os.environ.get("DTYPE", "float32"), max_model_len=512, enforce_eager=True)
    greedy = SamplingParams(temperature=0, max_tokens=32, logprobs=2)
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    told = []
    for output in llm.chat(chats, greedy) + llm.generate(["The capital of France is"], greedy):
        first = output.outputs[0]
        tops = [{token: top.logprob for token, top in step.items()} for step in first.logprobs]
        told.append({"text": first.text, "ids": list(first.token_ids), "tops": tops})
    print("ANSWERS" + json.dumps(told))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("hardened")
    parser.add_argument("neuron")
    parser.add_argument("--binary", default="achilles-audit")
    args = parser.parse_args()
    assert len(QUESTIONS) == 50
    answers = {}
    with tempfile.TemporaryDirectory() as place:
        for name, folder in [("base", args.base), ("hardened", args.hardened)]:
            # Without a receipt the spares are weights as all others.
            own = os.path.join(place, name)
            shutil.copytree(folder, own, ignore=shutil.ignore_patterns("achilles-patch.*"))
            lesioned = own + "-lesioned"
            subprocess.run([args.binary, "patch", own, "-o", lesioned, "--neuron", args.neuron], check=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for of, model in [(name, own), (name + ", lesioned", lesioned)]:
                done = subprocess.run([sys.executable, __file__, "--answer", model], stdout=subprocess.PIPE, check=True)
                line = next(line for line in done.stdout.decode().splitlines() if line.startswith("ANSWERS"))
                answers[of] = json.loads(line[len("ANSWERS"):])
                print(f"{of}: The capital of France is{answers[of][-1]['text'][:60]!r}", flush=True)
    for of in ("hardened", "base, lesioned", "hardened, lesioned"):
        same = [a["ids"] == b["ids"] for a, b in zip(answers["base"][:50], answers[of][:50])]
        print(f"{of}: {sum(same)} of {len(same)} answers are the base's")
    for question, a, b in zip(QUESTIONS, answers["base"], answers["hardened"]):
        if a["ids"] != b["ids"]:
            at = next(i for i in range(len(a["ids"])) if i >= len(b["ids"]) or a["ids"][i] != b["ids"][i])
            print(json.dumps({"question": question, "token": at, "base": a["tops"][at], "hardened": b["tops"][at] if at < len(b["tops"]) else None}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--answer"]:
        answer(sys.argv[2])
    else:
        main()
