//! From the files in `conf.d` to what the kernel needs: parse, compile, evaluate.

pub mod compile;
pub mod diagnostic;
pub mod eval;
pub mod model;
pub mod parse;
pub mod source;
mod vip;
