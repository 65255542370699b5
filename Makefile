# DreamState. `make help` lists the targets; README.md tells the rest.
PROFILE ?= release
B       := build/$(ARCH:%=%-)$(PROFILE)
ifeq ($(origin CC),default)
CC      := gcc
endif
ifeq ($(origin AR),default)
AR      := gcc-ar
endif
PKG_CONFIG ?= pkg-config
# ARCH=arm64 cross-compiles against Debian's arm64 libraries, unpacked under build/ by tests/arm64.sh.
ifeq ($(ARCH),arm64)
ROOT    := $(CURDIR)/build/arm64-root
CC      := aarch64-linux-gnu-gcc
AR      := aarch64-linux-gnu-gcc-ar
ROOT_LIB := $(ROOT)/usr/lib/aarch64-linux-gnu
PKG_CONFIG := PKG_CONFIG_SYSROOT_DIR=$(ROOT) \
  PKG_CONFIG_LIBDIR=$(ROOT_LIB)/pkgconfig:$(ROOT_LIB)/openblas-pthread/pkgconfig pkg-config
CFLAGS  += --sysroot=$(ROOT)
LDFLAGS += --sysroot=$(ROOT)
else ifneq ($(ARCH),)
$(error ARCH is arm64, or not set: the architecture of this machine)
endif
V       ?= 0
Q       := $(if $(filter 1,$(V)),,@)
JOBS    ?= $(shell nproc)

PKGS     := libmicrohttpd jansson libuv sqlite3 openblas zlib nettle gnutls
CPPFLAGS += -I. -D_GNU_SOURCE -MMD -MP
CFLAGS   += -std=c11 -g -fno-math-errno -fno-omit-frame-pointer -fstack-protector-strong \
            -ffile-prefix-map=$(CURDIR)=. -pthread -fPIE
WARN     := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wundef \
            -Wformat=2 -Wpointer-arith -Wwrite-strings $(if $(WERROR),-Werror)
LDFLAGS  += -pthread -pie -Wl,-z,relro,-z,now
LDLIBS   = $(shell $(PKG_CONFIG) --libs $(PKGS)) -lm
CPPFLAGS += $(shell $(PKG_CONFIG) --cflags $(PKGS) 2>/dev/null)

OPT_release := -O2 -D_FORTIFY_SOURCE=2
OPT_debug   := -O0 -DDEBUG
OPT_asan    := -O1 -DDEBUG -fsanitize=address,undefined -fno-sanitize-recover=all
OPT_tsan    := -O1 -DDEBUG -fsanitize=thread
OPT_clang   := -O2
OPT_cov     := -O0 --coverage
OPT_fuzz    := -O1 -DDEBUG -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all
ifeq ($(OPT_$(PROFILE)),)
$(error PROFILE is one of release debug asan tsan clang cov fuzz)
endif
ifeq ($(PROFILE),fuzz)
CC := clang
endif
CFLAGS  += $(OPT_$(PROFILE))
LDFLAGS += $(filter -fsanitize=% --coverage,$(OPT_$(PROFILE)))

