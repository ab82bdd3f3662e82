# CloudNativePG's operator, compiled by hack/tools; the folder of the binary is the context.
FROM docker.io/library/debian:bookworm-slim
ARG ARCHITECTURE=amd64
# Where the operator looks for what it copies into PostgreSQL's pods.
COPY cloudnative-pg /operator/manager_${ARCHITECTURE}
RUN ln -s operator/manager_${ARCHITECTURE} /manager
USER 10001:10001
WORKDIR /
ENTRYPOINT ["/manager"]
