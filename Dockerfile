# The operator, the API and the agent: static binaries, one to an image, on nothing.
#
#   docker build --target operator -t cachecluster/operator .     (or: api, agent)
#
# Works with BuildKit and with the classic builder, for whatever platform the builder image is of.
ARG RUST_IMAGE=rust:1.95-slim-trixie

FROM ${RUST_IMAGE} AS build
WORKDIR /src
# The dependencies first, from the manifests and the lock file alone: this layer lasts until one of those changes.
COPY Cargo.toml Cargo.lock ./
COPY crates/agent/Cargo.toml crates/agent/
COPY crates/api/Cargo.toml crates/api/
COPY crates/contract/Cargo.toml crates/contract/
COPY crates/crd/Cargo.toml crates/crd/
COPY crates/operator/Cargo.toml crates/operator/
COPY crates/redis-admin/Cargo.toml crates/redis-admin/
COPY crates/telemetry/Cargo.toml crates/telemetry/
COPY crates/topology/Cargo.toml crates/topology/
COPY e2e/Cargo.toml e2e/
COPY xtask/Cargo.toml xtask/
# A target triple must be named, or the flags would reach build scripts and procedural macros as well.
RUN printf '%s\n' '#!/bin/sh' 'set -eu' \
      'export RUSTFLAGS="-C target-feature=+crt-static"' \
      'triple=$(rustc -vV | sed -n "s/^host: //p")' \
      'cargo build --release --locked --target "$triple" --target-dir /target \' \
      '  -p cachecluster-operator -p cachecluster-api -p cachecluster-agent' \
      'mkdir -p /out' \
      'cp "/target/$triple/release/cachecluster-operator" "/target/$triple/release/cachecluster-api" \' \
      '  "/target/$triple/release/cachecluster-agent" /out/' >/usr/local/bin/build-static \
 && chmod +x /usr/local/bin/build-static
RUN for package in crates/* e2e xtask; do \
      mkdir -p "$package/src" && echo 'fn main() {}' >"$package/src/main.rs" && : >"$package/src/lib.rs"; \
    done \
 && build-static
COPY crates crates
# Copies keep the time of their originals, which is before that of the empty sources just built.
RUN find crates -name '*.rs' -exec touch {} + && build-static

FROM scratch AS operator
COPY --from=build /out/cachecluster-operator /cachecluster-operator
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/cachecluster-operator"]
CMD ["run"]

FROM scratch AS agent
COPY --from=build /out/cachecluster-agent /cachecluster-agent
USER 65532:65532
EXPOSE 8379
ENTRYPOINT ["/cachecluster-agent"]
CMD ["run"]

FROM scratch AS api
COPY --from=build /out/cachecluster-api /cachecluster-api
USER 65532:65532
EXPOSE 5000 9090
ENTRYPOINT ["/cachecluster-api"]