SRC := $(sort $(filter-out %_tmpl.c,$(wildcard daemon/*.c daemon/base/*.c engine/*/*.c api/*.c api/*/*.c store/*.c)))
OBJ := $(SRC:%.c=$(B)/%.o)
LIB := $(B)/libdreamstate.a
BIN := $(B)/dreamstated

.DEFAULT_GOAL := all
all: $(BIN) ## build the daemon (PROFILE=release|debug|asan|tsan|cov|fuzz)

# The numbers are built -O3 (not under sanitizers: the kernels alone would take minutes); a product may
# be fused into a sum (never reassociated). Files named *_avx2.c, *_avx512.c and so on hold the code that is
# chosen at run time for such CPUs, and are empty for other architectures.
ifneq ($(filter release clang,$(PROFILE)),)
$(B)/engine/%.o: CFLAGS += -O3 -ffp-contract=fast
endif
# No fuzzer reaches the arithmetic, and clang takes minutes to instrument the vector kernels.
ifeq ($(PROFILE),fuzz)
$(B)/engine/kernels/%.o $(B)/engine/nn/%.o: CFLAGS += -fno-sanitize=all
endif
# The loops to F16 and to weights of tokens are vectorised only if a sum may be made whose result is not used.
$(B)/engine/tensor/dtype.o $(B)/engine/sampling/sampler.o: CFLAGS += -fno-trapping-math
# Loops marked `omp simd` may be vectorised and their sums split into lanes; no OpenMP at run time.
$(B)/engine/nn/%.o $(B)/engine/manifold/%.o: CFLAGS += -fopenmp-simd -fno-trapping-math -Wno-pass-failed
ifneq ($(findstring x86_64,$(shell $(CC) -dumpmachine 2>/dev/null)),)
$(B)/%_avx2.o:   CFLAGS += -mavx2 -mfma -mf16c
$(B)/%_avx512.o: CFLAGS += -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma -mf16c -mprefer-vector-width=512
$(B)/%_vnni.o:   CFLAGS += -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx2 -mfma -mf16c -mprefer-vector-width=512
$(B)/%_amx.o:    CFLAGS += -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx2 -mfma -mf16c -mprefer-vector-width=512
else
$(B)/%_dotprod.o: CFLAGS += -march=armv8.2-a+dotprod
endif

$(B)/%.o: %.c $(B)/flags
	@mkdir -p $(@D)
	$(if $(Q),@echo "  CC    $<")
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) $(WARN) -c $< -o $@

# The contract is part of the binary (.incbin).
$(B)/api/openapi.o: openapi.yaml

$(LIB): $(filter-out $(B)/daemon/main.o,$(OBJ))
	$(if $(Q),@echo "  AR    $@")
	$(Q)rm -f $@ && $(AR) rcsD $@ $^

$(BIN): $(B)/daemon/main.o $(LIB)
	$(if $(Q),@echo "  LD    $@")
	$(Q)$(CC) $(LDFLAGS) $< $(LIB) $(LDLIBS) -o $@

# Rewritten only when the command line changes, so that new flags rebuild and same flags do not.
FLAGS_NOW := $(CC) $(CPPFLAGS) $(CFLAGS) $(WARN) $(LDFLAGS)
$(B)/flags: force
	@mkdir -p $(@D)
	@echo '$(FLAGS_NOW)' | cmp -s - $@ || echo '$(FLAGS_NOW)' > $@

# One program a test file, linked with the whole library.
TEST_SRC := $(sort $(wildcard tests/unit/test_*.c tests/golden/test_*.c tests/property/test_*.c))
TEST_BIN := $(TEST_SRC:tests/%.c=$(B)/tests/%)
TEST_LIB_SRC := $(sort $(wildcard tests/lib/*.c))
TEST_LIB     := $(B)/tests/libtest.a
# tests/lib/alloc_fail.h
COMMA := ,
TEST_WRAP := $(addprefix -Wl$(COMMA)--wrap=,malloc calloc realloc aligned_alloc strdup strndup)
tests: $(BIN) $(TEST_BIN) ## build the test programs
$(TEST_LIB): $(TEST_LIB_SRC:%.c=$(B)/%.o)
	$(if $(Q),@echo "  AR    $@")
	$(Q)rm -f $@ && $(AR) rcsD $@ $^
$(B)/tests/%: $(B)/tests/%.o $(TEST_LIB) $(LIB)
	$(if $(Q),@echo "  LD    $@")
	$(Q)$(CC) $(LDFLAGS) $< -Wl,--start-group $(TEST_LIB) $(LIB) -Wl,--end-group $(LDLIBS) -lcmocka $(TEST_WRAP) -o $@

test-unit: tests ## run the C tests (unit, golden, property) of this profile
	$(Q)tests/run.sh $(B) $(TEST_BIN)

test-asan: ## the C tests under AddressSanitizer and UndefinedBehaviorSanitizer
	$(Q)$(MAKE) --no-print-directory PROFILE=asan test-unit

test-tsan: ## the C tests that use threads, under ThreadSanitizer
	$(Q)$(MAKE) --no-print-directory PROFILE=tsan test-threads

# Tests with more than one thread in them.
THREAD_TESTS := $(foreach t,pool determinism neighbors tsne lane errand stream mailbox snapshot store store_records store_backup service service_embed service_state state_cache http context rwkv_train state_tuning diffuser jobs train_dit,$(filter %/test_$(t),$(TEST_BIN)))
test-threads: tests
	$(Q)tests/run.sh $(B) $(THREAD_TESTS)

test-arm64: ## cross-compile for 64-bit ARM and run kernel, golden and determinism tests under qemu
	$(Q)tests/arm64.sh

test-valgrind: tests ## the unit tests under valgrind (kernels without AVX-512, which it does not know)
	$(Q)DREAMSTATE_CPU=c OPENBLAS_NUM_THREADS=1 TEST_TIMEOUT=3000 TEST_WRAP="valgrind -q --error-exitcode=99 --leak-check=full" \
	  tests/run.sh $(B) $(filter $(B)/tests/unit/%,$(TEST_BIN))

test-http: $(BIN) tests/node_modules/.package-lock.json ## contract and end-to-end tests of the HTTP interface (Node 18 or newer)
	$(Q)cd tests && DREAMSTATE_BIN=$(BIN) node --test --test-reporter=tap contract/*.test.mjs e2e/*.test.mjs

soak: $(BIN) ## the long runs: 20,000 requests friendly and hostile, 32 clients with secrets, kill -9 under load
	$(Q)cd tests && DREAMSTATE_BIN=$(BIN) node --test --test-reporter=tap soak/*.test.mjs

soak-short: ## the same, less of it: for the gate
	$(Q)SOAK_REQUESTS=1000 MARKER_REQUESTS=400 KILL_ROUNDS=2 $(MAKE) --no-print-directory soak

tests/node_modules/.package-lock.json: tests/package-lock.json
	$(Q)cd tests && npm ci --no-audit --no-fund --loglevel=error && touch node_modules/.package-lock.json

check-rules: ## layers, headers, banned calls
	$(Q)tests/check_layers.sh && tests/check_headers.sh && tests/check_banned.sh

# Fuzz targets: tests/fuzz/fuzz_<name>.c, each with LLVMFuzzerTestOneInput. `fuzz` links them with clang's
# libFuzzer; fuzz-smoke links them with tests/fuzz/smoke.c instead, under the asan profile.
FUZZ_NAMES   := $(patsubst tests/fuzz/fuzz_%.c,%,$(sort $(wildcard tests/fuzz/fuzz_*.c)))
FUZZ_SECONDS ?= $(or $(SECONDS),60)
FUZZ_LIB     = $(TEST_LIB) $(LIB)
$(B)/tests/fuzz/fuzz_%: $(B)/tests/fuzz/fuzz_%.o $(FUZZ_LIB)
	$(if $(Q),@echo "  LD    $@")
	$(Q)$(CC) $(LDFLAGS) -fsanitize=fuzzer $< $(FUZZ_LIB) $(LDLIBS) -lcmocka -o $@
$(B)/tests/fuzz/fuzz_%_smoke: $(B)/tests/fuzz/fuzz_%.o $(B)/tests/fuzz/smoke.o $(FUZZ_LIB)
	$(if $(Q),@echo "  LD    $@")
	$(Q)$(CC) $(LDFLAGS) $< $(B)/tests/fuzz/smoke.o $(FUZZ_LIB) $(LDLIBS) -lcmocka -o $@

fuzz: ## build the fuzzers (clang): build/fuzz/tests/fuzz/fuzz_*
	$(Q)$(MAKE) --no-print-directory PROFILE=fuzz $(FUZZ_NAMES:%=build/fuzz/tests/fuzz/fuzz_%)
fuzz-run: fuzz ## run each fuzzer for FUZZ_SECONDS (60)
	$(Q)FUZZ_SECONDS=$(FUZZ_SECONDS) tests/fuzz/run.sh fuzz build/fuzz $(FUZZ_NAMES)
fuzz-smoke: ## run the fuzz targets over their corpora and fixed mutations, without a fuzzer
	$(Q)$(MAKE) --no-print-directory PROFILE=asan $(FUZZ_NAMES:%=build/asan/tests/fuzz/fuzz_%_smoke)
	$(Q)tests/fuzz/run.sh smoke build/asan $(FUZZ_NAMES)

demo: ## install what it needs, build, and show the main job end to end
	$(Q)deploy/setup.sh demo
	$(Q)$(MAKE) --no-print-directory -j$(JOBS) all
	$(Q)deploy/demo.sh

PREFIX ?= /usr/local
SHARE  := $(abspath $(DESTDIR)$(PREFIX)/share/dreamstate)
# Of what belongs to the bundled models, what there is.
BUNDLED := $(patsubst deploy/%,%,$(wildcard $(patsubst %,deploy/models/tiny/%.safetensors,diffuser reference hybrid) \
	$(patsubst %,deploy/models/recall/%,model.safetensors lists.gz README.md)))
install: all ## the daemon and its bundled model into DESTDIR and PREFIX (/usr/local)
	$(Q)install -D -m 755 $(BIN) $(DESTDIR)$(PREFIX)/bin/dreamstated
	$(Q)install -D -m 644 -t $(SHARE) LICENSE README.md deploy/dreamstated.conf
	$(Q)cd deploy && find models/tiny/model.safetensors models/tiny/README.md models/tiny/heldout $(BUNDLED) -type f \
	  -exec install -D -m 644 {} $(SHARE)/{} \;

models: all ## train the bundled model, its diffuser and its hybrid, and the recall model by their recipes (hours; stopped and started again, it goes on)
	$(Q)deploy/models/tiny/train.sh deploy/models/tiny/recipe.json
	$(Q)deploy/models/tiny/train.sh deploy/models/tiny/jump.json
	$(Q)deploy/models/tiny/dit.sh
	$(Q)deploy/models/tiny/hybrid.sh
	$(Q)deploy/models/recall/recall.sh

check: ## install what it needs, build and run every test (the gate)
	$(Q)deploy/setup.sh check
	$(Q)tests/check.sh gate

check-full: ## check, and the long runs: arm64, container, fuzzers, valgrind, clang, soak
	$(Q)deploy/setup.sh check-full
	$(Q)tests/check.sh full

clean: ## remove build/
	rm -rf build

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

force:
.PHONY: all tests test-unit test-http soak soak-short test-asan test-tsan test-threads test-arm64 test-valgrind fuzz fuzz-run fuzz-smoke \
        check-rules demo install models check check-full clean help force
.SECONDARY:

-include $(OBJ:.o=.d) $(TEST_BIN:=.d) $(TEST_LIB_SRC:%.c=$(B)/%.d) $(FUZZ_NAMES:%=$(B)/tests/fuzz/fuzz_%.d)

# The version: from git where there is one, rewritten only when it changes.
VERSION_NOW := $(shell git describe --always --dirty --match 'v*' 2>/dev/null)
build/version.h: force
	@mkdir -p build
	@echo '#define DREAMSTATE_VERSION "0.1.0$(VERSION_NOW:%=+%)"' | cmp -s - $@ || \
	  echo '#define DREAMSTATE_VERSION "0.1.0$(VERSION_NOW:%=+%)"' > $@
$(B)/daemon/cmd_version.o: build/version.h
