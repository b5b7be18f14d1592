include $(sort $(wildcard $(BR2_EXTERNAL_CVM_INIT_PATH)/package/*/*.mk))
