# One non-recursive Makefile. `make V=1` shows commands; O=DIR builds elsewhere; CC=clang works too.
O ?= build
CC ?= gcc
PREFIX ?= /usr/local
WERROR ?= -Werror
OPT ?= -O2 -g
PKGS := fuse3 lmdb openssl libxxhash libzstd inih jansson
CPPFLAGS += -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -I. $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
WARN := -Wall -Wextra -Wshadow -Wconversion -Wvla -Wstrict-prototypes -Wmissing-prototypes -Wformat=2 -Wimplicit-fallthrough $(WERROR)
CFLAGS += -std=gnu11 $(OPT) $(WARN) $(SAN)
LDLIBS += $(shell pkg-config --libs $(PKGS) 2>/dev/null) -lpthread
Q := $(if $(V),,@)

# Rooms, lowest first; a test program links all of them but the command.
ROOMS := fs/base handles fs mirror resync nfsd-glue
LIB_SRC := $(foreach r,$(ROOMS),$(wildcard $(r)/*.c))
CMD_SRC := $(wildcard fs/cmd/*.c)
LIB_OBJ := $(LIB_SRC:%.c=$(O)/%.o)
CMD_OBJ := $(CMD_SRC:%.c=$(O)/%.o)
UNIT := $(patsubst %.c,$(O)/%,$(wildcard tests/unit/*_test.c))
TOOLS := $(patsubst %.c,$(O)/%,$(wildcard tests/tools/*.c))

all: $(if $(and $(wildcard fs/cmd/daemon.c),$(wildcard fs/cmd/init.c)),$(O)/tandemfs,$(CMD_OBJ) $(O)/libtandemfs.a)
$(O)/libtandemfs.a: $(LIB_OBJ)
	$(Q)rm -f $@; ar rcs $@ $^
$(O)/tandemfs: $(CMD_OBJ) $(O)/libtandemfs.a
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $(CMD_OBJ) $(O)/libtandemfs.a $(LDLIBS)
$(O)/%.o: %.c
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<
$(O)/tests/unit/%_test: tests/unit/%_test.c $(O)/libtandemfs.a
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -MF $@.d -o $@ $< $(O)/libtandemfs.a $(LDFLAGS) $$(pkg-config --cflags --libs check) $(LDLIBS)
# Tools of the tests share no code with the product.
$(O)/tests/tools/%: tests/tools/%.c
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -MF $@.d -o $@ $< $(LDFLAGS) -lpthread $(TOOL_LIBS)
unit: $(UNIT)
	$(Q)for t in $(UNIT); do $$t || exit 1; done
tools: $(TOOLS)
clean:
	rm -rf $(O)
.PHONY: all unit tools clean
-include $(shell find $(O) -name '*.d' 2>/dev/null)
