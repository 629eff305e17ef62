//! Any bytes as one side of a tunnel.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| mesh_fuzz::wires::assert_reads(input.0, input.1));
