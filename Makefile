# Everything here needs only Go; as root on Debian, harness installs what else it needs for itself.

GO      ?= go
BIN     ?= bin
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT  ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null)
# Arguments for the commands below: make e2e ARGS='--keep Gateway'
ARGS    ?=

# The binary is also the image of the backends, so it must run in an empty root file system.
BUILD = CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)"

.DEFAULT_GOAL := help
.PHONY: help e2e test up down status lint bench bench-peers build image docs pin clean cc

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

e2e: build ## bring a cluster up, run every case with its controls, report, bring it down
	$(BIN)/harness e2e $(ARGS)

test: cc ## vet and all tests that need no cluster, with the race detector
	CGO_ENABLED=1 $(GO) test -race -vet=all -timeout 10m ./...

up: build ## bring the environment up and leave it up
	$(BIN)/harness up $(ARGS)

down: build ## remove the environment
	$(BIN)/harness down $(ARGS)

status: build ## say what is up and where it answers
	$(BIN)/harness status $(ARGS)

lint: ## gofmt, go vet, staticcheck (and golangci-lint where it is installed)
	@unformatted=$$(gofmt -l $$(git ls-files --cached --others --exclude-standard '*.go')); \
	  if [ -n "$$unformatted" ]; then echo "not formatted, run gofmt -w:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	@if command -v golangci-lint >/dev/null 2>&1; then golangci-lint run; fi

bench: ## benchmarks that need no cluster
	$(GO) test -run '^$$' -bench . -benchmem ./...

bench-peers: ## the load generator beside its peers (about eight minutes; ARGS=-quick for a look)
	cd bench/peers && $(GO) run . -out "$(abspath $(BIN))/bench-peers.json" $(ARGS)

build: ## build bin/harness, a static binary
	@mkdir -p $(BIN)
	$(BUILD) -o $(BIN)/harness ./cmd/harness

image: build ## write harness's own container image to bin/harness-image.tar
	$(BIN)/harness image $(BIN)/harness-image.tar

docs: ## write the generated pages of docs/ again
	$(GO) test ./cmd/harness -run '^TestGeneratedPages$$' -update

pin: ## write the generated manifests and checksums again from the pinned versions
	$(GO) generate ./...

clean: ## remove what was built; the environment and the caches stay
	rm -rf $(BIN)

# The race detector needs a C compiler.
cc:
	@if command -v $${CC:-gcc} >/dev/null 2>&1; then exit 0; fi; \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
	    echo "installing gcc for the race detector"; \
	    apt-get update -q >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends gcc libc6-dev >/dev/null; \
	  else \
	    echo "ERROR: the race detector needs a C compiler"; echo "Hint: install gcc, or run: go test ./..."; exit 1; \
	  fi
