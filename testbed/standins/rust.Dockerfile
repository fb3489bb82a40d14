# A Rust builder from the host's own toolchain. The context holds `toolchain/` and the host's `certificates.crt`.
FROM debian:trixie-slim
LABEL io.cachecluster.stand-in=true
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
COPY certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY toolchain/ /usr/local/
ENV CARGO_HOME=/usr/local/cargo
