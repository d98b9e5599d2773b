# One non-recursive Makefile. `make V=1` shows commands; O=DIR builds elsewhere; CC=clang works too.
# `make help` lists the targets. New sources need no edit: the rooms' *.c are found, tests/unit/*_test.c and tests/tools/*.c become programs,
# tests/fuzz/fuzz_*.c fuzz targets, and tests/*/NN-*.sh run in `make check`.
.DEFAULT_GOAL := all
VERSION := 0.1.0
O ?= build
CC ?= gcc
CLANG ?= clang
DESTDIR ?=
PREFIX ?= /usr/local
SBINDIR ?= $(PREFIX)/sbin
MANDIR ?= $(PREFIX)/share/man
DOCDIR ?= $(PREFIX)/share/doc/tandemfs
UNITDIR ?= /etc/systemd/system
WERROR ?= -Werror
OPT ?= -O2 -g
Q := $(if $(V),,@)
SHELL := /bin/bash
# As many jobs as CPUs, unless -j says otherwise.
ifeq ($(MAKELEVEL)$(filter -j%,$(MAKEFLAGS)),0)
MAKEFLAGS += -j$(shell nproc)
endif

DEPS_BUILD := gcc pkg-config libc6-dev libfuse3-dev liblmdb-dev libssl-dev libxxhash-dev libzstd-dev libinih-dev libjansson-dev libnfs-dev
DEPS_RUN := fuse3
DEPS_CHECK := check clang clang-tidy cppcheck mandoc e2fsprogs xfsprogs btrfs-progs acl attr fuse3 iproute2 util-linux procps sqlite3 git rsync perl psmisc stress-ng dbench \
	python3 jq nfs-ganesha nfs-ganesha-vfs tcpdump tar xz-utils libjansson-dev
DEPS_BENCH := nfs-ganesha nfs-ganesha-vfs rpcbind qemu-system-x86

# Missing packages are installed before anything else: make remakes the included file, and starts over. Cleaning needs none.
ifneq ($(filter-out clean help uninstall,$(or $(MAKECMDGOALS),all)),)
-include $(O)/deps.mk
endif
$(O)/deps.mk: .ci/deps
	@mkdir -p $(O)
	$(Q).ci/deps $(DEPS_BUILD) $(DEPS_RUN) && echo "# packages are installed" >$@

PKGS := fuse3 lmdb openssl libxxhash libzstd inih jansson libnfs
CPPFLAGS += -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -DTANDEMFS_VERSION='"$(VERSION)"' -I. $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
WARN := -Wall -Wextra -Wshadow -Wconversion -Wvla -Wstrict-prototypes -Wmissing-prototypes -Wformat=2 -Wimplicit-fallthrough $(WERROR)
CFLAGS += -std=gnu11 $(OPT) $(WARN) $(SAN)
LDLIBS += $(shell pkg-config --libs $(PKGS) 2>/dev/null) -lpthread

