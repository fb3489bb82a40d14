# A Redis or Valkey from Debian's packages, cut down to the programs and the libraries they load.
FROM debian:trixie-slim AS packages
ARG SUITE=trixie
ARG ENGINE=redis
RUN printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d \
 && find /etc/apt -name 'sources.list' -exec sed -i "s/trixie/$SUITE/" {} + \
 && apt-get -o Acquire::Check-Valid-Until=false update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $ENGINE-server $ENGINE-tools
RUN mkdir -p /image/data /image/tmp /image/usr/local/bin /image/etc \
 && mkdir -p /image/usr/bin /image/usr/sbin /image/usr/lib /image/usr/lib64 && cp -a /bin /sbin /lib /lib64 /image/; \
    for program in $ENGINE-server $ENGINE-cli sh ls cat cp mkdir chmod id env sleep date ps grep; do \
      file=$(readlink -f "$(command -v $program)") || continue; \
      cp --parents "$file" /image/ && ldd "$file" | grep -o '/[^ ]*' | sort -u | while read -r library; do cp -L --parents "$library" /image/; done; \
      [ "$(command -v $program)" = "$file" ] || ln -sf "$file" "/image/usr/bin/$program"; \
    done \
 && echo "$ENGINE:x:999:999::/data:/bin/sh" >/image/etc/passwd && echo "$ENGINE:x:999:" >/image/etc/group \
 && chown 999:999 /image/data && chmod 1777 /image/tmp

FROM scratch
ARG ENGINE=redis
LABEL io.cachecluster.stand-in=true
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
COPY --from=packages /image/ /
WORKDIR /data
VOLUME /data
USER 999:999
EXPOSE 6379
# As the images it stands in for: reachable from other containers without further configuration.
ENV ENGINE=$ENGINE
CMD ["sh", "-c", "exec $ENGINE-server --protected-mode no"]
