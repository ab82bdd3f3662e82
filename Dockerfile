# The operator and the command line, for any container engine:
#   docker build --build-arg SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) -t recell/operator:dev .
#
# Everything of Python comes from the lock files, checked by hash; bytecode carries no times, so the
# same commit on the same base gives the same files. The last stage has no pip and no build tools.
FROM docker.io/library/debian:bookworm-slim AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-venv ca-certificates \
 && rm -rf /var/lib/apt/lists/*
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
RUN python3 -m venv /opt/build && python3 -m venv --without-pip /opt/recell

# The dependencies first: this layer changes only with the lock files.
WORKDIR /src
COPY requirements-build.lock requirements.lock ./
RUN /opt/build/bin/pip install --require-hashes -r requirements-build.lock \
 && /opt/build/bin/pip --python /opt/recell/bin/python install --no-compile --require-hashes \
    --only-binary :all: -r requirements.lock

COPY pyproject.toml README.md ./
COPY operator ./operator
ARG SOURCE_DATE_EPOCH=0
# direct_url.json names this stage's folder, and RECORD lists it: neither means anything later. The file
# system is read-only at run time, so bytecode is compiled here, by hash instead of by time of change.
RUN SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH}" \
    /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && /opt/build/bin/pip --python /opt/recell/bin/python install --no-compile --no-deps --no-index /wheels/*.whl \
 && find /opt/recell -name direct_url.json -delete \
 && find /opt/recell -name RECORD -exec sed -i '/direct_url\.json/d' {} + \
 && PYTHONHASHSEED=0 /opt/recell/bin/python -m compileall -q -f --invalidation-mode unchecked-hash \
    /opt/recell/lib \
 && find /opt/recell -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH}" {} +


FROM docker.io/library/debian:bookworm-slim
LABEL org.opencontainers.image.title="Recell" \
      org.opencontainers.image.description="A Kubernetes operator that brings failed cells back"
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 ca-certificates \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/aux-cache \
           /var/log/apt /var/log/dpkg.log /var/log/alternatives.log
COPY --from=build /opt/recell /opt/recell
ENV PATH=/opt/recell/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    USER=recell
# no entry in /etc/passwd: any user ID will do, the name above is for libraries that ask for one
USER 65532:65532
WORKDIR /
ENTRYPOINT ["recell-operator"]
