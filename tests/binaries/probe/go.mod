module quell.dev/tests/binaries/probe

go 1.26.0
