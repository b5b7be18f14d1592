#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cvm_init_fuzz::tpm_answer(bytes));
