//! Any text as up to three files of the mesh (NUL between them): parsed, compiled, explained.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_fuzz::compiled::assert_compiles;
use mesh_fuzz::policy::parse::parse;
use mesh_fuzz::policy::source::SourceSet;
use mesh_fuzz::{assert_sound, files, local};

fuzz_target!(|text: &str| {
    let parsed = parse(&SourceSet::from_texts(files(text)), &local());
    assert_sound(&parsed);
    if let Some(policy) = &parsed.policy {
        assert_compiles(policy);
    }
});
