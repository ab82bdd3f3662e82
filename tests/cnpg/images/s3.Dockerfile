# An object store, compiled by hack/tools; the folder of the binary is the context.
FROM docker.io/library/debian:bookworm-slim
COPY gofakes3 /usr/local/bin/gofakes3
USER 10002:10002
EXPOSE 9000
ENTRYPOINT ["gofakes3"]
