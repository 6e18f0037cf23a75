# SPDX-License-Identifier: MIT
#
# One Makefile, no configure. Everything that is made lies in build/ (make asan:
# build-asan/, make tsan: build-tsan/, make fuzz: build-fuzz/).
#
#	make			library, wherry, example VMM
#	make demo		what a new user runs: packages, build, wherry demo
#	make check		packages, build, every test; T="wire/ram check-layers" for some
#	make check-quick	the same without what is slow
#	make check-interop	every way that selftests/interop/runs.def has with real QEMUs
#	make lab CMD="..."	a command in a VM with RDMA; NET=pair, FILES="..."
#	make check-lab		what needs such a VM; T="lab/rdma" for some, KERNEL=6.1
#	make check-lab-asan	the same with programs that have the sanitizers
#	make bench		figures beside their floors and beside QEMU; QUICK=1
#	make bench-readme	those of the last one into README.md and performance.rst
#	make install		DESTDIR, PREFIX, LIBDIR
#
# WERROR=0 for packagers, RDMA=0 without libibverbs, V=1 to see the commands.
#
# Folders with special needs add to this file: selftests/<folder>/build.mk. They may append
# to TEST_EXTRA and BENCH_EXTRA (targets made along with the tests, and the figures), and
# set EXTRA_CFLAGS, EXTRA_LDFLAGS, EXTRA_LIBS for one object or program ("TARGET: private
# EXTRA_LIBS = -lm"; without private whatever it needs would inherit it).

.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := all

# ---- What may be set ----------------------------------------------------------

ifeq ($(origin CC),default)
CC = gcc
endif
CLANG ?= clang
CXX_CHECK ?= g++
OBJCOPY ?= objcopy
PKG_CONFIG ?= pkg-config

DESTDIR ?=
PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
LIBEXECDIR ?= $(PREFIX)/libexec
MANDIR ?= $(PREFIX)/share/man
COMPLETIONDIR ?= $(PREFIX)/share/bash-completion/completions

WERROR ?= 1
RDMA ?= 1
V ?= 0
# asan, tsan, fuzz or nothing; each in a folder of its own
SAN ?=
# Tests to run, by name: wire/ram, e2e/demo, check-layers. Empty: all of them
T ?=
# Seconds for each fuzz target
FUZZ_SECONDS ?= 60
# In make check, for one that is neither a whole stream nor an engine of a migration
FUZZ_REST ?= 12

BUILD ?= build$(SAN:%=-%)

VERSION := $(shell sed -n 's/^\#define WH_VERSION_[MP][A-Z]* \([0-9]*\)$$/\1/p' \
	     include/wherry/wherry.h | paste -sd. -)
SONAME := libwherry.so.0
QMP_SONAME := libwherry-qmp.so.0

ifeq ($(V),0)
Q := @
say = @printf '  %-7s %s\n' $(1) $(patsubst $(BUILD)/%,%,$@);
else
Q :=
say :=
endif

# ---- Sources ------------------------------------------------------------------

