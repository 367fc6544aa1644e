# syntax=docker/dockerfile:1
# docker build -t quell:0.1.0 .
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked -p quell-operator --bin quell && cp target/release/quell /quell

# glibc, libgcc and certificates of authorities; no shell, no package manager.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /quell /quell
USER 65532:65532
EXPOSE 8443 9090
ENTRYPOINT ["/quell"]
CMD ["operator"]
