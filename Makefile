# devbox: `make build`, `make demo`, `make test`, `make torture`, `make fuzz`,
# `make lint`, `make bench`.
# Everything that is downloaded or built once is kept outside the repository,
# under $XDG_CACHE_HOME/devbox (~/.cache/devbox).

VERSION := $(shell git describe --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
GO      := CGO_ENABLED=0 go
CACHE   := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/devbox
FUZZTIME ?= 10s
CUTS     ?= 200
GOLANGCI  := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
GOTESTSUM := gotest.tools/gotestsum@v1.13.0

.PHONY: build demo test torture fuzz lint bench cross clean

build: ## bin/devbox, and the host programs beside it
	$(GO) build -trimpath -ldflags="$(LDFLAGS)" -o bin/devbox ./cmd/devbox
	GOOS=linux GOARCH=amd64 $(GO) build -trimpath -ldflags="$(LDFLAGS)" -o bin/devbox-host-linux-amd64 ./cmd/devbox-host
	GOOS=linux GOARCH=arm64 $(GO) build -trimpath -ldflags="$(LDFLAGS)" -o bin/devbox-host-linux-arm64 ./cmd/devbox-host

demo: build ## the example, up and answering
	bin/devbox -C examples/bowl doctor --fix
	bin/devbox -C examples/bowl up

test: build ## everything that this machine can run; says what it skipped and why
	test/run $(GOTESTSUM)

torture: build ## a server in production loses its power CUTS times; writes docs/torture.md
	DEVBOX_TEST_CUTS=$(CUTS) DEVBOX_TEST_TORTURE=docs/torture.md \
		go test -count=1 -v -timeout 4h -run 'TestProduction/(story|power_cuts)$$' ./test/prod

fuzz: ## every fuzz test of every package for FUZZTIME
	set -e; for package in $$(go list ./...); do \
		for name in $$(go test -list '^Fuzz' $$package | grep '^Fuzz'); do \
			echo "$$package $$name"; \
			go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) $$package; \
		done; \
	done

lint: ## formatting, vet, golangci-lint with the import rules, tidiness
	test -z "$$(gofmt -l .)" || { gofmt -l .; echo "error: not gofmt'ed"; exit 1; }
	go vet ./...
	cd examples/bowl && go vet ./...
	go run $(GOLANGCI) run ./...
	cd examples/bowl && go run $(GOLANGCI) run --config ../../.golangci.yml ./...
	go mod tidy -diff
	cd examples/bowl && go mod tidy -diff

cross: ## what is not run here is at least built and vetted
	GOOS=darwin GOARCH=arm64 $(GO) build -o /dev/null ./cmd/devbox
	GOOS=darwin GOARCH=arm64 $(GO) vet $$(go list -deps ./cmd/devbox | grep '^devbox/')
	GOOS=linux GOARCH=arm64 $(GO) vet ./cmd/... ./internal/...

bench: build ## measure, write bench/REPORT.md
	go run ./test/bench -out bench/REPORT.md

clean:
	rm -rf bin
