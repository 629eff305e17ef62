//! Any bytes as either direction of an HTTP connection, cut anywhere.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<u8>, &[u8])| mesh_fuzz::http1::assert_reads(&input.0, input.1));
