#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| quell_tests::bad_input::text(text));
