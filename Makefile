# make demo   scans a real language model and shows its critical neuron
# make test   everything that has to pass before a change lands
# make bench  what docs/performance.md says of speed, measured anew (15 GB of disk, some minutes; needs
#             fixtures/requirements.txt, and matplotlib; benches/gpu/run.sh measures a GPU)
# make difftest  random tiny models of every family against transformers (SEED=0; needs fixtures/requirements.txt)
# make deny   licences and sources of all dependencies (needs cargo-deny)

GGUF := models/SmolLM2-135M-Instruct.Q4_1.gguf
FOLDER := models/smollm2-135m-instruct
CARGO ?= cargo
PYTHON ?= python3
SEED ?= 0

.PHONY: demo test bench difftest deny model oms clean

demo: $(GGUF)
	$(CARGO) build --release --locked
	target/release/achilles-audit scan $(GGUF)

test: model oms
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --lib
	$(CARGO) test --locked -- --include-ignored

bench: model oms
	$(CARGO) build --release --locked
	mkdir -p target/bench
	$(PYTHON) benches/speed.py $(FOLDER)
	$(PYTHON) benches/growth.py $(FOLDER) --tokenizer $(FOLDER)/tokenizer.json --plot target/bench/growth.svg
	$(PYTHON) benches/fingerprint_speed.py target/release/achilles-audit
	$(PYTHON) benches/patch_cost.py target/release/achilles-audit target/bench

difftest:
	$(CARGO) build --locked
	$(PYTHON) tests/parity/difftest.py --seed $(SEED)

deny:
	$(CARGO) deny check licenses bans sources

# The real model that tests use, as a Hugging Face folder.
model: $(FOLDER)/config.json

$(FOLDER)/config.json: $(GGUF)
	$(CARGO) run --locked -- import $(GGUF) -o $(FOLDER) --progress none

# The Python implementation of OpenSSF Model Signing, which signatures are exchanged with in tests.
oms: target/oms/model_signing

target/oms/model_signing: fixtures/oms/requirements.txt
	rm -rf target/oms target/oms.partial
	python3 -m pip install --quiet --disable-pip-version-check --no-warn-conflicts --target target/oms.partial -r $<
	touch target/oms.partial/model_signing
	mv target/oms.partial target/oms

$(GGUF):
	scripts/fetch-smollm2.sh $(GGUF)

clean:
	$(CARGO) clean
	rm -rf models target/oms
