################################################################################
#
# cvm-init
#
################################################################################

CVM_INIT_VERSION = 0.1.0
CVM_INIT_SITE = $(call qstrip,$(BR2_PACKAGE_CVM_INIT_SITE))
CVM_INIT_SOURCE = cvm-init-$(CVM_INIT_VERSION).tar.gz
CVM_INIT_CRATES = cvm-init-$(CVM_INIT_VERSION)-vendor.tar.gz
CVM_INIT_EXTRA_DOWNLOADS = $(CVM_INIT_CRATES)
CVM_INIT_LICENSE = Apache-2.0
CVM_INIT_LICENSE_FILES = LICENSE
CVM_INIT_DEPENDENCIES = host-rustc
CVM_INIT_INSTALL_TARGET = NO
CVM_INIT_INSTALL_IMAGES = YES

define CVM_INIT_EXTRACT_CRATES
	$(TAR) -C $(@D) -xzf $(CVM_INIT_DL_DIR)/$(CVM_INIT_CRATES)
endef
CVM_INIT_POST_EXTRACT_HOOKS += CVM_INIT_EXTRACT_CRATES

# Not by cargo-package: that puts a file of its own in the place of
# .cargo/config.toml, and its environment builds without overflow checks.
# So the program is the one of the release, byte for byte, with the same Rust.
define CVM_INIT_BUILD_CMDS
	cd $(@D) && $(TARGET_MAKE_ENV) CARGO_HOME=$(@D)/cargo-home \
		cargo --config docs/examples/vendor.toml build --locked --offline --release \
		--package cvm-init --target $(RUSTC_TARGET_NAME)
endef

define CVM_INIT_INSTALL_IMAGES_CMDS
	$(INSTALL) -D -m 0755 $(@D)/target/$(RUSTC_TARGET_NAME)/release/cvm-init \
		$(BINARIES_DIR)/cvm-init
endef

$(eval $(generic-package))
