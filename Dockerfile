# The image of `zerospan` (agent and enricher). Stages: `base` has Python and the libraries, `build` installs the wheels
# into one folder, the last one is base and this folder: no compiler, no pip, no package lists.
# Wheels are made outside (tools/image.sh) and lie in the folder `wheels` of the build's context.
#   tools/image.sh                                   all of it, without a registry
#   buildah bud --build-arg BASE=docker.io/library/debian:12-slim FOLDER_WITH_WHEELS_AND_THIS_FILE
# BASE: Debian 12 or what has its python3 (3.11), libbpf1, libelf1, libstdc++6; what is missing is installed by apt-get.
ARG BASE=docker.io/library/debian:12-slim

FROM ${BASE} AS base
RUN if ! { [ -x /usr/bin/python3 ] && [ -e /usr/lib/*/libbpf.so.1 ] && [ -e /usr/lib/*/libstdc++.so.6 ]; }; then \
        apt-get -qq update && apt-get -qq -y install --no-install-recommends python3 libbpf1 libelf1 zlib1g libstdc++6 ca-certificates && \
        rm -rf /var/lib/apt/lists/* /var/cache/apt/*; \
    fi

FROM base AS build
COPY wheels /wheels
# pip runs from its own wheel. Of the Kubernetes client, the asynchronous twin (half of it) and what only that needs are
# left out, and its generated models, of which next to none are used, are not compiled. The last line is the proof.
RUN set -e; \
    pip=$(echo /wheels/pip-*.whl); \
    PYTHONDONTWRITEBYTECODE=1 python3 "$pip/pip" install --quiet --no-index --find-links /wheels --no-compile --no-cache-dir \
        --target /opt/zerospan --root-user-action ignore "zerospan[grpc,enricher]"; \
    cd /opt/zerospan; \
    rm -rf kubernetes/aio kubernetes/test kubernetes/e2e_test aiohttp* aiosignal* frozenlist* multidict* propcache* yarl* bin/__pycache__; \
    find . -type d -name tests -prune -exec rm -rf {} +; \
    python3 -m compileall -q -x '/kubernetes/client/(models|api)/' .; \
    PYTHONPATH=/opt/zerospan python3 -c 'import grpc, isal, msgspec, yaml, google.protobuf, kubernetes.client, kubernetes.config' && \
    PYTHONPATH=/opt/zerospan bin/zerospan --version

FROM base
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="zerospan" \
      org.opencontainers.image.description="Every request on a machine in Grafana, with no change to any program" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      io.zerospan.privileged="false"
COPY --from=build /opt/zerospan /opt/zerospan
ENV PYTHONPATH=/opt/zerospan PATH=/opt/zerospan/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 LANG=C.UTF-8
STOPSIGNAL SIGTERM
ENTRYPOINT ["/opt/zerospan/bin/zerospan"]
CMD ["run"]
