//! Files that follow the grammar: what is compiled means what the evaluator says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_fuzz::compiled::assert_compiles;
use mesh_fuzz::grammar::Files;
use mesh_fuzz::policy::parse::parse;
use mesh_fuzz::policy::source::SourceSet;
use mesh_fuzz::{assert_sound, local};

fuzz_target!(|files: Files| {
    let texts = [
        ("10.toml", files.declarations()),
        ("20.toml", files.rules(0, &files.rules)),
    ];
    let parsed = parse(&SourceSet::from_texts(texts), &local());
    assert_sound(&parsed);
    if let Some(policy) = &parsed.policy {
        assert_compiles(policy);
    }
});
