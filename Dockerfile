# The API, the agent and the operator: static binaries, one to an image, on nothing.
#
#   docker build --target api -t cachecluster/api .     (or: agent, operator)
#
# Written for BuildKit and the classic builder (the tests use the classic one), for whatever platform the builder image is of. The stages stand in
# this order because the classic builder makes every stage before its target: the API, which local development needs,
# does not wait for the operator.
ARG RUST_IMAGE=rust:1.95-slim-trixie

FROM ${RUST_IMAGE} AS manifests
WORKDIR /src
# Dependencies are built from the manifests, the lock file and empty sources: such a layer lasts until one of those changes.
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
# A target triple must be named, or the flags would reach build scripts and procedural macros as well. Copied sources
# keep the time of their originals, which may be before that of the empty ones just built: hence the touch.
RUN printf '%s\n' '#!/bin/sh' 'set -eu' \
      'export RUSTFLAGS="-C target-feature=+crt-static"' \
      'triple=$(rustc -vV | sed -n "s/^host: //p")' \
      'find crates -name "*.rs" -exec touch {} +' \
      'cargo build --profile "$2" --locked --target "$triple" --target-dir /target -p "cachecluster-$1"' \
      'mkdir -p /out' \
      'cp "/target/$triple/$2/cachecluster-$1" /out/' >/usr/local/bin/build-static \
 && chmod +x /usr/local/bin/build-static \
 && for package in crates/* e2e xtask; do \
      mkdir -p "$package/src" && echo 'fn main() {}' >"$package/src/main.rs" && : >"$package/src/lib.rs"; \
    done

FROM manifests AS api-dependencies
RUN build-static api release
FROM api-dependencies AS api-build
COPY crates crates
RUN build-static api release
FROM scratch AS api
COPY --from=api-build /out/cachecluster-api /cachecluster-api
USER 65532:65532
EXPOSE 5000 9090
ENTRYPOINT ["/cachecluster-api"]

FROM api-dependencies AS agent-dependencies
RUN build-static agent release
FROM agent-dependencies AS agent-build
COPY crates crates
RUN build-static agent release
FROM scratch AS agent
COPY --from=agent-build /out/cachecluster-agent /cachecluster-agent
USER 65532:65532
EXPOSE 8379
ENTRYPOINT ["/cachecluster-agent"]
CMD ["run"]

FROM manifests AS operator-dependencies
RUN build-static operator compact
FROM operator-dependencies AS operator-build
COPY crates crates
RUN build-static operator compact
FROM scratch AS operator
COPY --from=operator-build /out/cachecluster-operator /cachecluster-operator
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/cachecluster-operator"]
CMD ["run"]
