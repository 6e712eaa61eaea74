# Builds Herald into an image that holds one static binary and the public CAs.
#
#   docker build --tag herald:latest .
#
# It needs BuildKit, which is the default of Docker since 23. Every platform is
# built on itself: for several at once, `docker buildx build --platform
# linux/amd64,linux/arm64` with a builder that has both.

# The same version as in rust-toolchain.toml.
FROM rust:1.95-alpine AS build

# gcc, make and musl-dev: jemalloc and AWS-LC (the TLS library) are C, and are
# compiled here. linux-headers: AWS-LC includes <linux/random.h>.
# ca-certificates: the bundle that the last stage takes. AWS-LC comes with its
# assembly and its bindings generated, so it asks for no CMake, Perl or Go.
RUN apk add --no-cache ca-certificates gcc linux-headers make musl-dev

# jemalloc takes the page size of the machine that builds it for the largest it
# will ever meet. On Arm it may run on kernels with pages of 4, 16 or 64 KiB:
# 2^16 serves them all. The name says that only builds for Arm read it.
ENV AARCH64_UNKNOWN_LINUX_MUSL_JEMALLOC_SYS_WITH_LG_PAGE=16

WORKDIR /herald
ARG TARGETARCH
# The source is mounted, not copied. What Cargo downloads and compiles stays in
# caches between builds, one for each platform, because Cargo's own lock does not
# reach from one builder to the other. A cache is no part of the image, so the
# binary is copied out of it.
# No --target: on Alpine the default is musl, linked statically. The last two
# lines fail the build should that ever change, because the image below has no
# library to load.
RUN --mount=type=bind,target=/herald \
    --mount=type=cache,id=herald-registry-${TARGETARCH},target=/usr/local/cargo/registry \
    --mount=type=cache,id=herald-target-${TARGETARCH},target=/target,sharing=locked \
    cargo build --release --locked --bin herald --target-dir /target \
    && install -D -m 0755 /target/release/herald /image/herald \
    && readelf --dynamic /image/herald > /tmp/dynamic \
    && ! grep NEEDED /tmp/dynamic

# The rest of the image: the CAs where the TLS library looks for them, and a
# folder for the outbox, for those who run it without mounting one.
RUN install -D -m 0644 /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt \
    && mkdir -m 1777 /image/tmp


FROM scratch

# docker build --build-arg VERSION=… --build-arg REVISION=$(git rev-parse HEAD)
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="herald" \
      org.opencontainers.image.description="Commit statuses and notifications for Flux: what it accepted gets said, in order, once" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

COPY --from=build /image/ /

# A number and not a name: there is no /etc/passwd, and Kubernetes can check
# `runAsNonRoot` only against a number.
USER 65534:65534

# Events, webhooks, metrics, probes.
EXPOSE 9090 9292 8080 9440

ENTRYPOINT ["/herald"]
