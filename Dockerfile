# tidemark: one binary in a small image. Runs as nobody in particular and writes nothing: mount what you like read-only.
FROM rust:1.95-bookworm AS build
WORKDIR /build
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY config config
COPY schemas schemas
COPY tests/main.rs tests/main.rs
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/build/target \
    cargo build --locked --release --bin tidemark && strip -o /tidemark target/release/tidemark

FROM debian:bookworm-slim
RUN apt-get update -qq && apt-get install -qq -y --no-install-recommends ca-certificates libssl3 zlib1g \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /tidemark /usr/local/bin/tidemark
COPY config/execution-tickets.toml config/tidemark.toml /etc/tidemark/
ENV TIDEMARK_CONFIG=/etc/tidemark/tidemark.toml \
    TIDEMARK_SPEC=/etc/tidemark/execution-tickets.toml \
    TIDEMARK_HTTP_LISTEN=0.0.0.0:9464 \
    TIDEMARK_LOG_FORMAT=json
USER 65532:65532
EXPOSE 9464
ENTRYPOINT ["tidemark"]
CMD ["run"]