# Rooms, lowest first. The command's sources are a library too (all but main and the composition root), so that tests can use them.
ROOMS := fs/base handles fs mirror resync nfsd-glue
LIB_SRC := $(foreach r,$(ROOMS),$(wildcard $(r)/*.c))
CMD_SRC := $(wildcard fs/cmd/*.c)
LIB_OBJ := $(LIB_SRC:%.c=$(O)/%.o)
CMD_OBJ := $(CMD_SRC:%.c=$(O)/%.o)
CMD_LIB_OBJ := $(filter-out $(O)/fs/cmd/main.o $(O)/fs/cmd/daemon%.o,$(CMD_OBJ))
LIBS := $(O)/libcmd.a $(O)/libtandemfs.a
UNIT := $(patsubst %.c,$(O)/%,$(wildcard tests/unit/*_test.c))
TOOLS := $(patsubst %.c,$(O)/%,$(wildcard tests/tools/*.c))
FUZZ := $(patsubst %.c,$(O)/%,$(wildcard tests/fuzz/fuzz_*.c))

all: $(if $(and $(wildcard fs/cmd/daemon.c),$(wildcard fs/cmd/init.c)),$(O)/tandemfs,$(CMD_OBJ) $(LIBS))
$(O)/libtandemfs.a: $(LIB_OBJ)
	$(Q)rm -f $@; ar rcs $@ $^
$(O)/libcmd.a: $(CMD_LIB_OBJ)
	$(Q)rm -f $@; ar rcs $@ $^
$(O)/tandemfs: $(CMD_OBJ) $(O)/libtandemfs.a
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $(CMD_OBJ) $(O)/libtandemfs.a $(LDLIBS)
$(O)/%.o: %.c
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<
$(O)/tests/unit/%_test: tests/unit/%_test.c $(LIBS) | $(O)/deps-check
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -MF $@.d -o $@ $< $(LIBS) $(LDFLAGS) $$(pkg-config --cflags --libs check) $(LDLIBS)
# Tools of the tests share no code with the product.
$(O)/tests/tools/%: tests/tools/%.c
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -MF $@.d -o $@ $< $(LDFLAGS) -lpthread $(TOOL_FLAGS)
# Fuzz targets want clang: `make fuzz` builds them below $(O)/fuzz.
$(O)/tests/fuzz/fuzz_%: tests/fuzz/fuzz_%.c $(O)/libtandemfs.a
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -fsanitize=fuzzer -MMD -MP -MF $@.d -o $@ $< $(O)/libtandemfs.a $(LDFLAGS) $(LDLIBS)
# libnfs is the independent NFS client; it decodes into structures that are aligned to 4 bytes only.
$(O)/tests/tools/nfsclient $(O)/tests/tools/nfsuser: TOOL_FLAGS := -lnfs $(if $(SAN),-fno-sanitize=alignment)
unit-build: $(UNIT)
fuzz-targets: $(FUZZ)
tools: $(TOOLS)

# ---- tests ----
# tests/run shows one line per program and ends with "N passed, N failed, N skipped"; logs are in $(O)/log.
# ONLY=pattern runs the programs whose path contains it. FUZZ_TIME: seconds per fuzz target.
FUZZ_TIME ?= 10
FAILOVERS ?= 300
SAN_ASAN := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
SAN_TSAN := -fsanitize=thread -fno-omit-frame-pointer
SAN_FUZZ := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
SHELL_TESTS := $(sort $(wildcard tests/*/[0-9][0-9]-*.sh))
# Sanitizers move code about, and the compiler's guesses about it with that: warnings are for the other builds.
SAN_MORE := OPT='-O1 -g' WERROR=-w
# Run a second time by `make check`, with the sanitizers' build: shell tests that say "# asan" in their first lines.
ASAN_SUBSET := $(foreach t,$(SHELL_TESTS),$(shell head -n 5 $(t) | grep -q '^\# asan' && echo $(t)))
# Long and pure: with sanitizers only in `make asan`.
ASAN_LATER := core_sim_test lock_test
ASAN_UNIT := $(filter-out $(ASAN_LATER:%=$(O)/asan/tests/unit/%),$(UNIT:$(O)/%=$(O)/asan/%))
SUB := $(MAKE) --no-print-directory

check: $(O)/deps-check all unit-build tools clang-build asan-build fuzz-build
	$(Q)O=$(O) ONLY='$(ONLY)' FUZZ_TIME=$(FUZZ_TIME) tests/run $(UNIT) $(SHELL_TESTS) --asan $(ASAN_UNIT) $(ASAN_SUBSET)
unit: unit-build
	$(Q)O=$(O) ONLY='$(ONLY)' tests/run $(UNIT)
clang-build: $(O)/deps-check
	+$(Q)$(SUB) O=$(O)/clang CC=$(CLANG) all
asan-build: $(O)/deps-check
	+$(Q)$(SUB) O=$(O)/asan SAN='$(SAN_ASAN)' $(SAN_MORE) all unit-build tools
tsan-build: $(O)/deps-check
	+$(Q)$(SUB) O=$(O)/tsan SAN='$(SAN_TSAN)' $(SAN_MORE) all unit-build tools
fuzz-build: $(O)/deps-check
	+$(Q)$(SUB) O=$(O)/fuzz CC=$(CLANG) SAN='$(SAN_FUZZ)' $(SAN_MORE) fuzz-targets
asan: asan-build
	$(Q)O=$(O)/asan ONLY='$(ONLY)' tests/run --asan $(UNIT:$(O)/%=$(O)/asan/%) $(SHELL_TESTS)
tsan: tsan-build
	$(Q)O=$(O)/tsan ONLY='$(ONLY)' tests/run --tsan $(UNIT:$(O)/%=$(O)/tsan/%) $(SHELL_TESTS)
