"""Fine-tunes a model on text, whole or by LoRA that is merged back: real variants for `compare` and `scan --base`.

    pip install torch transformers peft
    python benches/fine_tune.py MODEL OUT --text-file FILE... [--lora] [--steps 300]
"""

import argparse
import random
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model")
parser.add_argument("out")
parser.add_argument("--text-file", nargs="+", required=True, metavar="FILE")
parser.add_argument("--lora", action="store_true", help="rank 16 on every linear module of the layers, merged at the end")
parser.add_argument("--steps", type=int, default=300)
parser.add_argument("--rate", type=float, help="peak learning rate [default: 5e-5, LoRA 5e-4]")
parser.add_argument("--rows", type=int, default=4)
parser.add_argument("--tokens", type=int, default=96)
parser.add_argument("--threads", type=int, default=1)
options = parser.parse_args()

torch.set_num_threads(options.threads)
torch.manual_seed(0)
random.seed(0)
tokenizer = AutoTokenizer.from_pretrained(options.model)
model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
# The variant is stored as the model is.
with safe_open(next(Path(options.model).glob("*.safetensors")), "pt") as file:
    stored = file.get_tensor(next(iter(file.keys()))).dtype
ids = tokenizer("\n\n".join(Path(f).read_text(errors="replace") for f in options.text_file))["input_ids"]
if options.lora:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
rate = options.rate or (5e-4 if options.lora else 5e-5)
trained = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.01)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=options.steps)
model.train()
for step in range(options.steps):
    starts = [random.randrange(len(ids) - options.tokens) for _ in range(options.rows)]
    batch = torch.tensor([ids[s : s + options.tokens] for s in starts])
    loss = model(input_ids=batch, labels=batch).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    if step % 20 == 0 or step + 1 == options.steps:
        print(f"step {step}: loss {loss.item():.3f}", flush=True)
if options.lora:
    model = model.merge_and_unload()
model.to(stored).save_pretrained(options.out)
tokenizer.save_pretrained(options.out)
