# PostgreSQL as CloudNativePG wants it: programs in PATH, user 26, and Barman's programs for an object store.
FROM docker.io/library/debian:bookworm-slim
RUN apt-get update \
 && mkdir -p /etc/postgresql-common \
 && echo "create_main_cluster = false" > /etc/postgresql-common/createcluster.conf \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends postgresql-15 barman-cli-cloud \
 && rm -rf /var/lib/apt/lists/* \
 && usermod --uid 26 postgres \
 && install -d -o postgres -g postgres /var/lib/postgresql /run/postgresql
ENV PATH=/usr/lib/postgresql/15/bin:/usr/local/bin:/usr/bin:/bin
USER 26