fuzz: fuzz-build
	$(Q)O=$(O) FUZZ_TIME=$(if $(filter file,$(origin FUZZ_TIME)),300,$(FUZZ_TIME)) tests/run tests/fuzz/90-fuzz.sh
demo: all tools
	$(Q)O=$(O) tests/demo/demo.sh
bench: $(O)/deps-bench all tools
	$(Q)O=$(O) ONLY='$(ONLY)' ROUNDS='$(ROUNDS)' tests/bench/bench.sh
# FAILOVERS=n: so many; SEED=n.
failovers: $(O)/deps-check all tools
	$(Q)O=$(O) FAILOVERS=$(FAILOVERS) tests/nfs/50-history.sh
# ROUNDS=n.
guest-long: $(O)/deps-bench all tools
	$(Q)O=$(O) ROUNDS='$(ROUNDS)' tests/guest/long.sh
lint: $(O)/deps-check all
	$(Q)O=$(O) tests/run $(sort $(wildcard tests/lint/[0-9][0-9]-*.sh))
	$(Q)tests/lint/deep.sh
deps:
	$(Q).ci/deps $(DEPS_BUILD) $(DEPS_RUN) $(DEPS_CHECK)
$(O)/deps-check: .ci/deps
	@mkdir -p $(O)
	$(Q).ci/deps $(DEPS_CHECK) && touch $@

$(O)/deps-bench: .ci/deps
	@mkdir -p $(O)
	$(Q).ci/deps $(DEPS_BENCH) && touch $@

# ---- documents and installation ----
# Puts the texts of the tables of options and sub-commands into the man pages; the lint check fails when they are behind.
docs: all
	$(Q)tests/lint/mandoc-tables.sh $(O)/tandemfs --write
install: all
	install -d $(DESTDIR)$(SBINDIR) $(DESTDIR)$(MANDIR)/man8 $(DESTDIR)$(MANDIR)/man5 $(DESTDIR)$(DOCDIR) $(DESTDIR)$(UNITDIR)
	install -d -m 0755 $(DESTDIR)/etc/tandemfs
	install -m 0755 $(O)/tandemfs $(DESTDIR)$(SBINDIR)/tandemfs
	install -m 0644 docs/tandemfs.8 $(DESTDIR)$(MANDIR)/man8/
	install -m 0644 docs/tandemfs.conf.5 $(DESTDIR)$(MANDIR)/man5/
	install -m 0644 README.md LICENSE docs/*.md docs/tandemfs.conf.example $(DESTDIR)$(DOCDIR)/
	sed 's|@SBINDIR@|$(SBINDIR)|' nfsd-glue/tandemfs@.service >$(DESTDIR)$(UNITDIR)/tandemfs@.service
# Configuration, keys and state stay.
uninstall:
	rm -f $(DESTDIR)$(SBINDIR)/tandemfs $(DESTDIR)$(MANDIR)/man8/tandemfs.8 $(DESTDIR)$(MANDIR)/man5/tandemfs.conf.5 \
		$(DESTDIR)$(UNITDIR)/tandemfs@.service
	rm -rf $(DESTDIR)$(DOCDIR)
clean:
	rm -rf $(O)
help:
	@echo "make            builds $(O)/tandemfs (as root it installs missing Debian packages first)"
	@echo "make demo       two nodes on this machine: work, a killed primary, a promotion, an NFS client that notices nothing"
	@echo "make check      everything is built and tested; ONLY=pattern for some programs, LONG=1 for hours"
	@echo "make failovers  NFS clients work through FAILOVERS=300 kills and switchovers"
	@echo "make guest-long a kernel's NFS client in a virtual machine works through ROUNDS=20 switchovers, kills and cuts"
	@echo "make bench      speed; ONLY=pattern ROUNDS=n"
	@echo "make asan tsan  all tests with sanitizers; make fuzz FUZZ_TIME=seconds"
	@echo "make lint       clang-tidy, cppcheck, man pages, direction of includes; make docs refreshes the man pages' tables"
	@echo "make install uninstall clean deps"
.PHONY: all unit unit-build tools check clang-build asan-build tsan-build fuzz-build fuzz-targets asan tsan fuzz demo bench failovers guest-long lint deps docs \
	install uninstall clean help
.DELETE_ON_ERROR:
-include $(shell find $(O) \( -path $(O)/clang -o -path $(O)/asan -o -path $(O)/tsan -o -path $(O)/fuzz -o -path $(O)/guest \) -prune -o -name '*.d' -type f -print 2>/dev/null)
