# make demo   scans a real language model and shows its critical neuron
# make test   everything that has to pass before a change lands

GGUF := models/SmolLM2-135M-Instruct.Q4_1.gguf
FOLDER := models/smollm2-135m-instruct
CARGO ?= cargo

.PHONY: demo test model clean

demo: $(GGUF)
	$(CARGO) build --release --locked
	target/release/achilles-audit scan $(GGUF)

test: model
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) test --locked -- --include-ignored

# The real model that tests use, as a Hugging Face folder.
model: $(FOLDER)/config.json

$(FOLDER)/config.json: $(GGUF)
	$(CARGO) run --locked -- import $(GGUF) -o $(FOLDER) --progress none

$(GGUF):
	scripts/fetch-smollm2.sh $(GGUF)

clean:
	$(CARGO) clean
	rm -rf models