LIB_DIRS := base wire recover ring uffd netplug postcopy checkpoint
ifneq ($(RDMA),0)
LIB_DIRS += rdma
endif
LIB_SRCS := $(sort $(wildcard $(LIB_DIRS:%=%/*.c)))
# The QMP monitor is a library of its own, so that libwherry needs no json-c
QMP_SRCS := $(sort $(wildcard cli/qmp_*.c))
CLI_SRCS := $(filter-out $(QMP_SRCS),$(sort $(wildcard cli/*.c)))
VMM_SRCS := $(sort $(wildcard examples/*/*.c examples/*/*.S))

TEST_DIRS := base wire recover ring uffd postcopy checkpoint protect sim model e2e interop cli lab
TEST_DIRS += netplug $(if $(filter-out 0,$(RDMA)),rdma)
TEST_SRCS := $(sort $(wildcard $(TEST_DIRS:%=selftests/%/*.c)))
TEST_SCRIPTS := $(sort $(wildcard $(TEST_DIRS:%=selftests/%/*.sh)))
TEST_LIB_SRCS := $(sort $(wildcard selftests/lib/*.c))
# Run inside a VM, by selftests/lab/run
LAB_DIRS := lab/netplug $(if $(filter-out 0,$(RDMA)),lab/rdma)
LAB_SRCS := $(sort $(wildcard $(LAB_DIRS:%=selftests/%/*.c)))
BENCH_SRCS := $(sort $(filter-out $(if $(filter 0,$(RDMA)),selftests/bench/rdma.c),$(wildcard selftests/bench/*.c)))
FUZZ_SRCS := $(sort $(wildcard selftests/fuzz/*.c))
CHECKS := $(sort $(wildcard selftests/check-*))
PUBLIC_HEADERS := $(sort $(wildcard include/wherry/*.h))
MAN_PAGES := $(sort $(wildcard Documentation/man/*.[1-8]))

obj = $(patsubst %,$(BUILD)/obj/%.o,$(basename $(1)))
LIB_OBJS := $(call obj,$(LIB_SRCS))
QMP_OBJS := $(call obj,$(QMP_SRCS))
CLI_OBJS := $(call obj,$(CLI_SRCS))
VMM_OBJS := $(call obj,$(VMM_SRCS))
TEST_LIB_OBJS := $(call obj,$(TEST_LIB_SRCS))
TEST_OBJS := $(call obj,$(TEST_SRCS) $(LAB_SRCS) $(BENCH_SRCS))

TESTS := $(TEST_SRCS:%.c=$(BUILD)/%)
LAB_TESTS := $(LAB_SRCS:%.c=$(BUILD)/%)
BENCHES := $(BENCH_SRCS:%.c=$(BUILD)/%)
FUZZERS := $(FUZZ_SRCS:%.c=$(BUILD)/%)

# Of checkpoint/, what decides; the rest moves bytes, or joins
CP_ENGINES := state source source_message dest dest_message pace
# Bytes, structs and decisions: no libc but memcpy() and its like (make check-pure)
PURE_SRCS := $(sort $(wildcard wire/*.c recover/*.c postcopy/phase*.c postcopy/source*.c \
	       postcopy/dest*.c $(CP_ENGINES:%=checkpoint/%.c)) $(filter base/bits.c base/region.c base/hist.c \
	       base/siphash.c base/walk.c base/zero.c rdma/vdest.c rdma/vflow.c rdma/vread.c \
	       rdma/vsource.c rdma/vsource_keep.c \
	       netplug/gate.c netplug/hold.c netplug/talk.c, $(LIB_SRCS)))
CONVERSION_SRCS := $(sort $(wildcard base/*.c) $(PURE_SRCS))

TEST_EXTRA :=
BENCH_EXTRA :=

# ---- Flags --------------------------------------------------------------------

WARNINGS := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
	    -Wold-style-definition -Wpointer-arith -Wwrite-strings -Wcast-qual -Wundef -Wvla \
	    -Wformat=2 -Wswitch-enum -Wimplicit-fallthrough -Wnull-dereference
ifneq ($(WERROR),0)
WARNINGS += -Werror
endif

MACHINE := $(shell $(CC) -dumpmachine)
HARDENING := -fstack-protector-strong -fstack-clash-protection
ifneq ($(filter x86_64-% i%86-%,$(MACHINE)),)
HARDENING += -fcf-protection
endif
LINK_HARDENING := -Wl,-z,relro,-z,now,-z,noexecstack

# The sanitizers bring their own checks of memcpy() and their own symbols
ifeq ($(SAN),)
HARDENING += -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3
LIB_LINK_FLAGS := -Wl,-z,defs
else ifeq ($(SAN),asan)
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
else ifeq ($(SAN),tsan)
SANITIZE := -fsanitize=thread -fno-omit-frame-pointer
# gcc: fences are not seen by tsan. The code's own fences say whom they stand between
WARNINGS += $(if $(findstring clang,$(CC)),,-Wno-tsan)
else ifeq ($(SAN),fuzz)
CC := $(CLANG)
SANITIZE := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined \
	    -fno-omit-frame-pointer
else
$(error SAN=$(SAN): asan, tsan, fuzz or nothing)
endif

OPTIMIZE ?= -O2 -g
WH_CPPFLAGS := -D_GNU_SOURCE -I. -Iinclude
ifeq ($(RDMA),0)
WH_CPPFLAGS += -DWH_NO_RDMA
endif
WH_CFLAGS := -std=gnu11 $(OPTIMIZE) $(WARNINGS) $(HARDENING) -fvisibility=hidden -pthread $(SANITIZE)
COMPILE = $(CC) $(WH_CPPFLAGS) $(KIND_CPPFLAGS) $(CPPFLAGS) $(WH_CFLAGS) $(KIND_CFLAGS) \
	  $(CFLAGS) $(EXTRA_CFLAGS)
LINK = $(CC) -pthread $(SANITIZE) $(LINK_HARDENING) $(LDFLAGS) $(EXTRA_LDFLAGS)

# Asked for when first used, since make deps may have to bring them first
LIB_PKGS := liburing libcap libzstd libnl-3.0 libnl-route-3.0 gnutls
ifneq ($(RDMA),0)
LIB_PKGS += libibverbs librdmacm
endif
QMP_PKGS := json-c
CLI_PKGS := json-c libxxhash
lazy = $(eval $(1) := $$(shell $(PKG_CONFIG) $(2)))$($(1))
LIB_LIBS = -Wl,--push-state,--as-needed $(call lazy,LIB_PKG_LIBS,--libs $(LIB_PKGS)) -Wl,--pop-state
QMP_LIBS = $(call lazy,QMP_PKG_LIBS,--libs $(QMP_PKGS))
CLI_LIBS = -Wl,--push-state,--as-needed $(call lazy,CLI_PKG_LIBS,--libs $(CLI_PKGS)) -Wl,--pop-state
NL_CFLAGS = $(call lazy,NL_PKG_CFLAGS,--cflags libnl-route-3.0)
CLI_CFLAGS = $(call lazy,CLI_PKG_CFLAGS,--cflags $(CLI_PKGS))

$(LIB_OBJS): KIND_CFLAGS = -fPIC
$(call obj,$(CONVERSION_SRCS)): KIND_CFLAGS = -fPIC -Wconversion -Wno-sign-conversion
$(call obj,$(filter netplug/%,$(LIB_SRCS))): KIND_CPPFLAGS = $(NL_CFLAGS)
$(QMP_OBJS): KIND_CFLAGS = -fPIC
$(QMP_OBJS): KIND_CPPFLAGS = $(CLI_CFLAGS)
$(CLI_OBJS): KIND_CPPFLAGS = $(CLI_CFLAGS) -DWH_LIBEXEC='"$(LIBEXECDIR)/wherry"'
$(CLI_OBJS) $(VMM_OBJS) $(TEST_LIB_OBJS) $(TEST_OBJS): KIND_CFLAGS = -fPIE
# The kernel's harness defines a function a test and expands to what we would not write.
# A path that a test shortens is not there, and the test says so
$(TEST_OBJS): KIND_CPPFLAGS = -isystem $(KSELFTEST) $(CLI_CFLAGS) $(NL_CFLAGS)
$(TEST_OBJS): KIND_CFLAGS = -fPIE -Wno-missing-prototypes -Wno-unused-parameter -Wno-null-dereference \
			    $(if $(findstring clang,$(CC)),,-Wno-format-truncation)

# ---- Everything ---------------------------------------------------------------

SHARED := $(BUILD)/libwherry.so.$(VERSION)
STATIC := $(BUILD)/libwherry.a
QMP_SHARED := $(BUILD)/libwherry-qmp.so.$(VERSION)
QMP_STATIC := $(BUILD)/libwherry-qmp.a
WHERRY := $(if $(CLI_SRCS),$(BUILD)/wherry)
VMM := $(if $(VMM_SRCS),$(BUILD)/wherry-vmm)

.PHONY: all lib tests benches
all: lib $(WHERRY) vmm
	@:
lib: $(SHARED) $(STATIC) $(BUILD)/libwherry.so $(BUILD)/$(SONAME) \
     $(QMP_SHARED) $(QMP_STATIC) $(BUILD)/libwherry-qmp.so $(BUILD)/$(QMP_SONAME)
tests: $(TESTS) $(LAB_TESTS)
	@:
benches: $(BENCHES)
	@:

# Other flags, other objects. Not $(COMPILE): what is set for one target is inherited by
# whatever is made on its behalf, this file as well
IN_FLAGS := $(CC) $(WH_CPPFLAGS) $(CPPFLAGS) $(WH_CFLAGS) $(CFLAGS) $(LDFLAGS)
IN_PATHS := $(PREFIX) $(LIBDIR) $(INCLUDEDIR) $(LIBEXECDIR)
.PHONY: always
$(BUILD)/flags: CONTENTS := $(subst ','\'',$(IN_FLAGS))
$(BUILD)/paths: CONTENTS := $(subst ','\'',$(IN_PATHS))
$(BUILD)/flags $(BUILD)/paths: always
	@mkdir -p $(@D)
	@echo '$(CONTENTS)' | cmp -s - $@ || echo '$(CONTENTS)' > $@

$(BUILD)/obj/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(call say,CC)$(COMPILE) -MMD -MP -c -o $@ $<

$(BUILD)/obj/%.o: %.S $(BUILD)/flags
	@mkdir -p $(@D)
	$(call say,AS)$(CC) $(WH_CPPFLAGS) $(EXTRA_CFLAGS) -MMD -MP -c -o $@ $<

# Knows where wherry-vmm will be
$(BUILD)/obj/cli/demo_child.o: $(BUILD)/paths

-include $(patsubst %.o,%.d,$(LIB_OBJS) $(QMP_OBJS) $(CLI_OBJS) $(VMM_OBJS) $(TEST_LIB_OBJS) $(TEST_OBJS) \
	   $(call obj,$(FUZZ_SRCS)))

$(SHARED): $(LIB_OBJS) libwherry.map
	$(call say,LD)$(LINK) -shared -Wl,-soname,$(SONAME) $(LIB_LINK_FLAGS) \
	  -Wl,--version-script=libwherry.map -o $@ $(LIB_OBJS) $(LIB_LIBS)

$(BUILD)/libwherry.so $(BUILD)/$(SONAME): $(SHARED)
	$(Q)ln -sf $(<F) $@

$(QMP_SHARED): $(QMP_OBJS) libwherry-qmp.map $(BUILD)/libwherry.so
	$(call say,LD)$(LINK) -shared -Wl,-soname,$(QMP_SONAME) $(LIB_LINK_FLAGS) \
	  -Wl,--version-script=libwherry-qmp.map -o $@ $(QMP_OBJS) -L$(BUILD) -lwherry $(QMP_LIBS)

$(BUILD)/libwherry-qmp.so $(BUILD)/$(QMP_SONAME): $(QMP_SHARED)
	$(Q)ln -sf $(<F) $@

# One object, so that err_set() and its like cannot meet a VMM's own: what is not
# public is local to it
$(STATIC): $(LIB_OBJS)
	$(call say,AR)$(LD) -r -o $(BUILD)/libwherry.o $(LIB_OBJS)
	$(Q)$(OBJCOPY) --localize-hidden $(BUILD)/libwherry.o
	$(Q)rm -f $@
	$(Q)$(AR) rcs $@ $(BUILD)/libwherry.o

$(QMP_STATIC): $(QMP_OBJS)
	$(call say,AR)$(LD) -r -o $(BUILD)/libwherry-qmp.o $(QMP_OBJS)
	$(Q)$(OBJCOPY) --localize-hidden $(BUILD)/libwherry-qmp.o
	$(Q)rm -f $@
	$(Q)$(AR) rcs $@ $(BUILD)/libwherry-qmp.o

# Linked statically: it can be copied to another machine or into an initramfs alone, and
# needs no path to the shared library while it lies in build/. Whoever runs it while it is
# made again finds the one or the other
$(BUILD)/wherry: $(CLI_OBJS) $(QMP_STATIC) $(STATIC)
	$(call say,LD)$(LINK) -pie -o $@.new $(CLI_OBJS) $(QMP_STATIC) $(STATIC) $(EXTRA_LIBS) \
	  $(CLI_LIBS) $(LIB_LIBS)
	$(Q)mv $@.new $@

.PHONY: vmm
vmm: $(VMM)
$(BUILD)/wherry-vmm: $(VMM_OBJS) $(QMP_STATIC) $(STATIC)
	$(call say,LD)$(LINK) -pie -o $@.new $(VMM_OBJS) $(QMP_STATIC) $(STATIC) $(EXTRA_LIBS) \
	  $(QMP_LIBS) $(LIB_LIBS)
	$(Q)mv $@.new $@

# ---- Tests --------------------------------------------------------------------

# Used, not copied into the tree
KSELFTEST := build/kselftest
LINUX_SOURCE ?= $(lastword $(sort $(wildcard /usr/src/linux-source-6.*.tar.xz)))
$(KSELFTEST)/kselftest_harness.h:
	@mkdir -p $(@D)
	@test -n '$(LINUX_SOURCE)' || { echo 'linux-source-6.12 is missing: make deps' >&2; exit 1; }
	$(call say,TAR)tar -xJf $(LINUX_SOURCE) -C $(@D) --strip-components=4 --wildcards \
	  '*/tools/testing/selftests/kselftest.h' '*/tools/testing/selftests/kselftest_harness.h'
	$(Q)touch $@

$(TEST_OBJS): | $(KSELFTEST)/kselftest_harness.h

# The other QEMU, for tests and figures; without it they say why (selftests/lib/qemu.h)
.PHONY: qemu-10
qemu-10:
	$(Q)selftests/lib/get-qemu-10 build/qemu-10 >/dev/null 2>&1

# Linked with the objects, not the library: internal functions are what is tested
$(TESTS) $(LAB_TESTS) $(BENCHES): $(BUILD)/%: $(BUILD)/obj/%.o $(TEST_LIB_OBJS) $(LIB_OBJS)
	@mkdir -p $(@D)
	$(call say,LD)$(LINK) -pie -o $@ $< $(TEST_LIB_OBJS) $(LIB_OBJS) $(EXTRA_LIBS) \
	  $(CLI_LIBS) $(LIB_LIBS)

-include $(sort $(wildcard selftests/*/build.mk))
tests: $(TEST_EXTRA)
benches: $(BENCH_EXTRA)

# ---- Running them -------------------------------------------------------------

# Tests by name, as they call themselves: wire/ram, e2e/pairs, check-layers
TEST_NAMES := $(patsubst selftests/%,%,$(basename $(TEST_SRCS) $(TEST_SCRIPTS)))
QUICK_NAMES := $(filter $(addsuffix /%,base wire recover ring uffd rdma netplug postcopy checkpoint protect cli),$(TEST_NAMES))
# Under the sanitizers: what handles bytes of strangers, and what has threads. These are
# programs of ours, so that those which they start are of the same folder
ASAN_NAMES := $(filter base/% wire/% rdma/% netplug/% recover/% postcopy/% checkpoint/% protect/% ring/% uffd/% \
	        cli/% e2e/two e2e/recover e2e/agent,$(TEST_NAMES))
TSAN_NAMES := $(filter base/bits base/hist base/trace postcopy/%_threads checkpoint/cow protect/% ring/% uffd/% \
	        e2e/two e2e/faults e2e/cuts e2e/recover e2e/agent postcopy/ahead postcopy/agent_% \
	        cli/qmp cli/qmp_clients,$(TEST_NAMES))
SLOW_CHECKS := check-clang-tidy check-cppcheck check-dist check-builds check-install check-fuzz

# Name -> path of a program, of a script, of a check
path = $(or $(wildcard selftests/$(1).sh), \
	 $(if $(wildcard selftests/$(1).c),$(BUILD)/selftests/$(1)), \
	 $(wildcard selftests/$(1)),$(error no test $(1)))
paths = $(strip $(foreach name,$(1),$(call path,$(name))))
# The same of a sanitizer's folder: programs only, a script would not know of it
paths_of = $(patsubst $(BUILD)/%,build-$(1)/%,$(filter $(BUILD)/%,$(call paths,$(2))))
RUN_TESTS := selftests/run-tests
# And in the lab, a part: selftests/lab/asan.sh
ASAN_LAB := $(patsubst %,build-asan/selftests/lab/rdma/%,$(if $(filter-out 0,$(RDMA)),hostile hostile_dest))

export CC CLANG CXX_CHECK FUZZ_SECONDS FUZZ_REST

.PHONY: demo demo-protect check check-quick asan tsan bench bench-readme fuzz
demo:
	@$(MAKE) --no-print-directory deps GROUPS_WANTED=build
	+@$(BUILD_NOW) all
	@$(BUILD)/wherry demo
demo-protect:
	@$(MAKE) --no-print-directory deps GROUPS_WANTED=build
	+@$(BUILD_NOW) all
	@$(BUILD)/wherry demo --protect

# make itself is started again after each step: what deps brings is only then to be found.
# A build that breaks is counted too
JOBS = $(if $(filter -j% --jobserver%,$(MAKEFLAGS)),,-j$(shell nproc))
BUILD_NOW = $(MAKE) --no-print-directory $(JOBS)
BROKEN = { echo 'the build failed'; echo '0 passed, 1 failed, 0 skipped'; exit 1; }
ifeq ($(strip $(T)),)
check:
	@$(MAKE) --no-print-directory deps
	+@$(BUILD_NOW) all tests && \
	  $(BUILD_NOW) SAN=asan BUILD=build-asan run-built && \
	  $(BUILD_NOW) SAN=tsan BUILD=build-tsan run-built || $(BROKEN)
	@$(RUN_TESTS) $(call paths,$(TEST_NAMES)) $(CHECKS) \
	  $(call paths_of,asan,$(ASAN_NAMES)) $(call paths_of,tsan,$(TSAN_NAMES))

check-quick:
	@$(MAKE) --no-print-directory deps
	+@$(BUILD_NOW) all tests || $(BROKEN)
	@$(RUN_TESTS) $(call paths,$(QUICK_NAMES)) \
	  $(filter-out $(SLOW_CHECKS:%=selftests/%),$(CHECKS))
else
check check-quick:
	@$(MAKE) --no-print-directory deps
	+@$(BUILD_NOW) all $(TEST_EXTRA) \
	  $(filter $(BUILD)/%,$(call paths,$(T))) $(if $(filter lab/%,$(T)),$(LAB_TESTS)) || $(BROKEN)
	+@$(if $(filter lab/asan,$(T)),$(BUILD_NOW) SAN=asan BUILD=build-asan all $(ASAN_LAB) || $(BROKEN),:)
	@$(RUN_TESTS) $(call paths,$(T))
endif

# What make check runs of a sanitizer's folder, and what these programs start
.PHONY: run-built
run-built: all $(TEST_EXTRA) $(filter $(BUILD)/%,$(call paths,$($(if $(filter \
	     asan,$(SAN)),ASAN,TSAN)_NAMES))) $(if $(filter asan,$(SAN)),$(ASAN_LAB))

.PHONY: check-interop
check-interop:
	+@WHERRY_RUNS=all $(MAKE) --no-print-directory check T=interop/runs

asan tsan:
	@$(MAKE) --no-print-directory deps
	+@$(BUILD_NOW) SAN=$@ BUILD=build-$@ all $(if $(strip $(T)),$(call paths_of,$@,$(T)),tests) || $(BROKEN)
	@$(RUN_TESTS) $(call paths_of,$@,$(or $(strip $(T)),$(TEST_NAMES)))

# Without T all of it; with it folders or tests, those of a folder in one VM. Its script knows what
# they need; what has none runs anywhere, and here it is to do so in the VM
lab_script = $(firstword $(wildcard selftests/$(patsubst %/,%,$(dir $(1))).sh selftests/$(1).sh))
LAB_WANTED := $(filter lab/%,$(T))
LAB_SCRIPTS = $(sort $(foreach test,$(LAB_WANTED),$(call lab_script,$(test))))
lab_args = $(foreach test,$(LAB_WANTED),$(if $(filter $(1),$(call lab_script,$(test))),$(test)))
.PHONY: check-lab check-lab-asan lab
check-lab lab: export LAB_KERNEL := $(or $(KERNEL),$(LAB_KERNEL))
# A sanitizer's programs in an emulated machine: all of the time limits are a few times longer
check-lab: export WH_SLOW := $(or $(WH_SLOW),$(if $(SAN),4,1))
check-lab: export LAB_ALL := 1
check-lab:
	@$(MAKE) --no-print-directory deps
	+@$(BUILD_NOW) all $(LAB_TESTS) || $(BROKEN)
ifeq ($(strip $(T)),)
	@BUILD=$(BUILD) $(RUN_TESTS) $(call paths,$(if $(SAN),$(LAB_DIRS),$(filter lab/%,$(TEST_NAMES))))
else
	@export WH_BUILD=$(BUILD); failed=0; \
	$(foreach script,$(LAB_SCRIPTS),$(script) $(call lab_args,$(script)) || failed=1;) \
	$(if $(filter-out lab/%,$(T)),selftests/lab/run -n $(or $(NET),pair) \
	  $(addprefix -f ,$(FILES)) $(filter-out lab/%,$(T)) || failed=1;) \
	exit $$failed
endif
check-lab-asan:
	+@$(MAKE) --no-print-directory SAN=asan check-lab
lab:
	@$(MAKE) --no-print-directory deps
	+@$(BUILD_NOW) all
	@selftests/lab/vm -n $(or $(NET),pair) -f $(BUILD)/wherry:build/wherry \
	  -f $(BUILD)/wherry-vmm:build/wherry-vmm $(addprefix -f ,$(FILES)) -- sh -c '$(subst ','\'',$(CMD))'

bench:
	@$(MAKE) --no-print-directory deps
	+@$(BUILD_NOW) all benches
	@rm -f $(BUILD)/bench.json
	@$(BUILD)/selftests/bench/bulk $(if $(QUICK),--quick) --plan; echo
	@failed=0; for program in $(filter-out %/plot,$(BENCHES)); do \
	  begin=$$(date +%s); \
	  $$program $(if $(QUICK),--quick) --json $(BUILD)/bench.json || failed=1; \
	  echo "$${program##*/} took $$(($$(date +%s) - begin)) s"; echo; \
	done; \
	$(BUILD)/selftests/bench/plot $(BUILD)/bench.json $(BUILD)/bench || failed=1; \
	echo 'As JSON, an object a line: $(BUILD)/bench.json'; exit $$failed

# The figures of the last one
bench-readme:
	@selftests/bench/readme pick $(BUILD)/bench.json > selftests/bench/figures.json
	@for file in README.md Documentation/performance.rst; do \
	  selftests/bench/readme put selftests/bench/figures.json $$file || exit 1; done

fuzz:
	@$(MAKE) --no-print-directory deps
	@FUZZ_SECONDS=$(or $(T),$(FUZZ_SECONDS)) FUZZ_REST= $(RUN_TESTS) selftests/check-fuzz

# Each by name: make check-layers
.PHONY: $(CHECKS:selftests/%=%) tidy cppcheck format-check format
$(CHECKS:selftests/%=%): check-%: all
	@$(RUN_TESTS) selftests/$@
tidy: check-clang-tidy
cppcheck: check-cppcheck
format-check: check-format
format:
	clang-format -i $(filter-out build%,$(wildcard */*.[ch] */*/*.[ch] */*/*/*.[ch]))

# Fuzz targets: make SAN=fuzz fuzzers
.PHONY: fuzzers
fuzzers: $(FUZZERS)
$(call obj,$(FUZZ_SRCS)): KIND_CFLAGS = -fPIE -Wno-missing-prototypes
$(FUZZERS): $(BUILD)/%: $(BUILD)/obj/%.o $(LIB_OBJS)
	@mkdir -p $(@D)
	$(call say,LD)$(LINK) -fsanitize=fuzzer -o $@ $< $(LIB_OBJS) $(EXTRA_LIBS) $(LIB_LIBS)

# For the checks, which are scripts: what there is
.PHONY: print-%
print-%:
	@echo '$($*)'

# ---- Packages -----------------------------------------------------------------

GROUPS_WANTED ?= build test
.PHONY: deps
deps:
	@selftests/install-packages packages $(GROUPS_WANTED)

# ---- Install ------------------------------------------------------------------

INSTALL ?= install
PC_FILES := $(BUILD)/wherry.pc $(BUILD)/wherry-qmp.pc
$(BUILD)/wherry.pc: PRIVATE = $(LIB_PKGS)
$(BUILD)/wherry-qmp.pc: PRIVATE = $(QMP_PKGS)
$(PC_FILES): $(BUILD)/%.pc: %.pc.in $(BUILD)/flags $(BUILD)/paths include/wherry/wherry.h
	$(call say,PC)sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(LIBDIR)|' \
	  -e 's|@INCLUDEDIR@|$(INCLUDEDIR)|' -e 's|@VERSION@|$(VERSION)|' \
	  -e 's|@PRIVATE@|$(PRIVATE)|' $< > $@

INSTALLED = $(BINDIR)/wherry $(LIBEXECDIR)/wherry/wherry-vmm $(LIBDIR)/libwherry.so.$(VERSION) $(LIBDIR)/$(SONAME) \
	    $(LIBDIR)/libwherry.so $(LIBDIR)/libwherry.a $(LIBDIR)/pkgconfig/wherry.pc \
	    $(LIBDIR)/libwherry-qmp.so.$(VERSION) $(LIBDIR)/$(QMP_SONAME) \
	    $(LIBDIR)/libwherry-qmp.so $(LIBDIR)/libwherry-qmp.a $(LIBDIR)/pkgconfig/wherry-qmp.pc \
	    $(PUBLIC_HEADERS:include/%=$(INCLUDEDIR)/%) $(COMPLETIONDIR)/wherry \
	    $(foreach page,$(MAN_PAGES),$(call man_path,$(page))) \
	    $(foreach link,$(MAN_LINKS),$(call man_path,$(firstword $(subst :, ,$(link)))))
man_path = $(MANDIR)/man$(subst .,,$(suffix $(1)))/$(notdir $(1))
# A page's further names: wh_free.3:wh_new.3
MAN_LINKS = $(shell awk '/^.Sh/ { name = /NAME/ } name && $$1 == ".Nm" { \
	      page = FILENAME; sub(/.*\//, "", page); \
	      section = page; sub(/.*[.]/, "", section); \
	      if ($$2 "." section != page) print $$2 "." section ":" page }' $(MAN_PAGES))

.PHONY: install uninstall
install: all $(PC_FILES)
	$(Q)$(INSTALL) -d $(addprefix $(DESTDIR),$(sort $(dir $(INSTALLED))))
	$(Q)$(INSTALL) -m 755 $(BUILD)/wherry $(DESTDIR)$(BINDIR)/wherry
	$(Q)$(INSTALL) -m 755 $(VMM) $(DESTDIR)$(LIBEXECDIR)/wherry/wherry-vmm
	$(Q)$(INSTALL) -m 755 $(SHARED) $(DESTDIR)$(LIBDIR)/
	$(Q)ln -sf libwherry.so.$(VERSION) $(DESTDIR)$(LIBDIR)/$(SONAME)
	$(Q)ln -sf $(SONAME) $(DESTDIR)$(LIBDIR)/libwherry.so
	$(Q)$(INSTALL) -m 755 $(QMP_SHARED) $(DESTDIR)$(LIBDIR)/
	$(Q)ln -sf libwherry-qmp.so.$(VERSION) $(DESTDIR)$(LIBDIR)/$(QMP_SONAME)
	$(Q)ln -sf $(QMP_SONAME) $(DESTDIR)$(LIBDIR)/libwherry-qmp.so
	$(Q)$(INSTALL) -m 644 $(STATIC) $(QMP_STATIC) $(DESTDIR)$(LIBDIR)/
	$(Q)$(INSTALL) -m 644 $(PC_FILES) $(DESTDIR)$(LIBDIR)/pkgconfig/
	$(Q)$(INSTALL) -m 644 $(PUBLIC_HEADERS) $(DESTDIR)$(INCLUDEDIR)/wherry/
	$(Q)$(INSTALL) -m 644 Documentation/wherry.bash $(DESTDIR)$(COMPLETIONDIR)/wherry
	$(Q)$(foreach page,$(MAN_PAGES),$(INSTALL) -m 644 $(page) $(DESTDIR)$(call man_path,$(page)) &&) :
	$(Q)$(foreach link,$(MAN_LINKS),ln -sf $(lastword $(subst :, ,$(link))) \
	  $(DESTDIR)$(call man_path,$(firstword $(subst :, ,$(link)))) &&) :

# Files first, then the folders that are empty afterwards and were made for them
uninstall:
	$(Q)rm -f $(addprefix $(DESTDIR),$(INSTALLED))
	$(Q)rmdir --ignore-fail-on-non-empty $(DESTDIR)$(INCLUDEDIR)/wherry \
	  $(DESTDIR)$(LIBEXECDIR)/wherry 2>/dev/null || :
	$(Q)$(if $(DESTDIR),test ! -d $(DESTDIR) || find $(DESTDIR) -depth -mindepth 1 -type d -empty -delete)

# ---- Release ------------------------------------------------------------------

DIST := $(BUILD)/wherry-$(VERSION).tar.xz
.PHONY: dist
# From git what it tracks or would; from a release everything but what was built
dist:
	@mkdir -p $(BUILD)
	$(Q)if git rev-parse --git-dir >/dev/null 2>&1; then \
	  git ls-files --cached --others --exclude-standard -z; \
	else \
	  find . \( -path './build' -o -path './build-*' \) -prune -o -type f -printf '%P\0'; \
	fi | LC_ALL=C sort -zu | \
	tar --null -T - --ignore-failed-read --owner=0 --group=0 --numeric-owner \
	  $(if $(SOURCE_DATE_EPOCH),--mtime=@$(SOURCE_DATE_EPOCH)) \
	  --transform 's,^,wherry-$(VERSION)/,' -cJf $(DIST)
	@echo $(DIST)

.PHONY: clean
clean:
	rm -rf build build-asan build-tsan build-fuzz build-check
