//! Any bytes as both sides of a connection of HTTP.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, bool, Vec<(bool, &[u8])>)| {
    mesh_fuzz::requests::assert_reads(input.0, input.1, &input.2);
});
