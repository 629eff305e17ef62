//! Any bytes as the kernel's answer about sockets.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| mesh_fuzz::answers::assert_decodes(bytes));
