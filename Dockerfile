# achilles-audit for the CPU: docker build -t achilles-audit . && docker run --rm -v "$PWD:/models:ro" achilles-audit scan MODEL
FROM rust:1-slim-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY data data
COPY rules rules
RUN cargo build --release --locked --bin achilles-audit

FROM debian:bookworm-slim
COPY --from=build /src/target/release/achilles-audit /usr/local/bin/achilles-audit
# Nothing here needs to be root, nor to write anywhere but to what is mounted.
RUN useradd --create-home --uid 10001 audit
USER audit
WORKDIR /models
ENTRYPOINT ["achilles-audit"]
CMD ["--help"]
