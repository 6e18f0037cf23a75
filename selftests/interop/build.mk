# SPDX-License-Identifier: MIT
#
# The guest that a real QEMU runs: a boot sector, and the same as a firmware.
GUEST := $(BUILD)/selftests/interop/guest
TEST_EXTRA += $(GUEST).bin $(GUEST).rom
# bench/restore puts it away, and has it again
BENCH_EXTRA += $(GUEST).rom

define flat_binary =
	@mkdir -p $(@D)
	$(call say,GUEST)$(CC) -m32 $(2) -c -o $@.o $<
	$(Q)$(LD) -m elf_i386 -Ttext=$(1) -o $@.elf $@.o
	$(Q)$(OBJCOPY) -O binary -j .text $@.elf $@
endef

$(GUEST).bin: selftests/interop/guest.S
	$(call flat_binary,0x7c00)

$(GUEST).rom: selftests/interop/rom.S $(GUEST).bin
	$(call flat_binary,0,-DGUEST='"$(GUEST).bin"')

# Brought for what needs it, not for a single test of something else
ifneq ($(if $(strip $(T)),$(filter interop/%,$(T)),all of them),)
TEST_EXTRA += qemu-10
endif
